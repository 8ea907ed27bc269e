"""Any text is a fleet or a ConfigError; and what is a fleet compiles, always alike, and can be rendered."""

from __future__ import annotations

import ipaddress
import json
import time
from pathlib import PurePath
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.document import Document
from anycast.errors import ConfigError
from anycast.fleet import yaml_text
from anycast.fleet.compile import compile_fleet
from anycast.fleet.loading import loads
from anycast.fleet.schema import Fleet
from site_agent.render.exabgp import render_exabgp
from site_agent.render.nftables import render_nftables
from site_agent.render.strongswan import render_strongswan
from site_agent.render.sysctl import render_sysctl
from tests.support.documents import TREE, TWO_SITE

SOURCES = [TWO_SITE.read_text(), (TREE / "tests" / "data" / "small-lab.fleet.yaml").read_text()]
YAML_BITS = st.sampled_from(
    [
        *(
            "{",
            "}",
            "[",
            "]",
            ":",
            "- ",
            "&a ",
            "*a",
            "!!int ",
            "!x ",
            "? ",
            "|",
            ">",
            "'",
            '"',
            "#",
            "%YAML 1.1",
            "---",
            "...",
        ),
        *("\n", "\t", "<<: ", "no", "1:30", "~", "\x00", "\x85", "\u2028", "\ufeff", "\ud800", "\\", ", ", "  "),
    ]
)
WORDS = st.sampled_from(
    [
        *(
            "",
            "no",
            "0",
            "-1",
            "1e9",
            "4294967295",
            "64511",
            "0 s",
            "5 s",
            "1 KiB",
            "203.0.113.1",
            "203.0.113.0/28",
            "0.0.0.0/0",
        ),
        *("::/0", "::1", "2001:db8::/32", "198.51.100.2", "192.0.2.0/24", "fra-rtr", "fra-gw1", "lo", "root", "aes256gcm16"),
    ]
)
VALUES = st.one_of(
    WORDS,
    st.text(max_size=12),
    st.lists(st.sampled_from(["192.0.2.1/28", "x"]), max_size=3),
    st.dictionaries(st.sampled_from(["ipv4", "ipv6", "asn", "x"]), st.sampled_from(["198.51.100.9", "x"]), max_size=2),
)


def load_or_refuse(text: str) -> Fleet | None:
    try:
        return loads(text)
    except ConfigError as refused:
        assert refused.problems
        for problem in refused.problems:
            assert problem.what and problem.file
            assert "\n" not in str(problem), "one problem is one line"
        return None


@given(st.one_of(st.text(max_size=300), st.lists(YAML_BITS, max_size=60).map("".join)))
def test_any_text_loads_or_is_refused(text: str) -> None:
    load_or_refuse(text)


@given(st.data())
def test_a_fleet_with_pieces_cut_or_pasted_loads_or_is_refused(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(SOURCES))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(st.one_of(YAML_BITS, st.just(""))) + text[at + data.draw(st.integers(0, 40)) :]
    load_or_refuse(text)


def _leaves(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    steps = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    return [here, *(leaf for step, inner in steps for leaf in _leaves(inner, (*here, step)))]


@given(st.data())
@settings(max_examples=200)
def test_a_fleet_with_other_values_loads_or_is_refused_and_then_renders(data: st.DataObject) -> None:
    tree = yaml_text.parse(data.draw(st.sampled_from(SOURCES))).value
    for _ in range(data.draw(st.integers(1, 3))):
        *around, last = data.draw(st.sampled_from(_leaves(tree)[1:]))
        place = tree
        for step in around:
            place = place[step]
        if data.draw(st.booleans()):
            place[last] = data.draw(VALUES)
        else:
            del place[last]
    # JSON is YAML, and quotes any text.
    fleet = load_or_refuse(json.dumps(tree))
    for document in compile_fleet(fleet).values() if fleet else ():
        keys = {n.md5_key_file: b"key" for n in document.bgp.neighbors if n.md5_key_file}
        render_strongswan(document, run_dir=PurePath("/run"))
        render_exabgp(document, python="/usr/bin/python3", socket_path="/run/lease.sock", md5_keys=keys)
        render_sysctl(document)
        render_nftables(document)


@pytest.mark.parametrize("source", SOURCES)
def test_compiling_twice_gives_the_same_bytes_and_survives_the_wire(source: str) -> None:
    first, second = compile_fleet(loads(source)), compile_fleet(loads(source))
    assert list(first) == list(second)
    for name, document in first.items():
        assert document.canonical() == second[name].canonical()
        assert Document.model_validate_json(document.canonical()) == document


@given(st.recursive(st.text(), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)))
def test_yaml_keeps_every_text_as_it_is(value: Any) -> None:
    """Against PyYAML's own writer: nothing becomes a number, a truth or a date."""
    assert yaml_text.parse(yaml.safe_dump(value)).value == value


@pytest.mark.parametrize(
    "word", ["no", "yes", "on", "off", "true", "null", "~", "1:30", "0100", "0x1f", "1e3", "1_000", "2026-11-23", ".inf"]
)
def test_yaml_guesses_no_types(word: str) -> None:
    assert yaml_text.parse(f"a: {word}\n{word}: [{word}]\n").value == {"a": word, word: [word]}


HEAD = """\
version: 1
fleet: large
environment: lab
service:
  name: vpn
  identity: vpn.example.org
  vips: {ipv6: "2001:db8:a::1"}
  prefixes: {ipv6: "2001:db8:a::/56"}
  inside: ["2001:db8:b::/64"]
sites:
"""
SITE = """\
  s{i}:
    asn: 64501
    uplink:
      ipv6: 2001:db8:1:{i:x}::/64
    inside:
      ipv6: 2001:db8:b::/64
    pools:
      ipv6: 2001:db8:c:{i:x}::/64
    upstreams:
      s{i}-rtr:
        asn: 64511
        address:
          ipv6: 2001:db8:1:{i:x}::1
    gateways:
      s{i}-gw1:
        router_id: {router_id}
        uplink:
          interface: eth1
          ipv6: 2001:db8:1:{i:x}::2
        inside:
          interface: eth2
          ipv6: 2001:db8:b::2
"""


def large_fleet() -> str:
    """As many sites as there are documentation addresses for their routers."""
    networks = [ipaddress.ip_network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")]
    router_ids = [address for network in networks for address in network]
    return HEAD + "".join(SITE.format(i=i, router_id=router_id) for i, router_id in enumerate(router_ids))


def test_a_file_of_16000_lines_loads_in_a_second() -> None:
    text = large_fleet()
    assert text.count("\n") > 16_000
    took = []
    for _ in range(3):
        start = time.process_time()
        loads(text)
        took.append(time.process_time() - start)
    assert min(took) < 1.0, f"{min(took):.2f} s of processor time"
