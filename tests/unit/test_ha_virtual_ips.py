"""Inner addresses that a charon was not told with an IKE_SA: seen in its list, and said as its own plugin says them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from anycast.errors import PeerError
from site_agent.sync.ha_virtual_ips import Lacking, VirtualIps, encode_virtual_ips

RECORDED = bytes.fromhex("0302" "01028914964ca6864baf586ddde218dac9f800" "0c000002cb007141")
"""What charon 5.9.8 itself said when it had handed 203.0.113.65 to a client."""
SPIS = bytes.fromhex("8914964ca6864baf586ddde218dac9f8")
POOLS = [ip_network("203.0.113.64/27"), ip_network("2001:db8:c:1::/64")]


def ike_sa(*selectors: str, vips: tuple[str, ...] = (), **more: bytes) -> dict[str, Any]:
    return {
        "initiator-spi": SPIS[:8].hex().encode(),
        "responder-spi": SPIS[8:].hex().encode(),
        "remote-vips": [vip.encode() for vip in vips],
        "child-sas": {"vpn-1": {"remote-ts": [selector.encode() for selector in selectors]}},
        **more,
    }


def lacking(*ike_sas: dict[str, Any]) -> list[Lacking]:
    seen = VirtualIps(POOLS)
    for each in ike_sas:
        seen.take({"vpn": each})
    return seen.lacking


def test_it_is_what_charon_itself_says() -> None:
    assert encode_virtual_ips(3, Lacking(SPIS, False, (ip_address("203.0.113.65"),))) == RECORDED
    both = encode_virtual_ips(3, Lacking(SPIS, True, (ip_address("203.0.113.65"), ip_address("2001:db8:c:1::1"))))
    assert both[20] == 1, "this charon is the initiator"
    assert both[21:] == RECORDED[21:] + bytes.fromhex("0c00000a" "20010db8000c00010000000000000001")


def test_an_ike_sa_that_lacks_an_address_of_its_child_sas() -> None:
    four, six = ip_address("203.0.113.65"), ip_address("2001:db8:c:1::1")
    selectors = ("203.0.113.65/32", "2001:db8:c:1::1/128")
    assert lacking(ike_sa(*selectors)) == [Lacking(SPIS, False, (four, six))]
    assert lacking(ike_sa(*selectors, vips=("203.0.113.65",))) == [Lacking(SPIS, False, (four, six))]
    assert lacking(ike_sa(*selectors, initiator=b"yes")) == [Lacking(SPIS, True, (four, six))]
    assert lacking(ike_sa(*selectors, vips=("203.0.113.65", "2001:db8:c:1::1"))) == []


def test_what_is_no_inner_address_of_ours_is_nothing_to_say() -> None:
    assert lacking(ike_sa("198.51.100.66/32", "203.0.113.64/27", "192.0.2.0/28", "2001:db8:c:2::1/128")) == []
    assert lacking(ike_sa("203.0.113.66/32[udp/1701]"))[0].addresses == (ip_address("203.0.113.66"),)


@pytest.mark.parametrize("broken", [{"remote-ts": [b"x"]}, {"remote-ts": b"\xff"}, {"remote-ts": 7}, {"remote-ts": [None]}])
def test_what_cannot_be_understood_is_charons_fault(broken: dict[str, Any]) -> None:
    with pytest.raises(PeerError):
        VirtualIps(POOLS).take({"vpn": ike_sa() | {"child-sas": {"vpn-1": broken}}})
