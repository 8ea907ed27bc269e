"""Whatever `load` and `shared` checks say, in any order and at any time: verdict, route intent and announcements stay.

The same facts run twice through the real chain (verdict core, hold and flap control, route lease): once alone, once among
findings of every check that is no fact, with the classes that the checks' own code gives them. What comes out must be
equal, message for message and second for second; then nothing of it can have depended on them.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from anycast.document import Bfd, Canary, SharedChecks
from anycast.document import ExecCheck as Program
from anycast.events import AlarmCleared, AlarmRaised, EvidenceChanged
from anycast.lease_wire import Ack, Hello, Renew, Session
from anycast.model import Cause, Evidence, EvidenceClass, SessionState, Status
from anycast.policy.flap import FlapControl
from anycast.policy.route import RoutePolicy
from anycast.policy.verdict import VerdictCore, VerdictReached
from anycast.reasons import Reason
from anycast.runtime import TimerExpired
from site_agent.agent import Agent
from site_agent.announce.holder import Input, RouteLease, TellBridge
from site_agent.announce.routes import routes_of
from site_agent.checks.bfd import BfdCheck
from site_agent.checks.canary import CanaryCheck
from site_agent.checks.charon import CharonCheck
from site_agent.checks.charon_answers import CharonAnswersCheck
from site_agent.checks.child_sas import ChildSaCheck
from site_agent.checks.dns import DnsCheck
from site_agent.checks.exec import ExecCheck
from site_agent.checks.ike_probe import IkeProbeCheck
from site_agent.checks.links import LinksCheck
from site_agent.checks.machine import load_checks
from site_agent.checks.packet_filter import PacketFilterCheck
from site_agent.checks.reachability import ReachabilityCheck
from site_agent.checks.too_big import TooBigCheck
from site_agent.checks.upstreams import UpstreamsCheck
from site_agent.checks.vici import ViciCheck
from site_agent.checks.vip import VipCheck
from site_agent.paths import Paths
from tests.support.documents import document

LEASE_S = 1.0
OBJECTORS = frozenset({*ChildSaCheck.reports, *CharonAnswersCheck.reports})
CHECKS = [
    *(CharonCheck, VipCheck, LinksCheck, ChildSaCheck, CharonAnswersCheck),
    *(ViciCheck, IkeProbeCheck, PacketFilterCheck, TooBigCheck, *map(type, load_checks())),
    *(DnsCheck, ReachabilityCheck, UpstreamsCheck, BfdCheck, CanaryCheck),
]


def classes() -> dict[str, EvidenceClass]:
    """Of every check, read anew: a mutant changes what the code says."""
    checks = [*CHECKS, ExecCheck(Program(name="disk", command=("/bin/true",)))]
    return {name: c for check in checks for name, c in check.reports.items()}


FACTS = [name for name, evidence_class in classes().items() if evidence_class is EvidenceClass.FACT]
OTHERS = [name for name in classes() if name not in FACTS]
ROUTES = routes_of(document())


def test_every_check_of_an_agent_is_among_them(tmp_path: Path) -> None:
    canary = Canary(identity="c.example.org", certificate="/c", private_key="/k", gateway_ca="/r", targets=("192.0.2.10",))
    asked = SharedChecks(dns_servers=("192.0.2.10",), reachability=("192.0.2.10",), canary=canary)
    full = document(
        checks=asked, bfd=Bfd(interval_ms=100, multiplier=3), exec_checks=(Program(name="disk", command=("/bin/true",)),)
    )
    folders = {"run_dir": tmp_path / "run", "state_dir": tmp_path / "state", "etc_dir": tmp_path / "etc"}

    async def composed() -> dict[str, EvidenceClass]:
        return Agent(full, Paths(**folders))._runner.classes

    assert asyncio.run(composed()) == classes()


@dataclasses.dataclass(frozen=True)
class Look:
    wait_s: float
    check: str
    status: Status
    reason: Reason
    old_s: float
    """How long before its delivery it began."""


def looks(checks: list[str]) -> st.SearchStrategy[Look]:
    return st.builds(
        Look,
        wait_s=st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.7, 2.0]),
        check=st.sampled_from(checks),
        status=st.sampled_from([Status.PASSING, Status.FAILING, Status.UNKNOWN]),
        reason=st.sampled_from(list(Reason)),
        old_s=st.sampled_from([0.0, 0.0, 0.05, 2.0]),
    )


HISTORIES = st.lists(st.one_of(looks(FACTS), looks(OTHERS), looks(OTHERS)), max_size=60)


class Chain:
    """From evidence to what the bridge is told. ExaBGP does what it is told, at once."""

    def __init__(self, kinds: Mapping[str, EvidenceClass]) -> None:
        self.now, self.said = 100.0, list[object]()
        self._kinds = kinds
        self._core = VerdictCore(kinds, objectors=OBJECTORS, lease_s=LEASE_S, recovery_s=0.5, now=self.now)
        self._policy = RoutePolicy(FlapControl(gateway="fra-gw1", threshold=3000))
        self._lease = RouteLease(instance="i", routes=ROUTES, lease_s=LEASE_S, grace_s=15.0, now=self.now)
        sessions = tuple(Session(neighbor=r.neighbor, state=SessionState.UP) for r in ROUTES)
        hello = Hello(pid=1, exabgp_pid=2, exabgp_version="5", announced=(), sessions=sessions, grace_ns=0)
        self._sessions = sessions
        self._take(hello)

    def pass_time(self, seconds: float) -> None:
        """With every tick at its time, as the event loop does."""
        end = self.now + seconds
        while self._core.deadline <= end:
            self.now = self._core.deadline
            self._conclude(self._core.handle(TimerExpired(), self.now))
        self.now = end

    def deliver(self, look: Look) -> None:
        evidence = Evidence(
            check=look.check,
            evidence_class=self._kinds[look.check],
            status=look.status,
            reason=look.reason,
            at=self.now - look.old_s,
        )
        self._conclude(self._core.handle(evidence, self.now))

    def _conclude(self, actions: list[object]) -> None:
        for action in actions:
            if isinstance(action, EvidenceChanged | AlarmRaised | AlarmCleared):
                continue  # these are what such a check is for
            self.said.append((self.now, action))
            if isinstance(action, VerdictReached):
                told, *news = self._policy.decide(action, None, self.now)
                self.said.extend((self.now, event) for event in news)
                assert isinstance(told, VerdictReached)
                self._take(told)

    def _take(self, event: Input) -> None:
        for action in self._lease.handle(event, self.now):
            self.said.append((self.now, action))
            if isinstance(action, TellBridge) and not isinstance(action.message, Hello):
                message = action.message
                announced = message.routes if isinstance(message, Renew) else self._lease.announced
                answered = round(self.now * 1e9)
                self._take(Ack(seq=message.seq, announced=announced, exabgp_answered_ns=answered, sessions=self._sessions))


def only_facts_move(history: list[Look]) -> None:
    """The property, which the mutants below must break."""
    kinds = classes()
    alone, among = Chain(kinds), Chain(kinds)
    for look in history:
        for chain in (alone, among):
            chain.pass_time(look.wait_s)
        among.deliver(look)
        if look.check in FACTS:
            alone.deliver(look)
    for chain in (alone, among):
        chain.pass_time(LEASE_S)
    assert alone.said == among.said
    spoken = [action.message for _, action in among.said if isinstance(action, TellBridge)]
    assert spoken, "the chain runs to its end"


@settings(max_examples=150, deadline=None)
@given(HISTORIES)
def test_only_facts_move_anything(history: list[Look]) -> None:
    only_facts_move(history)


def test_facts_do_move_in_this_world() -> None:
    """Or the property would hold of a chain that nothing moves."""
    chain = Chain(classes())
    for check in FACTS:
        chain.deliver(Look(0, check, Status.PASSING, Reason.HEALTHY, 0))
    chain.pass_time(LEASE_S)
    assert any(isinstance(a, TellBridge) and isinstance(a.message, Renew) and a.message.routes for _, a in chain.said)
    chain.deliver(Look(0, "vip_present", Status.FAILING, Reason.VIP_MISSING, 0))
    _, last = next((at, a) for at, a in reversed(chain.said) if isinstance(a, TellBridge))
    assert isinstance(last, TellBridge) and isinstance(last.message, Renew) and not last.message.routes


# Broken on purpose: each rule has to be noticed.


def dns_becomes_a_fact(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DnsCheck, "reports", {"dns": EvidenceClass.FACT})


def a_program_becomes_a_fact(patch: pytest.MonkeyPatch) -> None:
    real = ExecCheck.__init__

    def init(self: ExecCheck, definition: Program) -> None:
        real(self, definition)
        self.reports = {"exec_disk": EvidenceClass.FACT}

    patch.setattr(ExecCheck, "__init__", init)


def lost_upstreams_withdraw(patch: pytest.MonkeyPatch) -> None:
    real = VerdictCore._causes_against

    def causes(self: VerdictCore, now: float) -> tuple[Cause, ...]:
        lost = self.looks.get("upstreams")
        against = real(self, now)
        if lost is not None and lost.status is Status.FAILING:
            return (*against, Cause(reason=lost.reason, check="upstreams"))
        return against

    patch.setattr(VerdictCore, "_causes_against", causes)


def an_alarm_repeats_the_verdict(patch: pytest.MonkeyPatch) -> None:
    """It renews the lease between two ticks: harmless today, and no longer what a lease rests on."""
    real = VerdictCore._alarm_changes

    def changes(self: VerdictCore, now: float) -> list[object]:
        made = real(self, now)
        return [*made, self.verdict] if made and self.verdict is not None else made

    patch.setattr(VerdictCore, "_alarm_changes", changes)


def shared_evidence_is_a_gap(patch: pytest.MonkeyPatch) -> None:
    real = VerdictCore.handle

    def handle(self: VerdictCore, event: Evidence | TimerExpired, now: float) -> list[object]:
        if isinstance(event, Evidence) and event.evidence_class is EvidenceClass.SHARED:
            self._void_all(now)
        return real(self, event, now)

    patch.setattr(VerdictCore, "handle", handle)


@pytest.mark.parametrize(
    "mutate",
    [
        dns_becomes_a_fact,
        a_program_becomes_a_fact,
        lost_upstreams_withdraw,
        an_alarm_repeats_the_verdict,
        shared_evidence_is_a_gap,
    ],
)
def test_each_broken_rule_is_noticed(mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    only_try = settings(max_examples=500, phases=[Phase.generate], database=None, derandomize=True, deadline=None)
    with pytest.raises(AssertionError):
        only_try(given(HISTORIES)(only_facts_move))()
