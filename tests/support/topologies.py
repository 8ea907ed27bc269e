"""Topology files drawn at random from what containerlab's schema knows, mostly sound, as YAML text."""

from __future__ import annotations

import json
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.support.tree import TREE

SCHEMA = json.loads((TREE / "tests/data/containerlab/schema.json").read_text())
NODE_KEYS = sorted(SCHEMA["definitions"]["node-config"]["properties"])
STAGES = ["create", "create-links", "configure"]
NAMES = ["a", "b", "c-1", "d.e"]
_WORDS = st.sampled_from([
    *("", "x", "echo a b", "'", '"a\\b" c', "#", "$SITE", "${UNSET:-w}", "${", "$$", "{{", "7", "0x10", "yes", "~", "é"),
    *("\0", "a\tb", "__clabNodeName__", "none", "host", "container:a", "net.ipv4.ip_forward", "/etc/hosts:/x"),
    *("192.0.2.1/24", "9" * 20),
])  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 70_000) | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS | st.sampled_from(NODE_KEYS), inner, max_size=3),
    max_leaves=5,
)
_LINE = st.sampled_from(["echo a", "sh -c 'x  y'", '"q \\" r" s', "touch __clabDir__/$SITE", "one # two"])
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "kind": st.sampled_from(["linux", "LINUX"]),
    "group": st.sampled_from(["g", "h"]),
    "image": st.sampled_from(["image:1", "7"]),
    "hostname": st.sampled_from(["h", "h.example"]),
    "network-mode": st.just("none"),
    "cmd": _LINE,
    "entrypoint": _LINE,
    "exec": st.lists(_LINE, max_size=2, unique=True),
    "binds": st.lists(st.sampled_from(["/etc/hosts:/x", "f:/y:ro", "__clabNodeDir__/z:/x:rw"]), max_size=2, unique=True),
    "env": st.dictionaries(st.sampled_from("ABC"), st.sampled_from(["1", 1, True, None, "${SITE}", "a b"]), max_size=2),
    "labels": st.dictionaries(st.sampled_from("AB"), st.sampled_from(["1", 2]), max_size=2),
    "sysctls": st.dictionaries(
        st.sampled_from(["net.ipv4.ip_forward", "net.core.somaxconn"]), st.integers(0, 1), max_size=2
    ),
    "startup-delay": st.integers(0, 3),
    "stages": st.dictionaries(
        st.sampled_from(STAGES),
        st.fixed_dictionaries(
            {
                "wait-for": st.lists(
                    st.fixed_dictionaries({"node": st.just("a"), "stage": st.sampled_from(STAGES)}), max_size=2
                )
            }
        ),
        max_size=2,
    ),
}
_STRANGE = st.tuples(st.sampled_from([*NODE_KEYS, "no-such"]), ANYTHING)


@st.composite
def _definitions(draw: st.DrawFn, strange: bool) -> dict[str, Any]:
    keys = draw(st.lists(st.sampled_from(sorted(_VALUES)), max_size=4, unique=True))
    found = {key: draw(_VALUES[key]) for key in keys}
    if strange and draw(st.integers(0, 3)) == 0:
        key, value = draw(_STRANGE)
        found[key] = value
    return found


@st.composite
def _links(draw: st.DrawFn, strange: bool) -> dict[str, Any]:
    nodes = st.sampled_from([*NAMES, "sw", "host", "nobody"] if strange else NAMES[:3])
    interfaces = st.sampled_from(["eth1", "eth2", "eth3", "x.1", *(["eth0", "much-too-long-name"] if strange else [])])
    a, b = ((draw(nodes), draw(interfaces)) for _ in range(2))
    common = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "mtu": st.integers(1280, 9000),
                "vars": st.dictionaries(st.sampled_from(["area", "7"]), st.integers(2, 9)),
            },
        )
    )
    match draw(st.sampled_from(["brief", "veth", "dummy", *(["host", "odd"] if strange else [])])):
        case "brief":
            found = {"endpoints": [":".join(a), ":".join(b)]}
            found |= draw(
                st.fixed_dictionaries({}, optional={"ipv4": st.lists(st.sampled_from(["", "192.0.2.1/24"]), max_size=2)})
            )
        case "veth":
            end = st.fixed_dictionaries(
                {}, optional={"ipv6": st.just("2001:DB8::1/64"), "mac": st.just("02:00:00:00:00:01")}
            )
            ends = [{"node": node, "interface": interface, **draw(end)} for node, interface in (a, b)]
            found = {"type": "veth", "endpoints": ends}
        case "dummy":
            found = {"type": "dummy", "endpoint": {"node": a[0], "interface": a[1]}}
        case "host":
            found = {"type": "host", "endpoint": {"node": a[0], "interface": a[1]}, "host-interface": "x"}
        case _:
            return {"type": draw(_WORDS), "endpoints": draw(ANYTHING)}
    return {**found, **common}


@st.composite
def documents(draw: st.DrawFn, strange: bool = False) -> dict[str, Any]:
    definition = _definitions(strange)
    nodes = {name: draw(st.none() | definition) for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))}
    nodes["a"] = nodes.get("a") or {}
    topology: dict[str, Any] = {"defaults": {"kind": "linux", **draw(definition)}, "nodes": nodes}
    topology["kinds"] = {"linux": draw(definition)}
    topology["groups"] = {"g": draw(definition), "h": draw(st.none() | definition)}
    if draw(st.booleans()):
        topology["defaults"].pop("network-mode", None)
        nodes["sw"] = {"kind": "bridge"}
    topology["links"] = draw(st.lists(_links(strange), max_size=3))
    return {
        "name": draw(st.sampled_from(["t", "lab.1"])),
        "topology": topology,
        **draw(st.sampled_from([{}, {"prefix": ""}])),
    }


@st.composite
def topologies(draw: st.DrawFn, strange: bool = False) -> str:
    return yaml.safe_dump(draw(documents(strange)), sort_keys=False, allow_unicode=True)
