"""A flood of evidence, of time-outs and of late ticks, in a virtual gateway: verdicts, hold and flap control, lease.

Whatever `load` and `shared` say, however often, and however late the agent gets its turn (below a lease), no route goes. A
fact among them withdraws in the same call. Every verdict has a reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from anycast.events import PrefixWithdrawn
from anycast.lease_wire import Ack, Hello, Renew, Session
from anycast.model import Evidence, EvidenceClass, Route, SessionState, Status
from anycast.policy import verdict as verdict_module
from anycast.policy.flap import FlapControl
from anycast.policy.route import RoutePolicy
from anycast.policy.verdict import VerdictCore, VerdictReached
from anycast.reasons import Reason
from anycast.runtime import TimerExpired
from site_agent.announce import holder
from site_agent.announce.holder import ExabgpStarted, Happened, KillHolder, RouteLease, TellBridge

LEASE = 1.0
LATEST = 0.8 * LEASE
"""How late a tick may come: with the sixth of a lease before it that is below a lease."""
ROUTE = Route(neighbor="198.51.100.1", prefix="203.0.113.0/28", next_hop="198.51.100.2")
FACTS = {"charon_process": Reason.CHARON_EXITED, "vip_present": Reason.VIP_MISSING}
OBJECTOR = "sa_state"
NOISE = {
    **dict.fromkeys(("conntrack", "xfrm_stat", "half_open", "vici", "ike_probe", "cpu_pressure"), EvidenceClass.LOAD),
    **dict.fromkeys(("dns", "canary", "upstreams"), EvidenceClass.SHARED),
}
CLASSES = {**dict.fromkeys((*FACTS, OBJECTOR), EvidenceClass.FACT), **NOISE}


@dataclasses.dataclass(frozen=True)
class Moment:
    """What one turn of the agent's loop takes in, and how long it had to wait for that turn."""

    wait_s: float
    noise: tuple[tuple[str, Status, Reason], ...]
    blind: tuple[str, ...]
    """Facts that could not be seen: a time-out."""


NOISES = st.tuples(st.sampled_from(sorted(NOISE)), st.sampled_from(list(Status)), st.sampled_from(list(Reason)))
WAITS = st.floats(0.0, LEASE)
MOMENTS = st.lists(
    st.builds(
        Moment,
        wait_s=WAITS,
        noise=st.lists(NOISES, max_size=8).map(tuple),
        blind=st.lists(st.sampled_from([*FACTS, OBJECTOR]), max_size=3).map(tuple),
    ),
    min_size=1,
    max_size=40,
)


class Gateway:
    """The agent's cores, one behind the other, and a bridge that only keeps the lease."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.expires = 0.0
        self.events: list[object] = []
        self.verdicts: list[VerdictReached] = []
        self.kills = 0
        self.core = VerdictCore(CLASSES, objectors=frozenset({OBJECTOR}), lease_s=LEASE, recovery_s=0.75, now=self.now)
        self.policy = RoutePolicy(FlapControl(gateway="fra-gw1", threshold=3000.0))
        self.lease = RouteLease(instance="a", routes=[ROUTE], lease_s=LEASE, grace_s=15.0, now=self.now)
        self.announced = False
        self._give(ExabgpStarted(pid=7, adopted=False))
        self._give(
            Hello(
                pid=8, exabgp_pid=7, exabgp_version="5.0.0", announced=(), sessions=self._sessions, grace_ns=0,
                lease_ns=round(LEASE * 1e9),
            )
        )  # fmt: skip
        for name in (*FACTS, OBJECTOR):
            self.see(name, Status.PASSING, Reason.HEALTHY)
        assert self.announced

    @property
    def _sessions(self) -> tuple[Session, ...]:
        return (Session(neighbor=ROUTE.neighbor, state=SessionState.UP),)

    def see(self, name: str, status: Status, reason: Reason) -> None:
        seen = Evidence(check=name, evidence_class=CLASSES[name], status=status, reason=reason, at=self.now)
        self._verdict(self.core.handle(seen, self.now))

    def wait(self, seconds: float) -> None:
        """The loop's next turn is that late; an overdue timer comes first."""
        self.now += seconds
        if self.announced and self.now >= self.expires:
            self.announced = False  # the bridge needs nobody for this
        if self.now >= self.core.deadline:
            self._verdict(self.core.handle(TimerExpired(), self.now))

    def _verdict(self, actions: list[object]) -> None:
        for action in actions:
            if isinstance(action, VerdictReached):
                self.verdicts.append(action)
                for decided in self.policy.decide(action, None, self.now):
                    if isinstance(decided, VerdictReached):
                        self._give(decided)

    def _give(self, event: object) -> None:
        for action in self.lease.handle(event, self.now):
            if isinstance(action, TellBridge) and isinstance(action.message, Renew):
                self.announced, self.expires = bool(action.message.routes), action.message.expires_ns / 1e9
                self._give(
                    Ack(
                        seq=action.message.seq, announced=action.message.routes, sessions=self._sessions,
                        exabgp_answered_ns=round(self.now * 1e9),
                    )
                )  # fmt: skip
            elif isinstance(action, TellBridge):
                self._give(
                    Ack(
                        seq=action.message.seq, announced=(ROUTE,) if self.announced else (), sessions=self._sessions,
                        exabgp_answered_ns=round(self.now * 1e9),
                    )
                )  # fmt: skip
            elif isinstance(action, KillHolder):
                self.kills += 1
            elif isinstance(action, Happened):
                self.events.append(action.event)


def flood(gateway: Gateway, moments: list[Moment]) -> None:
    for moment in moments:
        gateway.wait(min(moment.wait_s, gateway.core.deadline + LATEST - gateway.now))
        for name, status, reason in moment.noise:
            gateway.see(name, status, reason)
        for name in moment.blind:
            gateway.see(name, Status.UNKNOWN, Reason.CHECK_TIMED_OUT)


def nothing_goes(moments: list[Moment]) -> None:
    gateway = Gateway()
    flood(gateway, moments)
    assert gateway.announced and not gateway.kills
    assert not any(isinstance(event, PrefixWithdrawn) for event in gateway.events)
    healthy = [v for v in gateway.verdicts if v.serving]
    assert all([cause.reason for cause in v.causes] == [Reason.HEALTHY] for v in healthy)
    assert all(v.causes for v in gateway.verdicts), "every verdict has a reason"


FAULTS = st.tuples(MOMENTS, st.sampled_from(sorted(FACTS)), MOMENTS)


def a_fact_goes_at_once(case: tuple[list[Moment], str, list[Moment]]) -> None:
    before, fact, after = case
    gateway = Gateway()
    flood(gateway, before)
    gateway.see(fact, Status.FAILING, FACTS[fact])
    assert not gateway.announced, "in the same call, whatever else is going on"
    assert [(cause.reason, cause.check) for cause in gateway.verdicts[-1].causes] == [(FACTS[fact], fact)]
    withdrawn = [event for event in gateway.events if isinstance(event, PrefixWithdrawn)]
    assert [event.reason for event in withdrawn] == [FACTS[fact]]
    flood(gateway, after)
    assert not gateway.announced, "no noise brings it back"
    assert all(v.causes for v in gateway.verdicts)


@settings(max_examples=100, deadline=None)
@given(MOMENTS)
def test_a_flood_of_load_and_shared_evidence_withdraws_nothing(moments: list[Moment]) -> None:
    nothing_goes(moments)


@settings(max_examples=100, deadline=None)
@given(FAULTS)
def test_a_fact_in_the_middle_of_a_flood_withdraws_at_once(case: tuple[list[Moment], str, list[Moment]]) -> None:
    a_fact_goes_at_once(case)


# Broken on purpose: each rule has to be noticed.


def load_is_believed(patch: pytest.MonkeyPatch) -> None:
    for name in NOISE:
        patch.setitem(CLASSES, name, EvidenceClass.FACT)


def renewals_are_rare(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(verdict_module, "TICKS_PER_LEASE", 1)


def unknown_counts_as_failing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Gateway, "see", _blind_is_failing(Gateway.see))


def _blind_is_failing(see: Callable[..., None]) -> Callable[..., None]:
    def broken(self: Gateway, name: str, status: Status, reason: Reason) -> None:
        see(self, name, Status.FAILING if status is Status.UNKNOWN else status, reason)

    return broken


def facts_wait_for_the_tick(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(verdict_module, "_why", lambda verdict: True)


def stale_verdicts_are_used(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(holder.RouteLease, "_fresh", lambda *_: False)


@pytest.mark.parametrize(
    ("mutate", "broken", "cases"),
    [
        (load_is_believed, nothing_goes, MOMENTS),
        (renewals_are_rare, nothing_goes, MOMENTS),
        (unknown_counts_as_failing, nothing_goes, MOMENTS),
        (stale_verdicts_are_used, nothing_goes, MOMENTS),
        (facts_wait_for_the_tick, a_fact_goes_at_once, FAULTS),
    ],
)
def test_each_broken_rule_is_noticed(mutate, broken, cases, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    only_try = settings(max_examples=300, phases=[Phase.generate], database=None, derandomize=True, deadline=None)
    with pytest.raises(AssertionError):
        only_try(given(cases)(broken))()
