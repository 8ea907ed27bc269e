"""Two captures of `vrrp-power-off` as tcpdump wrote them: the LAN around the failover, and all that the transit heard.

The fault was at 1795912708.048088237 s of CLOCK_REALTIME; fra-gw1 (198.51.100.2) was Active.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from anycast_lab.capture import claims
from anycast_lab.capture.frames import Advertisement, Segment
from anycast_lab.capture.routes import Transcript, movement, transcript
from anycast_lab.drills.captured import decoded
from tests.support.tree import TREE

CAPTURES = TREE / "tests" / "data" / "captures"
FAULT_NS = 1795912708048088237
TRANSIT = (ip_address("198.51.100.33"), ip_address("2001:db8:f:1::1"))
PREFIXES = (ip_network("203.0.113.0/28"), ip_network("2001:db8:a::/56"))
AS_PATH = bytes.fromhex("02020000fbff0000fbf5")


def ms(at_ns: int) -> float:
    return (at_ns - FAULT_NS) / 1e6


def heard_at_the_transit(data: bytes) -> Transcript:
    return transcript(one for one in decoded(data).seen if isinstance(one, Segment))


def test_the_lan_shows_one_active_after_the_other_and_who_told_the_neighbours() -> None:
    lan = decoded((CAPTURES / "power-off-lan.pcap").read_bytes())
    assert not lan.problems
    adverts = [one for one in lan.seen if isinstance(one, Advertisement)]
    names = {one.mac: str(one.source) for one in adverts if one.source.version == 4}
    first, second = claims.reigns(lan.seen, names)
    assert (first.router, second.router) == ("198.51.100.2", "198.51.100.3")
    assert ms(first.to_ns) < 0 and 340 < ms(second.from_ns) < 342 and claims.together_ns((first, second)) == 0
    assert {one.ttl for one in adverts} == {255} and all(one.flags is not None for one in adverts), "each is sealed"
    for address in ("198.51.100.4", "2001:db8:1::4"):
        told = claims.announced(lan.seen, ip_address(address), FAULT_NS)
        assert [names[mac] for _, mac in told] == ["198.51.100.3"] * 2, "at once and after 0.1 s"


def test_the_transit_heard_the_same_three_times_and_nothing_else() -> None:
    read = heard_at_the_transit((CAPTURES / "power-off-transit.pcap").read_bytes())
    assert not read.problems and not read.ended
    for prefix in PREFIXES:
        seen = movement(read, prefix, TRANSIT)
        assert (seen.updates, seen.withdrawn, seen.changed) == (3, (), ())


def test_one_other_byte_in_one_of_them_is_a_changed_attribute() -> None:
    data = (CAPTURES / "power-off-transit.pcap").read_bytes()
    at = data.rindex(AS_PATH)
    read = heard_at_the_transit(data[: at + 9] + b"\x01" + data[at + 10 :])
    assert sum(len(movement(read, prefix, TRANSIT).changed) for prefix in PREFIXES) == 1
