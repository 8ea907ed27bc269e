"""Clients' ways judged: each check once green, and red for each reason it has; a NAT's mappings as ctnetlink tells them."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address

from anycast_lab.capture.frames import Ike, Sealed
from anycast_lab.drills import path_checks
from anycast_lab.drills.drill import Limit
from anycast_lab.drills.path_checks import Ends, PathSeen
from anycast_lab.drills.path_steps import NobodyElses, PathCheck, PortsMoved, SameTunnels
from anycast_lab.flood import mappings
from anycast_lab.flood.conntrack import NESTED, TUPLE_ORIG, TUPLE_REPLY, attribute, tuple_of

SECOND = 1_000_000_000
FAULT = 100 * SECOND
LIMITS = {"soon": Limit(ms=500, reason="a test's")}
VIP, NAT = ip_address("203.0.113.1"), ip_address("198.51.100.82")
ANN = Ends(ike=(("0000000000000a01", "0000000000000b01"),), spis_in=frozenset({1}), spis_out=frozenset({11}), inner=("x",))
BOB = Ends(ike=(("0000000000000a02", "0000000000000b02"),), spis_in=frozenset({2}), spis_out=frozenset({12}), inner=("y",))
BOTH = {"ann": ANN, "bob": BOB}


def esp(second: float, spi: int, port: int = 4500) -> Sealed:
    at = FAULT + int(second * SECOND)
    return Sealed(at_ns=at, source=NAT, destination=VIP, spi=spi, sequence=1, iv=b"", in_udp=True, ports=(port, 4500))


def ike(second: float, initiator: int) -> Ike:
    at, spis = FAULT + int(second * SECOND), (initiator, 0xB01)
    return Ike(at_ns=at, source=VIP, destination=NAT, spis=spis, exchange=37, response=False, message=1)


def judged(check: PathCheck, seen: PathSeen | None) -> bool:
    return path_checks.judge(check, seen, FAULT, "native", LIMITS).passed


QUIET = PathSeen(before=BOTH, after=BOTH, came={"ann": (esp(1, 1), ike(1, 0xA01)), "bob": (esp(1, 2),)})


def test_nobody_looked_is_red() -> None:
    assert not judged(SameTunnels(check="same_tunnels"), None)


def test_the_same_tunnels() -> None:
    same = SameTunnels(check="same_tunnels")
    assert judged(same, QUIET)
    moved = dataclasses.replace(BOB, inner=("z",))
    anew = dataclasses.replace(BOB, ike=(("0000000000000a03", "0000000000000b03"),))
    without = dataclasses.replace(BOB, ike=())
    assert not judged(same, dataclasses.replace(QUIET, after={"ann": ANN, "bob": moved}))
    assert not judged(same, dataclasses.replace(QUIET, after={"ann": ANN, "bob": anew}))
    assert not judged(same, dataclasses.replace(QUIET, after={"ann": ANN}))
    never = {"ann": ANN, "bob": without}
    assert not judged(same, dataclasses.replace(QUIET, before=never, after=never))
    assert not judged(same, dataclasses.replace(QUIET, before={}, after={}))


def test_who_is_sent_anothers_packets() -> None:
    never, soon = NobodyElses(check="nobody_elses"), NobodyElses(check="nobody_elses", limit="soon")
    assert judged(never, QUIET) and judged(soon, QUIET)
    for packet in (esp(0.2, 2), ike(0.2, 0xA02)):
        wrong = dataclasses.replace(QUIET, came={"ann": (esp(1, 1), packet), "bob": (esp(1, 2),)})
        assert not judged(never, wrong)
        assert judged(soon, wrong)
    late = dataclasses.replace(QUIET, came={"ann": (esp(0.6, 2), esp(1, 1)), "bob": (esp(1, 2),)})
    early = dataclasses.replace(QUIET, came={"ann": (esp(-0.1, 2), esp(1, 1)), "bob": (esp(1, 2),)})
    assert not judged(soon, late) and not judged(soon, early)
    assert not judged(never, dataclasses.replace(QUIET, came={"ann": (esp(1, 1),), "bob": ()})), "nothing shows nothing"
    assert not judged(never, dataclasses.replace(QUIET, problems=("ann: 3 packets dropped by kernel",)))
    rekeyed = dataclasses.replace(ANN, spis_in=frozenset({3}))
    assert judged(never, dataclasses.replace(QUIET, after={"ann": rekeyed, "bob": BOB}))


def outside(*packets: Sealed) -> PathSeen:
    return dataclasses.replace(QUIET, outside=packets)


def test_whose_port_has_changed() -> None:
    one = PortsMoved(check="ports_moved", clients=("ann",))
    swapped = PortsMoved(check="ports_moved", clients=("ann", "bob"), swapped=True)
    before = (esp(-1, 11, 4500), esp(-1, 12, 5000))
    assert judged(one, outside(*before, esp(1, 11, 6000), esp(1, 12, 5000)))
    assert not judged(one, outside(*before, esp(1, 11, 4500), esp(1, 12, 5000)))
    assert not judged(one, outside(*before, esp(1, 11, 6000), esp(1, 12, 7000)))
    assert not judged(one, outside(*before, esp(1, 11, 6000))), "bob has sent nothing since"
    assert judged(swapped, outside(*before, esp(1, 11, 5000), esp(1, 12, 4500)))
    assert not judged(swapped, outside(*before, esp(1, 11, 5000), esp(1, 12, 6000)))
    assert not judged(swapped, outside(*before, esp(1, 11, 4500), esp(1, 12, 5000)))


def ctnetlink(port: int, *, protocol: int = 17) -> bytes:
    """What ctnetlink says of a client's flow to the service that a NAT gives this port."""
    client, nat, vip = (ip_address(text).packed for text in ("192.0.2.130", "198.51.100.82", "203.0.113.1"))
    original, reply = tuple_of(client, vip, 4500, 4500), tuple_of(vip, nat, 4500, port)
    if protocol != 17:
        original = original.replace(b"\x05\x00\x01\x00\x11", b"\x05\x00\x01\x00" + bytes([protocol]))
    return attribute(TUPLE_ORIG | NESTED, original) + attribute(TUPLE_REPLY | NESTED, reply)


def test_a_mappings_port_is_where_answers_go() -> None:
    body = ctnetlink(23456)
    assert mappings.source(body) == "192.0.2.130"
    assert mappings.outside_port(body) == 23456
    assert mappings.outside_port(ctnetlink(23456, protocol=6)) is None
    for cut in range(len(body)):
        mappings.source(body[:cut]), mappings.outside_port(body[:cut])


def test_rules_are_for_these_clients_only() -> None:
    text = mappings.rules("198.51.100.82", {"192.0.2.130": "5000"}, [4500])
    assert "-d 198.51.100.82 -p udp --dport 4500 -j DROP" in text
    assert "-s 192.0.2.130 -p udp -j SNAT --to-source 198.51.100.82:5000" in text
    assert "DROP" not in mappings.rules("198.51.100.82", {"192.0.2.130": "5000"}, ())
