"""Which attributes each upstream hears: from fleet.yaml through the documents to the routes, and what the table says."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

import pytest

from anycast.document import ANNOUNCEMENT_POLICY, KNOWN_REQUIREMENTS, Document
from anycast.errors import ConfigError
from anycast.fleet.compile import compile_fleet
from anycast.lease_wire import MAX_PREPEND, Query, Renew, decode_from_agent, encode
from anycast.model import Route
from anycast.policy.drain import Plan, RouteWord
from anycast.prefixes.planning import plan_file
from anycast.reasons import Reason
from site_agent.announce.routes import routes_of, word_of
from tests.support.documents import TREE

DAY = datetime.date(2026, 11, 29)
PLAIN = (TREE / "docs" / "fleet-planned.yaml").read_text()
ANNOUNCEMENTS = """
announcements:
  communities:
    carrier: {no-peers: "64511:90", quiet: "64511:1:90"}
  last_resort:
    all4: {prefix: 203.0.113.0/24, sites: [fra]}
"""
ROUTER = 'fra-rtr: {asn: 64511, address: {ipv4: 198.51.100.1, ipv6: "2001:db8:1::1"}'
OWN = "announce: {prepend: 2, med: 50, vocabulary: carrier, communities: [quiet, no-peers]}"
TEXT = PLAIN.replace(ROUTER, f"{ROUTER}, {OWN}") + ANNOUNCEMENTS


def documents(text: str) -> dict[str, Document]:
    return compile_fleet(plan_file(text, None, DAY).fleet)


def drain(prepend: int) -> Plan:
    return Plan(id="d", by="olga", why="test", to=(), prepend=prepend)


def outside(document: Document) -> list[Route]:
    addresses = {each.address for each in document.bgp.neighbors if each.side == "outside"}
    return [route for route in routes_of(document) if route.neighbor in addresses]


def test_an_upstream_hears_what_its_announce_says_and_the_last_resort_too() -> None:
    made = documents(TEXT)
    for name in ("fra-gw1", "fra-gw2"):
        told = outside(made[name])
        assert {route.prefix for route in told} == {"203.0.113.0/28", "203.0.113.0/24", "2001:db8:1000::/56"}
        assert {(route.prepend, route.med, route.communities, route.large_communities) for route in told} == {
            (2, 50, ("64511:90",), ("64511:1:90",))
        }
        assert made[name].requires == (ANNOUNCEMENT_POLICY,)
    other = made["sin-gw1"]
    assert [(route.prefix, route.prepend, route.med) for route in outside(other)] == [
        ("203.0.113.0/28", 0, None),
        ("2001:db8:1000::/56", 0, None),
    ]
    assert other.requires == () and other == documents(PLAIN)["sin-gw1"]


def test_a_document_without_a_policy_is_what_it_was_and_one_with_it_is_refused_by_who_does_not_know_it() -> None:
    assert '"policy"' not in documents(PLAIN)["fra-gw1"].canonical().decode()
    document = documents(TEXT)["fra-gw1"]
    assert Document.model_validate_json(document.canonical()) == document
    assert set(document.requires) <= KNOWN_REQUIREMENTS
    before: frozenset[str] = frozenset()
    assert set(document.requires) - before, "an agent from before would announce without these attributes"


def test_a_drain_is_worse_than_the_policy_and_never_beyond_what_the_wire_takes() -> None:
    document = documents(TEXT)["fra-gw1"]
    plan = drain(3)
    worse = [route for route in routes_of(document, worse=plan) if route.neighbor == "198.51.100.1"]
    assert {(route.prepend, route.communities) for route in worse} == {(5, ("64511:90", "65535:0"))}
    assert word_of(worse, document, plan, knows=True) is RouteWord.WORSE
    assert word_of(outside(document), document, plan, knows=True) is RouteWord.NORMAL
    most = documents(TEXT.replace("prepend: 2", "prepend: 10"))["fra-gw1"]
    assert {each.prepend for each in routes_of(most, worse=drain(10))} == {MAX_PREPEND}
    renew = Renew(seq=1, instance="x", expires_ns=1, reason=Reason.HEALTHY, routes=tuple(outside(document)), candidates=())
    assert decode_from_agent(encode(renew)) == renew
    assert isinstance(decode_from_agent(encode(Query(seq=1))), Query)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("vocabulary: carrier, ", "", "communities: need a vocabulary, which says what these words are"),
        ("vocabulary: carrier", "vocabulary: other", "other is none of announcements.communities (carrier)"),
        ("[quiet, no-peers]", "[quiet, nopeers]", "nopeers is no word of carrier; it has no-peers, quiet"),
        ("med: 50", "local_pref: 200", "LOCAL_PREF is not sent there (RFC 4271 section 5.1.5)"),
        ("fra-rtr: {asn: 64511", "fra-rtr: {asn: 64501", "drops as a loop what carries its AS number"),
        ('"64511:90"', '"64511:70000"', '"64511:70000" is not a community'),
        ('"64511:90"', '"no-export"', '"no-export" is not a community'),
        ("prepend: 2", "prepend: 11", "11 is not a number of prepends (0 to 10)"),
        (
            "address: {ipv4: 198.51.100.1,",
            "max_prefixes: 1, address: {ipv4: 198.51.100.1,",
            "1, but this site announces 3: 203.0.113.0/28, 203.0.113.16/28, 203.0.113.0/24",
        ),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused_with_its_place(old: str, new: str, what: str) -> None:
    assert old in TEXT
    with pytest.raises(ConfigError) as caught:
        documents(TEXT.replace(old, new))
    assert any(what in str(each) and each.line for each in caught.value.problems), str(caught.value)


def test_a_gateway_announces_no_more_than_one_renewal_carries() -> None:
    """To eight routers: six prefixes in IPv4, two in IPv6, and one more."""
    (line,) = [each for each in TEXT.splitlines() if ROUTER in each]
    more = [f'      r{n}: {{asn: 64511, address: {{ipv4: 198.51.100.{n}, ipv6: "2001:db8:1::{n}"}}}}' for n in range(6, 13)]
    text = TEXT.replace(line, "\n".join([line, *more]))
    text += "".join(f"    all{n}: {{prefix: 203.0.113.0/{n}, sites: [fra]}}\n" for n in (25, 26, 27))
    assert documents(text)
    with pytest.raises(ConfigError, match=r"sites\.fra\.gateways\.fra-gw1: announces 72 routes"):
        documents(text + '    all6: {prefix: "2001:db8:1000::/41", sites: [fra]}\n')


def test_the_table_says_who_hears_what(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text(TEXT)
    for words in (("apply",), ("show", "--announcements")):
        command = [sys.executable, "-m", "anycast.cli.main", "prefixes", words[0], str(file), *words[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    via = "prepend 2, MED 50, 64511:90, 64511:1:90 last_resort"
    assert any(row.startswith("fra-rtr 64511 outside 203.0.113.0/24 64501 ") and via in row for row in rows), done.stdout
    assert any(row.startswith("sin-rtr 64510 outside 203.0.113.0/28 64502 198.51.100.18 - anycast") for row in rows)
