"""A drain at one gateway: the order, what each step rests on, who is cut and who never is, undoing, going on."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from anycast.errors import DecodeError
from anycast.policy import drain_record
from anycast.policy.drain import (
    FORTH,
    REOPEN_LIMIT_S,
    SHOW_LIMIT_S,
    Abort,
    Action,
    Delete,
    Drain,
    DrainCore,
    Left,
    Looked,
    Pace,
    Plan,
    Redirect,
    RouteWord,
    Seen,
    Step,
    Tell,
    Tunnel,
    Wants,
)
from anycast.reasons import Reason
from anycast.timer import TimerExpired

PLAN = Plan(id="d1", by="alice", why="new optics", to=("198.51.100.22",), left=Left.DELETE)


class World:
    """A gateway with clients: who follows is gone at the next look, who gets a DELETE too."""

    def __init__(self, *tunnels: str, deaf: tuple[str, ...] = (), step: Step = Step.MOVING, **plan: Any) -> None:
        """`deaf` stay whatever they are sent, but for a DELETE."""
        self.core = DrainCore(Drain(plan=dataclasses.replace(PLAN, **plan), step=step, since=0.0))
        self.tunnels, self.deaf, self.now = [*tunnels, *deaf], set(deaf), 0.0
        self.seen: dict[str, Any] = {"active": True, "closed": False, "serving": True}
        self.route = RouteWord.NORMAL
        self.done: list[Action] = []

    def look(self, **seen: Any) -> list[Action]:
        tunnels = tuple(Tunnel(name) for name in self.tunnels)
        self.seen |= seen
        actions = self.core.handle(Looked(**{"tunnels": tunnels, "route": self.route, **self.seen}), self.now)
        for action in actions:
            stay = self.deaf if isinstance(action, Redirect) else set()
            gone = set() if isinstance(action, Tell) else set(action.ids) - stay
            self.tunnels = [tunnel for tunnel in self.tunnels if tunnel not in gone]
        self.done += actions
        return actions

    def follow(self) -> None:
        """The shell and the bridge do what is wanted."""
        wants = self.core.wants
        self.route = RouteWord.NONE if wants.withdrawn else RouteWord.WORSE if wants.worse else RouteWord.NORMAL
        self.seen["closed"] = wants.refuse

    def run(self, seconds: float, *, until: Step | None = None) -> None:
        end = self.now + seconds
        while self.now < end and self.step is not until:
            self.look()
            self.follow()
            self.now += 0.5

    @property
    def step(self) -> Step:
        return self.core.drain.step

    def of(self, kind: type) -> list[str]:
        return [name for action in self.done if isinstance(action, kind) for name in action.ids]


def test_tunnels_go_before_the_route_and_the_door_closes_last() -> None:
    world, order = World("a", "b", "c"), []
    for _ in range(200):
        world.look()
        order.append((world.step, world.core.wants, world.route))
        world.follow()
        world.now += 0.5
    assert [step for i, (step, _, _) in enumerate(order) if i == 0 or order[i - 1][0] is not step] == [*FORTH]
    assert world.of(Redirect) == ["a", "b", "c"]
    assert world.of(Delete) == []
    for step, wants, route in order:
        assert not wants.refuse or route is RouteWord.NONE, "refusing while the route attracts is an outage"
        assert wants.worse == (step is not Step.MOVING)
    assert world.core.wants == Wants(worse=True, withdrawn=True, refuse=True)


def test_who_cannot_follow_is_cut_when_the_route_is_worse_and_not_before() -> None:
    world = World("a", deaf=("x", "y"))
    world.run(PLAN.follow_s + 0.5)
    assert world.step is Step.DEGRADING
    assert world.of(Delete) == []
    world.run(PLAN.cut_after_s)
    assert world.of(Delete) == [], "a client that gets a DELETE now would come back here"
    world.run(1)
    assert sorted(world.of(Delete)) == ["x", "y"], "and long after, it would wait behind a DPD"
    world.run(15, until=Step.WITHDRAWING)
    assert (world.step, sorted(world.of(Delete)), world.of(Redirect)) == (Step.WITHDRAWING, ["x", "y"], ["a", "x", "y"])


def test_who_is_still_moving_is_waited_for_until_the_limit() -> None:
    world = World(deaf=("x",), follow_s=1e6, move_limit_s=50.0)
    world.run(49.5)
    assert world.step is Step.MOVING
    world.run(2)
    assert world.step is Step.DEGRADING
    world.tunnels.append("late")
    world.deaf.add("late")
    world.run(PLAN.cut_after_s + 2)
    assert world.of(Delete) == ["x"], "the limit was over for it, not for one that came late"


def test_waiting_cuts_nobody_however_long_and_says_so_once() -> None:
    world = World("a", deaf=("x",), left=Left.WAIT)
    world.run(3 * PLAN.move_limit_s)
    assert (world.step, world.core.wants, world.of(Delete)) == (Step.MOVING, Wants(), [])
    told = [action for action in world.done if isinstance(action, Tell)]
    assert told == [Tell(Reason.DRAIN_WAITS, "moving: 1 tunnels, of which 1 cannot follow")]
    world.tunnels.clear()  # it has gone by itself
    world.run(1)
    assert world.step is Step.DEGRADING
    world.tunnels.append("y")
    world.deaf.add("y")
    world.run(PLAN.settle_s + 300)
    assert (world.step, world.of(Delete)) == (Step.DEGRADING, []), "one that came meanwhile counts as well"
    world.tunnels.clear()
    world.run(1)
    assert world.step is Step.WITHDRAWING


def test_nobody_is_redirected_to_an_address_that_does_not_answer() -> None:
    """An IKE_SA follows one REDIRECT only, so a wrong one spends it."""
    world = World("a", "b")
    world.seen["answers"] = False
    world.run(2 * PLAN.move_limit_s)
    assert (world.step, world.of(Redirect), world.of(Delete)) == (Step.MOVING, [], [])
    assert "does not answer" in world.core.drain.waits_for
    world.look(answers=True)
    assert world.of(Redirect) == ["a", "b"]


def test_without_an_address_everybody_is_one_that_cannot_follow() -> None:
    world = World("a", to=())
    world.run(1)
    assert world.step is Step.DEGRADING
    world.run(PLAN.settle_s + 2)
    assert (world.of(Redirect), world.of(Delete)) == ([], ["a"])


def test_a_client_that_answers_no_delete_gets_one_and_holds_nothing_up() -> None:
    world = World(deaf=("x",), to=())
    for _ in range(60):
        world.look()
        world.tunnels = ["x"]  # still listed
        world.follow()
        world.now += 0.5
    assert (world.step, world.of(Delete)) == (Step.DONE, ["x"])


def test_known_beforehand_that_it_cannot_follow() -> None:
    world = World()
    world.look(tunnels=(Tunnel("x", can=False),))
    assert (world.step, world.of(Redirect), world.core.progress(0.0).cannot) == (Step.DEGRADING, [], 1)


def test_redirects_and_deletes_keep_their_pace() -> None:
    names = tuple(f"t{i}" for i in range(100))
    world, at = World(deaf=names, redirects_per_s=10.0, deletes_per_s=5.0, follow_s=1.0), dict[str, list[float]]()
    for _ in range(20_000):
        for action in world.look():
            if not isinstance(action, Tell):
                at.setdefault(type(action).__name__, []).extend([world.now] * len(action.ids))
        world.follow()
        world.now += 0.02
    for kind, rate in (("Redirect", 10), ("Delete", 5)):
        moments = at[kind]
        assert len(moments) == 100
        for i, began in enumerate(moments):
            within = sum(began <= other <= began + 1 for other in moments[i:])
            assert within <= rate * 1.25 + 1, f"{kind}: a storm"
        assert moments[-1] - moments[0] < 130 / rate + 60


def test_a_pace_is_even() -> None:
    pace = Pace(4.0)
    assert [pace.take(9, 0.0), pace.take(9, 0.0), pace.take(9, 0.25), pace.take(9, 100.0)] == [1, 0, 1, 1]


def test_its_deadline_is_when_the_next_may_go() -> None:
    world = World("a", "b", redirects_per_s=2.0)
    assert world.look() == [Redirect(("a",))]
    world.tunnels = ["b"]
    world.look()
    assert world.core.deadline == pytest.approx(0.5)
    world.now = 0.5
    assert world.core.handle(TimerExpired(), 0.5) == [Redirect(("b",))]


def test_a_backup_moves_nobody_and_goes_on_when_it_becomes_active() -> None:
    world = World("a", "b")
    world.seen["active"] = False
    world.run(60)
    assert (world.step, world.done) == (Step.MOVING, []), "it counts its copies"
    world.look(active=True)
    assert world.of(Redirect) == ["a", "b"]


def test_an_unknown_observer_confirms_nothing_and_one_that_sees_holds_it() -> None:
    world = World()
    world.run(60, until=Step.WITHDRAWING)
    world.seen["seen"] = Seen.SEEN
    world.follow()
    world.run(PLAN.settle_s + SHOW_LIMIT_S + 60)
    assert (world.step, world.core.wants.refuse) == (Step.WITHDRAWING, False)
    assert [a.detail for a in world.done if isinstance(a, Tell)] == ["withdrawing: an observer still sees the route"]
    world.look(seen=Seen.UNKNOWN)
    assert world.step is Step.REFUSING, "the bridge's word and time are all there is"

    world = World()
    world.run(60, until=Step.WITHDRAWING)
    world.follow()
    world.look(seen=Seen.NOT_SEEN)
    assert world.step is Step.REFUSING, "confirmed: at once"


def test_what_is_settled_begins_anew_when_the_bridge_says_otherwise() -> None:
    world = World()
    world.look()
    world.follow()
    world.run(PLAN.settle_s - 1)
    world.route = RouteWord.UNKNOWN  # a session that came up, an agent that was started
    world.look()
    world.run(PLAN.settle_s - 1)
    assert world.step is Step.DEGRADING
    world.run(2)
    assert world.step is Step.WITHDRAWING


@pytest.mark.parametrize("route", [RouteWord.NORMAL, RouteWord.WORSE, RouteWord.UNKNOWN])
def test_it_never_refuses_without_the_bridges_word(route: RouteWord) -> None:
    world = World(step=Step.WITHDRAWING)
    world.route = route
    for world.now in range(0, 1000, 5):
        world.look(seen=Seen.NOT_SEEN)
        assert not world.core.wants.refuse
    assert world.step is Step.WITHDRAWING
    assert [type(action) for action in world.done] == [Tell], "once"


def test_a_route_that_comes_back_while_it_refuses_opens_the_door() -> None:
    """`hold announce` goes before a drain."""
    world = World()
    world.run(200)
    assert world.core.wants.refuse
    world.route = RouteWord.NORMAL
    world.look()
    assert not world.core.wants.refuse


def test_a_door_that_is_closed_is_not_done_while_there_is_a_route_again() -> None:
    world = World(step=Step.REFUSING)
    world.look(closed=True)
    assert world.step is Step.REFUSING
    world.route = RouteWord.NONE
    world.look()
    assert world.step is Step.DONE


def test_undoing_waits_for_the_door_but_not_for_ever() -> None:
    world = World(step=Step.REOPENING)
    world.route = RouteWord.NONE
    world.look(closed=True)
    assert (world.step, world.core.wants) == (Step.REOPENING, Wants(withdrawn=True))
    world.now = REOPEN_LIMIT_S
    world.look()
    assert (world.step, world.core.wants) == (Step.REANNOUNCING, Wants())


def test_a_fact_that_took_the_route_lets_it_go_on() -> None:
    world = World()
    world.look(tunnels=())
    world.route = RouteWord.NONE
    world.look(serving=False)
    assert world.step is Step.WITHDRAWING


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (Step.MOVING, [Step.ENDED]),
        (Step.DEGRADING, [Step.REANNOUNCING, Step.ENDED]),
        (Step.WITHDRAWING, [Step.REANNOUNCING, Step.ENDED]),
        (Step.REFUSING, [Step.REOPENING, Step.REANNOUNCING, Step.ENDED]),
        (Step.DONE, [Step.REOPENING, Step.REANNOUNCING, Step.ENDED]),
    ],
)
def test_an_abort_undoes_in_the_opposite_order(step: Step, expected: list[Step]) -> None:
    world = World(deaf=("x",), follow_s=1.0, cut_limit_s=0.0)
    world.run(300, until=step)
    assert world.step is step
    if step in (Step.REFUSING, Step.DONE):
        world.look()
        world.follow()
        world.look()
    world.done.clear()
    world.core.handle(Abort(), world.now)
    steps = [world.step]
    for _ in range(20):
        wants = world.core.wants
        assert wants.withdrawn or not wants.refuse
        assert wants.withdrawn or not world.seen["closed"], "the door opens before the route returns"
        world.look()
        world.follow()
        world.now += 0.5
        if world.step is not steps[-1]:
            steps.append(world.step)
    assert steps == expected
    assert (world.core.wants, world.of(Redirect), world.of(Delete)) == (Wants(), [], [])


def test_an_abort_does_not_wait_for_a_route_that_facts_keep_away() -> None:
    world = World(step=Step.REANNOUNCING)
    world.route = RouteWord.NONE
    world.look(serving=False)
    assert world.step is Step.ENDED


def test_who_goes_on_asks_those_that_are_left_again() -> None:
    world = World(deaf=("x",))
    world.run(10)
    stored = drain_record.encode(world.core.drain, boot_id="b")
    world.core = DrainCore(drain_record.decode(stored, boot_id="b", now=11.0))
    world.look()
    assert world.of(Redirect) == ["x", "x"], "charon passes over the second"
    world.run(PLAN.follow_s - 1)
    assert world.step is Step.MOVING, "and it has its time again"


def test_in_another_boot_the_step_begins_anew() -> None:
    stored = drain_record.encode(Drain(plan=PLAN, step=Step.WITHDRAWING, since=5e6, shown_at=5e6), boot_id="one")
    assert drain_record.decode(stored, boot_id="two", now=3.0) == Drain(plan=PLAN, step=Step.WITHDRAWING, since=3.0)
    assert drain_record.decode(stored, boot_id="one", now=3.0).shown_at == 5e6


@pytest.mark.parametrize(
    "change",
    [
        {"plan": None}, {"step": "resting"}, {"since": "now"}, {"since": float("nan")}, {"v": 2},
        {"plan.to": "198.51.100.22"}, {"plan.to": ["198.51.100.300"]}, {"plan.to": ["198.51.100.1", "198.51.100.2"]},
        {"plan.left": "hope"}, {"plan.redirects_per_s": 0}, {"plan.deletes_per_s": 1e9}, {"plan.prepend": 2.5},
        {"plan.prepend": 99}, {"plan.follow_s": -1}, {"plan.community": "yes"}, {"plan.why": 3},
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused(change: dict[str, Any]) -> None:
    import json

    fields = json.loads(drain_record.encode(Drain(plan=PLAN, since=1.0), boot_id="b"))
    for path, value in change.items():
        *above, name = path.split(".")
        (fields["plan"] if above else fields)[name] = value
    with pytest.raises(DecodeError):
        drain_record.decode(json.dumps(fields).encode(), boot_id="b", now=0.0)
