"""The agent's end of the VRRP lease: what is granted when, and what becomes of a process that does not answer."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from anycast.events import HolderKilled, VrrpStateChanged
from anycast.model import Cause
from anycast.policy.site import VrrpHeard
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason
from anycast.runtime import TimerExpired
from site_agent.vrrp import wire
from site_agent.vrrp.keeper import (
    Action,
    Exited,
    Happened,
    Keeper,
    Kill,
    LetGo,
    Started,
    Stopping,
    Tell,
    TellForerunner,
    UplinkSeen,
)

LEASE_S = 1.0
TICK_S = LEASE_S / 6
STATUS = wire.Status(
    role="backup", cause="started", since_ns=1, heard=0, peer="silent", peer_active=False, discarded={}, late={}, faults=[],
    boot=7, taken={}, installed_us=0,
)  # fmt: skip


def own(at: float, *against: Reason) -> VerdictReached:
    causes = against or (Reason.HEALTHY,)
    return VerdictReached(serving=not against, causes=tuple(Cause(reason=reason) for reason in causes), at=at)


def answer(grant: wire.Grant, at: float, role: str = "backup") -> wire.Answer:
    return wire.Answer(at_ns=round(at * 1e9), until_ns=grant.until_ns, role=role, peer="fit", peer_active=False)


def grants(actions: list[Action]) -> list[wire.Grant]:
    return [a.message for a in actions if isinstance(a, Tell) and isinstance(a.message, wire.Grant)]


def kills(actions: list[Action]) -> bool:
    return any(isinstance(action, Kill) for action in actions)


def running(now: float = 0.0) -> Keeper:
    """One whose process has said its first word."""
    keeper = Keeper(priority=100, lease_s=LEASE_S, now=now)
    keeper.handle(Started(pid=5), now)
    keeper.handle(STATUS, now)
    return keeper


def active(now: float = 0.0) -> Keeper:
    """One whose process is Active, and has answered."""
    keeper = running(now)
    (grant,) = grants(keeper.handle(own(now), now))
    keeper.handle(answer(grant, now, "active"), now)
    return keeper


def test_a_fresh_verdict_is_granted_every_third_of_a_lease_and_a_change_at_once() -> None:
    keeper, granted = running(), []
    for tick in range(13):
        now = tick * TICK_S
        for grant in grants(keeper.handle(own(now), now)):
            granted.append(grant)
            keeper.handle(answer(grant, now), now)
            assert grant.priority == 100
            assert grant.until_ns == grant.attract_until_ns == round((now + LEASE_S) * 1e9), "as old as the verdict"
    assert len(granted) == 7
    (grant,) = grants(keeper.handle(own(2.05, Reason.CHARON_EXITED), 2.05))
    assert grant.priority == 0
    (grant,) = grants(keeper.handle(UplinkSeen(proven=False), 2.06))
    assert (grant.priority, grant.uplink) == (0, False)


def test_what_nobody_has_seen_is_granted_nothing_so_that_a_predecessors_mastership_goes_on() -> None:
    keeper = running()
    for word in (Reason.NO_EVIDENCE_YET, Reason.CLOCK_GAP):
        assert not grants(keeper.handle(own(0.1, word), 0.1))
    assert grants(keeper.handle(own(0.2), 0.2))


def test_a_stale_verdict_grants_nothing() -> None:
    assert not grants(running().handle(own(-LEASE_S), 0.0))


def test_one_that_does_not_answer_is_killed_and_let_go_within_a_lease_of_its_last_word() -> None:
    keeper, now, events = active(), 0.0, []
    while not any(kills(actions) for actions in events):
        now += 0.001
        tick = round(now / TICK_S) * TICK_S
        events.append(keeper.handle(own(now) if abs(now - tick) < 0.0005 else TimerExpired(), now))
        assert now < LEASE_S, "within the lease"
    assert any(isinstance(a, Happened) and isinstance(a.event, HolderKilled) for a in events[-1])
    assert keeper.deadline is None and not kills(keeper.handle(own(now), now)), "once"
    actions = keeper.handle(Exited(pid=5, status=-9), now)
    assert isinstance(actions[0], LetGo)
    assert [a.event.cause for a in actions if isinstance(a, Happened) and isinstance(a.event, VrrpStateChanged)] == [
        "vrrp_silent"
    ]
    assert keeper.status is None and not grants(keeper.handle(own(now), now)), "nothing is granted to nobody"


def test_a_backup_that_ends_leaves_nothing_to_let_go() -> None:
    keeper = running()
    assert not any(isinstance(action, LetGo) for action in keeper.handle(Exited(pid=5, status=-9), 0.1))


def test_a_forerunners_end_is_nobodys_business() -> None:
    keeper = active()
    keeper.handle(Started(pid=6), 0.1)
    assert keeper.handle(Exited(pid=5, status=0), 0.2) == []


def test_an_agent_that_was_stopped_itself_begins_its_patience_anew() -> None:
    keeper = running()
    (grant,) = grants(keeper.handle(own(0.0), 0.0))
    assert not kills(keeper.handle(TimerExpired(), 20.0)), "the answer waits in its socket"
    keeper.handle(answer(grant, 0.001), 20.001)
    assert keeper.deadline is None


def test_a_late_loop_reads_the_answer_that_waits_before_it_kills() -> None:
    keeper = running()
    (grant,) = grants(keeper.handle(own(0.0), 0.0))
    assert not kills(keeper.handle(TimerExpired(), 0.9)), "an overdue timer comes before what waits in a socket"
    keeper.handle(answer(grant, 0.001), 0.901)
    assert keeper.deadline is None
    keeper.handle(own(0.95), 0.95)
    assert not kills(keeper.handle(TimerExpired(), 1.6)) and kills(keeper.handle(TimerExpired(), 1.7)), "but only once"


def test_one_that_never_speaks_is_killed() -> None:
    keeper = Keeper(priority=100, lease_s=LEASE_S, now=0.0)
    keeper.handle(Started(pid=5), 0.0)
    assert keeper.deadline is not None
    now = 0.0
    while now < keeper.deadline:
        now += 0.9 * LEASE_S
        actions = keeper.handle(TimerExpired(), now)
        if kills(actions):
            return
    raise AssertionError("never killed")


def test_a_clean_stop_leaves_a_grace_to_one_that_serves_or_could_and_grants_no_more() -> None:
    keeper = active()
    assert keeper.handle(Stopping(until=15.0), 0.1) == [Tell(wire.Grace(until_ns=15_000_000_000))]
    assert not grants(keeper.handle(own(0.5), 0.5)), "a grant would end before the grace"
    assert keeper.deadline is None


def test_one_that_could_not_serve_goes_on_with_its_priority_of_0_so_that_bfd_does() -> None:
    keeper = active()
    keeper.handle(own(0.1, Reason.LINK_DOWN), 0.1)
    assert keeper.handle(Stopping(until=15.0), 0.2) == [Tell(wire.Grace(until_ns=15_000_000_000))]


def test_a_grant_that_has_ended_is_not_prolonged() -> None:
    """The agent was frozen, and is told to stop when it wakes: the process has given way."""
    assert active().handle(Stopping(until=15.0), LEASE_S) == [Tell(wire.Stop())]
    assert running().handle(Stopping(until=15.0), 0.1) == [Tell(wire.Stop())], "nor what nobody was granted"


def to_forerunner(actions: list[Action]) -> list[wire.Message]:
    return [action.message for action in actions if isinstance(action, TellForerunner)]


def test_a_forerunner_is_granted_until_its_successor_has_answered_however_long_that_needs() -> None:
    keeper = active()
    keeper.handle(Started(pid=6, replaces=True), 0.1)
    now, until = 0.1, LEASE_S
    while now < 8 * LEASE_S:
        now += TICK_S
        assert now < until, "its lease has not ended"
        for grant in to_forerunner(keeper.handle(own(now), now)):
            assert isinstance(grant, wire.Grant) and grant.priority == 100
            until = grant.until_ns / 1e9
    (word,) = to_forerunner(keeper.handle(own(now + 0.01, Reason.CHARON_EXITED), now + 0.01))
    assert isinstance(word, wire.Grant) and word.priority == 0, "what becomes unfit gives way, replaced or not"
    keeper.handle(own(now + 0.02), now + 0.02)
    (grant,) = grants(keeper.handle(STATUS, now + 0.02))
    keeper.handle(answer(grant, now + 0.03, "active"), now + 0.03)
    assert not to_forerunner(keeper.handle(own(now + TICK_S), now + TICK_S))


def test_the_grace_is_the_forerunners_until_its_successor_was_granted_anything() -> None:
    keeper = active()
    keeper.handle(Started(pid=6, replaces=True), 0.1)
    keeper.handle(own(0.2), 0.2)
    assert keeper.handle(Stopping(until=15.0), 0.3) == [
        TellForerunner(wire.Grace(until_ns=15_000_000_000)),
        Tell(wire.Stop(keep_bfd=True)),
    ]
    keeper = active()
    keeper.handle(Started(pid=6, replaces=True), 0.1)
    assert grants(keeper.handle(STATUS, 0.2))
    assert keeper.handle(Stopping(until=15.0), 0.3) == [Tell(wire.Grace(until_ns=15_000_000_000))], "it may be Active"


def test_a_successor_that_ends_before_it_served_leaves_the_forerunner_its_grants() -> None:
    keeper = active()
    keeper.handle(Started(pid=6, replaces=True), 0.1)
    keeper.handle(Exited(pid=6, status=1), 0.2)
    assert to_forerunner(keeper.handle(own(0.3), 0.3))
    keeper.handle(Started(pid=7, replaces=False), 0.4)
    assert not to_forerunner(keeper.handle(own(0.5), 0.5)), "until another one is started in nobody's place"


def test_what_is_heard_is_dated_by_the_process() -> None:
    keeper = running()
    (grant,) = grants(keeper.handle(own(0.0), 0.0))
    actions = keeper.handle(dataclasses.replace(answer(grant, 0.001), peer_active=True), 5.0)
    assert actions == [VrrpHeard(at=0.001, role="backup", peer="fit", peer_active=True)]


@given(
    st.lists(st.tuples(st.floats(0.0, 0.3), st.sampled_from(["tick", "unfit", "unseen", "answer", "uplink"])), max_size=60)
)
def test_no_grant_outlives_the_verdict_and_only_the_verdict_moves_the_priority(steps: list[tuple[float, str]]) -> None:
    keeper, now, verdict, last = running(), 0.0, own(0.0), None
    for after, what in steps:
        now += after
        actions: list[Action] = []
        if what == "answer" and last is not None:
            actions = keeper.handle(answer(last, now), now)
        elif what == "uplink":
            actions = keeper.handle(UplinkSeen(proven=after > 0.1), now)
        elif what in ("tick", "unfit", "unseen"):
            against = {"tick": (), "unfit": (Reason.SA_STATE_LOST,), "unseen": (Reason.NO_EVIDENCE_YET,)}[what]
            verdict = own(now, *against)
            actions = keeper.handle(verdict, now)
        for grant in grants(actions):
            last = grant
            assert grant.until_ns == round((verdict.at + LEASE_S) * 1e9) and grant.until_ns > now * 1e9
            assert grant.priority == (100 if verdict.serving else 0)
            assert verdict.causes[0].reason is not Reason.NO_EVIDENCE_YET
        if kills(actions):
            return
