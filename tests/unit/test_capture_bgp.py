"""UPDATEs cut out of captured TCP: byte by byte, repeated, out of order, with holes; then what they say about a prefix."""

from __future__ import annotations

import random
import struct
from ipaddress import ip_address, ip_network

import pytest

from anycast.errors import DecodeError
from anycast_lab.capture import bgp
from anycast_lab.capture.bgp import Direction, decode_update
from anycast_lab.capture.frames import Segment
from anycast_lab.capture.routes import movement, transcript

UPSTREAM, TRANSIT = (ip_address("198.51.100.34"), 179), (ip_address("198.51.100.33"), 40000)
PREFIX = ip_network("203.0.113.0/28")
ORIGIN = bytes.fromhex("40010100")
AS_PATH = bytes.fromhex("4002060202fbff fbf5".replace(" ", ""))
NEXT_HOP = bytes.fromhex("400304c6336422")


def message(kind: int, body: bytes = b"") -> bytes:
    return b"\xff" * 16 + struct.pack("!HB", 19 + len(body), kind) + body


def update(withdrawn: bytes = b"", attributes: bytes = b"", nlri: bytes = b"") -> bytes:
    parts = struct.pack("!H", len(withdrawn)) + withdrawn + struct.pack("!H", len(attributes)) + attributes + nlri
    return message(bgp.UPDATE, parts)


NLRI = bytes.fromhex("1ccb007100")
ANNOUNCE = update(attributes=ORIGIN + AS_PATH + NEXT_HOP, nlri=NLRI)
PREPENDED = update(attributes=ORIGIN + bytes.fromhex("4002040201fbff") + NEXT_HOP, nlri=NLRI)
WITHDRAW = update(withdrawn=NLRI)
V6 = bytes.fromhex("20010db8000f00010000000000000002")
REACH_V6 = bytes.fromhex("000201") + bytes([16]) + V6 + b"\0" + bytes.fromhex("3820010db8000a00")
ANNOUNCE_V6 = update(attributes=bytes([0x90, 14]) + struct.pack("!H", len(REACH_V6)) + REACH_V6 + ORIGIN + AS_PATH)
UNREACH_V6 = bytes.fromhex("000201") + bytes.fromhex("3820010db8000a00")
WITHDRAW_V6 = update(attributes=bytes([0x90, 15]) + struct.pack("!H", len(UNREACH_V6)) + UNREACH_V6)


def segment(at: int, sequence: int, payload: bytes = b"", *, back: bool = False, **flags: bool) -> Segment:
    ends = (TRANSIT, UPSTREAM) if back else (UPSTREAM, TRANSIT)
    options = {"syn": False, "fin": False, "rst": False, "cut": False} | flags
    return Segment(at_ns=at, source=ends[0], destination=ends[1], sequence=sequence % 2**32, payload=payload, **options)


def stream(*messages: bytes, begin: int = 1000) -> list[Segment]:
    segments, sequence = [], begin
    for at, data in enumerate(messages):
        segments.append(segment(at, sequence, data))
        sequence += len(data)
    return segments


def test_both_families_are_read() -> None:
    told = decode_update(ANNOUNCE[19:])
    assert told.announced == (PREFIX,) and not told.withdrawn and len(told.attributes) == 3
    told = decode_update(ANNOUNCE_V6[19:])
    assert told.announced == (ip_network("2001:db8:a::/56"),) and len(told.attributes) == 3
    assert decode_update(WITHDRAW[19:]).withdrawn == (PREFIX,)
    assert decode_update(WITHDRAW_V6[19:]).withdrawn == (ip_network("2001:db8:a::/56"),)
    assert decode_update(update()[19:]).end_of_rib


def test_a_next_hop_inside_mp_reach_is_an_attribute_and_the_order_is_not() -> None:
    other = REACH_V6.replace(V6, V6[:-1] + b"\x03")
    changed = update(attributes=bytes([0x90, 14]) + struct.pack("!H", len(other)) + other + ORIGIN + AS_PATH)
    assert decode_update(changed[19:]).attributes != decode_update(ANNOUNCE_V6[19:]).attributes
    turned = update(attributes=AS_PATH + NEXT_HOP + ORIGIN, nlri=NLRI)
    assert decode_update(turned[19:]).attributes == decode_update(ANNOUNCE[19:]).attributes


@pytest.mark.parametrize("body", [ANNOUNCE[19:], ANNOUNCE_V6[19:], WITHDRAW[19:], WITHDRAW_V6[19:]])
def test_a_truncated_update_is_told(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_update(body[:-1])


def test_as_scapy_makes_it() -> None:
    pytest.importorskip("scapy.contrib.bgp")
    from scapy.contrib.bgp import (
        BGPHeader,
        BGPNLRI_IPv4,
        BGPPAAS4BytesPath,
        BGPPANextHop,
        BGPPAOrigin,
        BGPPathAttr,
        BGPUpdate,
    )

    packet = BGPHeader() / BGPUpdate(
        path_attr=[
            BGPPathAttr(type_code=1, attribute=BGPPAOrigin(origin=0)),
            BGPPathAttr(type_code=2, attribute=BGPPAAS4BytesPath(segments=[])),
            BGPPathAttr(type_code=3, attribute=BGPPANextHop(next_hop="198.51.100.34")),
        ],
        nlri=[BGPNLRI_IPv4(prefix="203.0.113.0/28")],
    )
    direction = Direction()
    direction.receive(segment(0, 5, bytes(packet)))
    ((_, kind, body),) = direction.messages
    told = decode_update(body)
    assert kind == bgp.UPDATE and told.announced == (PREFIX,) and [kind for kind, _, _ in told.attributes] == [1, 2, 3]


def test_messages_are_cut_out_whatever_the_segments() -> None:
    data = message(bgp.KEEPALIVE) + ANNOUNCE + message(bgp.KEEPALIVE) + WITHDRAW
    whole = Direction()
    whole.receive(segment(0, 2**32 - 20, data))
    single = Direction()
    for offset in range(len(data)):
        single.receive(segment(0, 2**32 - 20 + offset, data[offset : offset + 1]))
    assert whole.messages == single.messages and [kind for _, kind, _ in whole.messages] == [4, 2, 4, 2]


def test_repeated_overlapping_and_turned_segments_change_nothing() -> None:
    data = message(bgp.KEEPALIVE) + ANNOUNCE + WITHDRAW
    for seed in range(50):
        rng = random.Random(seed)
        cuts = sorted(rng.sample(range(1, len(data)), 8))
        edges = list(zip([0, *cuts], [*cuts, len(data)], strict=True))
        parts = [(max(0, a - rng.randrange(5)), b) for a, b in edges] + rng.sample(edges, 3)
        first, rest = parts[0], parts[1:]
        rng.shuffle(rest)
        direction = Direction()
        for begin, end in [first, *rest]:
            direction.receive(segment(0, 77 + begin, data[begin:end]))
        assert [kind for _, kind, _ in direction.messages] == [4, 2, 2], f"seed {seed}"
        assert not direction.holes


def test_a_capture_that_begins_within_a_message_begins_at_the_next() -> None:
    direction = Direction()
    direction.receive(segment(0, 5, ANNOUNCE[20:] + WITHDRAW))
    assert [decode_update(body).withdrawn for _, _, body in direction.messages] == [(PREFIX,)]


def test_lost_bytes_are_a_problem_not_a_pass() -> None:
    first, _, third = stream(ANNOUNCE, WITHDRAW, message(bgp.KEEPALIVE))
    read = transcript([first, third])
    assert read.problems and "lost packets" in read.problems[0]
    assert transcript([segment(0, 5, ANNOUNCE[:30], cut=True)]).problems
    assert transcript(stream(ANNOUNCE, b"no BGP at all, though there was a marker before")).problems


def test_the_same_update_again_moves_nothing() -> None:
    seen = movement(transcript(stream(ANNOUNCE, message(bgp.KEEPALIVE), ANNOUNCE)), PREFIX, [TRANSIT[0]])
    assert (seen.updates, seen.withdrawn, seen.changed) == (2, (), ())


def test_a_withdrawal_and_a_changed_attribute_are_found() -> None:
    assert movement(transcript(stream(ANNOUNCE, WITHDRAW, ANNOUNCE)), PREFIX, [TRANSIT[0]]).withdrawn == (1,)
    assert movement(transcript(stream(ANNOUNCE, PREPENDED)), PREFIX, [TRANSIT[0]]).changed == (1,)
    seen = movement(transcript(stream(ANNOUNCE_V6, WITHDRAW_V6)), ip_network("2001:db8:a::/56"), [TRANSIT[0]])
    assert seen.withdrawn == (1,)


def test_what_others_hear_does_not_count() -> None:
    assert movement(transcript(stream(ANNOUNCE, WITHDRAW)), PREFIX, [UPSTREAM[0]]).updates == 0
    assert movement(transcript(stream(ANNOUNCE, WITHDRAW)), ip_network("203.0.113.16/28"), [TRANSIT[0]]).updates == 0


def test_the_end_of_a_session_is_told() -> None:
    ends = [segment(9, 5, fin=True), segment(10, 6, rst=True)]
    read = transcript([*stream(message(bgp.OPEN), message(bgp.NOTIFICATION)), *ends])
    assert [how for *_, how in read.ended] == ["OPEN", "NOTIFICATION", "FIN", "RST"]
    again = [segment(1, 5, ANNOUNCE[:30]), segment(2, 900, syn=True), segment(3, 901, message(bgp.OPEN))]
    assert [how for *_, how in transcript(again).ended] == ["OPEN"], "a new connection is read from its beginning"
