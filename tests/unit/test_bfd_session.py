"""RFC 5880 section 6.8 by its sentences, and two sessions that talk to each other on a virtual clock."""

from __future__ import annotations

import heapq
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.errors import DecodeError
from anycast.runtime import TimerExpired
from site_agent.bfd.packet import ControlPacket, Diagnostic, State, decode, encode
from site_agent.bfd.session import (
    QUIET_S,
    Action,
    BfdSession,
    Granted,
    PacketReceived,
    Parameters,
    Resumed,
    SendPacket,
    SessionChanged,
)

NEVER = 1e9


def packet(state: State, **fields: object) -> ControlPacket:
    values = {
        "detect_mult": 3,
        "my_discriminator": 9,
        "your_discriminator": 1,
        "desired_min_tx": 50_000,
        "required_min_rx": 50_000,
    }
    return ControlPacket(state=state, **{**values, **fields})  # type: ignore[arg-type]


def session(**parameters: int) -> BfdSession:
    made = BfdSession(Parameters(my_discriminator=1, **parameters), now=0)
    made.handle(Granted(until=NEVER), 0)
    return made


def said(actions: list[Action]) -> list[ControlPacket]:
    return [action.packet for action in actions if isinstance(action, SendPacket)]


def heard(made: BfdSession, state: State, now: float, **fields: object) -> list[ControlPacket]:
    """What it sends when it hears that."""
    return said(made.handle(PacketReceived(packet=packet(state, **fields)), now))


def up(**parameters: int) -> BfdSession:
    made = session(**parameters)
    made.handle(PacketReceived(packet=packet(State.DOWN, your_discriminator=0)), 0.1)
    made.handle(PacketReceived(packet=packet(State.INIT)), 0.2)
    assert made.state is State.UP
    return made


@pytest.mark.parametrize(
    ("begin", "heard", "end"),
    [
        ([], State.DOWN, State.INIT),
        ([], State.INIT, State.UP),
        ([], State.UP, State.DOWN),
        ([], State.ADMIN_DOWN, State.DOWN),
        ([State.DOWN], State.DOWN, State.INIT),
        ([State.DOWN], State.INIT, State.UP),
        ([State.DOWN], State.UP, State.UP),
        ([State.DOWN], State.ADMIN_DOWN, State.DOWN),
        ([State.INIT], State.DOWN, State.DOWN),
        ([State.INIT], State.INIT, State.UP),
        ([State.INIT], State.UP, State.UP),
        ([State.INIT], State.ADMIN_DOWN, State.DOWN),
    ],
)
def test_the_state_machine_of_section_6_2(begin: list[State], heard: State, end: State) -> None:
    made = session()
    for n, state in enumerate([*begin, heard]):
        made.handle(PacketReceived(packet=packet(state)), 0.1 * (n + 1))
    assert made.state is end


def test_silence_for_the_detection_time_ends_it() -> None:
    made = up()
    made.handle(PacketReceived(packet=packet(State.UP)), 0.3)
    assert made.detection_time == pytest.approx(0.3)
    made.handle(TimerExpired(), 0.599)
    assert made.state is State.UP
    changed = SessionChanged(state=State.DOWN, diagnostic=Diagnostic.DETECTION_TIME_EXPIRED)
    assert changed in made.handle(TimerExpired(), 0.6)


def test_the_end_of_the_grant_says_down_at_once_and_never_admin_down() -> None:
    made = up()
    made.handle(Granted(until=0.4), 0.25)
    made.handle(PacketReceived(packet=packet(State.UP)), 0.35)
    actions = made.handle(TimerExpired(), 0.4)
    sent = [action.packet for action in actions if isinstance(action, SendPacket)]
    assert [(one.state, one.diagnostic) for one in sent] == [(State.DOWN, Diagnostic.PATH_DOWN)]
    for n in range(20):  # and nothing that is heard brings it up
        made.handle(PacketReceived(packet=packet(State.DOWN)), 0.5 + n / 10)
        made.handle(PacketReceived(packet=packet(State.INIT)), 0.55 + n / 10)
    assert made.state is State.DOWN


def test_a_poll_is_answered_with_final_at_once() -> None:
    actions = up().handle(PacketReceived(packet=packet(State.UP, poll=True)), 0.25)
    assert any(action.packet.final for action in actions if isinstance(action, SendPacket))


def test_going_up_polls_until_it_is_answered() -> None:
    made = up()
    assert made.handle(TimerExpired(), 0.35)[0].packet.poll
    made.handle(PacketReceived(packet=packet(State.UP, final=True)), 0.36)
    assert not made.handle(TimerExpired(), 0.5)[0].packet.poll


def test_while_it_is_not_up_it_sends_once_a_second() -> None:
    made, sent, now = session(), 0, 0.0
    while now < 20:
        now = max(now, made.deadline or 0)
        sent += len(made.handle(TimerExpired(), now))
        assert 0.75 <= (made.deadline or 0) - now <= 1.0
    assert 20 <= sent <= 28


def test_a_packet_for_another_session_changes_nothing() -> None:
    made = up()
    assert made.handle(PacketReceived(packet=packet(State.DOWN, your_discriminator=7)), 0.3) == [] or made.state is State.UP
    assert made.state is State.UP


def test_a_router_that_wants_nothing_is_sent_nothing() -> None:
    made = up()
    made.handle(PacketReceived(packet=packet(State.UP, required_min_rx=0)), 0.3)
    assert not [a for n in range(4) for a in made.handle(TimerExpired(), 0.31 + n / 20) if isinstance(a, SendPacket)]


def test_after_the_end_of_the_grant_a_poll_waits_so_that_the_down_is_noticed() -> None:
    made = up()
    made.handle(Granted(until=0), 1.0)
    assert heard(made, State.DOWN, 1.001, poll=True, desired_min_tx=1_000_000) == []
    assert made.deadline is not None and made.deadline >= 1.0 + QUIET_S
    assert heard(made, State.DOWN, 1.0 + QUIET_S, poll=True)[-1].final
    made.handle(Granted(until=NEVER), 2.0)
    assert heard(made, State.DOWN, 2.001)[0].state is State.INIT, "and then it is as any other"


def test_a_new_grant_in_the_quiet_time_says_nothing_before_it_is_over() -> None:
    made = up()
    made.handle(Granted(until=0), 1.0)
    made.handle(Granted(until=NEVER), 1.1)
    assert heard(made, State.DOWN, 1.2, poll=True, desired_min_tx=1_000_000) == [] and made.state is State.INIT
    assert made.deadline is not None and 1.0 + QUIET_S <= made.deadline <= 2.0


def test_a_session_that_is_up_does_not_take_a_packet_that_names_no_session() -> None:
    made = up()
    assert heard(made, State.DOWN, 0.21, your_discriminator=0) == []
    assert made.state is State.UP and made.discarded == 1
    for n in range(5):  # nor does it count as a sign of life
        heard(made, State.DOWN, 0.25 + n / 20, your_discriminator=0)
    made.handle(TimerExpired(), 0.2 + made.detection_time)
    assert made.state is State.DOWN and made.diagnostic is Diagnostic.DETECTION_TIME_EXPIRED
    heard(made, State.DOWN, 0.6, your_discriminator=0)
    assert made.state is State.INIT


@pytest.mark.parametrize(("state", "diagnostic"), [(State.DOWN, 3), (State.ADMIN_DOWN, 7)])
def test_what_the_router_says_ends_it_and_its_reason_is_kept(state: State, diagnostic: int) -> None:
    made = up()
    heard(made, state, 0.3, diagnostic=diagnostic)
    assert made.state is State.DOWN and made.diagnostic is Diagnostic.NEIGHBOR_SIGNALED_DOWN
    assert (made.remote_state, made.remote_diagnostic) == (state, diagnostic)


def test_an_expired_session_has_forgotten_the_routers_discriminator() -> None:
    """Section 6.8.1, bfd.RemoteDiscr: "set to zero" when a Detection Time passes."""
    made = up()
    (last,) = said(made.handle(TimerExpired(), 0.2 + made.detection_time))
    assert (last.state, last.your_discriminator) == (State.DOWN, 0)


def test_who_looks_late_reads_what_waits_before_it_believes_in_silence() -> None:
    made = up()
    late = 0.2 + made.detection_time * 1.5
    made.handle(TimerExpired(), late)
    assert made.state is State.UP
    made.handle(PacketReceived(packet=packet(State.UP)), late + 0.001)
    made.handle(TimerExpired(), late + 0.002)
    assert made.state is State.UP
    made.handle(TimerExpired(), late + made.detection_time * 1.5)
    made.handle(TimerExpired(), late + made.detection_time * 3)
    assert made.state is State.DOWN, "once, not for ever"


def test_in_demand_mode_a_router_is_sent_its_finals_and_nothing_else() -> None:
    """Section 6.8.7: not "if Demand mode is active on the remote system ... and a Poll Sequence is not being" sent."""
    made = up()
    heard(made, State.UP, 0.3, demand=True)
    assert said(made.handle(TimerExpired(), 0.4)), "its own Poll Sequence goes on"
    heard(made, State.UP, 0.41, demand=True, final=True)
    assert said(made.handle(TimerExpired(), 0.6)) == []
    (answer,) = heard(made, State.UP, 0.61, demand=True, poll=True)
    assert answer.final


def gaps(made: BfdSession, begin: float, count: int, **fields: object) -> list[float]:
    """Between the packets that it sends while the router goes on."""
    times, now = [], begin
    while len(times) <= count:
        now = max(now, made.deadline or 0)
        if said(made.handle(TimerExpired(), now)):
            times.append(now)
            made.handle(PacketReceived(packet=packet(State.UP, **fields)), now)
    return [b - a for a, b in itertools.pairwise(times)]


def test_the_longer_interval_of_both_counts_less_a_quarter_of_jitter() -> None:
    made = up(desired_min_tx=80_000)
    found = gaps(made, 0.3, 50, required_min_rx=200_000)[1:]
    assert 0.15 <= min(found) < 0.16 and 0.19 < max(found) <= 0.2 + 1e-9


def test_with_a_multiplier_of_one_the_jitter_leaves_room_for_the_journey() -> None:
    made = up(detect_mult=1)
    assert max(gaps(made, 0.3, 100)) <= 0.9 * 0.1 + 1e-9


def resume(made: BfdSession, now: float, **parameters: int) -> BfdSession:
    after = BfdSession(Parameters(my_discriminator=1, **parameters), now=now, resumed=made.to_resume)
    after.handle(Granted(until=NEVER), now)
    return after


def test_a_session_that_goes_on_says_up_at_once_to_the_same_discriminator() -> None:
    before = up()
    after = BfdSession(Parameters(my_discriminator=1), now=5.0, resumed=before.to_resume)
    (first,) = said(after.handle(Granted(until=NEVER), 5.0))
    assert (first.state, first.your_discriminator, first.poll) == (State.UP, 9, True)
    heard(after, State.UP, 5.1, final=True)
    assert after.state is State.UP and not said(after.handle(TimerExpired(), 5.2))[0].poll


def test_a_session_that_cannot_go_on_finds_out() -> None:
    unheard = resume(up(), 5.0)
    unheard.handle(TimerExpired(), 5.0 + unheard.detection_time)
    assert unheard.state is State.DOWN
    forgotten = resume(up(), 5.0)
    heard(forgotten, State.DOWN, 5.1)
    assert forgotten.state is State.DOWN
    unwanted = BfdSession(Parameters(my_discriminator=1), now=5.0, resumed=up().to_resume)
    assert said(unwanted.handle(Granted(until=0), 5.0))[0].state is State.DOWN


def test_a_longer_interval_waits_for_the_end_of_its_poll_sequence() -> None:
    """Section 6.8.3: DesiredMinTx increased: "the actual transmission interval used MUST NOT change until" then."""
    before = up(desired_min_tx=100_000)
    heard(before, State.UP, 0.3, final=True)
    after = resume(before, 5.0, desired_min_tx=400_000)
    first = max(gaps(after, 5.0, 5))
    assert first <= 0.1
    heard(after, State.UP, 6.0, final=True)
    assert min(gaps(after, 6.0, 5)[1:]) >= 0.3


def test_a_shorter_detection_waits_for_the_end_of_its_poll_sequence() -> None:
    """Section 6.8.3: RequiredMinRx reduced: "the previous value ... MUST be used when calculating the Detection Time"."""
    before = up(required_min_rx=400_000)
    heard(before, State.UP, 0.3, final=True)
    after = resume(before, 5.0, required_min_rx=100_000)
    assert after.detection_time == pytest.approx(1.2)
    heard(after, State.UP, 5.1, final=True)
    assert after.detection_time == pytest.approx(0.3)


events = st.tuples(
    st.floats(0, 2),
    st.one_of(
        st.just(TimerExpired()),
        st.builds(lambda s: ("grant", s), st.sampled_from([-1.0, 0.0, 0.3, 1.0, 50.0])),
        st.builds(
            PacketReceived,
            packet=st.builds(
                ControlPacket,
                state=st.sampled_from(State),
                diagnostic=st.integers(0, 31),
                poll=st.booleans(),
                final=st.booleans(),
                demand=st.booleans(),
                detect_mult=st.integers(1, 255),
                my_discriminator=st.integers(1, 2**32 - 1),
                your_discriminator=st.sampled_from([0, 1, 1, 1, 5]),
                desired_min_tx=st.integers(0, 2**32 - 1) | st.just(50_000),
                required_min_rx=st.integers(0, 2**32 - 1) | st.just(50_000),
            ),
        ),
    ),
)


@given(st.lists(events, max_size=40), st.booleans())
def test_whatever_happens_no_grant_no_up_and_no_idle_loop(history: list[tuple[float, object]], resumed: bool) -> None:
    known = Resumed(
        remote_discriminator=9,
        remote_min_rx=50_000,
        remote_desired_tx=50_000,
        remote_mult=3,
        desired_min_tx=1,
        required_min_rx=1,
    )
    made = BfdSession(Parameters(my_discriminator=1), now=100.0, resumed=known if resumed else None)
    now, until, last_down = 100.0, 100.0, 0.0
    for passed, event in history:
        was = made.state
        now += passed
        if isinstance(event, tuple):
            until = now + event[1]
            event = Granted(until=until)
        actions = made.handle(event, now)  # type: ignore[arg-type]
        assert made.state is not State.ADMIN_DOWN
        if now >= until:
            assert made.state is State.DOWN
            if was is State.UP and not (isinstance(event, PacketReceived) and event.packet.required_min_rx == 0):
                assert not said(actions) or said(actions)[-1].state is State.DOWN
        for one in said(actions):
            assert one.my_discriminator == 1 and encode(decode(encode(one))) == encode(one) and not (one.poll and one.final)
            if one.state is not State.UP and not one.final:
                assert one.desired_min_tx >= 1_000_000
        for action in actions:
            if isinstance(action, SessionChanged) and action.diagnostic is Diagnostic.PATH_DOWN:
                last_down = now
            elif isinstance(action, SendPacket) and last_down < now < last_down + QUIET_S:
                raise AssertionError("it spoke in the quiet time")
        made.handle(TimerExpired(), now)
        assert made.deadline is None or made.deadline > now, "the loop would turn for nothing"


@pytest.mark.parametrize("lost", [0.0, 0.1])
def test_two_sessions_come_up_stay_up_and_notice_a_death(lost: float) -> None:
    ends = [BfdSession(Parameters(my_discriminator=n + 1, detect_mult=5), now=0.0) for n in range(2)]
    for end in ends:
        end.handle(Granted(until=NEVER), 0)
    wire: list[tuple[float, int, int, ControlPacket]] = []
    now, count, dead, downs = 0.0, 0, False, []
    while now < 30:
        alive = ends[:1] if dead else ends
        now = max(now, min([end.deadline or NEVER for end in alive] + [wire[0][0] if wire else NEVER]))
        events = [(n, TimerExpired()) for n, end in enumerate(alive) if (end.deadline or NEVER) <= now]
        while wire and wire[0][0] <= now:
            _, _, to, arrived = heapq.heappop(wire)
            if to < len(alive):
                events.append((to, PacketReceived(packet=decode(encode(arrived)))))
        for n, event in events:
            for action in ends[n].handle(event, now):
                count += 1
                if isinstance(action, SendPacket) and (count * 0.618) % 1 >= lost:
                    heapq.heappush(wire, (now + 0.001, count, 1 - n, action.packet))
                elif isinstance(action, SessionChanged) and action.state is State.DOWN and now > 5:
                    downs.append(now)
        if not dead and now >= 20:
            assert [end.state for end in ends] == [State.UP, State.UP] and not downs
            dead, died = True, now
    assert ends[0].state is State.DOWN and 0 < downs[0] - died <= 0.51


@given(st.binary(max_size=60))
def test_any_bytes_decode_or_raise_decode_error(data: bytes) -> None:
    try:
        found = decode(data)
    except DecodeError:
        return
    assert encode(found)[4:] == data[4:24] and found.detect_mult and found.my_discriminator
