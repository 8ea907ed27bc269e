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


def carried(
    epoch: int, number: int, kind: int = MessageType.IKE_UPDATE, handle: int = 0, spi: bytes | None = None
) -> relay.FromPeer:
    return relay.FromPeer(epoch=epoch, number=number, kind=kind, handle=handle, spi=spi)


def spoken(handle: int, kind: int = MessageType.IKE_UPDATE) -> relay.FromCharon:
    return relay.FromCharon(kind=kind, size=9, handle=handle)


def connected(role: Role) -> HaRelay:
    core = HaRelay(1, role)
    core.handle(PeerConnected())
    return core


def test_everything_is_counted_by_type_and_all_bytes_are_given_back() -> None:
    core = connected(Role.ACTIVE)
    for n in range(relay.MAX_KEPT + 1):
        last = core.handle(spoken(n, MessageType.CHILD_ADD))
    assert last == [relay.Forget(handle=0), relay.Carry(epoch=1, number=relay.MAX_KEPT + 1, handle=relay.MAX_KEPT)]
    aside = relay.SetAside(epoch=9, number=1, handle=70)
    assert core.handle(carried(9, 1, handle=70)) == [aside], "an Active's charon is handed nothing"
    assert core.handle(carried(9, 1, handle=71)) == [relay.Forget(handle=71)], "nor twice"
    child, update = MessageType.CHILD_ADD, MessageType.IKE_UPDATE
    assert core.counts == {("carried", child): relay.MAX_KEPT + 1, ("lost", child): 1, ("refused_active", update): 1}
    backup = connected(Role.BACKUP)
    assert backup.handle(spoken(1)) == [relay.Forget(handle=1)]
    backup.handle(carried(9, 1))
    assert backup.counts == {("refused_backup", update): 1, ("handed", update): 1}


def test_an_acknowledgement_frees_what_it_names_and_no_more() -> None:
    core = connected(Role.ACTIVE)
    for n in range(1, 5):
        core.handle(spoken(10 + n))
    assert core.handle(relay.PeerHas(epoch=2, number=4)) == [] and core.waiting == 4, "of another process"
    assert core.handle(relay.PeerHas(epoch=1, number=2)) == [relay.Forget(handle=11), relay.Forget(handle=12)]
    assert core.handle(relay.PeerHas(epoch=1, number=2)) == []
    assert core.handle(PeerConnected()) == [relay.Carry(epoch=1, number=n, handle=10 + n) for n in (3, 4)]


def test_a_burst_is_acknowledged_while_it_lasts_and_the_rest_when_it_is_over() -> None:
    core = connected(Role.BACKUP)
    assert core.handle(relay.InboxEmpty()) == [], "nothing was said yet"
    last = 2 * relay.ACK_EVERY + 2
    said = [action for n in range(1, last + 1) for action in of(core.handle(carried(9, n)), relay.Acknowledge)]
    assert said == [relay.Acknowledge(epoch=9, number=n) for n in (relay.ACK_EVERY, 2 * relay.ACK_EVERY)]
    assert core.handle(relay.InboxEmpty()) == [relay.Acknowledge(epoch=9, number=last)]
    assert core.handle(relay.InboxEmpty()) == [], "said already"


def test_what_is_sent_again_is_acknowledged_again() -> None:
    """The acknowledgement was lost with the session; else the peer would keep the messages until the next one."""
    core = connected(Role.BACKUP)
    core.handle(carried(9, 1))
    core.handle(relay.InboxEmpty())
    assert core.handle(carried(9, 1, handle=5)) == [relay.Forget(handle=5)]
    assert core.handle(relay.InboxEmpty()) == [relay.Acknowledge(epoch=9, number=1)]


def test_another_process_of_the_peer_begins_anew() -> None:
    core = connected(Role.BACKUP)
    for n in range(1, 4):
        core.handle(carried(9, n))
    core.handle(relay.InboxEmpty())
    assert core.handle(carried(10, 1, handle=7)) == [relay.HandToCharon(handle=7, spi=None)]
    assert core.handle(relay.InboxEmpty()) == [relay.Acknowledge(epoch=10, number=1)]
    assert of(core.handle(carried(11, 3)), MirrorGap) == [MirrorGap(missing=2)], "not the first one of all"


def test_a_gap_is_told_before_the_message_behind_it_and_once() -> None:
    core = connected(Role.BACKUP)
    core.handle(carried(9, 1))
    assert core.handle(carried(9, 5, handle=5)) == [MirrorGap(missing=3), relay.HandToCharon(handle=5, spi=None)]
    assert core.handle(carried(9, 6, handle=6)) == [relay.HandToCharon(handle=6, spi=None)]


def test_a_type_that_is_never_carried_takes_no_number() -> None:
    core = connected(Role.BACKUP)
    core.handle(carried(9, 1))
    core.handle(carried(9, 2, MessageType.SEGMENT_TAKE))
    assert of(core.handle(carried(9, 3)), MirrorGap) == [MirrorGap(missing=1)]


def test_only_a_child_add_has_an_spi() -> None:
    core = connected(Role.BACKUP)
    for number, (kind, spi) in enumerate([(MessageType.CHILD_ADD, b"spi."), (MessageType.IKE_ADD, None)], 1):
        assert core.handle(carried(9, number, kind, spi=b"spi.")) == [relay.HandToCharon(handle=0, spi=spi)]


@pytest.mark.parametrize("role", [Role.PROMOTING, Role.ACTIVE])
def test_what_was_dropped_is_a_gap_as_soon_as_it_is_backup_again(role: Role) -> None:
    """The peer may have been Active all the time: to it nothing has happened, and it rekeys nothing by itself."""
    core = connected(Role.BACKUP)
    core.handle(carried(9, 1))
    assert core.handle(RoleChanged(role=role)) == []
    assert core.handle(carried(9, 2, handle=2)) == [relay.SetAside(epoch=9, number=2, handle=2)]
    aside = relay.SetAside(epoch=9, number=4, handle=4)
    assert core.handle(carried(9, 4, handle=4)) == [aside], "what is missing counts, but not for an Active"
    assert core.handle(RoleChanged(role=Role.ACTIVE)) == [], "an Active lacks nothing"
    assert core.handle(RoleChanged(role=Role.BACKUP)) == [MirrorGap(missing=3)]
    assert core.handle(RoleChanged(role=Role.BACKUP)) == []
    assert core.handle(carried(9, 5, handle=5)) == [relay.HandToCharon(handle=5, spi=None)]


@pytest.mark.parametrize("role", [Role.PROMOTING, Role.BACKUP])
def test_what_was_said_as_active_is_not_said_again_after_that(role: Role) -> None:
    """The peer may have served meanwhile, and its SAs and message IDs are younger."""
    core = connected(Role.ACTIVE)
    core.handle(spoken(1))
    assert core.handle(RoleChanged(role=Role.ACTIVE)) == [], "no change"
    kept = relay.NotAcknowledged(number=1, handle=1) if role is Role.BACKUP else relay.Forget(handle=1)
    assert core.handle(RoleChanged(role=role)) == [kept], "and whether it counts, another judges (`reunion`)"
    core.handle(RoleChanged(role=Role.ACTIVE))
    assert core.handle(PeerConnected()) == [] and core.waiting == 0
    assert core.handle(spoken(2)) == [relay.Carry(epoch=1, number=2, handle=2)], "so the peer sees that one is missing"


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


CAPTURED = bytes.fromhex("030601020f78f5f5934826048dc611be2257d069000e001be0f608c41c27b2c5c4")
"""How a CHILD_ADD of strongSwan 5.9.8 begins, up to what is secret; its kernel's outbound SA had the SPI 0xc4c5b227."""


def test_the_spis_of_a_child_add_as_charon_sends_it() -> None:
    assert ha_wire.decode_header(CAPTURED) == (3, MessageType.CHILD_ADD)
    assert ha_wire.decode_child_spis(CAPTURED) == (bytes.fromhex("c408f6e0"), bytes.fromhex("c4c5b227"))


@pytest.mark.parametrize("length", range(len(CAPTURED)))
def test_a_child_add_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises(DecodeError):
        ha_wire.decode_child_spis(CAPTURED[:length])


@pytest.mark.parametrize("before", [Role.ACTIVE, Role.PROMOTING])
def test_what_comes_during_a_demotion_is_handed_over_at_its_end(before: Role) -> None:
    """The next Active rekeys what it took over at once; without these charon is behind the clients' message IDs."""
    core = HaRelay(1, before)
    core.handle(PeerConnected())
    core.handle(relay.FromPeer(epoch=9, number=1, kind=MessageType.IKE_DELETE, handle=1))
    core.handle(relay.DemotionBegins())
    for number, kind in ((2, MessageType.IKE_MID_INITIATOR), (3, MessageType.CHILD_ADD)):
        said = core.handle(relay.FromPeer(epoch=9, number=number, kind=kind, handle=number, spi=b"\1\2\3\4"))
        assert said == [], "charon is not PASSIVE yet"
    assert core.handle(RoleChanged(role=Role.BACKUP)) == [
        relay.HandToCharon(handle=2, spi=None),
        relay.HandToCharon(handle=3, spi=b"\1\2\3\4"),
        MirrorGap(missing=1),
    ], "in order; what an Active was told never"
    assert core.handle(RoleChanged(role=Role.PROMOTING)) == [], "nothing is handed over twice"


def test_a_demotion_that_is_given_up_hands_nothing_over() -> None:
    core = HaRelay(1, Role.ACTIVE)
    core.handle(relay.DemotionBegins())
    core.handle(relay.FromPeer(epoch=9, number=1, kind=MessageType.IKE_DELETE, handle=1))
    assert core.handle(RoleChanged(role=Role.PROMOTING)) == [relay.Forget(handle=1)]
    assert of(core.handle(relay.FromPeer(epoch=9, number=2, kind=MessageType.IKE_DELETE, handle=2)), relay.SetAside)
    assert core.handle(RoleChanged(role=Role.BACKUP)) == [MirrorGap(missing=2)]


def test_what_is_held_has_a_bound() -> None:
    core = HaRelay(1, Role.ACTIVE)
    core.handle(relay.DemotionBegins())
    for number in range(1, relay.MAX_KEPT + 3):
        core.handle(relay.FromPeer(epoch=9, number=number, kind=MessageType.IKE_UPDATE, handle=number))
    said = core.handle(RoleChanged(role=Role.BACKUP))
    assert len(of(said, relay.HandToCharon)) == relay.MAX_KEPT and of(said, MirrorGap) == [MirrorGap(missing=2)]
