"""The queue in front of an alarm hook: bounded, in order, nothing lost without being counted, and never two at a time.

The oracle keeps every notice it ever gave and asks after each step where each of them is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from anycast.errors import BugError
from anycast.runtime import TimerExpired
from site_agent.alarms import delivery
from site_agent.alarms.delivery import Deliver, Delivered, Delivery, Failed, Failing, Queued, Recovered

DOWN = ["fail", "wait"] * 10
PHASES = [["alarm"], ["alarm"], ["burst"], ["ok"], ["fail"], ["wait"], ["fail", "wait"], DOWN]
STEPS = st.lists(st.sampled_from(PHASES), max_size=60).map(lambda phases: [step for phase in phases for step in phase])


def play(steps: list[str]) -> dict[str, Any]:
    """A hook and a clock around the core, which follows its deadline as `drive` does."""
    core: Delivery[int] = Delivery()
    now, given_count, on_way, got, waits = 0.0, 0, None, list[int](), list[float]()
    said: list[Any] = []
    tries: dict[int, int] = {}

    def take(actions: list[Any]) -> None:
        nonlocal on_way
        for action in actions:
            if isinstance(action, Deliver):
                assert on_way is None, "one at a time"
                on_way = action.notice
                tries[action.notice] = tries.get(action.notice, 0) + 1
                told.append(action.lost)
            else:
                said.append(action)

    told: list[int] = []
    for step in steps:
        match step:
            case "alarm" | "burst":
                for _ in range(1 if step == "alarm" else 200):
                    before = core.deadline
                    take(core.handle(Queued(given_count), now))
                    given_count += 1
                    assert core.deadline == before, "a notice moves no deadline"
            case "ok" | "fail" if on_way is not None:
                answer = Delivered() if step == "ok" else Failed("no")
                if step == "ok":
                    got.append(on_way)
                on_way = None
                take(core.handle(answer, now))
            case "wait" if core.deadline is not None:
                waits.append(core.deadline - now)
                now = max(now, core.deadline)
                take(core.handle(TimerExpired(), now))
                assert core.deadline is None, "an expired timer is gone"
        assert core.queued <= delivery.QUEUED + 1
        assert len(got) + core.lost + core.queued == given_count, "delivered, waiting, or counted as lost"
    return {"core": core, "got": got, "said": said, "tries": tries, "waits": waits, "told": told, "on_way": on_way}


def nothing_vanishes(steps: list[str]) -> None:
    played = play(steps)
    assert played["got"] == sorted(set(played["got"])), "in order, each once"


def attempts_are_bounded_and_wait_longer(steps: list[str]) -> None:
    played = play(steps)
    assert max(played["tries"].values(), default=0) <= delivery.MOST_ATTEMPTS
    assert all(0 < wait <= delivery.LONGEST_WAIT_S for wait in played["waits"])


def a_failing_hook_is_said_once(steps: list[str]) -> None:
    said = [type(action) for action in play(steps)["said"]]
    assert said == [Failing, Recovered] * (len(said) // 2) + [Failing] * (len(said) % 2), "in turns"


def the_loss_is_told_with_the_next(steps: list[str]) -> None:
    played = play([*steps, *["alarm", "ok", "wait", "ok", "wait", "ok"] * 2])
    core = played["core"]
    assert core.lost == 0 or max(played["told"]) > 0


REASONS = ["vici_silent", "half_open_high", "conntrack_filling"]
SHAKEN = st.lists(st.tuples(st.sampled_from([*REASONS, "route", "ok", "fail"]), st.integers(1, 300)), max_size=60)


def shaking_loses_nothing(steps: list[tuple[str, int]]) -> None:
    """Alarms that come and go by the hundred push nothing out, and what each of them ended with arrives."""
    core: Delivery[tuple[str, int]] = Delivery()
    now, counts, on_way, got, given_count = 0.0, dict.fromkeys([*REASONS, "route"], 0), None, list[tuple[str, int]](), 0

    def take(actions: list[Any]) -> None:
        nonlocal on_way
        for action in actions:
            if isinstance(action, Deliver):
                on_way = action.notice

    def answer(word: str) -> None:
        nonlocal now, on_way
        if on_way is not None:
            got.extend([on_way] if word == "ok" else [])
            on_way = None
            take(core.handle(Delivered() if word == "ok" else Failed("no"), now))
        elif core.deadline is not None:
            now = core.deadline
            take(core.handle(TimerExpired(), now))

    for word, times in steps:
        if word in ("ok", "fail"):
            answer(word)
            continue
        for _ in range(times if word != "route" else 1):
            counts[word] += 1
            given_count += 1
            take(core.handle(Queued((word, counts[word]), None if word == "route" else word), now))
        assert len(got) + core.lost + core.merged + core.queued == given_count
    for _ in range(2 * core.queued + 2):
        answer("ok")
    given_up = core.lost  # by `MOST_ATTEMPTS`, one at a time: never by the queue
    assert given_up <= sum(1 for word, _ in steps if word == "fail") / delivery.MOST_ATTEMPTS
    if not given_up:
        assert [n for word, n in got if word == "route"] == list(range(1, counts["route"] + 1))
        for reason in REASONS:
            told = [n for word, n in got if word == reason]
            assert told == sorted(set(told)) and told[-1:] == ([counts[reason]] if counts[reason] else [])
            assert all((b - a) % 2 for a, b in itertools.pairwise(told)), "a beginning, an end, a beginning"


def test_shaking_loses_nothing() -> None:
    given(SHAKEN)(shaking_loses_nothing)()


PROPERTIES = [
    nothing_vanishes, attempts_are_bounded_and_wait_longer, a_failing_hook_is_said_once, the_loss_is_told_with_the_next,
]  # fmt: skip


@pytest.mark.parametrize("rule", PROPERTIES)
def test_rule(rule: Callable[[list[str]], None]) -> None:
    given(STEPS)(rule)()


def test_the_back_off_belongs_to_the_hook() -> None:
    waits = play(["alarm", "alarm", *["fail", "wait"] * 12])["waits"]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60], "the second notice does not begin anew"


def test_the_oldest_gives_way_but_never_the_one_on_its_way() -> None:
    played = play(["burst", "burst", "ok", "ok"])
    assert played["got"] == [0, 400 - delivery.QUEUED]
    assert played["told"][:2] == [0, 399 - delivery.QUEUED], "how many are missing is said with the next that goes out"


def test_an_answer_to_nothing_is_a_bug() -> None:
    with pytest.raises(BugError):
        Delivery[int]().handle(Delivered(), 0.0)


# One rule broken at a time: each has to be noticed.


def losses_are_not_counted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Delivery, "_lose", lambda self: None)


def tried_for_ever(patch: pytest.MonkeyPatch) -> None:
    original: Any = Delivery._on_failure

    def on_failure(self: Any, detail: str, now: float) -> Any:
        self._attempts = 0
        return original(self, detail, now)

    patch.setattr(Delivery, "_on_failure", on_failure)


def no_back_off(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(delivery, "FIRST_WAIT_S", 0.0)


def every_failure_is_an_alarm(patch: pytest.MonkeyPatch) -> None:
    original: Any = Delivery._on_failure
    patch.setattr(Delivery, "_on_failure", lambda self, detail, now: [*original(self, detail, now), Failing(detail)])


def test_notices_that_are_not_merged_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Delivery, "_merge", lambda self, about: None)
    with pytest.raises(AssertionError):
        shaking_loses_nothing([("route", 1), ("vici_silent", 300)])


@pytest.mark.parametrize(
    ("mutate", "broken"),
    [
        (losses_are_not_counted, nothing_vanishes),
        (tried_for_ever, attempts_are_bounded_and_wait_longer),
        (no_back_off, attempts_are_bounded_and_wait_longer),
        (every_failure_is_an_alarm, a_failing_hook_is_said_once),
    ],
)
def test_each_broken_rule_is_noticed(
    mutate: Callable[[pytest.MonkeyPatch], None], broken: Callable[[list[str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    only_try = settings(max_examples=1000, phases=[Phase.generate], database=None, derandomize=True, deadline=None)
    with pytest.raises(AssertionError):
        only_try(given(STEPS)(broken))()
