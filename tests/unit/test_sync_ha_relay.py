"""The `ha` plugin's messages between two charons: which are carried, in which order, to whom, what is told as missing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.errors import DecodeError
from site_agent.netlink.xfrm_keys import SaKey
from site_agent.sync import ha_relay as relay
from site_agent.sync import ha_wire, marks_wire
from site_agent.sync.ha_relay import HaRelay, MirrorGap
from site_agent.sync.ha_wire import CARRIED, MessageType
from site_agent.sync.numbers_words import PeerConnected, PeerLost, Role, RoleChanged
from site_agent.sync.windows import PeerSaw, RefuseUpTo, SaThere, TellSeen, Windows

NEVER = (MessageType.SEGMENT_DROP, MessageType.SEGMENT_TAKE, MessageType.STATUS, MessageType.RESYNC)


def of(actions: list[relay.Action], kind: type) -> list[relay.Action]:
    return [action for action in actions if isinstance(action, kind)]


@pytest.mark.parametrize("kind", [*NEVER, MessageType.IKE_IV, 77])
@pytest.mark.parametrize("role", list(Role))
def test_what_would_move_a_segment_is_never_carried_and_never_handed_over(kind: int, role: Role) -> None:
    """One charon's DROP would make the other one active; also where the peer carries it against the rules."""
    core = HaRelay(1, role)
    core.handle(PeerConnected())
    assert core.handle(relay.FromCharon(kind=kind, size=2, handle=1)) == [relay.Forget(handle=1)]
    said = core.handle(relay.FromPeer(epoch=9, number=1, kind=kind, handle=2))
    assert said == [relay.Forget(handle=2)] and core.counts["refused_type", kind] == 2


@pytest.mark.parametrize("kind", sorted(CARRIED))
def test_only_an_actives_messages_are_carried_and_only_a_backup_is_handed_any(kind: int) -> None:
    for role in Role:
        core = HaRelay(1, role)
        core.handle(PeerConnected())
        carried = of(core.handle(relay.FromCharon(kind=kind, size=9, handle=1)), relay.Carry)
        assert bool(carried) == (role is Role.ACTIVE)
        handed = of(core.handle(relay.FromPeer(epoch=9, number=1, kind=kind, handle=2)), relay.HandToCharon)
        assert bool(handed) == (role is Role.BACKUP)


@pytest.mark.parametrize("seed", range(30))
def test_every_message_arrives_once_and_in_order_over_sessions_that_break(seed: int) -> None:
    chance = random.Random(seed)
    active, backup = HaRelay(1, Role.ACTIVE), HaRelay(2, Role.BACKUP)
    wire: list[relay.Carry] = []
    handed: list[int] = []
    sent = 0

    def take(actions: list[relay.Action]) -> None:
        for action in actions:
            match action:
                case relay.Carry():
                    wire.append(action)
                case relay.HandToCharon(handle=handle):
                    handed.append(handle)
                case relay.Acknowledge(epoch=epoch, number=number):
                    take(active.handle(relay.PeerHas(epoch=epoch, number=number)))
                case MirrorGap():
                    pytest.fail("nothing was lost for good")

    take(active.handle(PeerConnected()))
    for _ in range(300):
        match chance.choice(("send", "send", "deliver", "deliver", "break", "join", "empty")):
            case "send":
                sent += 1
                take(active.handle(relay.FromCharon(kind=MessageType.IKE_UPDATE, size=9, handle=sent)))
            case "deliver" if wire:
                c = wire.pop(0)
                kind = MessageType.IKE_UPDATE
                take(backup.handle(relay.FromPeer(epoch=c.epoch, number=c.number, kind=kind, handle=c.handle)))
            case "break":
                wire.clear()
                take(active.handle(PeerLost()))
            case "join":
                wire.clear()
                take(active.handle(PeerConnected()))
            case "empty":
                take(backup.handle(relay.InboxEmpty()))
    take(active.handle(PeerConnected()))
    for c in list(wire):
        take(backup.handle(relay.FromPeer(epoch=c.epoch, number=c.number, kind=MessageType.IKE_UPDATE, handle=c.handle)))
    assert handed == list(range(1, sent + 1))
    take(backup.handle(relay.InboxEmpty()))
    assert active.waiting == 0


def test_what_is_not_kept_is_told_as_missing() -> None:
    active, backup = HaRelay(1, Role.ACTIVE), HaRelay(2, Role.BACKUP)
    for n in range(relay.MAX_KEPT + 3):
        active.handle(relay.FromCharon(kind=MessageType.CHILD_ADD, size=9, handle=n))
    first = of(active.handle(PeerConnected()), relay.Carry)[0]
    assert isinstance(first, relay.Carry) and active.waiting == relay.MAX_KEPT
    said = backup.handle(relay.FromPeer(epoch=1, number=first.number, kind=MessageType.CHILD_ADD, handle=0))
    assert of(said, MirrorGap) == [MirrorGap(missing=3)]


def test_a_window_goes_forward_only_and_never_into_an_actives_kernel() -> None:
    key = SaKey(bytes(16) + b"\0\0\0\1\x32")
    backup = Windows(Role.BACKUP)
    backup.handle(SaThere(key=key, seq=0))
    assert backup.handle(PeerSaw(key=key, seq=40)) == [RefuseUpTo(key=key, seq=40)]
    assert backup.handle(PeerSaw(key=key, seq=39)) == []
    early = Windows(Role.BACKUP)
    assert early.handle(PeerSaw(key=key, seq=7)) == []
    assert early.handle(SaThere(key=key, seq=0)) == [RefuseUpTo(key=key, seq=7)], "told before the kernel had it"
    active = Windows(Role.ACTIVE)
    active.handle(SaThere(key=key, seq=5))
    assert active.handle(PeerSaw(key=key, seq=1 << 20)) == [], "a stale peer's word would refuse good packets"
    assert active.handle(PeerConnected()) == [TellSeen(key=key, seq=5)]
    assert active.handle(SaThere(key=key, seq=6)) == [TellSeen(key=key, seq=6)]
    active.handle(RoleChanged(role=Role.BACKUP))
    assert active.handle(PeerSaw(key=key, seq=9)) == [RefuseUpTo(key=key, seq=9)]


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise(data: bytes) -> None:
    for decode in (ha_wire.decode_header, ha_wire.decode_child_spis, marks_wire.decode_records):
        try:
            decode(data)
        except DecodeError:
            continue


@given(st.lists(st.tuples(st.binary(min_size=21, max_size=21).map(SaKey), st.integers(0, 2**64 - 1)), max_size=50))
def test_records_come_back_as_they_were(records: list[tuple[SaKey, int]]) -> None:
    assert [record for body in marks_wire.encode_records(records) for record in marks_wire.decode_records(body)] == records


CAPTURED = bytes.fromhex("0306" "01" "02" "0f78f5f593482604" "8dc611be2257d069" "00" "0e00" "1be0f608c4" "1c27b2c5c4")
"""How a CHILD_ADD of strongSwan 5.9.8 begins, up to what is secret; its kernel's outbound SA had the SPI 0xc4c5b227."""


def test_the_spis_of_a_child_add_as_charon_sends_it() -> None:
    assert ha_wire.decode_header(CAPTURED) == (3, MessageType.CHILD_ADD)
    assert ha_wire.decode_child_spis(CAPTURED) == (bytes.fromhex("c408f6e0"), bytes.fromhex("c4c5b227"))


@pytest.mark.parametrize("length", range(len(CAPTURED)))
def test_a_child_add_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises(DecodeError):
        ha_wire.decode_child_spis(CAPTURED[:length])
