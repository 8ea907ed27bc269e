"""The verdict core, sentence by sentence of its theory of operation."""

from __future__ import annotations

import pytest

from anycast.errors import BugError
from anycast.events import AlarmCleared, AlarmRaised, ClockGapSeen, EvidenceChanged, GatewayVerdictChanged
from anycast.model import Evidence, EvidenceClass, Status
from anycast.policy.verdict import ALARM_KEPT_S, TICKS_PER_LEASE, Action, VerdictCore, VerdictReached
from anycast.reasons import Reason
from anycast.runtime import TimerExpired

CHECKS = {"charon": EvidenceClass.FACT, "vip": EvidenceClass.FACT, "vici": EvidenceClass.LOAD, "dns": EvidenceClass.SHARED}
LEASE_S = 1.0
TICK_S = LEASE_S / 3


class Bench:
    """A core with a clock of its own."""

    def __init__(self, recovery_s: float = 0.0) -> None:
        self.now = 100.0
        self.core = VerdictCore(CHECKS, lease_s=LEASE_S, recovery_s=recovery_s, now=self.now)

    def see(self, check: str, status: Status, reason: Reason = Reason.HEALTHY, *, at: float | None = None) -> list[Action]:
        evidence = Evidence(
            check=check,
            evidence_class=CHECKS[check],
            status=status,
            reason=reason,
            at=self.now if at is None else at,
        )
        return self.core.handle(evidence, self.now)

    def pass_time(self, seconds: float) -> list[Action]:
        """Let the core's own timers fire until `seconds` have passed."""
        end, actions = self.now + seconds, []
        while self.core.deadline <= end:
            self.now = max(self.now, self.core.deadline)
            actions += self.core.handle(TimerExpired(), self.now)
        self.now = end
        return actions

    def healthy(self) -> list[Action]:
        return self.see("charon", Status.PASSING) + self.see("vip", Status.PASSING)


def verdicts(actions: list[Action]) -> list[VerdictReached]:
    return [action for action in actions if isinstance(action, VerdictReached)]


def reasons(actions: list[Action]) -> list[Reason]:
    return [cause.reason for cause in verdicts(actions)[-1].causes]


def test_serves_only_when_every_fact_check_has_passed() -> None:
    bench = Bench()
    assert reasons(bench.pass_time(0)) == [Reason.NO_EVIDENCE_YET] * 2, "nothing is known at the start"
    first = bench.see("charon", Status.PASSING)
    assert not verdicts(first)[-1].serving, "one passing fact is not every fact"
    second = bench.see("vip", Status.PASSING)
    assert verdicts(second)[-1].serving, "the last missing fact acts at once, not at the next tick"
    assert reasons(second) == [Reason.HEALTHY]


def test_repeats_its_verdict_at_every_tick() -> None:
    bench = Bench()
    bench.pass_time(0)
    bench.healthy()
    repeated = verdicts(bench.pass_time(LEASE_S * 1.01))
    assert [v.serving for v in repeated] == [True] * TICKS_PER_LEASE, "a sixth of a lease apart, even if unchanged"
    assert repeated[-1].at == pytest.approx(bench.now, abs=LEASE_S / TICKS_PER_LEASE), "each is as fresh as its tick"


def test_a_failing_fact_acts_at_once_and_alone() -> None:
    bench = Bench()
    bench.pass_time(0)
    bench.healthy()
    actions = bench.see("charon", Status.FAILING, Reason.CHARON_EXITED)
    assert [v.serving for v in verdicts(actions)] == [False], "in the same call"
    assert reasons(actions) == [Reason.CHARON_EXITED], "the reason that moved it, and no other"
    assert [type(a) for a in actions][:2] == [EvidenceChanged, VerdictReached]
    assert any(isinstance(a, GatewayVerdictChanged) and not a.serving for a in actions)


@pytest.mark.parametrize("check", ["vici", "dns"])
def test_load_and_shared_evidence_alarm_and_never_withdraw(check: str) -> None:
    bench = Bench()
    bench.pass_time(0)
    bench.healthy()
    actions = bench.see(check, Status.FAILING, Reason.VICI_REFUSED)
    assert [a.reason for a in actions if isinstance(a, AlarmRaised)] == [Reason.VICI_REFUSED]
    assert all(v.serving for v in verdicts(actions + bench.pass_time(10))), "it moves nothing by itself"
    actions = bench.see(check, Status.PASSING) + bench.pass_time(ALARM_KEPT_S - 2 * TICK_S)
    assert not [a for a in actions if isinstance(a, AlarmCleared)], "it may come again at once"
    cleared = bench.pass_time(2 * TICK_S)
    assert [a.reason for a in cleared if isinstance(a, AlarmCleared)] == [Reason.VICI_REFUSED]


def test_unknown_changes_no_vote() -> None:
    bench = Bench()
    bench.pass_time(0)
    bench.healthy()
    unknown = bench.see("charon", Status.UNKNOWN, Reason.CHECK_TIMED_OUT)
    assert [a.reason for a in unknown if isinstance(a, AlarmRaised)] == [Reason.CHECK_TIMED_OUT], "it is an alarm"
    assert all(v.serving for v in verdicts(bench.pass_time(5))), "could not see is not failing"
    bench.see("vip", Status.FAILING, Reason.VIP_MISSING)
    bench.see("vip", Status.UNKNOWN, Reason.CHECK_TIMED_OUT)
    assert not any(v.serving for v in verdicts(bench.pass_time(5))), "could not see is not passing either"


def test_a_gap_voids_everything() -> None:
    bench = Bench()
    bench.pass_time(0)
    bench.healthy()
    frozen_at = bench.now
    bench.now += 30
    thawed = bench.core.handle(TimerExpired(), bench.now)
    assert [a.gap_s for a in thawed if isinstance(a, ClockGapSeen)] == [pytest.approx(30, abs=LEASE_S)]
    assert reasons(thawed) == [Reason.CLOCK_GAP] * 2, "every fact check must look again"
    stale = bench.see("charon", Status.PASSING, at=frozen_at)
    assert not any(v.serving for v in verdicts(stale + bench.see("vip", Status.PASSING, at=frozen_at))), (
        "a look that began before the gap does not count, however late it arrives"
    )
    assert verdicts(bench.healthy())[-1].serving, "looks from after it do"


def test_a_gap_is_noticed_on_evidence_too() -> None:
    bench = Bench()
    bench.pass_time(0)
    bench.healthy()
    bench.now += 30
    actions = bench.see("charon", Status.PASSING)
    assert any(isinstance(a, ClockGapSeen) for a in actions)
    assert not verdicts(actions)[-1].serving, "the other fact has not looked since"


def test_ticks_that_are_late_by_less_than_a_lease_are_no_gap() -> None:
    bench = Bench()
    bench.pass_time(0)
    bench.healthy()
    bench.now += LEASE_S * 0.99
    actions = bench.core.handle(TimerExpired(), bench.now)
    assert not any(isinstance(a, ClockGapSeen) for a in actions)
    assert verdicts(actions)[-1].serving


def test_an_older_look_delivered_last_is_ignored() -> None:
    bench = Bench()
    bench.pass_time(0)
    bench.healthy()
    look_began = bench.now
    bench.now += 0.1
    bench.see("charon", Status.FAILING, Reason.CHARON_EXITED)
    late = bench.see("charon", Status.PASSING, at=look_began)
    assert not any(v.serving for v in verdicts(late)), "the kernel's event is newer than the look that was under way"
    assert not any(isinstance(a, EvidenceChanged) for a in late)


def test_serves_again_only_when_the_facts_have_stood_for_the_recovery_time() -> None:
    bench = Bench(recovery_s=10)
    bench.pass_time(0)
    assert verdicts(bench.healthy())[-1].serving, "a start waits for nothing"
    bench.see("charon", Status.FAILING, Reason.CHARON_EXITED)
    bench.pass_time(3)
    assert reasons(bench.see("charon", Status.PASSING)) == [Reason.RECOVERING]
    assert not any(v.serving for v in verdicts(bench.pass_time(9.5)))
    assert verdicts(bench.pass_time(1))[-1].serving


def test_a_second_failure_begins_the_recovery_anew() -> None:
    bench = Bench(recovery_s=10)
    bench.pass_time(0)
    bench.healthy()
    for _crash in range(3):
        bench.see("charon", Status.FAILING, Reason.CHARON_EXITED)
        bench.see("charon", Status.PASSING)
        assert not any(v.serving for v in verdicts(bench.pass_time(9)))


def test_events_are_silent_while_nothing_changes() -> None:
    bench = Bench()
    bench.pass_time(0)
    bench.healthy()
    quiet = bench.healthy() + bench.pass_time(5) + bench.healthy()
    assert all(isinstance(action, VerdictReached) for action in quiet)


def test_evidence_of_a_check_that_is_not_ours_is_a_bug() -> None:
    bench = Bench()
    alien = Evidence(
        check="vici", evidence_class=EvidenceClass.FACT, status=Status.FAILING, reason=Reason.VICI_SILENT, at=bench.now
    )
    with pytest.raises(BugError):
        bench.core.handle(alien, bench.now)
    with pytest.raises(BugError):
        VerdictCore({"vici": EvidenceClass.LOAD}, lease_s=1, recovery_s=0, now=0)


def test_an_objector_that_cannot_see_does_not_keep_the_site_dark() -> None:
    """charon's workers are busy with a stranger's handshakes after a thaw: VICI is silent, charon and VIP are fine."""
    checks = {"charon": EvidenceClass.FACT, "sas": EvidenceClass.FACT}
    core = VerdictCore(checks, objectors=frozenset({"sas"}), lease_s=LEASE_S, recovery_s=0, now=0.0)

    def see(check: str, status: Status, at: float) -> list[Action]:
        reason = Reason.SA_STATE_LOST if status is Status.FAILING else Reason.HEALTHY
        return core.handle(Evidence(check=check, evidence_class=EvidenceClass.FACT, status=status, reason=reason, at=at), at)

    assert not verdicts(see("charon", Status.PASSING, 0.1))[-1].serving, "an objector must at least have looked"
    assert verdicts(see("sas", Status.UNKNOWN, 0.2))[-1].serving, "no objection"
    assert not verdicts(see("sas", Status.FAILING, 0.3))[-1].serving, "an objection acts at once"
    see("sas", Status.UNKNOWN, 0.4)
    assert not core.verdict.serving, "and stands while the check cannot see"
    assert not verdicts(see("charon", Status.PASSING, 5.0))[-1].serving, "after a gap it must look again"
    assert verdicts(see("sas", Status.UNKNOWN, 5.1))[-1].serving


def test_an_objector_alone_is_not_enough() -> None:
    with pytest.raises(BugError):
        VerdictCore({"sas": EvidenceClass.FACT}, objectors=frozenset({"sas"}), lease_s=1, recovery_s=0, now=0)
