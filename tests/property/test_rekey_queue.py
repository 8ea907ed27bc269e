"""One rekey budget a gateway: whatever is wished for and whatever clients do, the queue keeps its promises.

A world of SAs with clients that answer, answer late, refuse or sleep is driven through the real core, by the world's clock.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anycast.reasons import Reason
from anycast.timer import TimerExpired
from site_agent.ike import rekey_queue
from site_agent.ike.rekey_queue import (
    ORDER,
    Action,
    Ask,
    End,
    Gone,
    Hold,
    Input,
    Looked,
    Refused,
    Rekeyed,
    RekeyQueue,
    SaId,
    Stopped,
    Swept,
    Wish,
    Wished,
)

PER_SECOND, UNANSWERED, ANSWER_S = 5, 8, 4.0
"""Of these worlds. ANSWER_S is the product's promise, not read from the product."""
ANSWERS, LATE, REFUSES, SLEEPS = "answers", "late", "refuses", "sleeps"


@dataclasses.dataclass
class Sa:
    client: str
    ike: str
    rekeying: bool = False
    alive: bool = True


class World:
    """charon and its clients. An SA that was rekeyed is another one afterwards, which nobody wishes for."""

    def __init__(self, clients: list[str]) -> None:
        self.now, self.core = 1000.0, RekeyQueue(PER_SECOND, UNANSWERED)
        self.sas: dict[SaId, Sa] = {}
        for number, client in enumerate(clients):
            for kind in ("ike", "child"):
                self.sas[SaId(kind, str(number))] = Sa(client, str(number))
        self.agenda: list[tuple[float, Input]] = []
        self.next_look = self.now
        self.asks: list[tuple[float, Ask]] = []
        self.wished_at: dict[SaId, float] = {}
        self.ended: list[tuple[float, End]] = []
        self.refused: list[Refused] = []
        self.rekeyed: list[tuple[float, SaId]] = []
        self.gone: list[tuple[float, SaId]] = []
        self.reasons: dict[SaId, dict[Reason, float]] = {}
        """Who is wished for now, and since when for each reason."""

    def wish(self, reason: Reason, *names: SaId, more: bool = True, **rest: Any) -> None:
        wishes = tuple(Wish(sa=sa, ike=self.sas[sa].ike, name=f"{sa.kind} {sa.unique}", **rest) for sa in names)
        for sa in names:
            self.wished_at.setdefault(sa, self.now)
            self.reasons.setdefault(sa, {}).setdefault(reason, self.now)
        self.tell(Wished(reason=reason, wishes=wishes, more=more))

    def tell(self, event: Input) -> None:
        for action in self.core.handle(event, self.now):
            self.perform(action)

    def perform(self, action: Action) -> None:
        match action:
            case Ask(sa=sa):
                self.asks.append((self.now, action))
                sa_now = self.sas[sa]
                if not sa_now.alive:
                    self.agenda.append((self.now + 0.01, Gone(sa)))
                elif sa_now.client == SLEEPS:
                    sa_now.rekeying = True
                elif sa_now.client != REFUSES:
                    self.agenda.append((self.now + (0.05 if sa_now.client == ANSWERS else 9.0), Rekeyed(sa)))
                    sa_now.rekeying = sa_now.client == LATE
            case End(sa=sa):
                self.ended.append((self.now, action))
                self.agenda.append((self.now + 0.5, Gone(sa)))
            case Refused():
                self.refused.append(action)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            self.agenda.sort(key=lambda each: each[0])
            deadline = self.core.deadline
            at = min(self.next_look, *[a for a, _e in self.agenda[:1]], end + 1 if deadline is None else deadline)
            if at > end:
                break
            self.now = max(self.now, at)
            if self.agenda and self.agenda[0][0] <= at:
                event = self.agenda.pop(0)[1]
                if isinstance(event, Rekeyed | Gone):
                    if self.sas[event.sa].alive and isinstance(event, Rekeyed):
                        self.rekeyed.append((self.now, event.sa))
                    self.gone.append((self.now, event.sa))
                    self.sas[event.sa].alive = False
                    self.reasons.pop(event.sa, None)
                self.tell(event)
            elif self.next_look <= at:
                self.look()
            else:
                self.tell(TimerExpired())
                assert self.core.deadline is None or self.core.deadline > self.now, "it would spin"
        self.now = end

    def look(self) -> None:
        self.next_look = self.now + 10.0
        self.tell(Looked(rekeying={sa: each.rekeying for sa, each in self.sas.items() if each.alive}, began=self.now))


def check_budget(world: World) -> None:
    times = [at for at, _ask in world.asks]
    for first, last in zip(times, times[PER_SECOND:], strict=False):
        assert last >= first + 1.0 - 1e-6, f"more than {PER_SECOND} within a second at {first}"
    answered = {sa: at for at, sa in [*world.rekeyed, *world.gone]}
    open_at = [(at, min(answered.get(ask.sa, at + ANSWER_S), at + ANSWER_S)) for at, ask in world.asks]
    for at, _until in open_at:
        open_now = sum(begun <= at < until - 1e-6 for begun, until in open_at)
        assert open_now <= UNANSWERED + PER_SECOND * 0.02, f"{open_now} unanswered at {at}"


def check_no_sa_twice(world: World) -> None:
    """Again only where the client had time to answer: a minute, or 10 s without service, or 4 s for what is more urgent."""
    by_sa: dict[SaId, list[tuple[float, Ask]]] = {}
    for at, ask in world.asks:
        by_sa.setdefault(ask.sa, []).append((at, ask))
    for asks in by_sa.values():
        for (at, before), (then, after) in itertools.pairwise(asks):
            more_urgent = ORDER.index(after.reason) < ORDER.index(before.reason)
            least = ANSWER_S if more_urgent else 10.0 if after.reason is Reason.SA_STATE_PARTIAL else 60.0
            assert then >= at + least - 1e-6, f"{after.sa} asked for twice within {then - at} s"


CLIENTS = st.lists(st.sampled_from([ANSWERS, ANSWERS, ANSWERS, LATE, REFUSES, SLEEPS]), min_size=1, max_size=25)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["wish", "wish", "wish", "set", "gone", "sweep"]),
        st.sampled_from(ORDER),
        st.sets(st.integers(0, 49), max_size=20),
        st.sampled_from([0.0, 0.01, 0.5, 3.0]),
    ),
    max_size=12,
)


def drive(clients: list[str], steps: list[tuple[str, Reason, set[int], float]], rest_s: float = 400.0) -> World:
    world = World(clients)
    names = list(world.sas)
    for what, reason, numbers, pause in steps:
        chosen = [names[number] for number in sorted(numbers) if number < len(names)]
        if what == "sweep":
            world.tell(Swept())
        elif what == "gone":
            for sa in chosen[:2]:
                world.sas[sa].alive = False
                world.reasons.pop(sa, None)
        else:
            living = [sa for sa in chosen if world.sas[sa].alive]
            if what == "set":
                for sa in [sa for sa in world.reasons if sa not in living]:
                    world.reasons[sa].pop(reason, None)
                    if not world.reasons[sa]:
                        del world.reasons[sa]
            world.wish(reason, *living, more=what == "wish")
        world.run(pause)
    world.run(rest_s)
    return world


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CLIENTS, STEPS)
def test_never_more_than_the_budget_and_nobody_twice_and_everybody_in_the_end(
    clients: list[str], steps: list[tuple[str, Reason, set[int], float]]
) -> None:
    world = drive(clients, steps)
    check_budget(world)
    check_no_sa_twice(world)
    asked, named = {ask.sa for _at, ask in world.asks}, {refused.sa for refused in world.refused}
    for sa in world.reasons:
        client = world.sas[sa].client
        assert sa in asked or world.sas[sa].rekeying, f"{sa} is wished for, and was never asked for"
        assert client in (REFUSES, SLEEPS), f"{sa} has a client that answers, and still waits"
        if client == REFUSES:
            # The IKE_SA and its CHILD_SA wait for each other; the refusals of either name the client.
            assert sa.unique in {each.unique for each in named}, f"{sa} is refused, and nobody is told"
    assert all(world.sas[sa].client == REFUSES for sa in named)
    progress = world.core.progress(world.now)
    assert sum(progress.waiting.values()) == 0
    assert progress.unanswered <= sum(at > world.now - ANSWER_S for at, _ask in world.asks)
    assert {*progress.refusing} >= {f"{sa.kind} {sa.unique}" for sa in world.reasons if sa in named}


def test_the_order_is_that_of_the_reasons() -> None:
    """All are wished for at one moment, in the other order."""
    world = World([ANSWERS] * 36)
    for place, reason in reversed(list(enumerate(ORDER))):
        world.wish(reason, *(SaId("child", str(number)) for number in range(36) if number % 6 == place))
    world.run(20.0)
    urgency = [ORDER.index(ask.reason) for _at, ask in world.asks]
    assert urgency[1:] == sorted(urgency[1:]), "the first one was alone when it was wished for"
    assert len(urgency) == 36


def test_the_nearest_deadline_is_first() -> None:
    world = World([ANSWERS] * 10)
    for number in range(10):
        world.wish(Reason.REKEY_OVERDUE, SaId("child", str(number)), deadline=world.now + 1000 - 50 * number)
    world.run(10.0)
    assert [int(ask.sa.unique) for _at, ask in world.asks[1:]] == list(range(9, 0, -1))


def test_a_child_sa_waits_for_its_ike_sa() -> None:
    world = World([ANSWERS, LATE])
    for number in "01":
        world.wish(Reason.CLIENT_MOVED, SaId("child", number), SaId("ike", number))
    world.run(3.0)
    asked = [(ask.sa, at - 1000.0) for at, ask in world.asks]
    assert [sa.kind for sa, _at in asked if sa.unique == "0"] == ["ike", "child"]
    assert [sa.kind for sa, _at in asked if sa.unique == "1"] == ["ike", "child"], "and not for ever"
    assert max(at for _sa, at in asked) < 1.0, "IKE_SA and CHILD_SA within a second"


def test_a_second_wish_is_the_same_and_the_more_urgent_reason_counts() -> None:
    world = World([ANSWERS] * 12)
    names = [SaId("child", str(number)) for number in range(12)]
    world.wish(Reason.TAKEN_OVER, *names)
    world.wish(Reason.CLIENT_MOVED, names[11])
    world.wish(Reason.TAKEN_OVER, *names)
    world.run(10.0)
    assert world.asks[1][1].sa == names[11] and len(world.asks) == 12
    assert world.asks[1][1].reasons == {Reason.TAKEN_OVER, Reason.CLIENT_MOVED}


def test_what_is_void_costs_nothing() -> None:
    world = World([ANSWERS] * 20)
    world.wish(Reason.TAKEN_OVER, *(SaId("child", str(number)) for number in range(20)))
    for number in range(1, 10):
        world.tell(Rekeyed(SaId("child", str(number))))
    for number in range(10, 19):
        world.sas[SaId("child", str(number))].alive = False
    world.now += 0.01
    world.look()
    world.run(10.0)
    assert [ask.sa.unique for _at, ask in world.asks] == ["0", "19"]


def test_nobody_starves_behind_a_stream_of_more_urgent_ones() -> None:
    world = World([ANSWERS] * 900)
    last = SaId("child", "0")
    for number in range(1, 400):
        world.wish(Reason.CLIENT_MOVED, SaId("child", str(2 * number)), SaId("child", str(2 * number + 1)))
        if number == 5:
            world.wish(Reason.TAKEN_OVER, last)
        world.run(0.2)
    at = next(at for at, ask in world.asks if ask.sa == last)
    assert 30.0 <= at - world.wished_at[last] < 32.5, "not before it has waited, and then with the next turn"


def test_who_refuses_is_asked_ever_more_seldom_and_named_once() -> None:
    world = World([REFUSES])
    world.wish(Reason.TAKEN_OVER, SaId("child", "0"))
    world.run(86_400.0)
    times = [at - 1000.0 for at, _ask in world.asks]
    pauses = [round(later - earlier) for earlier, later in itertools.pairwise(times)]
    assert pauses[:7] == [60, 120, 240, 480, 960, 1920, 3600]
    assert len(times) < 7 + 24
    assert [refused.sa.unique for refused in world.refused] == ["0"]
    assert world.core.progress(world.now).refusing == ("child 0",)
    world.tell(Rekeyed(SaId("child", "0")))
    assert world.core.progress(world.now).refusing == ()


def test_who_sleeps_is_not_asked_again() -> None:
    world = World([SLEEPS])
    world.wish(Reason.TAKEN_OVER, SaId("child", "0"))
    world.run(3000.0)
    assert len(world.asks) == 1 and not world.refused


@pytest.mark.parametrize("client", [REFUSES, SLEEPS, ANSWERS])
def test_an_sa_near_its_mark_is_ended_politely_unless_it_was_rekeyed(client: str) -> None:
    world = World([client])
    sa = SaId("ike", "0")
    world.wish(Reason.REKEY_OVERDUE, sa, deadline=world.now + 1000.0, end_at=world.now + 1000.0)
    world.run(2000.0)
    if client == ANSWERS:
        assert not world.ended and len(world.asks) == 1
        return
    assert [(at - 1000.0, end.sa) for at, end in world.ended] == [(970.0, sa)]
    if client == REFUSES:
        assert world.asks[-1][0] - 1000.0 == 910.0, "a last request"


def test_an_sa_that_is_found_too_late_is_asked_for_before_it_is_ended() -> None:
    world = World([REFUSES])
    sa = SaId("ike", "0")
    world.wish(Reason.REKEY_OVERDUE, sa, deadline=world.now - 1.0, end_at=world.now - 1.0)
    world.run(60.0)
    assert len(world.asks) == 1 and [round(at - 1000.0) for at, _end in world.ended] == [4]


def test_clients_that_do_not_answer_leave_room_for_others() -> None:
    world = World([SLEEPS] * 40 + [ANSWERS] * 40)
    world.wish(Reason.TAKEN_OVER, *(SaId("child", str(number)) for number in range(80)))
    world.run(60.0)
    check_budget(world)
    assert len(world.rekeyed) == 40
    assert max(at for at, _sa in world.rekeyed) - 1000.0 < 80 / (UNANSWERED / ANSWER_S) + 5


def test_before_a_handover_nothing_is_begun() -> None:
    world = World([ANSWERS] * 3)
    began = world.now
    world.tell(Hold(3.0))
    world.wish(Reason.TAKEN_OVER, *world.sas)
    world.run(2.9)
    assert not world.asks
    world.run(5.0)
    assert len(world.asks) == 6 and world.asks[0][0] >= began + 3.0


def test_who_is_active_again_after_a_handover_begins_at_once() -> None:
    """Handovers there and back within the pause left no time for a rekey; after seven the sequence numbers had run out."""
    world = World([ANSWERS] * 3)
    world.tell(Hold(6.0))
    world.run(0.5)
    world.tell(Stopped())
    world.wish(Reason.TAKEN_OVER, *world.sas)
    world.run(2.0)
    assert len(world.asks) == 6


def test_nothing_counts_after_a_change_of_roles_but_the_budget() -> None:
    world = World([ANSWERS] * 20)
    names = [SaId("child", str(number)) for number in range(20)]
    world.wish(Reason.TAKEN_OVER, *names)
    world.run(0.9)
    world.tell(Stopped())
    assert world.core.deadline is None
    world.wish(Reason.TAKEN_OVER, *names[10:])
    world.run(20.0)
    check_budget(world)
    assert len(world.asks) == 5 + 10


def test_a_thousand_wishes_take_their_time_and_say_how_long() -> None:
    world = World([ANSWERS] * 1000)
    world.core = RekeyQueue(50, 100)
    world.wish(Reason.TAKEN_OVER, *(SaId("child", str(number)) for number in range(1000)))
    progress = world.core.progress(world.now)
    assert (progress.waiting, progress.done, round(progress.left_s)) == ({Reason.TAKEN_OVER: 999}, 0, 20)
    world.run(10.0)
    progress = world.core.progress(world.now)
    assert progress.done == pytest.approx(500, abs=5) and progress.left_s == pytest.approx(10, abs=0.2)
    world.run(10.5)
    assert len(world.rekeyed) == 1000 and world.core.progress(world.now).waiting == {}


def _any_world() -> None:
    test_never_more_than_the_budget_and_nobody_twice_and_everybody_in_the_end()


MUTANTS: dict[str, tuple[str, str, str, Callable[[], None]]] = {
    "no budget": ("_ask", "self._free_at = now + self._interval", "pass", test_the_order_is_that_of_the_reasons),
    "no limit of unanswered": (
        "_go_on", "len(self._open) < self._most", "True", test_clients_that_do_not_answer_leave_room_for_others),
    "unanswered for ever": (
        "_go_on", "+ ANSWER_S <= now:", "+ 1e9 <= now:",
        test_clients_that_do_not_answer_leave_room_for_others),
    "first come first served": (
        "_place", "self._ready[waiting.reason]", "self._ready[ORDER[0]]", test_the_order_is_that_of_the_reasons),
    "no deadlines": ("_place", "(waiting.wish.deadline, waiting", "(0.0, waiting", test_the_nearest_deadline_is_first),
    "CHILD_SA first": ("_may", "ike not in self._asked", "False", test_a_child_sa_waits_for_its_ike_sa),
    "a CHILD_SA waits for ever": ("_ask", 'sa.kind == "ike"', "False", test_a_child_sa_waits_for_its_ike_sa),
    "nothing merges": (
        "_take_in", "waiting.reasons.add(reason)", "return",
        test_a_second_wish_is_the_same_and_the_more_urgent_reason_counts),
    "what is gone is asked for": ("_on_looked", "self._end(sa)", "pass", test_what_is_void_costs_nothing),
    "the last ones starve": ("_next", "% FAIR_EVERY", "% 1000000", test_nobody_starves_behind_a_stream_of_more_urgent_ones),
    "who waits passes at once": (
        "_oldest", "now - PATIENCE_S", "now", test_nobody_starves_behind_a_stream_of_more_urgent_ones),
    "refusals are not counted": (
        "_on_looked", "asked.times >= MAX_REFUSED", "False", test_who_refuses_is_asked_ever_more_seldom_and_named_once),
    "asked for ever at one pace": (
        "_not_before", "1 << min(asked.times - 1, 16)", "1", test_who_refuses_is_asked_ever_more_seldom_and_named_once),
    "asked while charon asks": ("_may", "sa in self._rekeying", "False", test_who_sleeps_is_not_asked_again),
    "nothing is ended": (
        "_ends", "if waiting is None:", "if True:", test_an_sa_that_is_found_too_late_is_asked_for_before_it_is_ended),
    "ended without a request": (
        "_ends", "now + 1.0 if asked is None else asked.last + ANSWER_S", "now",
        test_an_sa_that_is_found_too_late_is_asked_for_before_it_is_ended),
    "no last request": (
        "_not_before", "return min(at, last_call) if asked.last < last_call else at", "return at",
        lambda: test_an_sa_near_its_mark_is_ended_politely_unless_it_was_rekeyed(REFUSES)),
    "a change of roles begins a new second": (
        "_dispatch", "self.total, self._recent, self._free_at = done, recent, free_at", "pass",
        test_nothing_counts_after_a_change_of_roles_but_the_budget),
}  # fmt: skip
"""By what is broken: where, what stands there, what takes its place, and who finds it."""


@pytest.mark.parametrize("name", MUTANTS)
def test_each_broken_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, right, wrong, found = MUTANTS[name]
    source = textwrap.dedent(inspect.getsource(getattr(RekeyQueue, function)))
    assert source.count(right) == 1, "a rule has moved: move its mutant too"
    made: dict[str, Any] = {}
    exec(compile(source.replace(right, wrong), name, "exec"), vars(sys.modules[rekey_queue.__name__]), made)
    monkeypatch.setattr(RekeyQueue, function, made[function])
    with pytest.raises((AssertionError, KeyError, StopIteration, RuntimeError)):
        found()
