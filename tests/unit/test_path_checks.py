"""Clients' ways judged: each check once green, and red for each reason it has; a NAT's mappings as ctnetlink tells them."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address

from anycast_lab.capture import frames
from anycast_lab.capture.frames import Ike, Sealed
from anycast_lab.capture.pcap import Frame
from anycast_lab.capture.too_big import TooBig
from anycast_lab.drills import path_checks
from anycast_lab.drills.checks import Observation, Watched
from anycast_lab.drills.drill import Limit, load_drills
from anycast_lab.drills.path_checks import ECHOES, AtGateway, Ends, Fetched, Guest, PathSeen
from anycast_lab.drills.path_steps import (
    Balanced,
    Connects,
    Echoed,
    FamilyGone,
    Fetch,
    Hangs,
    HasFetched,
    NobodyElses,
    PathCheck,
    PortsMoved,
    SameTunnels,
    SplitsApart,
    TooBigAt,
    TooBigCounted,
)
from anycast_lab.drills.timeline import Moment
from anycast_lab.flood import mappings
from anycast_lab.flood.conntrack import NESTED, TUPLE_ORIG, TUPLE_REPLY, attribute, tuple_of
from site_agent.render.nftables import clamped_mss

SECOND = 1_000_000_000
FAULT = 100 * SECOND
LIMITS = {"soon": Limit(ms=500, reason="a test's")}
PREFIXES = {"ipv4": "203.0.113.0/28", "ipv6": "2001:db8:a::/56"}
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


def observed(paths: PathSeen | None, *moments: Moment) -> Observation:
    routes = tuple(Watched(node="transit", protocol=f"fra_rtr_{f}", prefix=p) for f, p in PREFIXES.items())
    return Observation(
        victim="fra-gw1", site="fra", kernel="native", esp=True, fault_ns=FAULT, heal_ns=0, end_ns=FAULT + 90 * SECOND,
        moments=moments, routes=routes, withdraws=0, first_reason="", clients={}, child_sas_at_announcement=None,
        paths=paths,
    )  # fmt: skip


def judged(check: PathCheck, seen: PathSeen | None) -> bool:
    return path_checks.judge(check, observed(seen), LIMITS).passed


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


def fetched(**by_client: Fetched) -> PathSeen:
    return dataclasses.replace(QUIET, fetched=by_client)


ALL = Fetched(connected=True, bytes=9, wrong=False, took_ms=400)


def test_what_was_fetched() -> None:
    check = HasFetched(check="fetched", clients=("ann",), limit="soon")
    assert judged(check, fetched(ann=ALL))
    assert not judged(check, fetched(bob=ALL))
    assert not judged(check, fetched(ann=dataclasses.replace(ALL, took_ms=600)))
    assert not judged(check, fetched(ann=dataclasses.replace(ALL, took_ms=None)))
    assert not judged(check, fetched(ann=dataclasses.replace(ALL, wrong=True)))
    clamped = HasFetched(check="fetched", clients=("ann",), limit="soon", clamped=True)
    assert not judged(clamped, fetched(ann=ALL))
    assert judged(clamped, fetched(**{"ann clamped": ALL}))


def test_what_hangs_has_connected_and_nothing_came() -> None:
    check, hung = Hangs(check="hangs", clients=("ann",)), Fetched(connected=True, bytes=0, wrong=False, took_ms=None)
    assert judged(check, fetched(ann=hung))
    assert not judged(check, fetched(ann=dataclasses.replace(hung, connected=False)))
    assert not judged(check, fetched(ann=dataclasses.replace(hung, bytes=1)))
    assert not judged(check, fetched())


def test_the_drill_clamps_as_the_gateways_rule_does() -> None:
    steps = load_drills()["small-mtu-astray"].steps
    assert [step.mss for step in steps if isinstance(step, Fetch)] == [None, clamped_mss("ipv4")]


def test_every_big_echo_comes_back() -> None:
    check = Echoed(check="echoed", clients=("ann",))
    assert judged(check, dataclasses.replace(QUIET, echoed={"ann": ECHOES}))
    assert not judged(check, dataclasses.replace(QUIET, echoed={"ann": ECHOES - 1}))
    assert not judged(check, QUIET)
    lost = Echoed(check="echoed", clients=("ann",), none=True)
    assert judged(lost, dataclasses.replace(QUIET, echoed={"ann": 0}))
    assert not judged(lost, dataclasses.replace(QUIET, echoed={"ann": 1}))
    assert not judged(lost, QUIET), "nobody asked"


def too_big(spi: int) -> TooBig:
    return TooBig(at_ns=FAULT, router=VIP, about=NAT, spi=spi, mtu=1280)


def at(*spis: int, sends: tuple[int, ...] = (), counted: float | None = 0.0) -> AtGateway:
    return AtGateway(came=tuple(map(too_big, spis)), spis=frozenset(sends), counted=counted)


def test_where_too_big_comes_to() -> None:
    check = TooBigAt(check="too_big_at", client="ann", gateway="fra-gw1")
    assert judged(check, dataclasses.replace(QUIET, at_gateways={"fra-gw1": at(1, 1), "sin-gw1": at(2)}))
    assert not judged(check, dataclasses.replace(QUIET, at_gateways={"fra-gw1": at(1), "sin-gw1": at(1)}))
    assert not judged(check, dataclasses.replace(QUIET, at_gateways={"fra-gw1": at(2), "sin-gw1": at()}))


def test_the_gateway_counts_what_was_captured() -> None:
    some = TooBigCounted(check="too_big_counted", gateway="fra-gw1", astray=True)
    none = TooBigCounted(check="too_big_counted", gateway="fra-gw1", astray=False)

    def seen(one: AtGateway) -> PathSeen:
        return dataclasses.replace(QUIET, at_gateways={"fra-gw1": one})

    assert judged(some, seen(at(1, 2, 2, sends=(1,), counted=2.0)))
    assert not judged(some, seen(at(1, 2, 2, sends=(1,), counted=1.0)))
    assert not judged(some, seen(at(1, sends=(1,), counted=0.0)))
    assert judged(none, seen(at(1, sends=(1,), counted=0.0)))
    assert not judged(none, seen(at(2, sends=(1,), counted=1.0)))
    assert not judged(none, seen(at(counted=None))) and not judged(none, QUIET)


def test_too_big_in_a_frame() -> None:
    """About ESP in UDP with SPI 0xc0ffee, in ICMP and in ICMPv6, as Linux sends it."""
    behind = bytes.fromhex("1194119405c8000000c0ffee00000001")
    quoted = bytes.fromhex("450005dc0000400040110000") + VIP.packed + NAT.packed + behind
    icmp = bytes.fromhex("0304000000000500") + quoted
    header = bytes.fromhex("45000000000000004001") + bytes(2) + ip_address("198.51.100.45").packed + VIP.packed
    header = header[:2] + (20 + len(icmp)).to_bytes(2) + header[4:]
    seen = frames.decode(Frame(at_ns=5, data=bytes(12) + b"\x08\x00" + header + icmp, cut=0))
    assert seen == TooBig(at_ns=5, router=ip_address("198.51.100.45"), about=NAT, spi=0xC0FFEE, mtu=1280)
    router, vip, client = (ip_address(f"2001:db8::{n}") for n in (1, 2, 3))
    quoted = bytes.fromhex("6000000005c01140") + vip.packed + client.packed + behind
    icmp = bytes.fromhex("0200000000000500") + quoted
    header = bytes.fromhex("60000000") + len(icmp).to_bytes(2) + b"\x3a\x40" + router.packed + vip.packed
    seen = frames.decode(Frame(at_ns=5, data=bytes(12) + b"\x86\xdd" + header + icmp, cut=0))
    assert seen == TooBig(at_ns=5, router=router, about=client, spi=0xC0FFEE, mtu=1280)


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


def went(second: float, family: str, event: str = "route_removed", node: str = "transit") -> Moment:
    return Moment(FAULT + int(second * SECOND), node, event, PREFIXES[family], f"fra_rtr_{family}")


def test_one_family_goes_and_the_other_stays() -> None:
    def judged(*moments: Moment) -> bool:
        check = FamilyGone(check="family_gone", family="ipv6", limit="soon")
        return path_checks.judge(check, observed(None, *moments), LIMITS).passed

    assert judged(went(0.4, "ipv6"))
    assert judged(went(-1, "ipv4", "route_added"), went(0.4, "ipv6"))
    assert not judged()
    assert not judged(went(0.6, "ipv6"))
    assert not judged(went(0.4, "ipv6"), went(1, "ipv4"))
    assert not judged(went(0.4, "ipv6"), went(1, "ipv4", "route_updated", "fra-rtr"))
    assert not judged(went(-1, "ipv6"))


def test_by_how_many_paths_a_carrier_sends() -> None:
    check = Balanced(check="balanced", at="west", paths=2)
    assert judged(check, dataclasses.replace(QUIET, paths={"west": 2}))
    assert not judged(check, dataclasses.replace(QUIET, paths={"west": 1, "east": 2}))


def asked(address: str, exchange: int, *, response: bool = False) -> Ike:
    one = ike(0, 1)
    return dataclasses.replace(one, source=ip_address(address), exchange=exchange, response=response)


INIT, AUTH = asked("198.51.100.82", 34), asked("198.51.100.82", 35)


def visit(up: bool, **came: tuple[Ike, ...]) -> PathSeen:
    """`came`: by gateway."""
    return dataclasses.replace(QUIET, guests={"plain": Guest(up=up, address="198.51.100.82")}, asked=came)


def test_a_guest_whose_flow_is_one_connects() -> None:
    check = Connects(check="connects", client="plain")
    assert judged(check, visit(True, fra=(INIT, AUTH), ams=()))
    assert judged(check, visit(True, fra=(INIT, AUTH), ams=(asked("198.51.100.99", 34),))), "somebody else's"
    assert not judged(check, visit(False, fra=(INIT, AUTH), ams=()))
    assert not judged(check, visit(True, fra=(INIT,), ams=(AUTH,)))
    assert not judged(check, visit(True)), "no message was seen"
    assert not judged(check, QUIET)


def test_a_guest_whose_flows_are_two_is_split_apart() -> None:
    check = SplitsApart(check="splits_apart", client="plain")
    assert judged(check, visit(False, fra=(INIT,), ams=(AUTH, AUTH)))
    assert not judged(check, visit(True, fra=(INIT,), ams=(AUTH,)))
    assert not judged(check, visit(False, fra=(INIT, AUTH), ams=()))
    assert not judged(check, visit(False, fra=(INIT, AUTH), ams=(AUTH,)))
    assert not judged(check, visit(False, fra=(INIT,), ams=(asked("198.51.100.82", 35, response=True),)))
    assert not judged(check, visit(False, fra=(INIT,), ams=()))


def test_ike_on_port_500_has_no_marker() -> None:
    ike = bytes.fromhex("01020304050607080000000000000000212022080000000000000120")
    udp = bytes.fromhex("01f401f40024") + bytes(2) + ike
    header = bytes.fromhex("45000000000000004011") + bytes(2) + NAT.packed + VIP.packed
    header = header[:2] + (20 + len(udp)).to_bytes(2) + header[4:]
    seen = frames.decode(Frame(at_ns=5, data=bytes(12) + b"\x08\x00" + header + udp, cut=0))
    spis = (0x0102030405060708, 0)
    assert seen == Ike(
        at_ns=5, source=NAT, destination=VIP, spis=spis, exchange=34, response=False, message=0, ports=(500, 500)
    )
