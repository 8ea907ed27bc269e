"""The agent's end of the lease: one input in, actions out. Sequences of faults are in tests/property/test_route_lease.py."""

from __future__ import annotations

import dataclasses

import pytest

from anycast.events import Event, HolderKilled, PrefixAnnounced, PrefixWithdrawn, SessionChanged
from anycast.lease_wire import Ack, Grace, Hello, Query, Renew, Report, Session
from anycast.model import Cause, Route, SessionState
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason
from anycast.runtime import TimerExpired
from site_agent.announce.holder import (
    START_LIMIT_S,
    Action,
    BridgeGone,
    ExabgpExited,
    ExabgpStarted,
    Happened,
    KillHolder,
    RouteLease,
    RoutesChanged,
    StopReady,
    StopRequested,
    TellBridge,
)

LEASE_S, GRACE_S = 1.0, 15.0
FOUR = Route(neighbor="198.51.100.1", prefix="203.0.113.0/28", next_hop="198.51.100.2")
SIX = Route(neighbor="2001:db8:1::1", prefix="2001:db8:a::/56", next_hop="2001:db8:1::2")
UP = (
    Session(neighbor=FOUR.neighbor, state=SessionState.UP),
    Session(neighbor=SIX.neighbor, state=SessionState.UP),
)


def core(now: float = 100.0) -> RouteLease:
    return RouteLease(instance="run", routes=(SIX, FOUR), lease_s=LEASE_S, grace_s=GRACE_S, now=now)


def verdict(at: float, *reasons: Reason) -> VerdictReached:
    causes = tuple(Cause(reason=reason) for reason in reasons)
    return VerdictReached(serving=not reasons, causes=causes or (Cause(reason=Reason.HEALTHY),), at=at)


def hello(*announced: Route, grace_ns: int = 0) -> Hello:
    return Hello(pid=7, exabgp_pid=6, exabgp_version="5.0.15", announced=announced, sessions=UP, grace_ns=grace_ns)


def ack(seq: int, now: float, *announced: Route) -> Ack:
    return Ack(seq=seq, announced=announced, exabgp_answered_ns=round(now * 1e9), sessions=UP)


def told(actions: list[Action]) -> list[object]:
    return [action.message for action in actions if isinstance(action, TellBridge)]


def happened(actions: list[Action]) -> list[Event]:
    return [action.event for action in actions if isinstance(action, Happened)]


@pytest.fixture
def on() -> RouteLease:
    """Connected and announced at 100.0, nothing unacknowledged."""
    lease = core()
    lease.handle(ExabgpStarted(pid=6, adopted=False), 100.0)
    lease.handle(hello(), 100.0)
    lease.handle(verdict(100.0), 100.0)
    lease.handle(ack(1, 100.0, FOUR, SIX), 100.0)
    assert lease.announced == (FOUR, SIX) and lease.deadline is None
    return lease


def test_each_serving_verdict_is_one_renewal_from_the_verdicts_time(on: RouteLease) -> None:
    (renew,) = told(on.handle(verdict(100.3), 100.35))
    assert isinstance(renew, Renew)
    assert renew.expires_ns == 101_300_000_000 and renew.routes == renew.candidates == (FOUR, SIX)


def test_a_fact_withdraws_at_once(on: RouteLease) -> None:
    (renew,) = told(on.handle(verdict(100.1, Reason.CHARON_EXITED), 100.1))
    assert isinstance(renew, Renew) and renew.routes == () and renew.reason is Reason.CHARON_EXITED
    events = happened(on.handle(ack(2, 100.1), 100.1))
    assert [type(e) for e in events] == [PrefixWithdrawn, PrefixWithdrawn]
    assert all(isinstance(e, PrefixWithdrawn) and e.reason is Reason.CHARON_EXITED for e in events)


@pytest.mark.parametrize("reasons", [(Reason.CLOCK_GAP,), (Reason.NO_EVIDENCE_YET, Reason.VIP_MISSING)])
def test_a_gap_or_a_fact_beside_missing_evidence_withdraws(on: RouteLease, reasons: tuple[Reason, ...]) -> None:
    (renew,) = told(on.handle(verdict(100.1, *reasons), 100.1))
    assert isinstance(renew, Renew) and renew.routes == () and renew.reason is reasons[-1]


def test_without_evidence_it_only_asks_so_that_a_grace_goes_on(on: RouteLease) -> None:
    assert told(on.handle(verdict(100.1, Reason.NO_EVIDENCE_YET), 100.1)) == [Query(seq=2)]


def test_a_stale_verdict_renews_nothing(on: RouteLease) -> None:
    assert told(on.handle(verdict(100.0), 100.6)) == [Query(seq=2)]


def test_a_bridge_that_does_not_acknowledge_within_a_lease_is_killed(on: RouteLease) -> None:
    on.handle(verdict(100.3), 100.3)
    on.handle(verdict(100.6), 100.6)
    assert on.deadline == pytest.approx(101.3), "from the oldest message"
    assert on.handle(TimerExpired(), 101.29) == []
    actions = on.handle(TimerExpired(), 101.3)
    assert actions == [
        KillHolder(Reason.BRIDGE_SILENT),
        Happened(HolderKilled(name="exabgp", pid=6, reason=Reason.BRIDGE_SILENT)),
    ]
    assert told(on.handle(verdict(101.4), 101.4)) == [], "nothing more for a holder that is being killed"
    events = happened(on.handle(ExabgpExited(pid=6), 101.5))
    assert PrefixWithdrawn(neighbor=FOUR.neighbor, prefix=FOUR.prefix, reason=Reason.BRIDGE_SILENT) in events
    assert SessionChanged(neighbor=FOUR.neighbor, state=SessionState.DOWN, detail="") in events
    assert on.announced == ()


def test_an_exabgp_that_does_not_answer_its_bridge_is_killed(on: RouteLease) -> None:
    for tick in range(1, 4):
        at = 100.0 + tick / 3
        on.handle(verdict(at), at)
        actions = on.handle(Ack(seq=1 + tick, announced=(FOUR, SIX), exabgp_answered_ns=99_950_000_000, sessions=UP), at)
    assert KillHolder(Reason.EXABGP_SILENT) in actions


def test_what_is_announced_against_the_renewal_is_killed(on: RouteLease) -> None:
    on.handle(verdict(100.1, Reason.CHARON_EXITED), 100.1)
    assert KillHolder(Reason.EXABGP_REFUSED) in on.handle(ack(2, 100.1, FOUR), 100.1)


def test_a_new_exabgp_has_time_to_start_an_adopted_one_has_a_lease() -> None:
    started, adopted = core(), core()
    started.handle(ExabgpStarted(pid=6, adopted=False), 100.0)
    adopted.handle(ExabgpStarted(pid=6, adopted=True), 100.0)
    assert started.deadline == 100.0 + START_LIMIT_S
    assert adopted.deadline == 100.0 + LEASE_S
    assert KillHolder(Reason.BRIDGE_GONE) in adopted.handle(TimerExpired(), 101.0)


def test_a_bridge_that_leaves_has_a_lease_to_come_back(on: RouteLease) -> None:
    on.handle(BridgeGone(), 100.2)
    assert on.deadline == pytest.approx(101.2)
    on.handle(hello(FOUR, SIX), 100.4)
    assert on.deadline == pytest.approx(101.4), "the renewal that answered the hello"


def test_our_own_gap_kills_nobody(on: RouteLease) -> None:
    on.handle(verdict(100.3), 100.3)
    assert on.handle(TimerExpired(), 130.0) == [], "the acknowledgement waits in our socket"
    assert on.deadline == pytest.approx(131.0)


def test_a_bridge_of_another_lease_is_started_anew() -> None:
    lease = core()
    lease.handle(ExabgpStarted(pid=6, adopted=True), 100.0)
    other = dataclasses.replace(hello(FOUR, SIX, grace_ns=9_000_000_000), lease_ns=400_000_000)
    assert KillHolder(Reason.LEASE_CHANGED) in lease.handle(other, 100.0), "each renewal would come after a lapse"
    same = dataclasses.replace(other, lease_ns=1_000_000_000)
    lease = core()
    lease.handle(ExabgpStarted(pid=6, adopted=True), 100.0)
    assert not [a for a in lease.handle(same, 100.0) if isinstance(a, KillHolder)]


def test_a_session_that_came_up_is_answered_with_a_fresh_verdict_only(on: RouteLease) -> None:
    def report(now: float) -> Report:
        return Report(cause=Reason.SESSION_UP, announced=(SIX,), exabgp_answered_ns=round(now * 1e9), sessions=UP)

    on.handle(verdict(100.3), 100.3)
    (renew,) = told(on.handle(report(100.4), 100.4))
    assert isinstance(renew, Renew) and renew.expires_ns == 101_300_000_000, "the old verdict's own expiry"
    (query,) = told(on.handle(report(101.0), 101.0))
    assert isinstance(query, Query)


def test_a_clean_stop_leaves_a_grace_and_then_says_nothing(on: RouteLease) -> None:
    on.handle(verdict(100.3), 100.3)
    (grace,) = told(on.handle(StopRequested(), 100.4))
    assert grace == Grace(seq=3, instance="run", expires_ns=115_400_000_000)
    assert told(on.handle(verdict(100.6), 100.6)) == [], "a renewal would end the grace"
    assert StopReady(GRACE_S) in on.handle(ack(3, 100.6, FOUR, SIX), 100.6)


def test_there_is_no_grace_for_what_does_not_serve(on: RouteLease) -> None:
    on.handle(verdict(100.3, Reason.CHARON_EXITED), 100.3)
    assert on.handle(StopRequested(), 100.4) == [], "the withdrawal is not acknowledged yet"
    assert on.handle(ack(3, 100.41), 100.41)[-1] == StopReady(0.0)


def test_a_stop_leaves_no_withdrawal_to_a_bridge_that_does_not_answer(on: RouteLease) -> None:
    on.handle(verdict(100.3, Reason.CHARON_EXITED), 100.3)
    on.handle(StopRequested(), 100.4)
    killed = on.handle(TimerExpired(), 101.3)
    assert KillHolder(Reason.BRIDGE_SILENT) in killed and StopReady(0.0) not in killed
    assert on.handle(BridgeGone(), 101.31) == []
    assert on.handle(ExabgpExited(pid=6), 101.31)[-1] == StopReady(0.0)


def test_a_successor_learns_what_is_announced_and_what_was_withdrawn_without_us() -> None:
    kept, lost = core(), core()
    for lease in (kept, lost):
        lease.handle(ExabgpStarted(pid=6, adopted=True), 100.0)
    events = happened(kept.handle(hello(FOUR, SIX, grace_ns=9_000_000_000), 100.0))
    assert PrefixAnnounced(neighbor=FOUR.neighbor, prefix=FOUR.prefix, reason=Reason.RESTART_GRACE) in events
    lost.handle(hello(), 100.0)
    report = Report(cause=Reason.AGENT_GONE, announced=(), exabgp_answered_ns=100_000_000_000, sessions=UP)
    events = happened(lost.handle(report, 100.0))
    assert PrefixWithdrawn(neighbor=FOUR.neighbor, prefix=FOUR.prefix, reason=Reason.AGENT_GONE) in events
    assert lost.announced == ()


WORSE = dataclasses.replace(FOUR, med=100, prepend=1)


def test_other_routes_replace_these_at_once_and_withdraw_nothing(on: RouteLease) -> None:
    on.handle(verdict(100.3), 100.3)
    on.handle(ack(2, 100.3, FOUR, SIX), 100.3)
    (renew,) = told(on.handle(RoutesChanged((SIX, WORSE)), 100.35))
    assert isinstance(renew, Renew) and renew.routes == renew.candidates == (WORSE, SIX)
    assert renew.expires_ns == 101_300_000_000, "no longer than the verdict is good for"
    assert happened(on.handle(ack(3, 100.36, WORSE, SIX), 100.36)) == [], "nothing was withdrawn"
    assert on.announced == (WORSE, SIX)
    assert on.handle(RoutesChanged((SIX, WORSE)), 100.4) == [], "the same again is no news"


def test_other_routes_wait_for_a_verdict_that_serves(on: RouteLease) -> None:
    on.handle(verdict(100.3, Reason.CHARON_EXITED), 100.3)
    (renew,) = told(on.handle(RoutesChanged((WORSE,)), 100.35))
    assert isinstance(renew, Renew) and renew.routes == ()
