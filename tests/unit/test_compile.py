"""From fleet to document: what is spelled out, and what a site may say otherwise."""

from __future__ import annotations

import pytest

from anycast.document import Document
from anycast.fleet.compile import compile_fleet, compile_gateway
from anycast.fleet.loading import loads
from tests.support.documents import TREE

SMALL = (TREE / "tests" / "data" / "small.fleet.yaml").read_text()


def compiled(*replacements: tuple[str, str]) -> dict[str, Document]:
    text = SMALL
    for old, new in replacements:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return compile_fleet(loads(text))


def test_a_site_overrides_the_defaults_key_by_key() -> None:
    documents = compiled(
        ("sites:\n", "defaults:\n  bgp: {hold_time: 12 s, run_as: bgp}\n  lease: {grace: 5 s}\nsites:\n"),
        ("    asn: 64502\n", "    asn: 64502\n    bgp: {hold_time: 30 s}\n    lease: {duration: 500 ms}\n"),
    )
    fra, sin = documents["fra-gw1"], documents["sin-gw1"]
    assert (fra.bgp.hold_time_s, fra.bgp.run_as) == (12, "bgp")
    assert (fra.lease.duration_ms, fra.lease.grace_ms) == (1000, 5000)
    assert (sin.bgp.hold_time_s, sin.bgp.run_as) == (30, "bgp"), "what the site does not write stays the fleet's"
    assert (sin.lease.duration_ms, sin.lease.grace_ms) == (500, 5000)


def test_a_site_that_writes_the_program_default_means_it() -> None:
    documents = compiled(
        ("sites:\n", "defaults:\n  bgp: {hold_time: 12 s}\nsites:\n"),
        ("    asn: 64502\n", "    asn: 64502\n    bgp: {hold_time: 9 s}\n"),
    )
    assert documents["sin-gw1"].bgp.hold_time_s == 9


def test_each_address_of_an_upstream_is_a_session_of_its_family() -> None:
    documents = compiled(
        ("  vips: {ipv4: 203.0.113.1}", '  vips: {ipv4: 203.0.113.1, ipv6: "2001:db8:a::1"}'),
        ("  prefixes: {ipv4: 203.0.113.0/28}", '  prefixes: {ipv4: 203.0.113.0/28, ipv6: "2001:db8:a::/56"}'),
        ("uplink: {ipv4: 198.51.100.0/28}", 'uplink: {ipv4: 198.51.100.0/28, ipv6: "2001:db8:1::/64"}'),
        ("address: {ipv4: 198.51.100.1}", 'address: {ipv4: 198.51.100.1, ipv6: "2001:db8:1::1"}'),
        ("{interface: eth1, ipv4: 198.51.100.2}", '{interface: eth1, ipv4: 198.51.100.2, ipv6: "2001:db8:1::2"}'),
        ("uplink: {ipv4: 198.51.100.16/28}", 'uplink: {ipv4: 198.51.100.16/28, ipv6: "2001:db8:2::/64"}'),
        ("address: {ipv4: 198.51.100.17}", 'address: {ipv4: 198.51.100.17, ipv6: "2001:db8:2::1"}'),
        ("{interface: eth1, ipv4: 198.51.100.18}", '{interface: eth1, ipv4: 198.51.100.18, ipv6: "2001:db8:2::2"}'),
    )
    four, six = documents["fra-gw1"].bgp.neighbors
    assert (four.name, four.families, four.next_hop) == ("fra-rtr-ipv4", ("ipv4",), {"ipv4": "198.51.100.2"})
    assert (six.name, six.families, six.next_hop) == ("fra-rtr-ipv6", ("ipv6",), {"ipv6": "2001:db8:1::2"})
    assert documents["fra-gw1"].uplink.addresses == ("198.51.100.2/28", "2001:db8:1::2/64")


def test_a_family_that_is_not_announced_has_no_session() -> None:
    documents = compiled(
        ("uplink: {ipv4: 198.51.100.0/28}", 'uplink: {ipv4: 198.51.100.0/28, ipv6: "2001:db8:1::/64"}'),
        ("address: {ipv4: 198.51.100.1}", 'address: {ipv4: 198.51.100.1, ipv6: "2001:db8:1::1"}'),
        ("{interface: eth1, ipv4: 198.51.100.2}", '{interface: eth1, ipv4: 198.51.100.2, ipv6: "2001:db8:1::2"}'),
    )
    assert [neighbor.name for neighbor in documents["fra-gw1"].bgp.neighbors] == ["fra-rtr-ipv4"]


def test_the_fleets_words_become_the_documents() -> None:
    made = compiled(
        ("  name: vpn\n", "  name: no\n  encapsulation: behind_nat\n  dns: [192.0.2.10]\n  dpd_delay: 1 min\n"),
        ("asn: 64511, address: {ipv4: 198.51.100.17}", "asn: 64511, gtsm: yes, address: {ipv4: 198.51.100.17}"),
    )
    service = made["fra-gw1"].service
    assert service.name == "no", "a name, not a truth value"
    assert service.force_encapsulation is False
    assert (service.dns, service.dpd_delay_s) == (("192.0.2.10",), 60)
    assert [n.gtsm for document in made.values() for n in document.bgp.neighbors] == [False, True]


def test_a_gateway_that_does_not_exist_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="ams-gw1"):
        compile_gateway(loads(SMALL), "ams-gw1")
