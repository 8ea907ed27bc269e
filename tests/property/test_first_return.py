"""With default settings the first return of a route waits at most a second, and exactly the recovery time after the facts.

The verdict core and the route policy together, on a clock that follows the core's own deadlines; evidence comes whenever
Hypothesis likes, between ticks above all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from anycast.document import Agent
from anycast.fleet.schema import AgentSettings
from anycast.model import Evidence, EvidenceClass, Status
from anycast.policy.flap import FlapControl
from anycast.policy.route import RoutePolicy
from anycast.policy.verdict import Action, VerdictCore, VerdictReached
from anycast.reasons import Reason
from anycast.runtime import TimerExpired

LEASE_S, RECOVERY_S = 1.0, AgentSettings().recovery.total_seconds()
GAPS = st.lists(st.floats(0.001, 1.9), min_size=1, max_size=6)


class World:
    def __init__(self) -> None:
        self.now = 100.0
        self.core = VerdictCore({"charon": EvidenceClass.FACT}, lease_s=LEASE_S, recovery_s=RECOVERY_S, now=self.now)
        self.policy = RoutePolicy(FlapControl(gateway="fra-gw1", threshold=AgentSettings().flap_threshold))
        self.announced: list[tuple[float, bool]] = []

    def feed(self, event: Evidence | TimerExpired) -> None:
        for action in self.core.handle(event, self.now):
            self._decide(action)

    def _decide(self, action: Action) -> None:
        if isinstance(action, VerdictReached):
            told = self.policy.decide(action, None, self.now)[0]
            assert isinstance(told, VerdictReached)
            if not self.announced or self.announced[-1][1] != told.serving:
                self.announced.append((self.now, told.serving))

    def see(self, status: Status) -> None:
        reason = Reason.HEALTHY if status is Status.PASSING else Reason.CHARON_EXITED
        seen = Evidence(check="charon", evidence_class=EvidenceClass.FACT, status=status, reason=reason, at=self.now)
        self.feed(seen)

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.core.deadline <= end:
            self.now = max(self.now, self.core.deadline)
            self.feed(TimerExpired())
        self.now = end


def returns(gaps: list[float]) -> list[float]:
    """How long after each mending the route is back. `gaps`: times between failing looks; then it passes."""
    world, waits = World(), []
    world.see(Status.PASSING)
    world.wait(gaps[0])
    for _ in range(3):  # fewer than flap control takes notice of
        for gap in gaps:
            world.see(Status.FAILING)
            assert world.announced[-1][1] is False, "at once"
            world.wait(gap / 4)
        mended = world.now
        world.see(Status.PASSING)
        world.wait(5.0)
        at, announced = world.announced[-1]
        assert announced
        waits.append(at - mended)
    return waits


def at_most_a_second(gaps: list[float]) -> None:
    for waited in returns(gaps):
        assert waited <= 1.0 - 0.2, "with what BGP and a busy machine may add"


def not_before_the_facts_have_stood(gaps: list[float]) -> None:
    for waited in returns(gaps):
        assert waited >= RECOVERY_S - gaps[-1] / 4 - 1e-9, "the last failing look began it"


@pytest.mark.parametrize("rule", [at_most_a_second, not_before_the_facts_have_stood])
def test_rule(rule: Callable[[list[float]], None]) -> None:
    given(GAPS)(rule)()


def test_the_document_and_the_fleet_file_agree_on_the_default() -> None:
    assert Agent.model_fields["recovery_ms"].default == RECOVERY_S * 1000 == 750


def a_return_waits_for_a_tick(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VerdictCore, "deadline", property(lambda self: self._deadline))


def no_recovery_time(patch: pytest.MonkeyPatch) -> None:
    original: Any = VerdictCore._causes_against

    def causes(self: Any, now: float) -> Any:
        self._recovery_s = 0.0
        return original(self, now)

    patch.setattr(VerdictCore, "_causes_against", causes)


@pytest.mark.parametrize(
    ("mutate", "broken"),
    [(a_return_waits_for_a_tick, at_most_a_second), (no_recovery_time, not_before_the_facts_have_stood)],
)
def test_each_broken_rule_is_noticed(
    mutate: Callable[[pytest.MonkeyPatch], None], broken: Callable[[list[float]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    only_try = settings(max_examples=1000, phases=[Phase.generate], database=None, derandomize=True, deadline=None)
    with pytest.raises(AssertionError):
        only_try(given(GAPS)(broken))()
