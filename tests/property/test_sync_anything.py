"""Whatever the network does between two gateways, each lane arrives once, in order, without a gap; any bytes are borne."""

from __future__ import annotations

import json
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.errors import DecodeError
from anycast.timer import TimerExpired
from site_agent.sync import wire
from site_agent.sync.kinds import Kind, Lane
from site_agent.sync.words import Cause, Deliver, Dropped, IdentityChanged, Received, Submit
from tests.support.sync_world import QUEUES, VERSIONS, WINDOWS, ByHand, World, hello, message

SIDES = st.sampled_from([0, 1])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), SIDES, st.sampled_from(list(Kind)), st.integers(0, 900)),
        st.tuples(st.just("move"), SIDES, st.integers(0, 3), st.integers(0, 40)),
        st.tuples(st.just("work"), SIDES),
        st.tuples(st.just("cut"), st.integers(0, 3)),
        st.tuples(st.just("renew"), SIDES),
        st.tuples(st.just("wait"), st.sampled_from([0.1, 0.6, 3.0, 20.0])),
        st.tuples(st.just("settle")),
        st.tuples(st.just("restart"), SIDES),
    ),
    max_size=60,
)


def prefixes_hold(world: World) -> None:
    for sender, receiver in (world.sides, world.sides[::-1]):
        for name, lanes in receiver.got.items():
            for lane in Lane:
                sent = sender.sent[name][lane]
                assert lanes[lane] == sent[: len(lanes[lane])], "lost, twice, or out of order"


@settings(max_examples=200)
@given(STEPS)
def test_each_lane_arrives_once_in_order_and_without_a_gap(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    world, said, restarts = World(), 0, 0
    world.pass_time(0.5)
    for step in steps:
        links = sorted(world.wires)
        match step:
            case "submit", which, kind, size:
                said += 1
                world.give(which, Submit(kind, said.to_bytes(4, "big") + bytes(size)))
            case "move", which, back, cut_at if links:
                world.move(links[-1 - back % len(links)], which, cut_at)
            case "work", which:
                world.work_off(which)
            case "cut", back if links:
                world.break_link(links[-1 - back % len(links)])
            case "renew", which:
                world.give(which, IdentityChanged())
            case "wait", seconds:
                world.pass_time(seconds)
            case ("settle",):
                world.settle()
            case "restart", which if restarts < 3:
                restarts += 1
                for link in links:
                    world.break_link(link)
                kept = world.sides[which]
                world.sides[which] = world.made(which, f"{'ab'[which]}{restarts}")
                world.sides[which].sent, world.sides[which].got = kept.sent, kept.got
            case _:
                pass
        prefixes_hold(world)
    world.pass_time(60.0)
    world.settle()
    prefixes_hold(world)
    assert not world.violations(), "two honest gateways accused each other"
    one, other = world.sides
    assert one.session.is_up and other.session.is_up and one.session.name == other.session.name
    for sender, receiver in ((one, other), (other, one)):
        name = sender.session.name
        assert receiver.got[name] == sender.sent[name], "quiet, and not everything has arrived"
        assert all(sender.session.lag(lane, world.now) == 0 for lane in Lane), "worked off, and not told"


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_any_bytes_are_frames_or_an_error(pieces: list[bytes]) -> None:
    reader = wire.Reader()
    for piece in pieces:
        try:
            reader.receive_data(piece)
            for frame in reader.frames():
                for decode in (wire.decode_hello, wire.decode_resume, wire.decode_versions, wire.decode_close, wire.lane_of):
                    try:
                        decode(frame)
                    except DecodeError:
                        pass
        except DecodeError:
            return


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(max_size=9), each, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(["newest", "oldest", "requires", "offer", "session", "windows", "versions"])


@given(FIELDS, JSON)
def test_a_hello_with_any_value_in_it_is_read_or_refused(field: str, value: object) -> None:
    frame = next(iter_frames(hello()))
    body = json.loads(frame.payload) | {field: value}
    try:
        wire.decode_hello(wire.Frame(wire.Type.HELLO, payload=json.dumps(body).encode()))
    except DecodeError:
        pass


FRAMES = st.builds(
    lambda type_, which, number, payload: wire.header(type_, which, number, len(payload)) + payload,
    st.sampled_from(list(wire.Type)),
    st.integers(0, 8) | st.integers(0, 255),
    st.integers(0, 12) | st.integers(0, 2**64 - 1),
    st.binary(max_size=40),
)


@settings(max_examples=300)
@given(st.booleans(), st.lists(FRAMES | st.binary(max_size=60), min_size=1, max_size=20), st.integers(0, 5))
def test_a_peer_that_says_anything_harms_only_itself(greeted: bool, said: list[bytes], submitted: int) -> None:
    world = ByHand()
    if greeted:
        world.greet()
    else:
        world.call()
    for number in range(submitted):
        world.side.handle(Submit(Kind.NUMBERS, bytes([number])), world.now)
    for piece in said:
        actions = world.say(piece)
        delivered = [action for action in actions if isinstance(action, Deliver)]
        assert not delivered or greeted, "before the greeting nothing counts"
    assert sum(end.cause is Cause.VIOLATION for end in world.side.ends()) <= 1, "nobody listens after the first"
    world.now += 120.0
    world.side.handle(TimerExpired(), world.now)
    again = world.greet("peer.2")
    assert world.side.session.is_up and not [end for end in world.side.ends() if end.cause is Cause.PENALTY]
    assert again and not [action for action in again if isinstance(action, Deliver)], "of the session before"


@given(st.lists(st.tuples(st.sampled_from(list(Kind)), st.integers(0, 2_000)), max_size=80))
def test_what_waits_for_a_peer_that_reads_nothing_is_bounded(said: list[tuple[Kind, int]]) -> None:
    world = ByHand()
    world.greet()
    kept = [0, 0]
    for kind, size in said:
        actions = world.side.handle(Submit(kind, bytes(size)), world.now)
        if not any(isinstance(action, Dropped) for action in actions):
            kept[kind.lane] += size
    assert all(each <= window + queue for each, window, queue in zip(kept, WINDOWS, QUEUES, strict=True))


@given(st.lists(st.integers(0, 60_000), min_size=1, max_size=40))
def test_a_peer_that_sends_beyond_its_window_is_ended(sizes: list[int]) -> None:
    world = ByHand()
    world.greet()
    for number, size in enumerate(sizes, 1):
        world.say(message(number, bytes(size), Kind.CONNTRACK))
    held = sum(wire.HEADER + size for size in sizes)
    assert bool(world.side.ends()) == (held > WINDOWS[Lane.BULK])
    assert world.side.session.versions == VERSIONS


def iter_frames(data: bytes) -> Iterator[wire.Frame]:
    reader = wire.Reader()
    reader.receive_data(data)
    return reader.frames()


def test_the_input_of_a_link_that_was_ended_is_nothing() -> None:
    world = ByHand()
    assert world.side.handle(Received(7, b"anything"), world.now) == []
