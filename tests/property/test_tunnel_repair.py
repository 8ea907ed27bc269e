"""Lost tunnels: the fact acts within its bound whatever charon and its clients do, some lost move nothing, rekeys are paced.

A world of tunnels with a kernel that loses them, a charon that is quick, slow, silent or unwilling, and clients that answer
or not, is driven through the real core as the check drives it; the clock is the world's.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from anycast.reasons import Reason
from site_agent.checks import event_pace
from site_agent.checks.event_pace import EventPace
from site_agent.ike import tunnel_repair
from site_agent.ike.child_sa import ChildSa
from site_agent.ike.tunnel_repair import Judgement, State, TunnelRepair
from tests.support.tunnels import child

INTERVAL_S = 1.0
LIMIT_S = 2.0
"""The product's promise, not read from the product."""
BATCH, PERIOD_S = 50, 1.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one world does."""

    tunnels: int
    losses: tuple[tuple[float, float, float], ...]
    """(from, to) in shares of the list that lose their state, and after how many seconds."""
    silent: float
    """Share of the clients, from the end of the list, that never answer."""
    per_s: float
    """Rekeys that charon begins in a second."""
    refuses: bool
    deaf: tuple[float, float]
    """From when to when no look can be had."""
    look_s: float
    """How long one look takes."""


PLANS = st.builds(
    Plan,
    tunnels=st.sampled_from([0, 1, 2, 3, 10, 130]),
    losses=st.lists(
        st.tuples(st.sampled_from([0.0, 0.0, 0.5]), st.sampled_from([0.3, 0.6, 1.0, 1.0]), st.floats(0.0, 12.0)),
        max_size=4,
    ).map(tuple),
    silent=st.sampled_from([0.0, 0.0, 0.4, 1.0]),
    per_s=st.sampled_from([0.0, 1.0, 20.0, 1e6]),
    refuses=st.booleans(),
    deaf=st.tuples(st.floats(0.0, 10.0), st.floats(0.0, 4.0)).map(lambda span: (span[0], span[0] + span[1])),
    look_s=st.sampled_from([0.001, 0.05, 0.7]),
)


class World:
    """Clients, charon and kernel; answers looks."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.now, self.number = plan, 100.0, plan.tunnels
        self.children: dict[str, ChildSa] = {str(n): child(n) for n in range(plan.tunnels)}
        self.silent = {str(n) for n in range(plan.tunnels) if n >= plan.tunnels * (1 - plan.silent)}
        self.lacking: set[str] = set()
        self.queue: list[str] = []
        self.begun_at = self.now
        self.losses = sorted(plan.losses, key=lambda loss: loss[2])

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        while self.losses and self.now >= 100.0 + self.losses[0][2]:
            low, high, _at = self.losses.pop(0)
            names = list(self.children)
            self.lacking |= set(names[int(low * len(names)) : int(high * len(names) + 0.5)])
        can_begin = int((self.now - self.begun_at) * self.plan.per_s)
        if can_begin:
            self.begun_at = self.now
        for name in self.queue[:can_begin]:
            self._begin(name)
        self.queue = self.queue[can_begin:]

    def _begin(self, name: str) -> None:
        if name not in self.children:
            return
        if name in self.silent:
            self.children[name] = dataclasses.replace(self.children[name], rekeying=True)
            return
        old = self.children.pop(name)
        self.lacking.discard(name)
        self.number += 1
        self.children[str(self.number)] = child(self.number, ike=old.ike_id, reqid=old.reqid)

    def hears(self) -> bool:
        return not self.plan.deaf[0] <= self.now - 100.0 < self.plan.deaf[1]

    @property
    def all_lacking(self) -> bool:
        return bool(self.children) and self.lacking >= self.children.keys()

    @property
    def newly(self) -> bool:
        """Somebody among them was whole when the world began or was rekeyed since, and was never asked in vain."""
        return any(not sa.rekeying for sa in self.children.values())


@dataclasses.dataclass
class Told:
    """What the core said, and when."""

    judged: list[tuple[float, Judgement]] = dataclasses.field(default_factory=list)
    batches: list[tuple[float, int]] = dataclasses.field(default_factory=list)
    everything: list[float] = dataclasses.field(default_factory=list)
    left: int | None = None
    """How many lacked their state at the last look; None where it could not be had."""


def drive(plan: Plan, until_s: float = 20.0) -> tuple[World, Told]:
    """As `ChildSaCheck.look` under the runner: looks every second, or when the core says."""
    world, told, core = World(plan), Told(), TunnelRepair()
    all_since: float | None = None
    fact: set[str] = set()
    """The tunnels that the last fact was about. One about none of them any more is another, with a bound of its own."""
    while world.now < 100.0 + until_s:
        deadline = core.deadline
        world.pass_time(plan.look_s if deadline is None else min(plan.look_s, max(0.0, deadline - world.now)))
        if world.hears():
            missing = frozenset(world.lacking & world.children.keys())
            judged = core.looked(tuple(world.children.values()), missing, world.now)
            if fact and not fact & missing:
                all_since, fact = None, set()
            all_since = (all_since if all_since is not None else world.now) if world.all_lacking else None
        elif deadline is not None:
            judged = core.blind(world.now)
        else:
            core.could_not_look()
            all_since = None  # the bound counts looks that could be had
            world.pass_time(INTERVAL_S)
            continue
        told.judged.append((world.now, judged))
        told.left = len(world.lacking & world.children.keys()) if world.hears() else None
        if judged.state is State.UNSETTLED and all_since is not None:
            allowed = LIMIT_S + 2 * plan.look_s + 0.3 + 1e-6
            assert world.now - all_since <= allowed, "the fact acts within its bound"
        if judged.state is State.LOST:
            assert judged.lost, "a fact names an example"
            fact = {sa.unique_id for sa in judged.lost}
            assert judged.reason is Reason.SA_STATE_LOST
        refused = bool(judged.rekey) and judged.everything and plan.refuses
        if judged.rekey and judged.everything:
            told.everything.append(world.now)
        elif judged.rekey:
            told.batches.append((world.now, len(judged.rekey)))
        if refused:
            core.refused()
        else:
            world.queue += [sa.unique_id for sa in judged.rekey if sa.unique_id not in world.queue]
        if judged.look_at is None:
            world.pass_time(INTERVAL_S)
        elif not refused:
            world.pass_time(max(0.0, judged.look_at - world.now))
    return world, told


def repair_keeps_its_promises(plan: Plan) -> None:
    """The properties themselves, which the mutants below must break."""
    _, told = drive(plan)
    states = [judged.state for _, judged in told.judged]
    whole_flush = any(high == 1.0 for _low, high, _at in plan.losses)
    if not whole_flush and not (plan.losses and plan.tunnels):
        assert set(states) <= {State.WHOLE}
    for (at, judged), (_, before) in zip(told.judged[1:], told.judged, strict=False):
        if judged.state is State.LOST and before.state is not State.LOST:
            assert before.state is State.UNSETTLED, f"at {at}: the repair was tried or refused before the fact acted"
    for start, _ in told.batches:
        within = sum(count for at, count in told.batches if start <= at < start + PERIOD_S)
        assert within <= BATCH, "rekeys of some are paced"
    for start in told.everything:
        assert sum(1 for at in told.everything if start <= at < start + PERIOD_S - 1e-9) <= 1, "so are those of everything"
    if states and told.left == 0:
        assert states[-1] is State.WHOLE, "the fact and its alarm end with the look that finds them untrue"


REKEYED_AND_LOST_AGAIN_UNSEEN = Plan(
    tunnels=1, losses=((0.0, 0.6, 0.0), (0.0, 0.6, 2.0)), silent=0.0, per_s=20.0, refuses=False, deaf=(2.0, 4.0), look_s=0.7
)


@settings(max_examples=300, deadline=None)
@given(PLANS)
@example(REKEYED_AND_LOST_AGAIN_UNSEEN)
def test_the_repair_keeps_its_promises(plan: Plan) -> None:
    repair_keeps_its_promises(plan)


BASE = Plan(
    tunnels=2, losses=((0.0, 1.0, 0.0),), silent=0.0, per_s=1e6, refuses=False, deaf=(50.0, 50.0), look_s=0.01
)  # fmt: skip


def first_fact(plan: Plan) -> float | None:
    """Seconds after the flush."""
    _, told = drive(plan)
    return next((at - 100.0 for at, judged in told.judged if judged.state is State.LOST), None)


def test_all_lost_and_mended_is_no_fact() -> None:
    _, told = drive(BASE)
    assert State.LOST not in {judged.state for _, judged in told.judged}
    assert sum(judged.mended for _, judged in told.judged) == 2
    assert [judged.reason for _, judged in told.judged if judged.mended] == [Reason.SA_STATE_LOST]
    assert len(told.everything) == 1


def test_clients_that_do_not_answer_withdraw_within_the_bound() -> None:
    took = first_fact(dataclasses.replace(BASE, silent=1.0))
    assert took is not None
    assert 1.9 <= took <= LIMIT_S + 0.1


def test_a_charon_that_refuses_or_cannot_be_asked_withdraws_too() -> None:
    refused = first_fact(dataclasses.replace(BASE, refuses=True))
    assert refused is not None
    assert refused < 0.5, "nothing to wait for"
    silent = first_fact(dataclasses.replace(BASE, per_s=0.0, deaf=(0.5, 30.0)))
    assert silent is not None
    assert silent <= LIMIT_S + 0.1


def test_too_many_for_two_seconds_withdraw_and_sleepers_do_not() -> None:
    assert first_fact(dataclasses.replace(BASE, tunnels=130, per_s=20.0)) is not None, "charon begins 40 of 130"
    assert first_fact(dataclasses.replace(BASE, tunnels=130, silent=0.4)) is None, "asked, and asleep"
    _, told = drive(dataclasses.replace(BASE, tunnels=10, silent=0.4))
    assert told.judged[-1][1].state is State.PARTIAL, "they are some"


def test_sleepers_that_are_the_last_ones_listed_darken_nothing() -> None:
    core, sleepers = TunnelRepair(), tuple(child(n, rekeying=True) for n in range(2))
    others = tuple(child(n) for n in range(2, 6))
    missing = frozenset({"0", "1"})
    for now in (0.0, 0.3, 1.3):
        judged = core.looked((*sleepers, *others), missing, now)
    assert judged.state is State.PARTIAL
    for now in (2.3, 3.3, 5.3, 8.3):
        assert core.looked(sleepers, missing, now).state is State.PARTIAL, "the others hung up"
    fresh = child(7)
    states = [core.looked((*sleepers, fresh), missing | {"7"}, now).state for now in (9.3, 9.6, 10.0, 11.4)]
    assert states[-1] is State.LOST, "somebody new lost, and nobody left"


def test_one_look_is_none() -> None:
    core = TunnelRepair()
    assert core.looked((child(1),), frozenset({"1"}), 0.0).state is State.UNSETTLED
    assert core.looked((child(2),), frozenset(), 0.3).state is State.WHOLE, "rekeyed between the looks"
    both, other = (child(1), child(9)), {1.0: "1", 1.3: "9", 2.3: "1"}
    states = [core.looked(both, frozenset({lacking}), now).state for now, lacking in other.items()]
    assert states == [State.UNSETTLED, State.WHOLE, State.UNSETTLED], "another one each time: no chain of second looks"


def rounds(core: TunnelRepair, looks: list[tuple[float, int | None]]) -> list[Judgement]:
    """Each look lists one CHILD_SA, which lacks its state; None: a look that cannot be had."""
    told = list[Judgement]()
    for now, number in looks:
        if number is None and core.deadline is None:
            core.could_not_look()
        elif number is None:
            told.append(core.blind(now))
        else:
            told.append(core.looked((child(number),), frozenset({str(number)}), now))
    return told


def test_another_child_sa_at_each_look_is_nothing_known_and_never_a_fact() -> None:
    core, now, told = TunnelRepair(), 100.0, list[Judgement]()
    for number in range(60):
        (judged,) = rounds(core, [(now, number)])
        told.append(judged)
        now = judged.look_at if judged.look_at is not None else now + INTERVAL_S
    assert {judged.state for judged in told} == {State.UNSETTLED}
    assert not any(judged.rekey for judged in told), "and nothing to repair"
    settled = [number for number, judged in enumerate(told) if judged.look_at is None]
    assert settled and settled[0] <= 8, "the check has something to say within the limit"


def test_a_blindness_between_two_different_ones_is_no_second_look() -> None:
    looks: list[tuple[float, int | None]] = [(100.0, 1), *((101.0 + n, None) for n in range(9)), (110.0, 2)]
    assert [judged.state for judged in rounds(TunnelRepair(), looks)] == [State.UNSETTLED, State.UNSETTLED]
    same = rounds(TunnelRepair(), [(100.0, 1), (101.0, None), (110.0, 1), (112.0, None)])
    assert same[1].everything, "the same one is missing in two looks: repaired first"
    assert [judged.state for judged in same] == [State.UNSETTLED, State.UNSETTLED, State.LOST]


def test_a_sleeper_and_one_that_churns_are_no_fact() -> None:
    core, sleeper = TunnelRepair(), child(1, rekeying=True)
    whole = child(2)
    for now in (0.0, 0.3, 1.3):
        core.looked((sleeper, whole), frozenset({"1"}), now)
    now, states = 2.3, list[State]()
    for number in range(10, 40):
        judged = core.looked((sleeper, child(number)), frozenset({"1", str(number)}), now)
        states.append(judged.state)
        now = judged.look_at if judged.look_at is not None else now + INTERVAL_S
    assert set(states) == {State.UNSETTLED, State.PARTIAL}


def test_a_fact_is_not_prolonged_by_one_that_churns() -> None:
    core = TunnelRepair()
    lost = rounds(core, [(0.0, 1), (0.3, 1), (2.0, 1), (3.0, 1)])
    assert [judged.state for judged in lost] == [State.UNSETTLED, State.UNSETTLED, State.LOST, State.LOST]
    assert all(judged.state is State.UNSETTLED for judged in rounds(core, [(4.0 + n, 10 + n) for n in range(9)]))


CHURN = st.lists(
    st.tuples(st.booleans(), st.integers(0, 3), st.floats(0.01, 1.5)), min_size=1, max_size=60
)  # (can be looked at, how many are listed, pause before)


def churn_is_never_a_fact(steps: list[tuple[bool, int, float]]) -> None:
    """A kernel that is in order, and clients that make and delete CHILD_SAs: no look misses what the one before missed."""
    core, now, numbers = TunnelRepair(), 100.0, itertools.count()
    for hears, listed, pause in steps:
        now += pause
        if not hears:
            assert core.deadline is None, "no repair was begun"
            core.could_not_look()
            continue
        children = tuple(child(next(numbers)) for _ in range(listed))
        judged = core.looked(children, frozenset(sa.unique_id for sa in children), now)
        assert judged.state is not State.LOST and not judged.rekey
        assert judged.state is State.UNSETTLED or not children


@settings(max_examples=300, deadline=None)
@given(CHURN)
def test_churn_is_never_a_fact(steps: list[tuple[bool, int, float]]) -> None:
    churn_is_never_a_fact(steps)


# Kernel events.


@given(
    st.lists(st.tuples(st.floats(0.0, 0.5), st.booleans()), max_size=200),
    st.sampled_from([0.0, 0.004, 0.05, 2.0]),
)
def test_no_storm_of_events_makes_a_storm_of_looks(gaps: list[tuple[float, bool]], took_s: float) -> None:
    pace, now, granted = EventPace(rest_per_look=20.0), 0.0, list[tuple[float, bool]]()
    pace.looked(took_s)
    for number, (gap, flush) in enumerate(gaps):
        now += gap
        if pace.wants_look(now, flush=flush):
            granted.append((now, flush))
        assert granted[:1] == [(gaps[0][0], gaps[0][1])], f"the first of {number + 1} causes a look at once"
    for (before, _), (at, flush) in itertools.pairwise(granted):
        assert at - before >= (0.2 if flush else max(0.2, 20 * took_s)) - 1e-9


# Broken on purpose: each promise has to be noticed.


def waits_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tunnel_repair, "REPAIR_LIMIT_S", 6.0)


def never_tries(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TunnelRepair, "_all_lacking", lambda self, lacking, lost, now: self.blind(now))


def unpaced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tunnel_repair, "BATCH_PERIOD_S", 1e-6)
    patch.setattr(tunnel_repair, "PER_SECOND", 10**9)


def blind_for_ever(patch: pytest.MonkeyPatch) -> None:
    def blind(self: TunnelRepair, now: float) -> Judgement:
        return self._unsettled(self._victims, look_at=now + 0.2)

    patch.setattr(TunnelRepair, "blind", blind)


def never_whole_again(patch: pytest.MonkeyPatch) -> None:
    real = TunnelRepair._some_lacking

    def some_lacking(self, listed, lost, first_miss, now):
        judged = real(self, listed, lost, first_miss, now)
        return dataclasses.replace(judged, state=State.PARTIAL) if judged.state is State.WHOLE else judged

    patch.setattr(TunnelRepair, "_some_lacking", some_lacking)


def believes_one_look(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(TunnelRepair, "_await_second_miss", lambda self, lacking, lost, now: self.blind(now))


def test_a_fact_by_churn_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    believes_one_look(monkeypatch)
    with pytest.raises(AssertionError):
        churn_is_never_a_fact([(True, 1, 0.3)])


@pytest.mark.parametrize("mutate", [waits_for_ever, never_tries, unpaced, blind_for_ever, never_whole_again])
def test_each_broken_promise_is_noticed(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    only_try = settings(max_examples=400, phases=[Phase.generate], database=None, derandomize=True, deadline=None)
    with pytest.raises(AssertionError):
        only_try(given(PLANS)(repair_keeps_its_promises))()


def test_events_without_a_pace_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_pace, "SHORTEST_PAUSE_S", 0.0)
    with pytest.raises(AssertionError):
        test_no_storm_of_events_makes_a_storm_of_looks()
