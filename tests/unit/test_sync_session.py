"""The session between two gateways, input by input: greeting, versions, resuming, bounds, and what a liar gets."""

from __future__ import annotations

import dataclasses
import itertools
import re

import pytest

from anycast.errors import DecodeError
from anycast.reasons import Reason
from anycast.timer import TimerExpired
from site_agent.sync import session as sessions
from site_agent.sync import versions as versioning
from site_agent.sync import wire
from site_agent.sync.kinds import LARGEST, Kind, Lane
from site_agent.sync.wire import HEADER, Type
from site_agent.sync.words import (
    Cause,
    Compared,
    Deliver,
    Dial,
    DialFailed,
    Drained,
    Dropped,
    End,
    IdentityChanged,
    LinkEnded,
    LinkUp,
    Received,
    RoomAgain,
    Submit,
    Up,
    VersionsChanged,
    WorkedOff,
    Write,
)
from tests.support.documents import document
from tests.support.sync_world import VERSIONS, WINDOWS, ByHand, World, compared, frames, hello, message


def up() -> World:
    world = World()
    world.pass_time(0.1)
    assert [side.session.is_up for side in world.sides] == [True, True]
    return world


def greeted(**more: object) -> ByHand:
    world = ByHand(**more)
    assert Up(False, 1) in world.greet()
    return world


def ended(world: ByHand) -> list[tuple[Cause, str]]:
    return [(end.cause, end.detail) for end in world.side.ends()]


# Greeting and versions


def test_versions_come_first_and_nothing_is_believed_before() -> None:
    world = ByHand()
    (first,) = frames(world.call())
    assert first.type is Type.HELLO and wire.decode_hello(first).versions == VERSIONS
    assert not [action for action in world.say(message(1)) if isinstance(action, Deliver)]
    assert ended(world)[0][0] is Cause.VIOLATION


def test_a_message_between_hello_and_resume_is_too_early() -> None:
    world = ByHand()
    world.call()
    actions = world.say(hello(), message(1))
    assert not [action for action in actions if isinstance(action, Deliver)] and ended(world)[0][0] is Cause.VIOLATION


@pytest.mark.parametrize(("newest", "oldest", "spoken"), [((2, 1), (1, 1), 1), ((1, 2), (1, 1), 1), ((3, 2), (2, 1), 2)])
def test_n_works_with_n_minus_1(newest: tuple[int, int], oldest: tuple[int, int], spoken: int) -> None:
    world = World(newest=newest, oldest=oldest)
    world.pass_time(0.1)
    assert [side.session.protocol for side in world.sides] == [spoken, spoken]
    assert all(side.session.is_up for side in world.sides) and not world.sides[0].session.mismatches


def test_two_without_a_common_protocol_say_so_on_both_sides_and_keep_saying_it() -> None:
    world = World(newest=(3, 1), oldest=(2, 1))
    world.pass_time(30.0)
    for side in world.sides:
        assert not side.session.is_up
        assert [each.reason for each in side.session.mismatches] == [Reason.PROTOCOL_DIFFERS]
        assert {end.cause for end in side.ends()} == {Cause.PROTOCOL}
    assert len(world.wires) < 15, "it is tried again, ever later"


def test_what_is_required_by_an_unknown_name_is_refused() -> None:
    world = ByHand()
    world.call()
    world.say(hello(requires=("post_quantum",)))
    assert ended(world)[0][0] is Cause.PROTOCOL
    assert "post_quantum" in str(world.side.session.mismatches[0])


def test_unknown_fields_of_a_newer_hello_are_ignored() -> None:
    world = ByHand()
    world.call()
    text = frames([Write(1, hello())])[0].payload
    newer = text[:-1] + b',"colour":"blue"}'
    world.say(wire.Frame(Type.HELLO, payload=newer).encode(), wire.encode_resume(((0, 0), (0, 0))))
    assert world.side.session.is_up


def test_a_kind_that_the_protocol_does_not_have_yet_is_neither_sent_nor_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    world = greeted()
    monkeypatch.setattr(Kind.DIGEST, "since", 2)
    assert world.side.handle(Submit(Kind.DIGEST, b"x"), world.now) == [Dropped(Kind.DIGEST)]
    world.say(message(1, kind=Kind.DIGEST))
    assert ended(world)[0][0] is Cause.VIOLATION


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"charon": "5.9.13"}, Reason.CHARON_DIFFERS),
        ({"ha": 6}, Reason.HA_PROTOCOL_DIFFERS),
        ({"generation": 7}, Reason.DOCUMENTS_DIFFER),
        ({"content": "other"}, Reason.DOCUMENTS_DIFFER),
    ],
)
def test_a_mismatch_is_a_reason_and_is_kept_when_the_peer_has_gone(change: dict[str, object], reason: Reason) -> None:
    world = ByHand()
    world.greet(versions=dataclasses.replace(VERSIONS, **change))  # type: ignore[arg-type]
    assert [each.reason for each in world.side.session.mismatches] == [reason]
    assert world.side.session.is_up, "a mismatch keeps a handover from happening, not the mirror from being told about"
    world.side.handle(LinkEnded(1), world.now)
    assert [each.reason for each in world.side.session.mismatches] == [reason]


def test_another_version_of_ours_alone_is_none() -> None:
    world = ByHand()
    world.greet(versions=dataclasses.replace(VERSIONS, agent="0.2.0"))
    assert world.side.session.mismatches == ()


def test_a_version_that_changes_while_they_speak_is_told() -> None:
    world = up()
    newer = dataclasses.replace(VERSIONS, charon="5.9.13")
    world.give(0, VersionsChanged(newer))
    world.settle()
    assert [[m.reason for m in side.session.mismatches] for side in world.sides] == [[Reason.CHARON_DIFFERS]] * 2
    world.give(1, VersionsChanged(newer))
    world.settle()
    assert [side.session.mismatches for side in world.sides] == [(), ()]
    assert world.sides[0].said[-1] == Compared(())


def test_what_both_documents_must_have_alike() -> None:
    ours = document("fra-gw1")
    same = ours.model_copy(update={"gateway": "fra-gw9", "generation": 9})
    other = ours.model_copy(update={"service": ours.service.model_copy(update={"dns": ("192.0.2.99",)})})
    assert versioning.shared_content(ours) == versioning.shared_content(same) != versioning.shared_content(other)


# Resuming


def test_a_cut_connection_loses_nothing() -> None:
    world = up()
    world.give(0, Submit(Kind.HA, b"1"))
    world.settle()
    world.give(0, Submit(Kind.HA, b"2"))
    world.break_link(1)
    world.give(0, Submit(Kind.HA, b"3"))
    world.pass_time(1.0)
    one, other = world.sides
    assert other.got[other.session.name][Lane.URGENT] == [b"1", b"2", b"3"]
    assert [each.resumed for each in one.ups()] == [False, True] and len(one.downs()) == 1


def test_what_was_worked_off_is_known_after_a_cut_that_took_the_word_of_it() -> None:
    world = up()
    world.give(0, Submit(Kind.HA, b"1"))
    world.move(1, 1)
    world.work_off(1)
    world.break_link(1)
    world.pass_time(1.0)
    assert world.sides[0].session.is_up and world.sides[0].session.lag(Lane.URGENT, world.now) == 0


def test_a_renewed_certificate_needs_a_new_link_and_drops_nothing() -> None:
    for which in (0, 1):
        world = up()
        world.pass_time(20.0)
        for number in range(40):
            world.give(0, Submit(Kind.CONNTRACK, bytes([number]) * 900))
            world.give(1, Submit(Kind.HA, bytes([number])))
            if number == 20:
                world.give(which, IdentityChanged())
            world.move(1 + number % 2 if len(world.wires) > 1 else 1, number % 3 % 2, 7 * number)
        world.pass_time(1.0)
        for sender, receiver in (world.sides, world.sides[::-1]):
            assert len(sender.ups()) == 2 and sender.ups()[1].resumed and not sender.downs()
            assert receiver.got == sender.sent
        assert [end.cause for side in world.sides for end in side.ends()] == [Cause.REPLACED] * 3 or world.links == 2


@pytest.mark.parametrize("moved", range(9))
@pytest.mark.parametrize("first", [0, 1])
def test_what_is_renewed_while_the_others_renewal_is_being_proved_is_proved_as_well(first: int, moved: int) -> None:
    """The link under way shows the older certificate; that it opens must not end the wish for another one."""
    world = up()
    world.give(first, IdentityChanged())
    for number in range(moved):
        for link in list(world.wires):
            world.move(link, number % 2)
    before = world.links
    world.give(1 - first, IdentityChanged())
    world.pass_time(11.0)
    assert world.links > before, "a link was begun after both were renewed"
    assert all(side.session.is_up and not side.downs() for side in world.sides)


def test_a_new_link_that_fails_leaves_the_old_one_alone_and_is_tried_again() -> None:
    world = up()
    (dial,) = world.sides[0].session.handle(IdentityChanged(), world.now)
    assert dial == Dial()
    world.sides[0].session.handle(DialFailed("refused"), world.now)
    assert all(side.session.is_up for side in world.sides) and not world.sides[0].downs()
    world.pass_time(6.0)
    assert world.links == 2 and not world.sides[0].downs()


def test_a_peer_that_began_anew_begins_a_new_session() -> None:
    world = up()
    world.give(0, Submit(Kind.HA, b"of the old one"))
    world.break_link(1)
    world.sides[1] = world.made(1, "b2")
    world.pass_time(1.0)
    assert [each.resumed for each in world.sides[0].ups()] == [False, False]
    assert not world.sides[1].got[world.sides[1].session.name][Lane.URGENT]


def test_work_of_a_session_that_ended_is_nobodys_concern() -> None:
    world = greeted()
    (delivered,) = [action for action in world.say(message(1)) if isinstance(action, Deliver)]
    world.greet("peer.2")
    assert frames(world.side.handle(WorkedOff(Lane.URGENT, delivered.epoch), world.now)) == []


def test_a_link_that_greeted_for_a_session_that_ended_meanwhile_is_given_up() -> None:
    world = greeted()
    name = world.side.session.name
    world.call()
    first = world.links
    # The first link breaks the protocol while the second one is being greeted: both are ended, nothing goes on.
    world.links = 1
    world.say(message(9))
    assert {end.link for end in world.side.ends()} == {1, first}
    world.links = first
    assert world.say(hello(session=name), wire.encode_resume(((0, 0), (0, 0)))) == []


# Bounds


def test_urgent_goes_before_bulk_that_waits() -> None:
    world = greeted(queues=(1 << 20, 1 << 20))
    written = []
    for _ in range(4):
        written += world.side.handle(Submit(Kind.CONNTRACK, bytes(99_000)), world.now)
    assert [frame.which for frame in frames(written)] == [Kind.CONNTRACK.number] * 3, "a burst, then the link has to drain"
    assert frames(world.side.handle(Submit(Kind.HA, b"now"), world.now)) == []
    after = frames(world.side.handle(Drained(1), world.now))
    assert [frame.which for frame in after] == [Kind.HA.number, Kind.CONNTRACK.number]


def test_a_burst_is_bounded_however_much_waits_and_the_window_allows() -> None:
    world = ByHand(queues=(1 << 20, 8 << 20))
    world.greet(windows=(1 << 20, 8 << 20))
    for _ in range(40):
        world.side.handle(Submit(Kind.CONNTRACK, bytes(99_000)), world.now)
    (write,) = world.side.handle(Drained(1), world.now)
    assert isinstance(write, Write) and sessions.BURST <= len(write.data) <= sessions.BURST + 99_000 + HEADER


def test_a_peer_that_works_nothing_off_costs_what_the_bounds_say() -> None:
    world = greeted(queues=(1_000, 200_000))
    outcomes = []
    for _ in range(8):
        outcomes += world.side.handle(Submit(Kind.CONNTRACK, bytes(99_000)), world.now)
        outcomes += world.side.handle(Drained(1), world.now)
    assert [frame.number for frame in frames(outcomes)] == [1, 2, 3, 4], "its window"
    assert outcomes.count(Dropped(Kind.CONNTRACK)) == 2, "our queue has room for two"
    assert world.side.session.room(Lane.BULK) == 200_000 - 2 * (99_000 + HEADER) - HEADER
    assert frames(world.side.handle(Submit(Kind.HA, b"now"), world.now)), "the urgent lane is another one"
    actions = world.say(wire.Frame(Type.CONSUMED, Lane.BULK, 3).encode())
    assert [frame.number for frame in frames(actions)] == [5, 6] and RoomAgain(Lane.BULK) in actions


def test_without_a_session_nothing_is_kept() -> None:
    world = ByHand()
    assert world.side.handle(Submit(Kind.HA, b"x"), world.now) == [Dropped(Kind.HA)]
    assert world.side.session.room(Lane.URGENT) == 0


def test_lag_is_the_age_of_what_the_peer_has_not_worked_off() -> None:
    world = greeted()
    world.side.handle(Submit(Kind.HA, b"x"), world.now)
    assert world.side.session.lag(Lane.URGENT, world.now + 3) == 3
    world.say(wire.Frame(Type.CONSUMED, Lane.URGENT, 1).encode())
    assert world.side.session.lag(Lane.URGENT, world.now + 3) == 0


def test_a_flood_beyond_the_window_is_ended_and_the_window_itself_is_not() -> None:
    for size, fits in ((WINDOWS[1] - 2 * HEADER - 200_000, True), (WINDOWS[1] - 2 * HEADER - 199_999, False)):
        world = greeted()
        world.say(message(1, bytes(200_000), Kind.CONNTRACK), message(2, bytes(size), Kind.CONNTRACK))
        assert (ended(world) == []) is fits


def test_a_flood_of_frames_that_carry_nothing_is_ended() -> None:
    world = greeted()
    ping = wire.Frame(Type.PING).encode()
    for _ in range(5):
        world.say(*[ping] * 10)
        world.now += 1.1
    assert ended(world) == []
    world.say(ping * (sessions.MOST_IDLE_FRAMES + 1))
    assert ended(world)[0][0] is Cause.VIOLATION


def test_a_length_is_refused_before_it_is_waited_for() -> None:
    world = greeted()
    world.say(wire.header(Type.MESSAGE, 1, 1, LARGEST + 1))
    assert ended(world)[0][0] is Cause.VIOLATION


def test_silence_a_greeting_that_does_not_come_and_a_stall_end_a_link() -> None:
    for greet, cause in ((True, Cause.SILENT), (False, Cause.LATE)):
        world = ByHand()
        if greet:
            world.greet()
        else:
            world.call()
        for _ in range(6):
            world.now += 1.0
            if not greet:
                world.say(hello()[:1] if world.now < 101.5 else b"")
            world.side.handle(TimerExpired(), world.now)
        assert world.side.ends()[0].cause is cause
    world = greeted(queues=(1 << 20, 1 << 20))
    for _ in range(4):
        world.side.handle(Submit(Kind.CONNTRACK, bytes(99_000)), world.now)
    for _ in range(11):
        world.now += 1.0
        world.say(wire.Frame(Type.PING).encode())
        world.side.handle(TimerExpired(), world.now)
    assert world.side.ends()[0].cause is Cause.STALLED


def test_an_idle_link_stays_up() -> None:
    world = up()
    world.pass_time(600.0)
    assert all(len(side.ups()) == 1 and not side.ends() for side in world.sides)


# Liars


LIES = {
    "a message twice": (message(1), message(1)),
    "a message left out": (message(2),),
    "a replayed one": (message(1), message(2), message(1)),
    "an unknown kind": (wire.Frame(Type.MESSAGE, 200, 1).encode(),),
    "an unknown lane": (wire.Frame(Type.CONSUMED, 7, 1).encode(),),
    "worked off what was never sent": (wire.Frame(Type.CONSUMED, 0, 3).encode(),),
    "worked off twice": (wire.Frame(Type.CONSUMED, 0, 1).encode(), wire.Frame(Type.CONSUMED, 0, 1).encode()),
    "a second greeting": (hello(),),
    "a second resume": (wire.encode_resume(((0, 0), (0, 0))),),
    "an unknown frame": (wire._HEADER.pack(0, 99, 0, 0, 0),),
    "reserved bits": (wire._HEADER.pack(0, Type.PING, 0, 1, 0),),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_ends_the_session_and_a_penalty_follows(lie: str) -> None:
    world = greeted()
    world.side.handle(Submit(Kind.HA, b"ours"), world.now)
    name = world.side.session.name
    world.say(*LIES[lie])
    assert [cause for cause, _ in ended(world)] == [Cause.VIOLATION]
    assert not world.side.session.is_up and world.side.downs()[0].cause is Cause.VIOLATION
    assert world.greet("peer.2") == [End(2, Cause.PENALTY, "it broke the protocol a moment ago")]
    world.now += sessions.PENALTY_FIRST_S + 0.1
    world.call()
    actions = world.say(hello("peer.3", name), wire.encode_resume(((0, 0), (0, 0))))
    assert Up(False, 1) in actions, "the session that was lied in does not go on"


@pytest.mark.parametrize("standing", [((1, 0), (0, 0)), ((0, 1), (0, 0)), ((0, 0), (5, 5))])
def test_a_resume_that_cannot_be_is_a_lie(standing: tuple[wire.Standing, wire.Standing]) -> None:
    world = ByHand()
    world.call()
    world.say(hello(), wire.encode_resume(standing))
    assert ended(world)[0][0] is Cause.VIOLATION


def test_penalties_grow_and_are_forgotten() -> None:
    world = ByHand()
    waits = []
    for _ in range(8):
        while not [action for action in world.greet() if isinstance(action, Up)]:
            world.now += 0.5
        waits.append(world.now)
        world.say(message(9))
    gaps = [later - earlier for earlier, later in itertools.pairwise(waits)]
    assert gaps == sorted(gaps) and gaps[0] <= 1.5 and 60 <= gaps[-1] <= 61
    world.now += sessions.PENALTY_LONGEST_S + sessions.PENALTY_FORGOTTEN_S
    world.greet()
    world.say(message(9))
    world.now += 1.1
    assert [action for action in world.greet() if isinstance(action, Up)]


def test_who_is_refused_is_told_by_whom_and_keeps_trying_ever_later() -> None:
    world = World()
    dialer = world.sides[0]
    assert Dial() in dialer.session.handle(TimerExpired(), world.now)
    dialer.handle(LinkUp(1, True), world.now)
    dialer.handle(Received(1, wire.encode_close(Cause.REFUSED, "expired\n\x1b[31m")), world.now)
    assert dialer.ends() == [End(1, Cause.REFUSED, "expired??[31m")]
    assert dialer.session.deadline is not None and dialer.session.deadline > world.now


def test_the_numbers_of_kinds_are_for_ever() -> None:
    assert {kind.name: (kind.number, kind.lane.name) for kind in Kind} == {
        "HA": (1, "URGENT"), "NUMBERS": (2, "URGENT"), "WINDOWS": (3, "URGENT"), "STATE": (4, "URGENT"),
        "DIGEST": (5, "BULK"), "CONNTRACK": (6, "BULK"),
    }  # fmt: skip
    assert all(versioning.OLDEST <= kind.since <= versioning.NEWEST for kind in Kind)


def test_no_message_shows_what_it_carries() -> None:
    secret = b"KEY MATERIAL"
    world = greeted()
    said = [Submit(Kind.HA, secret), *world.side.handle(Submit(Kind.HA, secret), world.now), *world.say(message(1, secret))]
    assert not re.search("KEY|4b4559", repr(said))
    with pytest.raises(DecodeError) as found:
        wire.decode_close(wire.Frame(Type.CLOSE, payload=secret))
    assert "KEY" not in str(found.value)


def test_compared_is_said_once_a_greeting() -> None:
    assert len(compared(greeted().side.said)) == 1
