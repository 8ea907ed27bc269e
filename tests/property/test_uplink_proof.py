"""The uplink's proof: any answers at any time against what must hold of them, and any bytes as frames."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anycast.errors import DecodeError
from anycast.runtime import TimerExpired
from site_agent.vrrp.packet import Address
from site_agent.vrrp.solicitations import Answer, answers_only, checksum, decode_answer, solicitation
from site_agent.vrrp.uplink_proof import ASKED_IN_VAIN, Answered, Ask, Flooded, LinkSeen, Proven, UplinkProof

OURS, PEERS, ROUTERS, OTHERS, VIRTUAL = (bytes([2, 0, 0, 0, 0, n]) for n in range(1, 6))
ROUTER_4, ROUTER_6 = ip_address("198.51.100.1"), ip_address("2001:db8:1::1")
PEER_4, STRANGE = ip_address("198.51.100.3"), ip_address("198.51.100.9")
OWN: dict[int, Address] = {4: ip_address("198.51.100.2"), 6: ip_address("2001:db8:1::2")}
LEASE_S = 1.0


def core(**changed: object) -> UplinkProof:
    made = UplinkProof(**{"witnesses": [ROUTER_4, ROUTER_6], "peers": [PEER_4], "never": [VIRTUAL], "lease_s": LEASE_S,
                          "now": 0.0, **changed})  # type: ignore[arg-type]  # fmt: skip
    made.handle(LinkSeen(OURS), 0.0)
    return made


def answer(address: Address = ROUTER_4, mac: bytes = ROUTERS, sender: bytes | None = None) -> Answered:
    return Answered(Answer(address=address, mac=mac, sender=sender or mac))


def tick(proof: UplinkProof) -> list[Ask | Proven]:
    return proof.handle(TimerExpired(), proof.deadline)


answers = st.builds(
    answer,
    st.sampled_from([ROUTER_4, ROUTER_6, PEER_4, STRANGE]),
    st.sampled_from([OURS, PEERS, ROUTERS, OTHERS, VIRTUAL]),
    st.sampled_from([None, OURS, PEERS, ROUTERS]),
)
rounds = st.sampled_from(["round", "round", "flood"])
histories = st.lists(rounds | st.tuples(answers, st.floats(0, 0.15)) | st.floats(1, 100), max_size=60)


@given(histories)
@example(["round", (answer(), 0.0), *["round"] * 6])
@example(["round", (answer(), 0.0), "round", *["flood", "round"] * 6])
@example(["round", (answer(), 0.0), 50.0, "round", "round"])
def test_it_is_proven_by_a_believable_answer_within_a_lease_and_disproven_by_rounds_in_vain(history: list[object]) -> None:
    proof, now = core(), 0.0
    told: bool | None = None
    last, in_vain, peers = float("-inf"), 0, set[bytes]()
    stood_still = False
    asked = answered = flooded = False
    for step in history:
        actions: list[Ask | Proven] = []
        if step == "round":
            in_vain = 0 if answered or not asked else in_vain + (not flooded)
            now, asked, answered, flooded = max(now, proof.deadline), True, False, False
            actions = proof.handle(TimerExpired(), now)
            assert any(isinstance(action, Ask) and action.address in (ROUTER_4, ROUTER_6) for action in actions)
            assert proof.deadline == pytest.approx(now + LEASE_S / 6)
        elif step == "flood":
            flooded = stood_still = True
            assert proof.handle(Flooded(), now) == []
        elif isinstance(step, tuple):
            event, after = step
            now = min(now + after, max(now, proof.deadline))
            actions = proof.handle(event, now)
            macs = {event.answer.mac, event.answer.sender}
            if OURS not in macs and event.answer.address == PEER_4:
                peers = macs
            elif OURS not in macs and event.answer.address != STRANGE and not macs & {VIRTUAL, *peers}:
                last, answered, stood_still = now, True, False
                assert proof.proven is True
        else:
            now, stood_still = now + float(step), True  # type: ignore[arg-type]
        told = next((action.proven for action in reversed(actions) if isinstance(action, Proven)), told)
        assert told is proof.proven, "it says what it holds, and says every change"
        if proof.proven:
            assert stood_still or now - last < LEASE_S + 1e-6, "an answer proves nothing beyond a lease"
        if proof.proven is False:
            assert in_vain >= ASKED_IN_VAIN, "only what was asked in vain disproves"


def test_silence_ends_it_within_a_lease_of_the_last_answer_and_an_answer_begins_it_at_once() -> None:
    proof = core()
    assert proof.proven is None and [a for a in tick(proof) if isinstance(a, Proven)] == []
    assert Proven(True) in proof.handle(answer(), 0.01)
    while proof.proven:
        tick(proof)
    assert proof.deadline - LEASE_S / 6 <= 0.01 + LEASE_S and proof.proven is False
    assert Proven(True) in proof.handle(answer(ROUTER_6), proof.deadline)


def test_who_never_heard_anybody_is_told_so_after_a_lease_and_not_before() -> None:
    proof = core()
    said = [tick(proof) for _ in range(6)]
    assert [Proven(False) in actions for actions in said] == [False] * 5 + [True]


def test_at_rest_one_router_is_asked_at_its_address_and_the_peer_seldom() -> None:
    proof = core()
    assert {action.address for action in tick(proof) if isinstance(action, Ask)} == {ROUTER_4, ROUTER_6, PEER_4}
    assert proof.handle(answer(), 0.0) == [Proven(True), Ask(PEER_4, None)]
    asked = []
    for _ in range(120):
        asked += tick(proof)
        assert proof.handle(answer(), proof.deadline - 0.1) == []
    assert asked.count(Ask(ROUTER_4, ROUTERS)) == 120 and asked.count(Ask(PEER_4, None)) == 2 and len(asked) == 122
    tick(proof)
    assert set(tick(proof)) == {Ask(ROUTER_4, None), Ask(ROUTER_6, None)}, "after one in vain the whole link is asked"


@pytest.mark.parametrize("said", [answer(mac=OURS), answer(mac=ROUTERS, sender=OURS), answer(mac=VIRTUAL), answer(STRANGE)])
def test_what_proves_nothing(said: Answered) -> None:
    proof = core()
    for _ in range(8):
        tick(proof)
        proof.handle(said, proof.deadline - 0.1)
        assert not proof.proven


def test_where_one_answers_for_router_and_peer_nothing_is_proven_or_disproven() -> None:
    for peer_first in (True, False):
        proof = core()
        for _ in range(9):
            tick(proof)
            for event in (answer(PEER_4, PEERS), answer(mac=PEERS))[:: 1 if peer_first else -1]:
                proof.handle(event, proof.deadline - 0.1)
            assert proof.proven is None
        proof.handle(answer(ROUTER_6, ROUTERS), proof.deadline - 0.1)  # another router is above suspicion
        assert proof.proven is True


def test_a_machine_that_stood_still_disproves_nothing() -> None:
    proof = core()
    tick(proof)
    proof.handle(answer(), 0.0)
    for late in range(4):
        proof.handle(TimerExpired(), 100.0 * (late + 1))
        assert proof.proven is True


# -- the frames


def reply(address: Address = ROUTER_4, mac: bytes = ROUTERS, *, to: Address | None = None, option: bool = True,
          flags: int = 0x60000000) -> bytes:  # fmt: skip
    """As a router sends it."""
    to = to or OWN[address.version]
    if address.version == 4:
        body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + mac + address.packed + OURS + to.packed
        return OURS + mac + b"\x08\x06" + body + bytes(18)  # Ethernet's least
    message = struct.pack("!BBHI", 136, 0, 0, flags) + address.packed + (b"\x02\x01" + mac if option else b"")
    total = checksum(address.packed, to.packed, message)
    message = message[:2] + struct.pack("!H", total) + message[4:]
    ip = struct.pack("!IHBB", 6 << 28, len(message), 58, 255) + address.packed + to.packed
    return OURS + mac + b"\x86\xdd" + ip + message


ASKED: dict[Address, Address] = {ROUTER_4: OWN[4], ROUTER_6: OWN[6]}


@pytest.mark.parametrize("option", [True, False])
@pytest.mark.parametrize("address", [ROUTER_4, ROUTER_6])
def test_a_routers_reply_is_an_answer(address: Address, option: bool) -> None:
    assert decode_answer(reply(address, option=option), ASKED) == Answer(address=address, mac=ROUTERS, sender=ROUTERS)


def test_a_virtual_mac_address_is_told_apart_from_the_card_that_sent_it() -> None:
    frame = reply()
    assert decode_answer(frame[:6] + OTHERS + frame[12:], ASKED) == Answer(address=ROUTER_4, mac=ROUTERS, sender=OTHERS)


NO_ANSWERS = {
    "another address": reply(ip_address("198.51.100.7")),
    "to another host": reply(to=ip_address("198.51.100.3")),
    "a request": reply()[:20] + b"\0\1" + reply()[22:],
    "our own request": solicitation(ROUTER_4, OWN[4], OURS, None),
    "our own solicitation": solicitation(ROUTER_6, OWN[6], OURS, None),
    "nobody asked for it": reply(ROUTER_6, flags=0x20000000),
    "routed": reply(ROUTER_6)[:21] + b"\xfe" + reply(ROUTER_6)[22:],
    "damaged": reply(ROUTER_6)[:-1] + b"\x77",
    "an option of no length": reply(ROUTER_6)[:79] + b"\0" + reply(ROUTER_6)[80:],
}


@pytest.mark.parametrize("frame", NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_what_is_no_answer(frame: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_answer(frame, ASKED)


BEGINNINGS = bytes(12) + b"\x08\x06", bytes(12) + b"\x86\xdd", reply()[:30], reply(ROUTER_6)[:60]


@given(st.binary(max_size=120) | st.tuples(st.sampled_from(BEGINNINGS), st.binary(max_size=90)).map(b"".join))
def test_any_bytes_decode_or_are_a_decode_error(frame: bytes) -> None:
    try:
        found = decode_answer(frame, ASKED)
    except DecodeError:
        return
    assert found.address in ASKED and len(found.mac) == len(found.sender) == 6


@given(st.sampled_from([ROUTER_4, ROUTER_6]), st.integers(12, 85), st.integers(0, 255))
def test_a_changed_byte_never_makes_another_address_answer(address: Address, at: int, value: int) -> None:
    frame = bytearray(reply(address))
    frame[at % len(frame)] = value
    try:
        found = decode_answer(bytes(frame), ASKED)
    except DecodeError:
        return
    assert found.address == address


def test_the_bytes_of_a_question() -> None:
    body = "0001 0800 06 04 0001" + OURS.hex() + OWN[4].packed.hex() + "00" * 6 + ROUTER_4.packed.hex()
    assert solicitation(ROUTER_4, OWN[4], OURS, None) == bytes.fromhex("ff" * 6 + OURS.hex() + "0806" + body)
    assert solicitation(ROUTER_4, OWN[4], OURS, ROUTERS)[:6] == ROUTERS
    target = IPv6Address("2001:db8::12:3456")
    frame = solicitation(target, OWN[6], OURS, None)
    assert frame[:14] == bytes.fromhex("3333ff123456") + OURS + b"\x86\xdd"
    assert frame[14:22] == bytes.fromhex("60000000 0020 3a ff")
    assert frame[22:54] == OWN[6].packed + IPv6Address("ff02::1:ff12:3456").packed
    assert frame[54:56] == b"\x87\0" and frame[58:78] == bytes(4) + target.packed and frame[78:] == b"\x01\x01" + OURS
    assert checksum(frame[22:38], frame[38:54], frame[54:]) == 0
    near = solicitation(target, OWN[6], OURS, ROUTERS)
    assert near[:6] == ROUTERS and near[38:54] == target.packed and checksum(near[22:38], near[38:54], near[54:]) == 0


def passes(program: bytes, frame: bytes) -> bool:
    """The kernel's machine for the five instructions that are used (Documentation/networking/filter.rst)."""
    lines, at, loaded = list(struct.iter_unpack("=HBBI", program)), 0, 0
    while True:
        code, yes, no, value = lines[at]
        at += 1
        if code == 0x06:
            return bool(value)
        if code == 0x15:
            at += yes if loaded == value else no
            continue
        length = {0x20: 4, 0x28: 2, 0x30: 1}[code]
        if value + length > len(frame):
            return False
        loaded = int.from_bytes(frame[value : value + length], "big")


@given(st.lists(st.ip_addresses(v=4) | st.ip_addresses(v=6), min_size=1, max_size=4), st.binary(max_size=100))
def test_the_filter_lets_every_answer_through_and_little_else(addresses: list[Address], garbage: bytes) -> None:
    for version, kind in ((4, 0x0806), (6, 0x86DD)):
        ours: list[Address] = [address for address in addresses if address.version == version]
        program = answers_only(kind, ours)
        for address in ours:
            frame = reply(address)
            assert passes(program, frame) and decode_answer(frame, {address: OWN[version]}).address == address
            assert not passes(program, solicitation(address, OWN[version], OURS, None))
        for address in addresses:
            if address.version == version and address not in ours:
                assert not passes(program, reply(address))
        assert not passes(program, reply(IPv4Address("192.0.2.77") if version == 4 else IPv6Address("2001:db8::4d"))) or any(
            address.packed[-4:] in (bytes([192, 0, 2, 77]), bytes([0, 0, 0, 77])) for address in ours
        )
        if passes(program, garbage):
            assert len(garbage) >= 32
