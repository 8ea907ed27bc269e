"""What a charon says of its tunnels, as records that two charons share; and the two words that make one forget."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from anycast.errors import PeerError
from site_agent.ike.mirror_view import CHILD_RECORD_BYTES, IKE_RECORD_BYTES, CharonView, IkeSa
from site_agent.netlink.xfrm_digest import SaReader
from site_agent.netlink.xfrm_keys import pack_address
from site_agent.sync import ha_wire
from site_agent.sync.ha_forget import encode_child_delete, encode_ike_delete
from tests.support.xfrm_bytes import CLIENT, ENDS, VIP, sa_payload

SPIS = bytes.fromhex("0123456789abcdef0000000000000042")


def event(
    local: str = "203.0.113.1", ike: dict[str, Any] | None = None, child: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One `list-sa` event, shortened to what is read."""
    one = {
        "name": b"vpn", "uniqueid": b"7", "reqid": b"9", "state": b"INSTALLED", "protocol": b"ESP", "spi-in": b"00001234",
        "spi-out": b"c2",
    } | (child or {})  # fmt: skip
    sa = {
        "uniqueid": b"3", "state": b"ESTABLISHED", "local-host": local.encode(), "remote-host": b"198.51.100.66",
        "remote-port": b"1024", "initiator-spi": b"0123456789abcdef", "responder-spi": b"42", "remote-id": b"anna",
        "child-sas": {"vpn-7": {key: value for key, value in one.items() if value is not None}},
    } | (ike or {})  # fmt: skip
    return {"rw": sa}


def view(*events: dict[str, Any]) -> CharonView:
    seen = CharonView(frozenset({"203.0.113.1", "2001:db8::1"}))
    for each in events:
        seen.take(each)
    return seen


def test_records_are_what_both_charons_say() -> None:
    seen = view(event())
    assert seen.ike == {SPIS + VIP + CLIENT + b"\x04\x00": IkeSa("3", False, identity="anna")}
    (tunnel,) = seen.tunnels
    assert tunnel.record == bytes.fromhex("0000123432000000c2") + SPIS
    assert (len(tunnel.record), len(next(iter(seen.ike)))) == (CHILD_RECORD_BYTES, IKE_RECORD_BYTES)
    assert (tunnel.reqid, tunnel.child_id, tunnel.ike_id, tunnel.name) == (9, "7", "3", "vpn{7} of anna")
    assert tunnel.carrying and not tunnel.rekeying
    other = view(event(ike={"uniqueid": b"88"}, child={"uniqueid": b"99", "reqid": b"1"}))
    assert other.ike.keys() == seen.ike.keys() and other.tunnels[0].record == tunnel.record


def test_ends_are_the_beginning_of_the_kernels_records() -> None:
    (tunnel,) = view(event()).tunnels
    reader = SaReader(ENDS)
    reader.take(sa_payload(spi=0x1234, inbound=True))
    reader.take(sa_payload(spi=0xC2, inbound=False))
    assert tuple(record[:37] for record in reader.records) == tunnel.ends


def test_what_is_on_its_way_in_or_out_is_no_standing_tunnel() -> None:
    assert not view(event(child={"state": b"REKEYED"})).tunnels[0].carrying
    assert view(event(child={"state": b"REKEYING"})).tunnels[0].rekeying
    assert view(event(child={"spi-in": None})).tunnels == []
    assert view(event(ike={"state": b"CONNECTING"})).ike == {}, "half of the plugin's messages are missing"
    copy = event(ike={"state": b"PASSIVE", "initiator": b"yes"})
    assert view(copy).ike.popitem()[1].initiator
    seen = CharonView(frozenset({"203.0.113.1"}), frozenset({"rw"}))
    for each in (copy, {"own": copy["rw"]}, event()):
        seen.take(each)
    assert seen.passive == 1, "the operator's own is none of ours"
    assert view(event(ike={"remote-host": b"%any", "state": b"CREATED"})).ike == {}, "it is being made"
    foreign = view(event(local="192.0.2.7"))
    assert (foreign.ike, foreign.tunnels) == ({}, [])


def test_both_families() -> None:
    seen = view(event(local="2001:db8::1", ike={"remote-host": b"2001:db8:c::9"}))
    assert next(iter(seen.ike))[16:48] == pack_address(ip_address("2001:db8::1")) + pack_address(ip_address("2001:db8:c::9"))


@pytest.mark.parametrize(
    "ike", [{"remote-port": b"70000"}, {"initiator-spi": b"x"}, {"responder-spi": b"1" * 17}, {"remote-host": b"x"}]
)
def test_what_cannot_be_is_refused(ike: dict[str, Any]) -> None:
    with pytest.raises(PeerError):
        view(event(ike=ike))


def test_what_is_to_be_forgotten_is_said_in_the_plugins_bytes() -> None:
    ike = encode_ike_delete(3, SPIS, initiator=True)
    child = encode_child_delete(3, SPIS, initiator=False, spi_in=bytes.fromhex("00001234"))
    assert ike == bytes.fromhex("03050102") + SPIS + b"\x01"
    assert child == bytes.fromhex("03070102") + SPIS + b"\x00" + bytes.fromhex("1b34120000")
    assert [ha_wire.decode_header(each).kind for each in (ike, child)] == [5, 7]
    # CHILD_ADD begins alike, and is read by the relay.
    added = bytes([3, 6]) + child[2:21] + b"\x0e\x00" + child[21:] + b"\x1c\x01\x02\x03\x04"
    assert ha_wire.decode_child_spis(added).inbound == bytes.fromhex("00001234")
