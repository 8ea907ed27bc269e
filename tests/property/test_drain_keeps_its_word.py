"""Whatever charon, the bridge, an observer and people say, in whatever order: what a drain may never do."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.model import Cause
from anycast.policy import drain_record
from anycast.policy.drain import (
    FORTH,
    Abort,
    Delete,
    Drain,
    DrainCore,
    Left,
    Looked,
    Plan,
    Redirect,
    RouteWord,
    Seen,
    Step,
    Tell,
    Tunnel,
    Wants,
)
from anycast.policy.flap import FlapControl
from anycast.policy.hold import Clocks, HoldKind, begin
from anycast.policy.route import RoutePolicy
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason
from anycast.timer import TimerExpired

UNDO = (Step.REOPENING, Step.REANNOUNCING, Step.ENDED)
plans = st.builds(
    Plan,
    id=st.just("d1"), by=st.just("alice"), why=st.just("work"), to=st.sampled_from([(), ("198.51.100.22",)]),
    left=st.sampled_from(Left), community=st.booleans(), prepend=st.integers(0, 2),
    redirects_per_s=st.sampled_from([0.5, 2.0, 20.0]), deletes_per_s=st.sampled_from([0.5, 2.0, 20.0]),
    follow_s=st.sampled_from([0.0, 2.0, 30.0]), move_limit_s=st.sampled_from([0.0, 10.0, 100.0]),
    settle_s=st.sampled_from([0.0, 3.0]), cut_limit_s=st.sampled_from([0.0, 20.0]),
)  # fmt: skip
tunnels = st.none() | st.lists(
    st.builds(Tunnel, st.sampled_from("abcdefghij"), st.booleans()), max_size=8, unique_by=lambda tunnel: tunnel.id
).map(tuple)
looks = st.builds(
    Looked, tunnels=tunnels, route=st.sampled_from(RouteWord), serving=st.booleans(), active=st.booleans(),
    closed=st.booleans(), answers=st.booleans(), seen=st.sampled_from(Seen),
)  # fmt: skip
inputs = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.3, 1.0, 5.0, 40.0]), looks | looks | looks | st.just(TimerExpired()) | st.just(Abort())
    ),
    max_size=40,
)
restarts = st.sets(st.integers(0, 40), max_size=3)


@settings(max_examples=300)
@given(plans, inputs, restarts)
def test_a_drain_keeps_its_word(
    plan: Plan, events: list[tuple[float, Looked | TimerExpired | Abort]], deaths: set[int]
) -> None:
    now, core, seen, aborted = 100.0, DrainCore(Drain(plan=plan, since=100.0)), None, False
    sent: dict[type, list[float]] = {Redirect: [], Delete: []}
    for number, (after, event) in enumerate(events):
        now += after
        if number in deaths:
            wants = core.wants
            core = DrainCore(drain_record.decode(drain_record.encode(core.drain, boot_id="b"), boot_id="b", now=now))
            assert core.wants == dataclasses.replace(wants, refuse=False), "the door waits for a look of its own"
            sent, seen = {Redirect: [], Delete: []}, None
        before = core.drain.step
        actions = core.handle(event, now)
        aborted |= isinstance(event, Abort)
        seen = event if isinstance(event, Looked) else seen
        step, wants = core.drain.step, core.wants

        order = (*FORTH, *UNDO)
        assert order.index(step) >= order.index(before), "never back, but by an abort"
        assert (step in UNDO) == aborted
        assert not wants.refuse or (seen is not None and seen.route is RouteWord.NONE), (
            "refuses only where no route attracts"
        )
        assert not wants.refuse or wants.withdrawn
        if step is Step.ENDED:
            assert wants == Wants()
        if seen is not None and seen.tunnels and plan.left is Left.WAIT and step in FORTH:
            assert step is before, "while a tunnel is left, the route moves no further"
        for action in actions:
            if isinstance(action, Tell):
                continue
            assert seen is not None
            assert seen.active, "only the Active moves tunnels"
            assert {*action.ids} <= {tunnel.id for tunnel in seen.tunnels or ()}
            assert len({*action.ids}) == len(action.ids)
            assert step in FORTH
            sent[type(action)] += [now] * len(action.ids)
            if isinstance(action, Redirect):
                assert seen.answers
                assert plan.to
            else:
                assert plan.left is Left.DELETE, "waiting cuts nobody"
                assert seen.route is (RouteWord.WORSE if step is Step.DEGRADING else RouteWord.NONE), (
                    "it would come back here"
                )
        for kind, rate in ((Redirect, plan.redirects_per_s), (Delete, plan.deletes_per_s)):
            lately = sum(now - moment <= 1.0 for moment in sent[kind])
            assert lately <= rate * 1.25 + 1, "no storm"


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.booleans(), st.sampled_from([Reason.HEALTHY, Reason.CHARON_EXITED, Reason.RECOVERING]), st.booleans(),
            st.sampled_from([None, *HoldKind]), st.floats(0.0, 500.0),
        ),
        max_size=30,
    )
)  # fmt: skip
def test_a_drain_only_takes_away_and_facts_act_beside_it(
    turns: list[tuple[bool, Reason, bool, HoldKind | None, float]],
) -> None:
    with_drain, without = (RoutePolicy(FlapControl(gateway="gw1", threshold=1e9)) for _ in range(2))
    now, clocks = 0.0, Clocks(wall=0.0, boot=0.0, boot_id="b")
    for serving, reason, withdrawn, kind, after in turns:
        now += after
        causes = (Cause(reason=Reason.HEALTHY if serving else reason),)
        verdict = VerdictReached(serving=serving, causes=causes, at=now)
        hold = None if kind is None else begin(kind, for_s=60, reason="r", clocks=clocks)
        told = [
            policy.decide(verdict, hold, now, drained=drained)[0]
            for policy, drained in ((with_drain, "by alice" if withdrawn else ""), (without, ""))
        ]
        assert all(isinstance(word, VerdictReached) for word in told)
        drained, plain = (word for word in told if isinstance(word, VerdictReached))
        assert plain.serving or not drained.serving, "never announces what would not be announced"
        if kind is HoldKind.ANNOUNCE:
            assert drained.serving == plain.serving, "an operator's own word on this machine goes before"
        elif withdrawn:
            assert not drained.serving
        else:
            assert drained.serving == plain.serving
        if not plain.serving:
            assert drained.causes == plain.causes, "a fact keeps its name"
