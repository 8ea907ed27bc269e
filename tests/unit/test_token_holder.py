"""The agent's half of a token: what it may be dark by, for how long, and what it says."""

from __future__ import annotations

from typing import Any

import pytest

from anycast.model import Cause, Evidence, EvidenceClass, Status
from anycast.policy import hold
from anycast.policy.floors import Budget, SiteShare
from anycast.policy.token_holder import TokenHolder, darkened
from anycast.policy.token_times import GAP_S, HEARTBEAT_S, TOKEN_LIFE_S
from anycast.policy.token_words import (
    Answered,
    CoordinatorConnected,
    CoordinatorGone,
    EndWanted,
    RouteStands,
    SendReport,
    SlotEnded,
    TokenBegan,
    TokenEnded,
)
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason
from anycast.timer import TimerExpired
from anycast.token_wire import Answer, Grant, Held, Recall, Report

BUDGET = Budget(min_sites=2, sites=tuple(SiteShare(name=name) for name in ("ams", "fra", "lon", "sin")))


class Agent:
    """A holder at fra, driven by its own deadline while time passes."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now, self.n = now, 0
        self.holder = TokenHolder(BUDGET, "fra", {"dns": 28.0}, now=now)
        self.reports: list[Report] = []
        self.done: list[Any] = []
        self.announcing = True

    def tell(self, event: Any) -> list[Any]:
        actions = self.holder.handle(event, self.now)
        self.reports += [action.report for action in actions if isinstance(action, SendReport)]
        self.done += [action for action in actions if not isinstance(action, SendReport)]
        return actions

    def look(self, status: Status, check: str = "dns", evidence_class: EvidenceClass = EvidenceClass.SHARED) -> None:
        reason = Reason.DNS_WRONG if status is Status.FAILING else Reason.HEALTHY
        self.tell(Evidence(check=check, evidence_class=evidence_class, status=status, reason=reason, at=self.now))

    def stand(
        self, *, announcing: bool = True, serving: bool = True, held: tuple[Held, ...] = (), may_ask: bool = True
    ) -> None:
        reason = Reason.HEALTHY if serving else Reason.CHARON_EXITED
        self.tell(RouteStands(serving=serving, announcing=announcing, reason=reason, held=held, may_ask=may_ask))

    def pass_time(self, span: float) -> None:
        end = self.now + span
        while self.holder.deadline <= end:
            self.now = self.holder.deadline
            self.tell(TimerExpired())
        self.now = end

    def answer(self, session: int = 1, *, to: int | None = None, n: int | None = None, **fields: Any) -> list[Any]:
        self.n = self.n + 1 if n is None else n
        answer = Answer(n=self.n, to=self.reports[-1].seq if to is None else to, **fields)
        return self.tell(Answered(session, answer))

    @property
    def dark(self) -> bool:
        return self.holder.dark(self.now) is not None


def grant(token: str = "L1-1", check: str = "dns", dark: tuple[str, ...] = ("fra",), life_ms: int = 30_000) -> Grant:
    return Grant(id=token, check=check, life_ms=life_ms, dark=dark)


def asking() -> Agent:
    """Its DNS fails, it is connected and heard, and its last report asks."""
    agent = Agent()
    agent.look(Status.FAILING)
    agent.stand()
    agent.tell(CoordinatorConnected(1))
    agent.answer()
    assert agent.reports[-1].asks and agent.reports[-1].announcing and agent.reports[-1].quotes == 1
    return agent


def darkened_agent() -> Agent:
    agent = asking()
    agent.answer(grant=grant())
    assert agent.dark
    agent.stand(announcing=False)
    return agent


def ended(agent: Agent) -> list[tuple[Reason, bool]]:
    return [(done.cause.reason, done.used) for done in agent.done if isinstance(done, TokenEnded)]


def test_it_asks_while_shared_evidence_fails_and_tells_all_it_has() -> None:
    agent = asking()
    (look,) = agent.reports[-1].looks
    assert (look.check, look.status, look.reason, look.span_ms) == ("dns", Status.FAILING, "dns_wrong", 28_000)
    agent.pass_time(HEARTBEAT_S)
    assert agent.reports[-1].looks[0].age_ms == 2000
    agent.look(Status.PASSING)
    agent.pass_time(HEARTBEAT_S)
    assert not agent.reports[-1].asks


@pytest.mark.parametrize("status", [Status.UNKNOWN, Status.PASSING])
def test_what_does_not_fail_asks_for_nothing(status: Status) -> None:
    agent = asking()
    agent.look(status)
    agent.pass_time(HEARTBEAT_S)
    assert not agent.reports[-1].asks


@pytest.mark.parametrize("check", ["upstreams", "bfd"])
def test_what_bgp_has_answered_itself_asks_for_nothing(check: str) -> None:
    agent = Agent()
    agent.look(Status.FAILING, check)
    agent.stand()
    agent.tell(CoordinatorConnected(1))
    assert not agent.reports[-1].asks and not agent.reports[-1].looks


@pytest.mark.parametrize("evidence_class", [EvidenceClass.FACT, EvidenceClass.LOAD])
def test_facts_and_load_are_passed_over(evidence_class: EvidenceClass) -> None:
    agent = Agent()
    agent.look(Status.FAILING, "charon_process", evidence_class)
    agent.stand()
    agent.tell(CoordinatorConnected(1))
    assert not agent.reports[-1].looks and not agent.reports[-1].asks


def test_who_does_not_serve_or_is_held_to_announce_asks_for_nothing() -> None:
    agent = asking()
    agent.stand(serving=False, announcing=False)
    agent.pass_time(HEARTBEAT_S)
    assert not agent.reports[-1].asks
    agent.stand(may_ask=False)
    agent.pass_time(HEARTBEAT_S)
    assert not agent.reports[-1].asks


def test_a_token_is_good_for_its_life_from_when_it_was_asked_for() -> None:
    agent = asking()
    asked_at = agent.now
    agent.now += 1.5
    actions = agent.answer(grant=grant())
    began = next(action for action in actions if isinstance(action, TokenBegan))
    assert began.cause == Cause(reason=Reason.TOKEN, check="dns", detail="dns_wrong")
    assert agent.reports[-1].held == (Held(id="L1-1", kind="token", by="dns"),) and not agent.reports[-1].announcing
    agent.pass_time(asked_at + TOKEN_LIFE_S - agent.now - 0.001)
    assert agent.dark
    agent.pass_time(0.001)
    assert not agent.dark and ended(agent) == [(Reason.TOKEN_EXPIRED, True)]
    assert agent.reports[-1].ended == ("L1-1",) and not agent.reports[-1].held


def test_it_announces_on_time_though_nobody_calls() -> None:
    agent = darkened_agent()
    agent.holder.handle(TimerExpired(), agent.now + GAP_S)
    assert agent.holder.dark(agent.now + GAP_S) and not agent.holder.dark(agent.now + 2 * GAP_S + 0.1)


def test_a_shorter_life_is_taken() -> None:
    agent = asking()
    agent.answer(grant=grant(life_ms=5000))
    agent.pass_time(5.0)
    assert not agent.dark


def test_renewals_go_on_from_each_report() -> None:
    agent = darkened_agent()
    for _ in range(40):
        agent.pass_time(HEARTBEAT_S)
        assert agent.reports[-1].asks
        agent.answer(grant=grant())
    assert agent.dark and not ended(agent)
    agent.pass_time(TOKEN_LIFE_S)
    assert ended(agent) == [(Reason.TOKEN_EXPIRED, True)]


def test_an_older_grant_extends_nothing() -> None:
    agent = darkened_agent()
    first = agent.reports[0].seq
    agent.pass_time(20.0)
    agent.answer(grant=grant(), to=first + 1)
    agent.pass_time(10.1)
    assert not agent.dark


def test_answers_out_of_order_are_passed_over() -> None:
    agent = asking()
    agent.answer(n=9, refused="grants_spaced", detail="5 s of 30 s")
    assert agent.holder.refused == Cause(reason=Reason.GRANTS_SPACED, detail="5 s of 30 s")
    agent.answer(n=8, grant=grant())
    assert not agent.dark


def test_a_grant_that_is_late_has_ended_before_it_began() -> None:
    agent = asking()
    seq = agent.reports[-1].seq
    agent.pass_time(TOKEN_LIFE_S)
    agent.answer(grant=grant(), to=seq)
    assert not agent.dark and ended(agent) == [(Reason.TOKEN_EXPIRED, False)]
    agent.pass_time(HEARTBEAT_S)
    assert agent.reports[-1].ended == ("L1-1",)


@pytest.mark.parametrize("told", [True, False])
def test_a_new_connection_makes_every_earlier_request_void(told: bool) -> None:
    agent = asking()
    seq = agent.reports[-1].seq
    if told:
        agent.tell(CoordinatorGone(1))
    agent.tell(CoordinatorConnected(2))
    agent.answer(session=1, n=7, to=seq, grant=grant())
    assert not agent.dark and not agent.holder.ended, "said on the old one: not heard"
    agent.answer(session=2, n=1, to=seq, grant=grant())
    assert not agent.dark and agent.holder.ended == ("L1-1",), "by another leader, to a report that it never got"


def test_a_lost_connection_makes_them_void_and_leaves_the_token() -> None:
    agent = darkened_agent()
    agent.tell(CoordinatorGone(1))
    agent.pass_time(TOKEN_LIFE_S - 1.0)
    assert agent.dark
    agent.tell(CoordinatorConnected(2))
    assert agent.reports[-1].held and agent.reports[-1].asks
    agent.pass_time(1.0)
    assert not agent.dark


def test_a_gap_loses_token_evidence_and_requests() -> None:
    agent = darkened_agent()
    seq = agent.reports[-1].seq
    agent.pass_time(0.1)
    agent.now = agent.holder._ticked + GAP_S + 0.1
    agent.tell(TimerExpired())
    assert ended(agent) == [(Reason.CLOCK_GAP, True)] and not agent.dark
    assert agent.reports[-1].looks == () and not agent.reports[-1].asks
    agent.answer(acknowledged=("L1-1",))
    agent.look(Status.FAILING)
    agent.answer(to=seq, grant=grant("L1-2"))
    assert not agent.dark and agent.holder.ended == ("L1-2",)


def test_a_look_from_before_the_gap_counts_for_nothing() -> None:
    agent = asking()
    before = agent.now
    agent.now += GAP_S + 1.0
    agent.tell(TimerExpired())
    seen = Evidence(
        check="dns", evidence_class=EvidenceClass.SHARED, status=Status.FAILING, reason=Reason.DNS_WRONG, at=before
    )
    agent.tell(seen)
    agent.pass_time(HEARTBEAT_S)
    assert not agent.reports[-1].asks


@pytest.mark.parametrize("status", [Status.PASSING, Status.UNKNOWN])
def test_it_ends_when_the_check_does_not_fail(status: Status) -> None:
    agent = darkened_agent()
    agent.look(status)
    assert not agent.dark and ended(agent) == [(Reason.CAUSE_GONE, True)]


def test_another_check_that_passes_ends_nothing() -> None:
    agent = darkened_agent()
    agent.look(Status.PASSING, "canary")
    assert agent.dark


def test_a_grant_for_a_check_that_passes_meanwhile_is_not_used() -> None:
    agent = asking()
    agent.look(Status.FAILING, "canary")
    agent.look(Status.PASSING, "dns")
    agent.answer(grant=grant())
    assert not agent.dark and ended(agent) == [(Reason.CAUSE_GONE, False)]


def test_what_was_asked_for_before_the_check_passed_for_a_moment_is_void() -> None:
    agent = asking()
    agent.look(Status.PASSING)
    agent.look(Status.FAILING)
    agent.answer(grant=grant())
    assert not agent.dark and agent.holder.ended == ("L1-1",)


def test_a_recall_ends_it_and_what_was_asked_for_with_it() -> None:
    agent = darkened_agent()
    agent.answer(recalls=(Recall(id="L1-1", reason="check_suspected"),), to=1)
    assert not agent.dark and ended(agent) == [(Reason.CHECK_SUSPECTED, True)]
    agent.answer(grant=grant("L1-2"), to=agent.reports[-2].seq)
    assert not agent.dark, "to a report of before"


def test_a_word_of_tomorrow_recalls_as_well() -> None:
    agent = darkened_agent()
    agent.answer(recalls=(Recall(id="L1-1", reason="a_word_of_tomorrow"),))
    assert ended(agent) == [(Reason.TOKEN_RECALLED, True)]


def test_ended_is_said_until_it_is_acknowledged_and_nothing_asked_for_meanwhile() -> None:
    agent = darkened_agent()
    agent.answer(recalls=(Recall(id="L1-1", reason="budget_spent"),))
    for _ in range(5):
        agent.answer()
        agent.pass_time(HEARTBEAT_S)
        assert agent.reports[-1].ended == ("L1-1",) and not agent.reports[-1].asks
    agent.tell(CoordinatorConnected(2))
    assert agent.reports[-1].ended == ("L1-1",)
    agent.answer(session=2, n=1, acknowledged=("L1-1",))
    agent.pass_time(HEARTBEAT_S)
    assert agent.reports[-1].ended == () and agent.reports[-1].asks


def test_what_has_ended_never_begins_again() -> None:
    agent = darkened_agent()
    agent.answer(recalls=(Recall(id="L1-1", reason="budget_spent"),))
    agent.pass_time(HEARTBEAT_S)
    agent.answer(grant=grant("L1-1"))
    assert not agent.dark and agent.holder.ended == ("L1-1",)


def test_it_announces_only_when_the_route_is_out_again() -> None:
    agent = darkened_agent()
    agent.look(Status.PASSING)
    assert agent.reports[-1].ended and not agent.reports[-1].announcing
    agent.stand(announcing=False)
    agent.pass_time(HEARTBEAT_S)
    assert not agent.reports[-1].announcing
    agent.stand(announcing=True)
    agent.pass_time(HEARTBEAT_S)
    assert agent.reports[-1].announcing and agent.reports[-1].ended


def test_what_the_shell_said_before_it_withdrew_is_no_word_of_the_return() -> None:
    agent = asking()
    agent.answer(grant=grant())
    agent.stand(announcing=True)
    agent.look(Status.PASSING)
    assert not agent.reports[-1].announcing


def test_more_than_its_own_document_allows_is_refused() -> None:
    agent = asking()
    agent.answer(grant=grant(dark=("ams", "fra", "lon")))
    assert not agent.dark and ended(agent) == [(Reason.BUDGET_SPENT, False)]


def test_the_holder_counts_itself() -> None:
    agent = asking()
    agent.answer(grant=grant(dark=("ams", "lon")))
    assert not agent.dark


def test_a_renewal_beyond_its_own_document_ends_the_token() -> None:
    agent = darkened_agent()
    agent.pass_time(HEARTBEAT_S)
    agent.answer(grant=grant(dark=("ams", "fra", "lon")))
    assert not agent.dark and ended(agent) == [(Reason.BUDGET_SPENT, True)]


def test_a_second_token_is_not_used() -> None:
    agent = darkened_agent()
    agent.pass_time(HEARTBEAT_S)
    agent.answer(grant=grant("L1-2"))
    assert agent.dark and agent.reports[-1].held[0].id == "L1-1" and agent.holder.ended == ("L1-2",)


def test_what_it_is_drained_by_is_reported_and_ended_by_the_shell() -> None:
    agent = asking()
    agent.stand(announcing=False, held=(Held(id="L1-9", kind="drain", by="alice"),))
    agent.pass_time(HEARTBEAT_S)
    assert [held.id for held in agent.reports[-1].held] == ["L1-9"]
    agent.answer(recalls=(Recall(id="L1-9", reason="undrain"),))
    assert EndWanted("L1-9", "undrain") in agent.done and not agent.holder.ended
    agent.tell(SlotEnded("L1-9"))
    agent.stand()
    agent.pass_time(HEARTBEAT_S)
    assert agent.reports[-1].ended == ("L1-9",) and agent.reports[-1].announcing


def test_what_is_recalled_and_was_never_heard_of_has_ended() -> None:
    agent = asking()
    agent.answer(recalls=(Recall(id="L0-7", reason="undrain"),))
    assert agent.holder.ended == ("L0-7",)


@pytest.mark.parametrize("serving", [True, False])
@pytest.mark.parametrize("dark", [None, Cause(reason=Reason.TOKEN, check="dns")])
def test_no_token_holds_a_fact_back_and_none_brings_one_back(serving: bool, dark: Cause | None) -> None:
    causes = (Cause(reason=Reason.HEALTHY if serving else Reason.CHARON_EXITED),)
    verdict = VerdictReached(serving=serving, causes=causes, at=5.0)
    made = darkened(verdict, dark)
    assert made.serving == (serving and dark is None)
    assert made.causes == (causes if not serving or dark is None else (dark,))
    assert made.at == verdict.at


def test_an_operators_hold_announces_against_a_token_and_not_against_a_fact() -> None:
    clocks = hold.Clocks(wall=1e9, boot=5.0, boot_id="b")
    announce = hold.begin(hold.HoldKind.ANNOUNCE, for_s=60.0, reason="known", clocks=clocks)
    token, fact = Cause(reason=Reason.TOKEN, check="dns"), Cause(reason=Reason.CHARON_EXITED)
    assert hold.apply(announce, serving=False, causes=(token,)).announce
    assert not hold.apply(announce, serving=False, causes=(fact,)).announce


def test_more_than_a_report_carries() -> None:
    agent = Agent()
    for n in range(100):
        agent.look(Status.FAILING if n == 99 else Status.PASSING, f"exec_{n}")
    agent.stand(held=tuple(Held(id=f"x{n}", kind="drain") for n in range(40)))
    agent.tell(CoordinatorConnected(1))
    assert len(agent.reports[-1].looks) == 64 and agent.reports[-1].looks[0].check == "exec_99"
