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


def waiting(for_: str) -> str:
    """`MINIMAL` whose node waits before it is created."""
    return MINIMAL.replace("linux}", f"linux, stages: {{create: {{wait-for: [{for_}]}}}}}}")


@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: path.name)
def test_our_topologies_are_valid_for_both_runners(path: Path) -> None:
    # The one thing of the schema's patterns that Python's `re` does not know is the class of an interface scope's letters.
    schema = json.loads(SCHEMA.read_text().replace(r"[\\p{N}\\p{L}]", r"\\w"))
    jsonschema.Draft7Validator(schema).validate(yaml.safe_load(path.read_text()))
    topology = load(path)
    assert topology.nodes
    assert {link.mtu for link in topology.links} <= set(range(1280, 1501)), (
        "9500 is containerlab's, and no client's path has it"
    )


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
    assert topology.binds("a", Path("/lab")) == [  # what is mounted into another comes after it
        Bind(Path("/abs"), "/abs", False),
        Bind(Path("/lab/ca"), "/ca", True),
        Bind(Path("/lab/a/etc"), "/e", False),
        Bind(tmp_path / "files", "/f", False),
    ]


def test_links(tmp_path: Path) -> None:
    topology = read(
        tmp_path,
        MINIMAL
        + """\
    b: {kind: linux}
    c: {kind: bridge}
  links:
    - endpoints: ["a:eth1", "b:eth2"]
    - {endpoints: ["a:eth2", "b:eth1"], mtu: 1400}
""",
    )
    first, second = topology.links
    assert first.ends() == (Endpoint("a", "eth1"), Endpoint("b", "eth2"))
    assert (first.mtu, second.mtu) == (9500, 1400)
    assert topology.links_of("a") == [first, second]


def test_all_problems_are_told_at_once_with_their_places(tmp_path: Path) -> None:
    assert problems(
        tmp_path,
        """\
name: "a b"
mgmt: {network: x}
topology:
  defaults: {kind: linux, startup-config: x}
  groups: {g: {}}
  nodes:
    a: {cpu: 1, binds: ["nowhere"]}
    b: {kind: ovs-bridge, group: none-such}
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
        "7:9 topology.nodes.a.cpu: is not supported by the embedded runner",
        "7:25 topology.nodes.a.binds: `nowhere` is not `source:/destination` with an optional `:ro`",
        "8:5 topology.nodes.b.kind: `ovs-bridge` is not supported by the embedded runner, only `linux` and `bridge`",
        "8:5 topology.nodes.b.group: `none-such` is not among topology.groups",
        "9:5 topology.nodes: key `b` stands here twice",
        "11:29 topology.links[0].endpoints: `c` is not among topology.nodes",
        "12:18 topology.links[1].endpoints: a link has exactly two endpoints",
        "12:19 topology.links[1].endpoints: `a:eth1` is taken already by the link in line 11",
        "13:32 topology.links[2].endpoints[0]: must be a mapping with a `node` and an `interface`",
        "13:42 topology.links[2].endpoints[1]: must be a mapping with a `node` and an `interface`",
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "1:1 name: is missing"),
        ("name: t\n", "1:1 topology: is missing"),
        ("name: t\ntopology: {}\n", "2:11 topology.nodes: a lab needs at least one node"),
        ("- 1\n", "1:1 must be a mapping"),
        ("name: [\n", "2:1 is not YAML"),
        (MINIMAL.replace("linux}", 'linux, exec: ["sh \'x"]}'), "4:29 topology.nodes.a.exec: `sh 'x` cannot be split"),
        (MINIMAL.replace("linux}", "linux, network-mode: host}"), "4:36 topology.nodes.a.network-mode: `host` is not supp"),
        (MINIMAL.replace("linux}", "linux, sysctls: {vm.swappiness: 1}}"), "only `net.` settings belong to one node"),
        (MINIMAL.replace("linux}", "linux, exec: [x, x]}"), "exec: `x` stands at the level of the node already"),
        (MINIMAL.replace("nodes:", "nodes:\n    <<: {}"), "merge keys are not supported"),
        (
            MINIMAL + "  links:\n    - {endpoints: [1, 2], mtu: 10}\n",
            "6:32 topology.links[0].mtu: `10` is not within 68..65535",
        ),
        (MINIMAL + "  links:\n    - {endpoints: [1, 2], mtu: '1500'}\n", "`1500` is not within 68..65535"),
        (
            MINIMAL + '  links: [{endpoints: ["a:eth0", "a:b"]}]\n',
            "`a:eth0` is the management network's unless a has `network-mode: no",
        ),
        (MINIMAL + '  links: [{endpoints: ["a:lo", "a:b"]}]\n', "`a:lo` is there already"),
        (MINIMAL + '  links: [{endpoints: ["a:b", "a:interface-too-long"]}]\n', "an interface name of at most 15 letters"),
        (MINIMAL + '  links: [{endpoints: ["a:b", " Host:x"]}]\n', "a link of type `host` is not supported"),
        (
            MINIMAL + "  links: [{type: vxlan}]\n",
            "5:18 topology.links[0].type: `vxlan` is not supported by the embedded runner",
        ),
        (MINIMAL + "  links: [{type: dumb}]\n", "`dumb` is not a type of link"),
        (MINIMAL + "  links: [{type: dummy, endpoint: {node: a, interface: d, mac: x}}]\n", "`x` is not one machine's MAC"),
        (MINIMAL + "  links: [{type: veth, endpoints: [], ipv4: []}]\n", "ipv4: belongs to an endpoint in this form"),
        (
            MINIMAL + '  links: [{endpoints: ["a:b", "a:c"], ipv4: [192.0.2.1]}]\n',
            "is not an IPv4 address with its prefix length",
        ),
        (MINIMAL + "    b: {kind: bridge, exec: [x]}\n", "topology.nodes.b.exec: means nothing on a bridge"),
        (
            MINIMAL + "    b: {kind: bridge, network-mode: none}\n",
            "is named `bridge|machine` with network-mode `container:machine`",
        ),
        (
            MINIMAL + "    b|c: {kind: bridge, network-mode: 'container:c'}\n",
            "`c`, which the bridge is in, is no `linux` node",
        ),
        (MINIMAL + "    b|c: {kind: linux}\n", "topology.nodes.b|c: is not a node name"),
        (MINIMAL.replace("linux}", "linux, startup-delay: 1.5}"), "`1.5` is not within 0..86400"),
        (MINIMAL.replace("linux}", "linux, sysctls: {net.ipv4.conf.eth1.forwarding: 1}}"), "before the node has its links"),
        (MINIMAL.replace("linux}", "linux, sysctls: {net.ipv6.conf.all.disable_ipv6: 1}}"), "containerlab makes it 0"),
        (MINIMAL.replace("linux}", "linux, sysctls: {net..x: 1}}"), "only `net.` settings"),
        (MINIMAL.replace("linux}", "linux, env: {__IMPORT_ENVS: true}}"), "name what a node needs"),
        (MINIMAL.replace("linux}", "linux, env-files: [none.env]}"), "`none.env` cannot be read: No such file"),
        (MINIMAL.replace("linux}", "linux, cmd: 'a \\'}"), "cannot be split into words"),
        (
            MINIMAL.replace("linux}", "linux, stages: {create: {exec: []}}}"),
            "stages.create.exec: is not supported by the embed",
        ),
        (
            MINIMAL.replace("linux}", "linux, stages: {healthy: {}}}"),
            "stages.healthy: is not supported by the embedded runner",
        ),
        (MINIMAL.replace("linux}", "linux, stages: {done: {}}}"), "is not a stage (create, create-links, configure)"),
        (waiting("{node: b, stage: create}"), "`b` is not among topology.nodes"),
        (waiting("{node: a, stage: exit}"), "stage `exit` is not supported by the embedded runner"),
        (waiting("{node: a}"), "needs a `node` and a `stage`"),
        (waiting("{node: a, stage: configure}"), "4:51 wait-for: goes in a circle: create of a after configure of a"),
        (MINIMAL.replace("name: t", "name: t-__gitHash__"), "a git variable is not supported by the embedded runner"),
        (MINIMAL + "# {{ .x }}\n", "5:3 a Go template"),
        (MINIMAL + "# ${X\n", "5:3 this form of a variable"),
        (MINIMAL.replace("name: t", "name: !x t"), "the YAML tag !x is not supported"),
        (MINIMAL.replace("nodes:", "defaults:\n  nodes:"), "topology.defaults: must be a mapping"),
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


def test_environment_and_labels_reach_the_node(tmp_path: Path) -> None:
    topology = read(
        tmp_path,
        """\
name: t
prefix: ""
topology:
  nodes:
    a: {kind: linux, network-mode: none, env: {X: "1"}, labels: {my-own.label/x: here}}
  links:
    - endpoints: ["a:eth1", "a:eth2"]
    - {type: dummy, endpoint: {node: a, interface: d}}
""",
    )
    told = topology.environment("a", Path("/lab"))
    assert told["X"] == "1"
    assert told["CLAB_LABEL_MY_OWN_LABEL_X"] == "here"
    assert told["CLAB_LABEL_CLAB_NODE_LONGNAME"] == "a", "the prefix is empty"
    assert told["CLAB_INTFS"] == "3"


def test_a_value_with_a_line_break_would_move_every_line_after_it(tmp_path: Path) -> None:
    (tmp_path / "t.clab.yml").write_text(MINIMAL + "# $X\n")
    with pytest.raises(ConfigError, match=r":5:3: the value of \$X has a line break"):
        load(tmp_path / "t.clab.yml", {"X": "a\nb"})


@pytest.mark.parametrize("line", ["A", "A=$B", "A=b\\", "A='b", "A=b 'c\\'", "a-b=c", "A='b' c"])
def test_lines_of_an_env_file_that_godotenv_has_its_own_mind_about_are_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "x.env").write_text(f"OK=1\n{line}\n")
    assert problems(tmp_path, MINIMAL.replace("linux}", "linux, env-files: [x.env]}")) == [
        "4:34 topology.nodes.a.env-files: `x.env`, line 2, is not `NAME=value` with a value without `$` and backslash, "
        "bare or in one pair of quotes"
    ]
