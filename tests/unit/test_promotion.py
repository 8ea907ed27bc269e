"""charon follows the role: the order of the steps, whatever fails, changes or dies in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.timer import TimerExpired
from site_agent.sync.promotion import (
    ADOPTION,
    ALARM_AFTER_S,
    DEMOTION,
    FIRST_RETRY_S,
    LONGEST_RETRY_S,
    PROMOTION,
    Action,
    AdoptionAsked,
    CharonStarted,
    Do,
    Input,
    PassiveFound,
    Promotion,
    Quiet,
    RoleIs,
    Settled,
    Step,
    StepDone,
    StepFailed,
    StepStuck,
    StepTook,
)


@dataclasses.dataclass
class Charon:
    """A model of what the steps do, apart from the core: is charon's segment active, and do the peer's messages reach it?"""

    active: bool = False
    takes: bool = False
    trace: list[Step] = dataclasses.field(default_factory=list)

    def perform(self, step: Step) -> None:
        self.trace.append(step)
        match step:
            case Step.CLOSE:
                self.takes = False
            case Step.ACTIVATE | Step.RESUME:
                self.active = True
            case Step.PASSIVATE:
                self.active = False
            case Step.OPEN:
                self.takes = True
        assert not (self.active and self.takes), f"a stale Active could end live tunnels: {self.trace}"


def doing(actions: Sequence[Action]) -> Do | None:
    found = [action for action in actions if isinstance(action, Do)]
    assert len(found) <= 1, "one step at a time"
    return found[0] if found else None


def finish(core: Promotion, actions: Sequence[Action], now: float) -> list[Action]:
    """Every step succeeds from here on."""
    everything = list(actions)
    while (do := doing(actions)) is not None:
        actions = core.handle(StepDone(attempt=do.attempt), now)
        everything += actions
    return everything


@pytest.mark.parametrize(("active", "steps"), [(True, PROMOTION), (False, DEMOTION)])
def test_a_role_is_followed_step_by_step(active: bool, steps: tuple[Step, ...]) -> None:
    core = Promotion()
    everything = finish(core, core.handle(RoleIs(active), 1.0), 1.5)
    assert [action.step for action in everything if isinstance(action, Do)] == list(steps)
    assert [action.step for action in everything if isinstance(action, StepTook)] == list(steps)
    assert everything[-1] == Settled(active=active, took_s=0.5)
    assert core.settled and core.takes_messages == (not active) and core.deadline is None
    assert core.handle(RoleIs(active), 2.0) == [], "said again it asks for nothing"


def test_the_order_of_the_steps() -> None:
    """docs/architecture.md, "Promotion, in this order"."""
    assert list(PROMOTION) == [
        "close", "ready", "serve", "addresses", "activate", "confirm_active", "rekey",
    ]  # fmt: skip
    assert list(DEMOTION) == ["cease", "passivate", "confirm_passive", "open"]


def test_an_adoption_is_a_demotion_to_the_point_where_charon_takes_messages_and_then_a_promotion() -> None:
    core = Promotion()
    assert core.handle(AdoptionAsked(), 0.0) == [], "the role is not known"
    finish(core, core.handle(RoleIs(False), 0.0), 0.0)
    assert core.handle(AdoptionAsked(), 0.0) == [], "a Backup takes messages anyhow"
    finish(core, core.handle(RoleIs(True), 1.0), 1.0)
    first = core.handle(AdoptionAsked(), 2.0)
    assert core.adopts, "what charon hands out stays"
    steps = [action.step for action in finish(core, first, 2.0) if isinstance(action, Do)]
    assert steps == ["cease", "passivate", "confirm_passive", "adopt", *PROMOTION]
    assert core.settled and not core.takes_messages, "the relay is not opened: what is adopted was chosen"
    core.handle(AdoptionAsked(), 3.0)
    core.handle(RoleIs(False), 3.1)
    assert not core.adopts


def test_an_adoption_waits_for_the_promotion_under_way_and_ends_with_the_role() -> None:
    core = Promotion()
    first = core.handle(RoleIs(True), 0.0)
    assert core.handle(AdoptionAsked(), 0.1) == []
    steps = [action.step for action in finish(core, first, 0.2) if isinstance(action, Do)]
    assert steps == [*PROMOTION, *ADOPTION]
    first = core.handle(CharonStarted(), 1.0)
    core.handle(AdoptionAsked(), 1.1)
    core.handle(RoleIs(False), 1.2)
    do = doing(first)
    assert do is not None
    rest = finish(core, core.handle(StepDone(attempt=do.attempt), 1.3), 1.3)
    assert [action.step for action in rest if isinstance(action, Do)] == list(DEMOTION)
    steps = [action.step for action in finish(core, core.handle(RoleIs(True), 2.0), 2.0) if isinstance(action, Do)]
    assert steps == list(PROMOTION), "it was for another time"


def test_an_active_with_a_passive_ike_sa_is_confirmed_once_more_where_that_was_seen_after_its_promotion() -> None:
    core = Promotion()
    assert core.handle(PassiveFound(9.0), 9.0) == [], "the role is not known"
    first = core.handle(RoleIs(True), 10.0)
    assert core.handle(PassiveFound(10.5), 10.6) == [], "they are PASSIVE until the promotion ends"
    finish(core, first, 11.0)
    assert core.handle(PassiveFound(11.0), 12.0) == [], "asked before it was over"
    everything = finish(core, core.handle(PassiveFound(11.1), 12.0), 12.5)
    assert [action.step for action in everything if isinstance(action, Do)] == ["confirm_active"]
    assert everything[-1] == Settled(active=True, took_s=0.5) and core.settled
    finish(core, core.handle(RoleIs(False), 13.0), 13.0)
    assert core.handle(PassiveFound(14.0), 14.0) == [], "as it should be"


def test_an_active_that_was_quiet_for_a_handover_that_nobody_took_serves_again() -> None:
    core = Promotion()
    assert core.handle(Quiet(True), 0.0) == [] and core.handle(Quiet(False), 0.0) == [], "the role is not known"
    finish(core, core.handle(RoleIs(True), 1.0), 1.0)
    assert core.handle(Quiet(False), 2.0) == [], "it was not"
    assert core.handle(Quiet(True), 3.0) == []
    assert core.handle(PassiveFound(3.1), 3.2) == [], "as it should be"
    everything = finish(core, core.handle(Quiet(False), 4.0), 4.0)
    assert [action.step for action in everything if isinstance(action, Do)] == ["resume", "confirm_active"]
    core.handle(Quiet(True), 5.0)
    finish(core, core.handle(RoleIs(False), 5.1), 5.1)
    assert core.handle(Quiet(False), 6.0) == [] and core.takes_messages, "somebody took it"


def test_the_peers_messages_are_taken_only_when_all_is_done() -> None:
    core = Promotion()
    actions = core.handle(RoleIs(False), 0.0)
    for _ in DEMOTION:
        assert (core.takes_messages, core.settled) == (False, False)
        do = doing(actions)
        assert do is not None
        actions = core.handle(StepDone(attempt=do.attempt), 0.0)
    assert (core.takes_messages, core.settled) == (True, True)
    core.handle(RoleIs(True), 1.0)
    assert (core.takes_messages, core.settled) == (False, False)


def test_nothing_is_done_before_the_role_is_known() -> None:
    core = Promotion()
    assert core.handle(CharonStarted(), 0.0) == [] and not core.settled and not core.takes_messages


def test_a_role_that_changes_again_waits_for_the_step_in_flight_and_for_no_other() -> None:
    core = Promotion()
    first = doing(core.handle(RoleIs(True), 0.0))
    assert first is not None and core.handle(RoleIs(False), 0.1) == []
    actions = core.handle(StepDone(attempt=first.attempt), 0.2)
    assert [do.step for do in (doing(actions),) if do] == [DEMOTION[0]]
    assert not any(isinstance(action, StepTook) for action in actions), "it was given up"


def test_a_step_that_fails_holds_the_others_back_and_is_told_once() -> None:
    core, now = Promotion(), 0.0
    do = doing(core.handle(RoleIs(False), now))
    tried, waits = 0, []
    told: list[tuple[StepStuck, float]] = []
    while tried < 12:
        assert do is not None and (do.step, do.attempt) == (DEMOTION[0], tried + 1)
        actions = core.handle(StepFailed(attempt=do.attempt, why="ENXIO"), now)
        told += [(action, now) for action in actions if isinstance(action, StepStuck)]
        assert core.deadline is not None
        waits.append(core.deadline - now)
        assert core.handle(TimerExpired(), core.deadline - 0.001) == []
        now = core.deadline
        do, tried = doing(core.handle(TimerExpired(), now)), tried + 1
        assert core.deadline is None
    assert waits == pytest.approx([min(FIRST_RETRY_S * 2**n, LONGEST_RETRY_S) for n in range(12)])
    first_late = min(at for at in (sum(waits[:n]) for n in range(12)) if at >= ALARM_AFTER_S)
    ((alarm, at),) = told
    assert alarm == StepStuck(step=DEMOTION[0], why="ENXIO") and at == pytest.approx(first_late)
    assert do is not None
    took, following = core.handle(StepDone(attempt=do.attempt, detail="at last"), now + 0.25)
    assert isinstance(took, StepTook) and (took.step, took.detail) == (DEMOTION[0], "at last")
    assert took.took_s == pytest.approx(now + 0.25), "its retries included"
    assert isinstance(following, Do) and following.step is DEMOTION[1]


def fail_until(core: Promotion, do: Do | None, now: float, until: float) -> tuple[list[StepStuck], float, Do]:
    """What was told as stuck meanwhile, when it is, and what is tried then."""
    told: list[StepStuck] = []
    while now < until:
        assert do is not None
        told += [each for each in core.handle(StepFailed(attempt=do.attempt, why="x"), now) if isinstance(each, StepStuck)]
        assert core.deadline is not None
        now = core.deadline
        do = doing(core.handle(TimerExpired(), now))
    assert do is not None
    return told, now, do


def test_each_step_has_its_own_time_backoff_and_alarm() -> None:
    core = Promotion()
    told, now, do = fail_until(core, doing(core.handle(RoleIs(True), 0.0)), 0.0, ALARM_AFTER_S + 2)
    assert told == [StepStuck(step=PROMOTION[0], why="x")]
    do_next = doing(core.handle(StepDone(attempt=do.attempt), now))
    assert do_next is not None
    assert core.handle(StepFailed(attempt=do_next.attempt, why="x"), now) == [], "this one has not been tried for long"
    assert core.deadline == pytest.approx(now + FIRST_RETRY_S)
    began, do_next = now, doing(core.handle(TimerExpired(), now + FIRST_RETRY_S))
    told, now, do = fail_until(core, do_next, now + FIRST_RETRY_S, now + ALARM_AFTER_S + 2)
    assert told == [StepStuck(step=PROMOTION[1], why="x")], "told once, and for each"
    (took, _) = core.handle(StepDone(attempt=do.attempt), now)
    assert isinstance(took, StepTook) and took.step is PROMOTION[1] and took.took_s == pytest.approx(now - began)


def test_the_alarm_comes_with_the_first_failure_that_is_late_enough() -> None:
    for late, stuck in ((ALARM_AFTER_S - 0.001, False), (ALARM_AFTER_S, True)):
        core = Promotion()
        do = doing(core.handle(RoleIs(True), 0.0))
        assert do is not None
        assert bool(core.handle(StepFailed(attempt=do.attempt, why="x"), late)) == stuck


@pytest.mark.parametrize("again", [RoleIs(False), CharonStarted()], ids=["role", "charon"])
def test_what_begins_anew_waits_for_no_retry_and_is_told_again_when_it_is_stuck(again: Any) -> None:
    core = Promotion()
    do = doing(core.handle(RoleIs(True), 0.0))
    told, now, do = fail_until(core, do, 0.0, ALARM_AFTER_S + 2)
    core.handle(StepFailed(attempt=do.attempt, why="x"), now)
    first = DEMOTION[0] if again == RoleIs(False) else PROMOTION[0]
    do_now = doing(core.handle(again, now + 0.001))
    assert do_now is not None and do_now.step is first and core.deadline is None
    assert core.handle(StepFailed(attempt=do_now.attempt, why="x"), now + 0.001) == []
    assert core.deadline == pytest.approx(now + 0.001 + FIRST_RETRY_S)
    do_now = doing(core.handle(TimerExpired(), now + 0.001 + FIRST_RETRY_S))
    told, _now, _do = fail_until(core, do_now, now + 0.001 + FIRST_RETRY_S, now + ALARM_AFTER_S + 2)
    assert told == [StepStuck(step=first, why="x")]


def test_charons_own_end_begins_everything_anew() -> None:
    core = Promotion()
    finish(core, core.handle(RoleIs(True), 0.0), 0.0)
    everything = finish(core, core.handle(CharonStarted(), 5.0), 5.0)
    assert [action.step for action in everything if isinstance(action, Do)] == list(PROMOTION)


@pytest.mark.parametrize("steps", range(len(PROMOTION)))
def test_charons_end_in_the_middle_begins_everything_anew(steps: int) -> None:
    """Whether a step is under way or one that failed waits."""
    for waits in (False, True):
        core = Promotion()
        do = doing(core.handle(RoleIs(True), 0.0))
        for _ in range(steps):
            assert do is not None
            do = doing(core.handle(StepDone(attempt=do.attempt), 0.0))
        assert do is not None
        if waits:
            core.handle(StepFailed(attempt=do.attempt, why="x"), 0.0)
            everything = core.handle(CharonStarted(), 0.0)
        else:
            assert core.handle(CharonStarted(), 0.0) == []
            everything = core.handle(StepDone(attempt=do.attempt), 0.0)
        everything = finish(core, everything, 0.0)
        assert [action.step for action in everything if isinstance(action, Do)] == list(PROMOTION)


def test_an_answer_to_an_earlier_attempt_means_nothing() -> None:
    core = Promotion()
    first = doing(core.handle(RoleIs(True), 0.0))
    assert first is not None
    core.handle(StepFailed(attempt=first.attempt, why="x"), 0.0)
    assert core.handle(StepDone(attempt=first.attempt), 0.01) == []
    assert core.handle(StepDone(attempt=77), 0.01) == []
    second = doing(core.handle(TimerExpired(), 0.02))
    assert second is not None and second.attempt > first.attempt
    assert core.handle(StepDone(attempt=first.attempt), 0.02) == [], "it was tried again meanwhile"
    assert core.handle(StepFailed(attempt=first.attempt, why="x"), 0.02) == [] and core.deadline is None


Move = st.one_of(
    st.booleans().map(RoleIs),
    st.just(CharonStarted()),
    st.just(AdoptionAsked()),
    st.just(PassiveFound(1e9)),
    st.booleans().map(Quiet),
    st.sampled_from(["done", "fails", "late", "time"]),
)


@given(st.lists(st.tuples(Move, st.floats(0.0, 0.7)), max_size=60))
def test_never_does_charon_serve_and_take_messages_and_the_last_role_is_reached(
    moves: list[tuple[Input | str, float]],
) -> None:
    """Whatever happens in whatever order; a charon that starts anew is PASSIVE, and the gate is the relay's, so it stays."""
    core, charon, now = Promotion(), Charon(), 0.0
    pending: Do | None = None
    role: bool | None = None

    def take(event: Input) -> None:
        nonlocal pending
        actions = core.handle(event, now)
        if (do := doing(actions)) is not None:
            assert pending is None, "the one before it is not over"
            pending = do

    def end(done: bool) -> None:
        nonlocal pending
        if pending is not None:
            ended, pending = pending, None
            if done:
                charon.perform(ended.step)
            take(StepDone(attempt=ended.attempt) if done else StepFailed(attempt=ended.attempt, why="x"))

    for move, gap in moves:
        now += gap
        if core.deadline is not None and core.deadline <= now:
            take(TimerExpired())
        match move:
            case RoleIs(active=active):
                role = active
                take(move)
            case AdoptionAsked() | PassiveFound() | Quiet():
                take(move)
            case CharonStarted():
                charon.active = False
                take(move)
            case "done" | "fails":
                end(move == "done")
            case "late":
                take(StepDone(attempt=10_000))
    for _ in range(40):
        now += 1.0
        if core.deadline is not None:
            take(TimerExpired())
        end(done=True)
    if role is not None:
        assert core.settled and (charon.active, charon.takes) == (role, not role)
