"""Named histories of tokens and of the ledger, each with what must come of it."""

from __future__ import annotations

import itertools

import pytest

from anycast.policy import token_words as words
from anycast.policy.ledger import Entry, Kind
from anycast.policy.token_times import FRESH_S, HEARTBEAT_S, SETTLE_S, SPACING_S, TOKEN_LIFE_S, WINDOW_S
from anycast.reasons import Reason
from tests.support.token_checker import Checker
from tests.support.token_world import LOOK_S, STANDS_S, Leader, Node, World

GRANTED_S = WINDOW_S + LOOK_S + 3 * HEARTBEAT_S
"""From a fault at one site until it is dark."""
RETURNED_S = 2 * STANDS_S + HEARTBEAT_S + 1.0
"""From the end of a token until its slot has returned, with contact."""


def settled(*, min_sites: int = 2, pairs: int = 0, sites: int = 6, seed: int = 1) -> tuple[World, Checker]:
    world = World(seed, sites=sites, min_sites=min_sites, pairs=pairs)
    checker = Checker(world)
    world.run(SETTLE_S + 5.0)
    return world, checker


def fail(world: World, *sites: str, check: str = "dns") -> None:
    for site in sites:
        for node in world.of_site[site]:
            node.failing.add(check)


def dark(world: World) -> set[str]:
    return {node.site for node in world.nodes.values() if node.token_dark}


def happened(world: World, kind: type) -> list:
    return [event for event in world.events if isinstance(event, kind)]


def refusals(world: World) -> set[tuple[str, str]]:
    return {(event.site, str(event.decision.cause.reason)) for event in happened(world, words.SlotRefused)}


def the(world: World, site: str) -> Node:
    return world.of_site[site][0]


def entries(world: World) -> list[Entry]:
    return list(world.store.entries.values())


def dark_at(world: World, *sites: str) -> None:
    fail(world, *sites)
    world.run(GRANTED_S)
    assert dark(world) == set(sites)


def test_one_site_that_fails_alone_goes_dark_and_returns() -> None:
    world, _ = settled()
    fail(world, "s0")
    world.run(WINDOW_S)
    assert not dark(world), "not before the correlation window"
    world.run(GRANTED_S - WINDOW_S)
    assert dark(world) == {"s0"}
    world.run(10 * TOKEN_LIFE_S)
    assert dark(world) == {"s0"} and len(world.grants) == 1, "one token, renewed"
    the(world, "s0").failing.clear()
    world.run(LOOK_S)
    assert not dark(world) and the(world, "s0").announced, "at the first look that passes"
    world.run(RETURNED_S)
    assert not entries(world)


def test_what_fails_everywhere_darkens_nobody_and_is_blamed() -> None:
    world, checker = settled()
    fail(world, *world.names)
    world.run(10 * 60)
    assert checker.most == 0
    (suspected,) = happened(world, words.CheckSuspected)
    assert suspected.check == "dns"


def test_what_reaches_one_site_after_another_is_blamed_when_it_has_reached_most() -> None:
    world, checker = settled()
    for n, site in enumerate(world.names):
        fail(world, site)
        world.run(GRANTED_S + SPACING_S)
        if n == 2:
            assert dark(world) == {"s0", "s1", "s2"}, "at half of the others it still passes"
    assert not dark(world) and checker.most == 3
    assert [event.check for event in happened(world, words.CheckSuspected)] == ["dns"]
    assert not entries(world)


def test_a_suspected_check_gives_the_sites_back_at_once() -> None:
    world, _ = settled()
    dark_at(world, "s0")
    fail(world, "s1", "s2", "s3")
    world.run(LOOK_S + HEARTBEAT_S + 1.0)
    assert not dark(world)


def test_without_half_of_the_others_nobody_goes_dark() -> None:
    world, checker = settled()
    fail(world, "s0", "s1", "s2", "s3")
    for site in ("s1", "s2", "s3"):
        world.cut.add((the(world, site).name, "*"))
    world.run(10 * 60)
    assert checker.most == 0
    assert ("s0", Reason.EVIDENCE_SHORT) in refusals(world) and not happened(world, words.CheckSuspected)


def test_grants_are_spaced() -> None:
    world, _ = settled()
    fail(world, "s0", "s1", "s2")
    world.run(GRANTED_S + 3 * SPACING_S)
    times = [at for at, _site, _kind in world.grants]
    assert len(times) == 3 and all(b - a >= SPACING_S for a, b in itertools.pairwise(times))


def test_a_slow_check_is_waited_for() -> None:
    """One that needs longer than the window to say what it sees may be failing elsewhere already."""
    world, checker = settled()
    for node in world.nodes.values():
        assert node.holder is not None
        node.holder._spans["dns"] = 90.0
    fail(world, "s0")
    world.run(90.0)
    assert checker.most == 0
    world.run(LOOK_S + 3 * HEARTBEAT_S)
    assert dark(world) == {"s0"}


def test_a_a_token_that_comes_too_late_is_not_used_and_its_slot_returns() -> None:
    world, checker = settled()
    world.reconnect_s = 1000.0
    given = world.on_given

    def slow(site: str) -> None:
        given(site)
        world.least_delay_s = world.delay_s = TOKEN_LIFE_S + 1.0

    world.on_given = slow
    fail(world, "s0")
    world.run(GRANTED_S + 2 * TOKEN_LIFE_S)
    assert len(world.grants) == 1 and checker.most == 0
    ended = happened(world, words.TokenEnded)
    assert [(event.used, event.cause.reason) for event in ended] == [(False, Reason.TOKEN_EXPIRED)]
    world.on_given, world.least_delay_s, world.delay_s = given, 0.001, 0.1
    the(world, "s0").failing.clear()
    world.run(3 * TOKEN_LIFE_S)
    assert not entries(world)


@pytest.mark.parametrize("frozen", [False, True], ids=["stopped", "virtual machine paused"])
def test_b_a_holder_that_is_paused_keeps_the_slot_and_announces_when_it_runs(frozen: bool) -> None:
    world, checker = settled(min_sites=5)
    dark_at(world, "s0")
    world.pause(the(world, "s0"), frozen=frozen)
    fail(world, "s1")
    world.run(10 * 60)
    assert dark(world) == {"s0"} and len(world.grants) == 1, "stopped with its route withdrawn; nobody else may"
    world.resume(the(world, "s0"))
    if not frozen:
        assert the(world, "s0").announced
    the(world, "s0").failing.clear()
    world.run(LOOK_S)
    assert the(world, "s0").announced
    world.run(GRANTED_S)
    assert dark(world) == {"s1"} and checker.most == 1


def test_c_three_sites_in_one_minority() -> None:
    world, _ = settled(min_sites=4)
    dark_at(world, "s0")
    world.cut = {(the(world, site).name, "*") for site in ("s0", "s1", "s2")}
    fail(world, "s1", "s3")
    world.run(TOKEN_LIFE_S)
    assert not dark(world), "without contact its token ends"
    world.run(10 * 60)
    assert not dark(world), "neither side darkens anybody: here no coordinator, there no half of the others"
    assert ("s3", Reason.EVIDENCE_SHORT) in refusals(world)
    world.cut.clear()
    the(world, "s1").failing.clear()
    world.run(GRANTED_S + 2 * SPACING_S)
    assert dark(world) == {"s0", "s3"}


@pytest.mark.parametrize("seed", range(8))
def test_d_two_leaders(seed: int) -> None:
    """Both believe to lead; each has half of the agents. Only who has the store's key gives anything."""
    world, checker = settled(min_sites=5, seed=seed)
    (old,) = world.leaders
    new = world.lead()
    halves = old.key, new.key
    for n, site in enumerate(world.names):
        world.cut |= {(node.name, halves[n % 2]) for node in world.of_site[site]}
    fail(world, "s0", "s1")
    world.run(5 * 60)
    assert checker.most == 0 and not new.dead, "neither hears half of the others, nor knows that the rest announces"
    world.cut = {("*", old.key)}
    world.run(GRANTED_S + SPACING_S)
    assert len(dark(world)) == 1 and checker.most == 1


def test_d_who_led_before_is_refused_by_the_store() -> None:
    world, checker = settled(min_sites=5)
    (old,) = world.leaders
    fail(world, "s0")
    world.run(WINDOW_S)
    world.lead()
    world.run(GRANTED_S)
    assert old.dead and not world.grants and checker.most == 0, "it decided, could not write, and said nothing"


def lose_store(world: World) -> Leader:
    world.restore()
    return world.lead()


def test_e_a_restored_store_knows_again_who_is_dark() -> None:
    world, checker = settled(min_sites=5)
    world.backup()
    dark_at(world, "s0")
    fail(world, "s1")
    (token,) = entries(world)
    lose_store(world)
    for leader in world.leaders[:-1]:
        leader.dead = True
    began = world.now
    world.run(5 * 60)
    assert dark(world) == {"s0"} and checker.most == 1
    assert [entry.id for entry in entries(world)] == [token.id], "entered by its holder's word"
    assert all(at >= began + SETTLE_S for at, _site, _kind in world.grants[1:])


def test_e_a_restored_store_and_a_holder_that_is_paused() -> None:
    world, checker = settled(min_sites=5)
    world.backup()
    dark_at(world, "s0")
    world.pause(the(world, "s0"), frozen=True)
    fail(world, "s1")
    lose_store(world)
    for leader in world.leaders[:-1]:
        leader.dead = True
    world.run(10 * 60)
    assert not entries(world) and len(world.grants) == 1, "it is not known, and counted as what is not heard"
    assert any(event.cause.reason == Reason.BUDGET_SPENT for event in happened_causes(world))
    world.resume(the(world, "s0"))
    world.run(5 * 60)
    assert checker.most == 1


def happened_causes(world: World) -> list:
    return [event.decision for event in happened(world, words.SlotRefused)]


def test_e_a_token_that_an_old_store_still_has_is_not_renewed_for_who_does_not_hold_it() -> None:
    world, _ = settled()
    dark_at(world, "s0")
    world.backup()
    the(world, "s0").failing.clear()
    world.run(LOOK_S + RETURNED_S)
    assert not entries(world)
    fail(world, "s0")
    world.run(LOOK_S + HEARTBEAT_S)
    lose_store(world)
    for leader in world.leaders[:-1]:
        leader.dead = True
    world.run(SETTLE_S - 1.0)
    assert not dark(world) and not entries(world), "ended, though the agent asks"


def test_f_hard_failures_afterwards_bring_the_token_sites_back() -> None:
    world, _ = settled(min_sites=4)
    dark_at(world, "s0")
    world.set_fact(the(world, "s1"), False)
    world.run(TOKEN_LIFE_S)
    assert dark(world) == {"s0"}, "two are allowed"
    world.set_fact(the(world, "s2"), False)
    world.run(HEARTBEAT_S + 1.0)
    assert not dark(world) and the(world, "s0").announced
    world.run(5 * 60)
    assert not dark(world)
    world.set_fact(the(world, "s2"), True)
    world.run(2 * SPACING_S)
    assert dark(world) == {"s0"}


def test_g_both_gateways_of_one_site_take_one_slot() -> None:
    world, _ = settled(min_sites=5, pairs=1)
    fail(world, "s0")
    world.run(GRANTED_S + HEARTBEAT_S)
    assert all(node.token_dark for node in world.of_site["s0"])
    (entry,) = entries(world)
    assert set(entry.gateways) == {"s0-gw1", "s0-gw2"} and len(world.grants) == 1


@pytest.mark.parametrize("which", [0, 1])
def test_g_a_site_with_a_gateway_that_passes_is_not_failing(which: int) -> None:
    world, checker = settled(pairs=1)
    world.of_site["s0"][which].failing.add("dns")
    world.run(10 * 60)
    assert checker.most == 0


def test_g_the_slot_returns_when_both_have_said_so() -> None:
    world, _ = settled(min_sites=5, pairs=1)
    dark_at(world, "s0")
    fail(world, "s1")
    first, second = world.of_site["s0"]
    world.cut = {(second.name, "*")}
    first.failing.clear()
    world.run(LOOK_S + HEARTBEAT_S)
    assert first.announced and not second.announced
    world.run(TOKEN_LIFE_S)
    assert second.announced, "its token is over, and nobody knows"
    world.run(10 * 60)
    assert dark(world) == set() and len(entries(world)) == 1
    world.cut.clear()
    world.run(SPACING_S)
    assert dark(world) == {"s1"}


def test_a_coordinators_restart_costs_no_token() -> None:
    world, _ = settled()
    dark_at(world, "s0")
    world.leaders[-1].dead = True
    world.run(FRESH_S)
    world.lead()
    for _ in range(60):
        world.run(1.0)
        assert dark(world) == {"s0"}
    assert len(world.grants) == 1


def test_without_any_coordinator_tokens_end() -> None:
    world, _ = settled()
    dark_at(world, "s0")
    world.leaders[-1].dead = True
    world.run(TOKEN_LIFE_S)
    assert not dark(world) and the(world, "s0").announced


def test_an_operators_hold_is_entered_beyond_the_budget_and_then_nothing_is_granted() -> None:
    world, _ = settled(min_sites=5)
    for site in ("s0", "s1", "s2"):
        world.set_hold(the(world, site), True)
    world.run(2 * HEARTBEAT_S)
    assert {(entry.site, entry.kind) for entry in entries(world)} == {(site, Kind.HOLD) for site in ("s0", "s1", "s2")}
    world.operate(world.leaders[-1], words.TakeSlot(kind=Kind.DRAIN, site="s0", by="alice"))
    world.operate(world.leaders[-1], words.TakeSlot(kind=Kind.DRAIN, site="s3", by="alice"))
    assert not world.grants and {reason for _, reason in refusals(world)} == {Reason.BUDGET_SPENT}
    for site in ("s0", "s1", "s2"):
        world.set_hold(the(world, site), False)
    world.run(RETURNED_S)
    assert not entries(world)


def test_a_hold_elsewhere_brings_a_token_site_back() -> None:
    world, _ = settled(min_sites=5)
    dark_at(world, "s0")
    world.set_hold(the(world, "s1"), True)
    world.run(HEARTBEAT_S + 1.0)
    assert not dark(world)


def test_a_fact_waits_for_no_token_and_a_token_brings_no_fact_back() -> None:
    world, _ = settled()
    dark_at(world, "s0")
    node = the(world, "s0")
    world.set_fact(node, False)
    node.failing.clear()
    world.run(LOOK_S)
    assert not node.token_dark and not node.announced
    world.run(60.0)
    assert len(entries(world)) == 1, "it has not announced, so the slot has not returned"
    world.set_fact(node, True)
    assert node.announced
    world.run(RETURNED_S)
    assert not entries(world)


def test_a_drain_and_its_end() -> None:
    world, _ = settled()
    leader = world.leaders[-1]
    world.operate(leader, words.TakeSlot(kind=Kind.DRAIN, site="s0", by="alice", until=14_400.0))
    world.run(HEARTBEAT_S)
    assert not the(world, "s0").announced
    now = leader.clock.read(world.now)
    assert leader.core.ledger.summary(leader.core.standings(now)) == "dark 1 of 4 allowed: s0 drain by alice until 04:00"
    world.run(TOKEN_LIFE_S)
    (entry,) = entries(world)
    world.operate(leader, words.EndSlot(entry.id, "undrain"))
    world.run(RETURNED_S)
    assert the(world, "s0").announced and not entries(world)
