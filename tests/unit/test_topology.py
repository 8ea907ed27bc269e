"""The topology reader: containerlab's inheritance, its schema, and every refusal with its place."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from anycast.errors import ConfigError
from anycast_lab.topology import Bind, Endpoint, Topology, load

TREE = Path(__file__).resolve().parents[2]
TOPOLOGIES = sorted((TREE / "labs/topologies").glob("*.clab.yml"))
SCHEMA = TREE / "tests/data/containerlab/schema.json"

MINIMAL = """\
name: t
topology:
  nodes:
    a: {kind: linux}
"""


def read(tmp_path: Path, text: str) -> Topology:
    (tmp_path / "t.clab.yml").write_text(text)
    return load(tmp_path / "t.clab.yml")


def problems(tmp_path: Path, text: str) -> list[str]:
    """`line:column where: what` of each problem."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    return [f"{p.line}:{p.column} {p.where + ': ' if p.where else ''}{p.what}" for p in caught.value.problems]


@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: path.name)
def test_our_topologies_are_valid_for_both_runners(path: Path) -> None:
    # The one thing of the schema's patterns that Python's `re` does not know is the class of an interface scope's letters.
    schema = json.loads(SCHEMA.read_text().replace(r"[\\p{N}\\p{L}]", r"\\w"))
    jsonschema.Draft7Validator(schema).validate(yaml.safe_load(path.read_text()))
    assert load(path).nodes


def test_the_schema_would_notice() -> None:
    schema = json.loads(SCHEMA.read_text().replace(r"[\\p{N}\\p{L}]", r"\\w"))
    document = yaml.safe_load(MINIMAL)
    document["topology"]["nodes"]["a"]["exec"] = "not a list"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate(document)


def test_two_site_starts_the_agent_once_and_last() -> None:
    topology = load(TREE / "labs/topologies/two-site.clab.yml")
    assert [argv[0] for argv in topology.nodes["fra-gw1"].exec] == ["sh", "site-agent"]
    assert [argv[0] for argv in topology.nodes["transit"].exec] == ["sh"]


def test_inheritance_is_containerlabs(tmp_path: Path) -> None:
    topology = read(
        tmp_path,
        """\
name: t
topology:
  defaults: {group: leaf, exec: [one], env: {A: d, B: d, C: d, D: d}, binds: ["d:/x", "d:/y"]}
  kinds:
    linux: {exec: [two], env: {B: k, C: k, D: k}}
  groups:
    leaf: {kind: linux, exec: [three], env: {C: g, D: g}, hostname: from-group, binds: ["g:/y:ro"]}
    stem: {kind: linux, exec: [five 'a b']}
  nodes:
    a: {group: leaf, exec: [four], env: {D: n}}
    b: {group: stem, hostname: own}
""",
    )
    a, b = topology.nodes["a"], topology.nodes["b"]
    assert a.exec == (("one",), ("two",), ("three",), ("four",)), "defaults, kind, group, node: mergeStringSliceFields"
    assert a.env == {"A": "d", "B": "k", "C": "g", "D": "n"}, "the nearest level wins: mergeStringMapFields"
    assert a.hostname == "from-group", "node, else group, else kind, else defaults: getField"
    assert a.binds == ("d:/x", "g:/y:ro"), "a nearer bind replaces one with the same destination: GetNodeBinds"
    assert (b.hostname, b.exec[-1]) == ("own", ("five", "a b"))


def test_magic_variables_and_relative_sources(tmp_path: Path) -> None:
    topology = read(
        tmp_path,
        """\
name: t
topology:
  nodes:
    a: {kind: linux, binds: ["__clabNodeDir__/etc:/e", "__clabDir__/ca:/ca:ro", "files:/f", "/abs:/abs"]}
""",
    )
    assert topology.binds("a", Path("/lab")) == [
        Bind(Path("/lab/a/etc"), "/e", False),
        Bind(Path("/lab/ca"), "/ca", True),
        Bind(tmp_path / "files", "/f", False),
        Bind(Path("/abs"), "/abs", False),
    ]


def test_links(tmp_path: Path) -> None:
    topology = read(
        tmp_path,
        MINIMAL
        + """\
    b: {kind: linux}
  links:
    - endpoints: ["a:eth1", "b:eth2"]
    - {endpoints: ["a:eth2", "b:eth1"], mtu: 1400}
""",
    )
    first, second = topology.links
    assert first.ends() == (Endpoint("a", "eth1"), Endpoint("b", "eth2"))
    assert (first.mtu, second.mtu) == (1500, 1400)
    assert topology.links_of("a") == [first, second]


def test_all_problems_are_told_at_once_with_their_places(tmp_path: Path) -> None:
    assert problems(
        tmp_path,
        """\
name: "a b"
mgmt: {network: x}
topology:
  defaults: {kind: linux, startup-config: x}
  nodes:
    a: {cpu: 1, binds: ["nowhere"]}
    b: {kind: bridge, group: none-such}
    b: {}
  links:
    - endpoints: ["a:eth1", "c:eth1"]
    - endpoints: ["a:eth1"]
    - {type: veth, endpoints: ["a:eth1", "b:interface-too-long"]}
""",
    ) == [
        "1:7 name: `a b` is not a name (letters, digits, `.`, `_`, `-`)",
        "2:1 mgmt: is not supported by the embedded runner",
        "4:27 topology.defaults.startup-config: is not supported by the embedded runner",
        "6:9 topology.nodes.a.cpu: is not supported by the embedded runner",
        "6:25 topology.nodes.a.binds: `nowhere` is not `source:/destination` with an optional `:ro`",
        "7:5 topology.nodes.b.kind: `bridge` is not supported by the embedded runner, only `linux`",
        "7:5 topology.nodes.b.group: `none-such` is not among topology.groups",
        "8:5 topology.nodes: key `b` stands here twice",
        "10:29 topology.links[0].endpoints: `c` is not among topology.nodes",
        "11:19 topology.links[1].endpoints: `a:eth1` is an end of another link (line 10) already",
        "11:18 topology.links[1].endpoints: a link has exactly two endpoints",
        "12:8 topology.links[2].type: is not supported by the embedded runner",
        "12:32 topology.links[2].endpoints: `a:eth1` is an end of another link (line 10) already",
        "12:42 topology.links[2].endpoints: `b:interface-too-long` is not `node:interface` with an interface name of at "
        "most 15 letters",
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "0:0 name: is missing"),
        ("name: t\n", "1:1 topology: is missing"),
        ("name: t\ntopology: {}\n", "2:11 topology.nodes: a lab needs at least one node"),
        ("- 1\n", "1:1 must be a mapping"),
        ("name: [\n", "2:1 is not YAML"),
        (MINIMAL.replace("linux}", 'linux, exec: ["sh \'x"]}'), "4:29 topology.nodes.a.exec: `sh 'x` cannot be split"),
        (MINIMAL.replace("linux}", "linux, network-mode: host}"), "4:36 topology.nodes.a.network-mode: `host` is not supp"),
        (MINIMAL.replace("linux}", "linux, sysctls: {vm.swappiness: 1}}"), "only `net.` settings belong to one node"),
        (MINIMAL.replace("linux}", "linux, exec: [x, x]}"), "exec: `x` stands at the level of the node already"),
        (MINIMAL.replace("nodes:", "nodes:\n    <<: {}"), "merge keys are not supported"),
        (MINIMAL + "  links:\n    - {endpoints: [1, 2], mtu: 10}\n", "`10` is not within 68..65535"),
    ],
)
def test_refusals(tmp_path: Path, text: str, complaint: str) -> None:
    assert any(complaint in said for said in problems(tmp_path, text))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "none.yml")
    (tmp_path / "latin.yml").write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match=r"is not UTF-8 \(byte 6\)"):
        load(tmp_path / "latin.yml")
