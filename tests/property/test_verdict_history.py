"""Whatever is seen, in whatever order, however late: a verdict to serve rests on fresh passing facts and on nothing else.

The oracle is written the other way round: it keeps the whole history and looks back through it at each verdict.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from anycast.events import ClockGapSeen
from anycast.model import Cause, Evidence, EvidenceClass, Status
from anycast.policy.verdict import TICKS_PER_LEASE, VerdictCore, VerdictReached
from anycast.reasons import Reason
from anycast.runtime import TimerExpired

CHECKS = {
    "charon": EvidenceClass.FACT,
    "vip": EvidenceClass.FACT,
    "sas": EvidenceClass.FACT,
    "vici": EvidenceClass.LOAD,
    "dns": EvidenceClass.SHARED,
}
OBJECTORS = frozenset({"sas"})
FACTS = [name for name, evidence_class in CHECKS.items() if evidence_class is EvidenceClass.FACT]
LEASE_S = 1.0


@dataclasses.dataclass(frozen=True)
class Step:
    """Time passes, with or without the core being run, and then a look that began `old_s` ago is delivered."""

    wait_s: float
    ticking: bool
    check: str
    status: Status
    old_s: float


STEPS = st.lists(
    st.builds(
        Step,
        wait_s=st.sampled_from([0.0, 0.01, 0.2, 0.34, 0.2, 0.99, 1.01, 3.0]),
        ticking=st.sampled_from([True, True, False]),
        check=st.sampled_from(["charon", "charon", "vip", "vip", "sas", "vici", "dns"]),
        status=st.sampled_from([Status.PASSING, Status.PASSING, Status.PASSING, Status.FAILING, Status.UNKNOWN]),
        old_s=st.sampled_from([0.0, 0.0, 0.05, 0.3, 2.0]),
    ),
    max_size=60,
)


class History:
    """Runs a core and remembers everything."""

    def __init__(self, recovery_s: float) -> None:
        self.now = 1000.0
        self.recovery_s = recovery_s
        self.core = VerdictCore(CHECKS, objectors=OBJECTORS, lease_s=LEASE_S, recovery_s=recovery_s, now=self.now)
        self.delivered: list[Evidence] = []
        self.last_run = self.now
        self.trusted_since = self.now
        self.gaps = 0
        self.said_gaps = 0

    def run(self, event: Evidence | TimerExpired) -> list[VerdictReached]:
        tick_due = self.now >= self.core.deadline
        if self.now - self.last_run > LEASE_S:
            self.trusted_since = self.now
            self.gaps += 1
        if tick_due:
            self.last_run = self.now
        if isinstance(event, Evidence):
            self.delivered.append(event)
        actions = self.core.handle(event, self.now)
        self.said_gaps += sum(isinstance(action, ClockGapSeen) for action in actions)
        return [action for action in actions if isinstance(action, VerdictReached)]

    def tick_until(self, end: float) -> list[VerdictReached]:
        reached = []
        while self.core.deadline <= end:
            self.now = max(self.now, self.core.deadline)
            reached += self.run(TimerExpired())
        self.now = end
        return reached

    def may_serve(self) -> bool:
        """For each fact: among the looks since the last gap, the newest decisive one passed; an objector only looked."""
        for fact in FACTS:
            newest: Evidence | None = None
            looked = False
            clock = float("-inf")
            for look in self.delivered:
                if look.check != fact or look.at < self.trusted_since or look.at < clock:
                    continue
                clock, looked = look.at, True
                if look.status is not Status.UNKNOWN:
                    newest = look
            if newest is None and looked and fact in OBJECTORS:
                continue
            if newest is None or newest.status is not Status.PASSING:
                return False
        return True


def play(history: History, steps: list[Step]) -> list[tuple[VerdictReached, bool]]:
    """Every verdict reached, with whether the history allows serving at that moment."""
    seen = [(v, history.may_serve()) for v in history.tick_until(history.now)]
    for step in steps:
        end = history.now + step.wait_s
        if step.ticking:
            for verdict in history.tick_until(end):
                seen.append((verdict, history.may_serve()))
        history.now = end
        evidence = Evidence(
            check=step.check,
            evidence_class=CHECKS[step.check],
            status=step.status,
            reason=Reason.HEALTHY if step.status is Status.PASSING else Reason.CHECK_REFUSED,
            at=history.now - step.old_s,
        )
        seen += [(verdict, history.may_serve()) for verdict in history.run(evidence)]
    return seen


def serves_exactly_while_the_facts_say_so(steps: list[Step]) -> None:
    """The property itself, which the mutants below must break."""
    history = History(recovery_s=0.0)
    for verdict, allowed in play(history, steps):
        assert verdict.serving == allowed, "exactly the facts decide: neither load, nor shared, nor UNKNOWN, nor old looks"
    assert history.said_gaps == history.gaps, "each gap of more than a lease is said once"


def speaks_at_every_tick(steps: list[Step]) -> None:
    """The second property: who holds a lease renews from a fresh verdict."""
    history = History(recovery_s=0.0)
    last = history.now
    for step in [dataclasses.replace(step, ticking=True) for step in steps]:
        for verdict, _ in play(history, [step]):
            assert verdict.at - last <= LEASE_S / TICKS_PER_LEASE + 1e-9, "a driven core is never silent for longer"
            last = verdict.at


@given(STEPS)
def test_no_verdict_to_serve_without_fresh_passing_facts(steps: list[Step]) -> None:
    serves_exactly_while_the_facts_say_so(steps)


@given(STEPS)
def test_a_driven_core_is_never_silent_for_longer_than_a_tick(steps: list[Step]) -> None:
    speaks_at_every_tick(steps)


@given(STEPS, st.sampled_from([0.5, 2.0]))
def test_recovery_only_ever_delays_serving(steps: list[Step], recovery_s: float) -> None:
    history = History(recovery_s)
    failed_at = float("-inf")
    for verdict, allowed in play(history, steps):
        if verdict.serving:
            assert allowed
            assert verdict.at >= failed_at + recovery_s - 1e-9, "the facts have stood for the recovery time"
        elif any(cause.reason is Reason.CHECK_REFUSED for cause in verdict.causes):
            failed_at = verdict.at


# One line of the core broken at a time: each rule has to be noticed.


def a_gap_voids_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VerdictCore, "_void_all", lambda self, now: None)


def looks_from_before_the_gap_count(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VerdictCore, "_void_all", lambda self, now: self._decisive.clear())


def unknown_counts_as_failing(patch: pytest.MonkeyPatch) -> None:
    original: Any = VerdictCore._take

    def take(self: Any, seen: Evidence) -> Any:
        status = Status.FAILING if seen.status is Status.UNKNOWN else seen.status
        return original(self, dataclasses.replace(seen, status=status))

    patch.setattr(VerdictCore, "_take", take)


def an_older_look_replaces_a_newer_one(patch: pytest.MonkeyPatch) -> None:
    original: Any = VerdictCore._take

    def take(self: Any, seen: Evidence) -> Any:
        self._looks.pop(seen.check, None)
        return original(self, seen)

    patch.setattr(VerdictCore, "_take", take)


def load_withdraws(patch: pytest.MonkeyPatch) -> None:
    original: Any = VerdictCore._causes_against

    def causes(self: Any, now: float) -> Any:
        failing = [c for c, e in self._decisive.items() if e.status is Status.FAILING]
        return original(self, now) or tuple(Cause(reason=Reason.CHECK_REFUSED, check=check) for check in failing)

    patch.setattr(VerdictCore, "_causes_against", causes)


def one_passing_fact_is_enough(patch: pytest.MonkeyPatch) -> None:
    original: Any = VerdictCore._causes_against

    def causes(self: Any, now: float) -> Any:
        against = original(self, now)
        return () if len(against) < len(FACTS) else against

    patch.setattr(VerdictCore, "_causes_against", causes)


def an_abstention_outlives_a_gap(patch: pytest.MonkeyPatch) -> None:
    original: Any = VerdictCore._void_all

    def void(self: Any, now: float) -> None:
        kept = set(self._abstained)
        original(self, now)
        self._abstained |= kept

    patch.setattr(VerdictCore, "_void_all", void)


def every_fact_may_abstain(patch: pytest.MonkeyPatch) -> None:
    original: Any = VerdictCore.__init__
    patch.setattr(
        VerdictCore, "__init__", lambda self, *a, **k: (original(self, *a, **k), setattr(self, "_objectors", FACTS))[0]
    )


def an_unchanged_verdict_is_not_repeated(patch: pytest.MonkeyPatch) -> None:
    original: Any = VerdictCore._conclude
    patch.setattr(VerdictCore, "_conclude", lambda self, now, tick: original(self, now, False))


@pytest.mark.parametrize(
    ("mutate", "broken"),
    [
        (a_gap_voids_nothing, serves_exactly_while_the_facts_say_so),
        (looks_from_before_the_gap_count, serves_exactly_while_the_facts_say_so),
        (unknown_counts_as_failing, serves_exactly_while_the_facts_say_so),
        (an_older_look_replaces_a_newer_one, serves_exactly_while_the_facts_say_so),
        (load_withdraws, serves_exactly_while_the_facts_say_so),
        (one_passing_fact_is_enough, serves_exactly_while_the_facts_say_so),
        (an_abstention_outlives_a_gap, serves_exactly_while_the_facts_say_so),
        (every_fact_may_abstain, serves_exactly_while_the_facts_say_so),
        (an_unchanged_verdict_is_not_repeated, speaks_at_every_tick),
    ],
)
def test_each_broken_rule_is_noticed(
    mutate: Callable[[pytest.MonkeyPatch], None], broken: Callable[[list[Step]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    only_try = settings(max_examples=2000, phases=[Phase.generate], database=None, derandomize=True)
    with pytest.raises(AssertionError):
        only_try(given(STEPS)(broken))()
