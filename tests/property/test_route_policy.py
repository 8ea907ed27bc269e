"""Holds and flap control before the lease: a fact withdraws at once whatever they say; flap control never withdraws.

The oracles are written the other way round: one reads the precedence off the brief, the other is a router that damps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from anycast.model import Cause
from anycast.policy import flap, hold
from anycast.policy.flap import FlapControl
from anycast.policy.hold import Clocks, Hold, HoldKind, Intent
from anycast.policy.route import RoutePolicy
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason

CLOCKS = Clocks(wall=1e9, boot=100.0, boot_id="a")
THRESHOLD = 3000.0
FACTS = [Reason.CHARON_EXITED, Reason.VIP_MISSING]
AGAINST = [*FACTS, Reason.RECOVERING, Reason.NO_EVIDENCE_YET, Reason.CLOCK_GAP]


@dataclasses.dataclass(frozen=True)
class Step:
    wait_s: float
    against: tuple[Reason, ...]
    hold: Hold | None


def held(kind: HoldKind, *despite: Reason) -> Hold:
    return hold.begin(kind, for_s=60, reason="drill", despite=despite, clocks=CLOCKS)


HOLDS = st.sampled_from(
    [
        *[None] * 6,
        held(HoldKind.WITHDRAW),
        held(HoldKind.ANNOUNCE),
        held(HoldKind.ANNOUNCE, Reason.CHARON_EXITED),
        held(HoldKind.ANNOUNCE, Reason.VIP_MISSING, Reason.NO_EVIDENCE_YET, Reason.CLOCK_GAP),
    ]
)
CAUSES = st.one_of(st.just(()), st.lists(st.sampled_from(AGAINST), min_size=1, max_size=2, unique=True).map(tuple))
WAITS = st.sampled_from([0.0, 0.3, 1.0, 60.0, 200.0, 1000.0])
STEPS = st.lists(st.builds(Step, wait_s=WAITS, against=CAUSES, hold=HOLDS), max_size=40)


def verdict(against: tuple[Reason, ...], at: float = 0.0) -> VerdictReached:
    causes = tuple(Cause(reason=reason, check="a_check") for reason in against or (Reason.HEALTHY,))
    return VerdictReached(serving=not against, causes=causes, at=at)


def play(steps: list[Step]) -> list[tuple[Step, float, VerdictReached, RoutePolicy]]:
    """Each step with its time and what the lease was told in the very same call."""
    policy, now, told = RoutePolicy(FlapControl(gateway="fra-gw1", threshold=THRESHOLD)), 1000.0, []
    for step in steps:
        now += step.wait_s
        (said, *_rest) = policy.decide(verdict(step.against, now), step.hold, now)
        assert isinstance(said, VerdictReached)
        assert said.causes, "no decision without a reason"
        assert said.at == now, "as fresh as the verdict that it was made of, and no fresher"
        told.append((step, now, said, policy))
    return told


def a_fact_withdraws_at_once(steps: list[Step]) -> None:
    for step, _, said, _ in play(steps):
        named = set(step.hold.despite) if step.hold is not None and step.hold.kind is HoldKind.ANNOUNCE else set()
        if set(step.against) & set(FACTS) - named:
            assert not said.serving, "neither a hold announce without its name nor flap control keeps the route"


def flap_control_never_withdraws(steps: list[Step]) -> None:
    """It may keep a withdrawn route away, and nothing more."""
    announced = False
    for step, _, said, _ in play(steps):
        if announced and not step.against and (step.hold is None or step.hold.kind is HoldKind.ANNOUNCE):
            assert said.serving, "what is announced stays, whatever the penalty"
        if said.causes[0].reason is Reason.FLAP_DELAYED:
            assert not announced, "only a return is delayed"
        announced = said.serving


def no_receiver_ever_damps(steps: list[Step]) -> None:
    """A router with the threshold as its own, in RFC 2439's words; without holds, which may do as they like."""
    penalty, as_of, announced = 0.0, 0.0, None
    for _, now, said, _ in play([dataclasses.replace(step, hold=None) for step in steps]):
        penalty, as_of = penalty * 0.5 ** ((now - as_of) / 900), now
        if announced and not said.serving:
            penalty += 1000
        assert penalty <= THRESHOLD + 1e-6, "it would hide a route that we say is healthy"
        announced = said.serving


def a_delay_ends(steps: list[Step]) -> None:
    """However often it flapped: once the facts stand, the route is back within the time that was shown."""
    told = play(steps)
    if told:
        _, now, _, policy = told[-1]
        left = policy.flap.left_s(now)
        (said, *_) = policy.decide(verdict((), now + left), None, now + left)
        assert isinstance(said, VerdictReached)
        assert said.serving
        assert left <= 900 * 2 + flap.JITTER_S, "two halvings lead from any penalty reached here to below two withdrawals'"


PROPERTIES = [a_fact_withdraws_at_once, flap_control_never_withdraws, no_receiver_ever_damps, a_delay_ends]


@pytest.mark.parametrize("rule", PROPERTIES)
def test_rule(rule: Callable[[list[Step]], None]) -> None:
    given(STEPS)(rule)()


W, A = held(HoldKind.WITHDRAW), held(HoldKind.ANNOUNCE)
DESPITE = held(HoldKind.ANNOUNCE, Reason.CHARON_EXITED, Reason.CLOCK_GAP)
TABLE: list[tuple[tuple[Reason, ...], tuple[bool, bool, bool, bool]]] = [
    # against                                      none, withdraw, announce, announce --despite charon_exited
    ((), (True, False, True, True)),
    ((Reason.RECOVERING,), (False, False, True, True)),
    ((Reason.CHARON_EXITED,), (False, False, False, True)),
    ((Reason.VIP_MISSING,), (False, False, False, False)),
    ((Reason.CHARON_EXITED, Reason.VIP_MISSING), (False, False, False, False)),
    ((Reason.NO_EVIDENCE_YET,), (False, False, False, False)),
    ((Reason.CLOCK_GAP, Reason.CHARON_EXITED), (False, False, False, False)),
]


def the_table_holds() -> None:
    for against, wanted in TABLE:
        given_causes = verdict(against)
        intents = [hold.apply(h, serving=given_causes.serving, causes=given_causes.causes) for h in (None, W, A, DESPITE)]
        assert tuple(intent.announce for intent in intents) == wanted, f"{against} under none, withdraw, announce, despite"
        assert intents[1].causes[0].reason is Reason.OPERATOR


def test_the_precedence_table() -> None:
    the_table_holds()


@given(st.floats(1, 1e5), st.floats(-1e5, 1e5), st.floats(0, 1e5), st.booleans())
def test_a_hold_ends_at_the_earlier_of_two_clocks_and_never_later_than_asked(
    for_s: float, wall_jump: float, passed: float, rebooted: bool
) -> None:
    ends_no_later_than_asked(for_s, wall_jump, passed, rebooted)


def ends_no_later_than_asked(for_s: float, wall_jump: float, passed: float, rebooted: bool) -> None:
    begun = hold.begin(HoldKind.WITHDRAW, for_s=for_s, reason="drill", clocks=CLOCKS)
    now = Clocks(wall=CLOCKS.wall + passed + wall_jump, boot=CLOCKS.boot + passed, boot_id="a")
    if rebooted:  # the new boot's clock starts anew; the wall clock may stand anywhere
        now = dataclasses.replace(now, boot=3.0, boot_id="b")
    carried = begun.carried_over(now)
    left = carried.left_s(now)
    assert left <= for_s + 1e-6
    if not rebooted:
        assert left <= max(0.0, for_s - passed) + 1e-3, "no jump of the wall clock makes it longer"
    later = dataclasses.replace(now, wall=now.wall - 1e6, boot=carried.ends_boot + 1e-3)
    assert carried.left_s(later) <= 1e-3, "carried over, it ends by this boot's clock, wherever the wall clock goes"


@given(st.sampled_from([W, A, DESPITE]), st.text(max_size=30), st.floats(1, 1e6))
def test_a_hold_survives_its_file(some: Hold, reason: str, for_s: float) -> None:
    some = dataclasses.replace(some, reason=reason, duration_s=for_s)
    assert hold.decode(hold.encode(some)) == some


@given(st.binary(max_size=60))
def test_any_file_is_a_hold_or_refused(data: bytes) -> None:
    with pytest.raises(hold.DecodeError):
        hold.decode(data)


def penalised(*against: tuple[Reason, ...], holds: tuple[Hold | None, ...] = ()) -> float:
    policy = RoutePolicy(FlapControl(gateway="fra-gw1", threshold=THRESHOLD))
    for i, causes in enumerate(against):
        policy.decide(verdict(causes), holds[i] if holds else None, 1000.0)
    return policy.flap.penalty(1000.0)


def test_what_counts_as_a_flap() -> None:
    start = (Reason.NO_EVIDENCE_YET,), ()
    dead = (Reason.CHARON_EXITED,)
    assert penalised(*start) == 0, "a start is none"
    assert penalised(*start, dead) == 1000
    assert penalised(*start, dead, dead, (), dead) == 2000, "a withdrawal counts once"
    assert penalised((), dead, holds=(DESPITE, None)) == 1000, "healthy by itself, then dead: a flap like any other"
    assert penalised(dead, dead, holds=(DESPITE, None)) == 0, "the end of a hold adds nothing"
    assert penalised((), (), (), holds=(None, W, None)) == 1000, "a receiver counts an operator's withdrawal too, once"


def test_the_first_five_returns_wait_for_nothing_and_the_sixth_for_minutes() -> None:
    control = FlapControl(gateway="fra-gw1", threshold=6000)
    waits = []
    for _ in range(6):
        control.withdrawn(1000.0)
        waits.append(control.left_s(1000.0))
    assert waits[:5] == [0] * 5
    assert 230 < waits[5] < 240 + flap.JITTER_S
    control.clear()
    assert control.left_s(1000.0) == 0


def test_jitter_differs_between_gateways_and_is_the_same_each_time() -> None:
    def wait(gateway: str) -> float:
        control = FlapControl(gateway=gateway, threshold=2000)
        control.withdrawn(0.0)
        control.withdrawn(0.0)
        return control.left_s(0.0)

    assert wait("fra-gw1") == wait("fra-gw1")
    assert len({round(wait(f"gw{i}")) for i in range(20)}) > 5, "sites that failed together return one after the other"


# One rule broken at a time: each has to be noticed.


def a_hold_announce_overrides_every_fact(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hold, "overrides", lambda h, against: h.kind is HoldKind.ANNOUNCE)


def a_named_reason_covers_the_others(patch: pytest.MonkeyPatch) -> None:
    def overrides(h: Hold, against: tuple[Cause, ...]) -> bool:
        return h.kind is HoldKind.ANNOUNCE and any(c.reason in {*h.despite, Reason.RECOVERING} for c in against)

    patch.setattr(hold, "overrides", overrides)


def nothing_seen_can_be_overridden(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hold, "NOT_SEEN", frozenset())


def hold_withdraw_yields_to_health(patch: pytest.MonkeyPatch) -> None:
    original: Any = hold.apply

    def apply(h: Any, *, serving: bool, causes: Any) -> Intent:
        return original(None if serving else h, serving=serving, causes=causes)

    patch.setattr(hold, "apply", apply)


def flap_control_keeps_the_route_for_a_while(patch: pytest.MonkeyPatch) -> None:
    original: Any = RoutePolicy.decide

    def decide(self: Any, said: VerdictReached, h: Any, now: float) -> Any:
        if self.intent is not None and self.intent.announce and not said.serving and self.flap.penalty(now) > 500:
            said = dataclasses.replace(said, serving=True)
        return original(self, said, h, now)

    patch.setattr(RoutePolicy, "decide", decide)


def flap_control_withdraws_what_is_announced(patch: pytest.MonkeyPatch) -> None:
    original: Any = RoutePolicy.decide

    def decide(self: Any, said: VerdictReached, h: Any, now: float) -> Any:
        if self.intent is not None and self.intent.announce and self.flap.penalty(now) > 500:
            self._intent = dataclasses.replace(self.intent, announce=False)
            self.flap._until = now + 1
        return original(self, said, h, now)

    patch.setattr(RoutePolicy, "decide", decide)


def nothing_is_counted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FlapControl, "withdrawn", lambda self, now: None)


def the_wait_ends_when_one_more_is_too_many(patch: pytest.MonkeyPatch) -> None:
    original: Any = FlapControl.left_s
    patch.setattr(FlapControl, "left_s", lambda self, now: max(0.0, original(self, now) - 400))


def a_wait_that_starts_anew_at_each_look(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FlapControl, "left_s", lambda self, now: 10.0 if self._until else 0.0)


@pytest.mark.parametrize(
    ("mutate", "broken"),
    [
        (a_hold_announce_overrides_every_fact, a_fact_withdraws_at_once),
        (a_named_reason_covers_the_others, a_fact_withdraws_at_once),
        (flap_control_keeps_the_route_for_a_while, a_fact_withdraws_at_once),
        (flap_control_withdraws_what_is_announced, flap_control_never_withdraws),
        (nothing_is_counted, no_receiver_ever_damps),
        (the_wait_ends_when_one_more_is_too_many, no_receiver_ever_damps),
        (a_wait_that_starts_anew_at_each_look, a_delay_ends),
    ],
)
def test_each_broken_rule_is_noticed(
    mutate: Callable[[pytest.MonkeyPatch], None], broken: Callable[[list[Step]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    only_try = settings(max_examples=1000, phases=[Phase.generate], database=None, derandomize=True, deadline=None)
    with pytest.raises(AssertionError):
        only_try(given(STEPS)(broken))()


@pytest.mark.parametrize(
    "mutate",
    [
        a_hold_announce_overrides_every_fact,
        a_named_reason_covers_the_others,
        nothing_seen_can_be_overridden,
        hold_withdraw_yields_to_health,
    ],
)
def test_each_broken_precedence_is_noticed(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        the_table_holds()


@pytest.mark.parametrize(
    ("broken_left", "rebooted"),
    [
        (lambda self, now: max(0.0, self.ends_wall - now.wall), False),
        (lambda self, now: max(0.0, self.ends_boot - now.boot), True),
    ],
)
def test_one_clock_alone_is_noticed(
    broken_left: Callable[[Hold, Clocks], float], rebooted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hold, "left_s", broken_left)
    monkeypatch.setattr(Hold, "carried_over", lambda self, now: self)
    with pytest.raises(AssertionError):
        ends_no_later_than_asked(60.0, -1000.0, 30.0, rebooted)
