"""The conntrack mirror's core: who asks for what and when, what a kernel's answer leads to, what an event overrules."""

from __future__ import annotations

import errno

from anycast.timer import TimerExpired
from site_agent.netlink.conntrack import gather
from site_agent.netlink.conntrack_columns import Shapes
from site_agent.netlink.conntrack_forms import FLAGS_CHANGED, FLAGS_NEW, copies, deletions
from site_agent.sync import conntrack_wire as wire
from site_agent.sync.conntrack_copier import MOST_DELETED
from site_agent.sync.conntrack_digest import Sums, digests
from site_agent.sync.conntrack_filter import MirroredFlows
from site_agent.sync.conntrack_mirror import ROUND_EVERY_S, ROUND_LEAST_S, ConntrackMirror
from site_agent.sync.conntrack_shell import PIECE, _cut
from site_agent.sync.conntrack_wire import Type
from site_agent.sync.conntrack_words import (
    Action,
    Applied,
    Apply,
    Connected,
    Dump,
    Dumped,
    EventsLost,
    Heard,
    Listen,
    Parted,
    StopDump,
    Tell,
    Told,
    Unsent,
)
from site_agent.sync.numbers_words import Role, RoleChanged
from tests.support.conntrack_pair import POOL, TRANSLATED, flow, told

DONE = bytes([20, 0, 0, 0, 3, 0, 2, 0]) + bytes(12)
DUMPED = 2
"""NLM_F_MULTI."""


def mirror(role: Role, *, connected: bool = True, few: bool = False) -> ConntrackMirror:
    made = ConntrackMirror(MirroredFlows([POOL], [TRANSLATED]), role)
    if connected:
        made.handle(Connected(False, few), 0.0)
    return made


def dump(*bodies: bytes) -> Dumped:
    return Dumped(b"".join(told(body, flags=DUMPED) for body in bodies) + DONE)


def sums(*bodies: bytes) -> Told:
    made = Sums()
    for block in Shapes().blocks(gather(b"".join(told(body) for body in bodies))):
        made.add(block)
    return Told(wire.encode_sums(made.values))


def copied(body: bytes, flags: int = FLAGS_NEW) -> bytes:
    (block,) = Shapes().blocks(gather(told(body)))
    return bytes(copies(block, 0, flags))


def content(turn: int, *bodies: bytes) -> Told:
    found = []
    for body in bodies:
        (block,) = Shapes().blocks(gather(told(body)))
        found += [digest for _, _, digest in digests(block)]
    return Told(wire.encode_content(turn, found, b"".join(copied(body) for body in bodies)))


def end(turn: int, flows: int) -> Told:
    return Told(wire.encode_end(Type.CONTENT, turn, flows))


def kinds(action: Action) -> list[tuple[int, int]]:
    """Type and flags of each message of an Apply."""
    assert isinstance(action, Apply)
    found, at = [], 0
    while at < len(action.data):
        found.append(
            (int.from_bytes(action.data[at + 4 : at + 6], "little"), int.from_bytes(action.data[at + 6 : at + 8], "little"))
        )
        at += int.from_bytes(action.data[at : at + 4], "little")
    return found


NEW, CHANGE, DELETE = (0x100, FLAGS_NEW), (0x100, 1), (0x102, 1)


def asked(backup: ConntrackMirror, theirs: list[bytes], ours: list[bytes]) -> int:
    """A comparison as far as the question; its turn."""
    assert backup.handle(sums(*theirs), 1.0) == [Dump()]
    assert backup.handle(dump(*ours), 1.0) == [StopDump(), Dump()]
    actions = backup.handle(dump(*ours), 1.0)
    want = next(wire.decode(action.payload) for action in actions if isinstance(action, Tell))
    assert want.type is Type.WANT and want.turn and wire.decode_want(want.body)
    return want.turn


def test_a_new_session_begins_with_a_table_or_with_sums() -> None:
    for few, detail in ((True, 1), (False, 0)):
        backup = mirror(Role.BACKUP, connected=False)
        (*_, want) = backup.handle(Connected(False, few), 0.0)
        assert isinstance(want, Tell)
        assert wire.decode(want.payload)[:2] == (Type.WANT, detail)
        assert backup.handle(Connected(True, few), 1.0) == [], "what was said before still counts"
        active = mirror(Role.ACTIVE)
        assert active.handle(Told(want.payload), 0.0) == [Dump()]
        actions = active.handle(dump(flow(1), flow(2), flow(3, source="203.0.113.1")), 0.0)
        said = [wire.decode(action.payload) for action in actions if isinstance(action, Tell)]
        if few:
            assert [each.type for each in said] == [Type.TABLE, Type.END] and gather(said[0].body).count == 2
            assert wire.decode_end(said[1].body) == 2
        else:
            assert [each.type for each in said] == [Type.SUMS] and active.teller.flows == 2


def test_rounds_come_at_intervals_and_soon_after_a_loss() -> None:
    active = mirror(Role.ACTIVE)
    assert active.deadline == ROUND_EVERY_S
    assert active.handle(TimerExpired(), ROUND_EVERY_S) == [Dump()]
    active.handle(dump(), 61.0)
    for loss in (EventsLost(), Unsent()):
        active.handle(loss, 70.0)
        assert active.deadline == 70.0 + ROUND_LEAST_S
        assert active.handle(TimerExpired(), 72.0) == [Dump()]
        active.handle(dump(), 72.0)
        assert active.deadline == 72.0 + ROUND_EVERY_S
    active.handle(Parted(), 73.0)
    assert active.deadline is None, "nobody to tell"
    assert mirror(Role.BACKUP).deadline is None


def test_events_keep_their_order_across_shapes() -> None:
    active = mirror(Role.ACTIVE)
    bodies = [(0x102, flow(1)), (0x100, flow(1, mark=3)), (0x100, flow(2)), (0x102, flow(2)), (0x100, flow(2))]
    data = b"".join(told(body, kind=kind, flags=0x600 if kind == 0x100 else 0) for kind, body in bodies)
    (tell,) = active.handle(Heard(data), 1.0)
    assert isinstance(tell, Tell)
    (apply,) = mirror(Role.BACKUP).handle(Told(tell.payload), 1.0)
    assert kinds(apply) == [DELETE, NEW, NEW, DELETE, NEW]


def test_what_the_kernel_refuses_is_tried_otherwise_once() -> None:
    backup = mirror(Role.BACKUP)
    payload = wire.encode(Type.EVENTS, copied(flow(1)) + copied(flow(2), FLAGS_CHANGED) + copied(flow(3)))
    (apply,) = backup.handle(Told(payload), 1.0)
    assert kinds(apply) == [NEW, CHANGE, NEW]
    (again,) = backup.handle(Applied([(0, errno.EEXIST), (1, errno.ENOENT), (2, errno.ENOMEM)]), 1.0)
    assert kinds(again) == [DELETE, NEW, NEW], "another flow of the name is replaced, a missing one made"
    assert backup.handle(Applied([(0, errno.EEXIST)]), 1.0) == []
    assert backup.copier.failed == {"ENOMEM": 1, "EEXIST": 1}
    (block,) = Shapes().blocks(gather(told(flow(1))))
    backup.handle(Told(wire.encode(Type.EVENTS, bytes(deletions(block)))), 1.0)
    assert backup.handle(Applied([(0, errno.ENOENT)]), 1.0) == [] and sum(backup.copier.failed.values()) == 2


def test_a_comparison_makes_replaces_refreshes_and_deletes() -> None:
    backup = mirror(Role.BACKUP)
    theirs = [flow(1), flow(2, mark=9)]
    turn = asked(backup, theirs, [flow(2), flow(3)])
    (apply,) = backup.handle(content(turn, *theirs), 1.0)
    assert sorted(kinds(apply)) == sorted([NEW, DELETE, NEW])
    (last,) = backup.handle(end(turn, 2), 1.0)
    assert kinds(last) == [DELETE] and backup.copier.extra == 1


def test_a_refresh_takes_no_time_away() -> None:
    """An idle TCP session lives for days at the Active, and no packet of it would give them back after a failover."""
    backup = mirror(Role.BACKUP)
    ours = [flow(1, timeout=432_000), flow(2, timeout=100), flow(3)]
    turn = asked(backup, [flow(1, mark=1), flow(2, mark=1)], ours)  # the buckets differ, so both are asked for
    (apply,) = backup.handle(content(turn, *ours[:2]), 1.0)  # and are alike after all
    assert kinds(apply) == [CHANGE] and backup.copier.refreshed == 1, "the second one only"


def test_many_extra_flows_are_deleted_in_several_turns() -> None:
    backup = mirror(Role.BACKUP)
    extra = MOST_DELETED + 5
    turn = asked(backup, [flow(1)], [flow(2 + number) for number in range(extra)])
    (first,) = backup.handle(end(turn, 0), 1.0)
    (second,) = backup.handle(Applied([]), 1.0)
    assert (len(kinds(first)), len(kinds(second))) == (MOST_DELETED, 5) and first != second
    assert backup.handle(Applied([]), 1.0) == []


def test_an_answer_to_an_earlier_question_or_half_of_one_deletes_nothing() -> None:
    backup = mirror(Role.BACKUP)
    turn = asked(backup, [flow(1)], [flow(2)])
    assert backup.handle(content(turn + 1, flow(1)), 1.0) == [] == backup.handle(end(turn + 1, 1), 1.0)
    assert backup.handle(end(turn, 5), 1.0) == [], "five were told, none arrived"
    again = asked(backup, [flow(1)], [flow(2)])
    assert again != turn and backup.handle(end(turn, 0), 1.0) == []
    (last,) = backup.handle(end(again, 0), 1.0)
    assert kinds(last) == [DELETE]


def test_an_event_is_newer_than_the_answer() -> None:
    backup = mirror(Role.BACKUP)
    turn = asked(backup, [flow(1), flow(2)], [flow(1, mark=1), flow(3)])
    (block,) = Shapes().blocks(gather(told(flow(2))))
    for event in (copied(flow(1, mark=2), FLAGS_CHANGED), copied(flow(3, mark=2), FLAGS_CHANGED), bytes(deletions(block))):
        backup.handle(Told(wire.encode(Type.EVENTS, event)), 1.0)
    assert backup.handle(content(turn, flow(1), flow(2)), 1.0) == [], "one has changed since, one is gone"
    assert backup.handle(end(turn, 2), 1.0) == [], "and one has come"


def test_a_change_of_role_ends_what_the_role_did() -> None:
    active = mirror(Role.ACTIVE)
    active.handle(TimerExpired(), ROUND_EVERY_S)
    stop, listen, want = active.handle(RoleChanged(role=Role.BACKUP), 61.0)
    assert (stop, listen) == (StopDump(), Listen(False)) and isinstance(want, Tell)
    assert active.handle(Heard(told(flow(1), flags=0x600)), 61.0) == []
    backup = mirror(Role.BACKUP)
    backup.handle(sums(flow(1)), 1.0)
    assert backup.handle(RoleChanged(role=Role.PROMOTING), 2.0) == [StopDump(), Listen(False)]
    for said in (sums(flow(1)), content(1, flow(1)), Told(wire.encode(Type.TABLE, copied(flow(1))))):
        assert backup.handle(said, 2.0) == [], "what is still on its way comes too late"
    assert backup.misplaced == 3
    assert backup.handle(RoleChanged(role=Role.ACTIVE), 3.0) == [StopDump(), Listen(True), Dump()]


def test_a_large_batch_is_cut_where_messages_end() -> None:
    message = copied(flow(1))
    whole = message * (2 * PIECE // len(message) + 3)
    pieces = _cut(whole)
    assert len(pieces) == 3 and b"".join(pieces) == whole
    assert all(len(piece) <= PIECE and len(piece) % len(message) == 0 for piece in pieces)
