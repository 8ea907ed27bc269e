"""Virtual-time histories of VRRP: whatever happened, once it is over there is one Active, and soon. Prints the seed."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from site_agent.vrrp.election import Role
from site_agent.vrrp.router import GARP_AFTER_S, GARP_EVERY_S, LINGER_S
from site_agent.vrrp.seal import Path
from tests.support.vrrp_world import World

INTERVAL = 10
"""Centiseconds."""
SEEDS = int(os.environ.get("SIM_SEEDS", "150"))


def intervals(count: float) -> float:
    return count * INTERVAL / 100


def settle(world: World) -> None:
    """Heal everything and wait as long as an election may take: three intervals, Skew_Time, and a Backup that gives way."""
    world.cut.clear()
    world.loss = world.repeat = 0.0
    for n, node in enumerate(world.nodes):
        node.paused_until, node.uplink, node.granted_at = world.now, True, float("-inf")  # told at once
        if node.dead:
            world.revive(n)
    world.run(intervals(3) + intervals(1) + intervals(1))


def disturb(world: World) -> None:
    """One thing that goes wrong for a while."""
    rng, nodes = world.random, world.nodes
    n = rng.randrange(len(nodes))
    match rng.choice(["loss", "cut", "oneway", "pause", "kill", "verdict", "uplink", "quiet"]):
        case "loss":
            world.loss, world.repeat = rng.uniform(0, 0.9), rng.uniform(0, 0.5)
        case "cut":
            world.cut |= {(a, b, p) for p in world.paths for a in (n,) for b in range(len(nodes)) if rng.random() < 0.7}
            world.cut |= {(b, a, p) for a, b, p in set(world.cut)}
        case "oneway":
            world.cut |= {(n, b, p) for p in world.paths for b in range(len(nodes)) if b != n}
        case "pause":
            nodes[n].paused_until = world.now + rng.uniform(0, intervals(20))
        case "kill":
            world.kill(n)
        case "verdict":
            nodes[n].priority = rng.choice([0, 50, 100, 200])
        case "uplink":
            nodes[n].uplink = rng.choice([True, False, None])
        case "quiet":
            world.cut.clear()
            world.loss = 0.0
    world.run(rng.uniform(0, intervals(12)))


@pytest.mark.parametrize("sealed", [False, True], ids=["rfc", "pair"])
@settings(max_examples=SEEDS, deadline=None, print_blob=True)
@given(seed=st.integers(0, 2**32), routers=st.integers(2, 4))
def test_after_everything_healed_there_is_one_active(sealed: bool, seed: int, routers: int) -> None:
    world = World(seed, [100] * (2 if sealed else routers), interval=INTERVAL, sealed=sealed)
    for _ in range(12):
        disturb(world)
    for node in world.nodes:
        node.priority = 100
    settle(world)
    assert len(world.active()) == 1, f"seed {seed}: {world.active()}"
    assert [node.holds for node in world.nodes] == [node.core.role is Role.ACTIVE for node in world.nodes], f"seed {seed}"
    both, who = world.both, world.active()
    world.run(intervals(30))
    assert world.active() == who and world.both == both, f"seed {seed}: it does not stay"


@settings(max_examples=SEEDS, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_pair_never_has_two_while_one_path_is_left(seed: int) -> None:
    """Cuts, loss of every third packet, verdicts and uplinks change as they like; one path (any) stays whole."""
    world = World(seed, [100, 100], interval=INTERVAL, sealed=True)
    world.run(intervals(10))
    assert world.both == 0
    whole = world.random.choice(world.paths)
    for _ in range(10):
        a, b = world.random.sample([0, 1], 2)
        world.cut ^= {(a, b, world.random.choice([path for path in world.paths if path != whole]))}
        world.nodes[a].uplink = world.random.choice([True, False, None])
        world.nodes[b].priority = world.random.choice([0, 100, 100])
        before, changed = world.both, world.changes
        world.run(world.random.uniform(0, intervals(10)))
        # Made before it breaks: at a release both hold them until the first one hears the second, a packet's way, and then
        # for as long as another packet may be on its way to it. One change may not be over yet.
        changes = world.changes - changed
        assert world.both - before <= (changes + 1) * (LINGER_S + 20 * world.delay_s), f"seed {seed}"


@pytest.mark.parametrize("sealed", [False, True], ids=["rfc", "pair"])
def test_a_dead_active_is_replaced_within_active_down_interval(sealed: bool) -> None:
    for seed in range(50):
        world = World(seed, [100, 100], interval=INTERVAL, sealed=sealed)
        world.run(intervals(20))
        (was,) = world.active()
        world.run(world.random.uniform(0, intervals(3)))
        world.kill(was)
        before = world.nobody
        world.run(intervals(10))
        assert world.active() == [1 - was]
        assert world.nobody - before <= world.nodes[1 - was].core.active_down_interval(INTERVAL) + 0.001, f"seed {seed}"


def test_a_verdict_costs_a_pair_nothing() -> None:
    world = World(1, [100, 100], interval=INTERVAL, sealed=True)
    world.run(intervals(20))
    (was,) = world.active()
    before = world.nobody
    world.nodes[was].priority = 0
    world.run(1.0)
    assert world.active() == [1 - was] and world.nobody == before


def test_data_paths_cut_and_management_left_changes_nothing() -> None:
    world = World(1, [100, 100], interval=INTERVAL, sealed=True)
    world.run(intervals(20))
    was, both, nobody = world.active(), world.both, world.nobody
    world.cut = {(a, 1 - a, path) for a in (0, 1) for path in (Path.OUTSIDE, Path.INSIDE)}
    world.run(10)
    assert (world.active(), world.both, world.nobody) == (was, both, nobody)


@pytest.mark.parametrize("sealed", [False, True], ids=["rfc", "pair"])
def test_neighbours_believe_the_active_that_is_left(sealed: bool) -> None:
    """Two were Active, and the one that let go may have announced last: its kernel was slow to take the addresses."""
    met = 0
    for seed in range(40):
        world = World(seed, [100, 100], interval=INTERVAL, sealed=sealed)
        world.slow_kernel_s = 0.04
        world.run(intervals(20) + GARP_AFTER_S[-1])  # its own takeover is long told
        (was,) = world.active()
        ways = [(was, 1 - was), (1 - was, was)] if seed % 2 else [(was, 1 - was)]
        world.cut = {(*way, path) for way in ways for path in world.paths}
        world.run(world.random.uniform(intervals(3.5), intervals(5)))
        met += len(world.active()) == 2
        world.cut.clear()
        # Beside a router that is not ours nobody says that he let go; then the next announcement is what is left.
        world.run(intervals(6) + (GARP_AFTER_S[-1] if sealed else GARP_EVERY_S + GARP_AFTER_S[-1]))
        assert [world.believed()] == world.active(), f"seed {seed}"
    assert met > 10, "hardly ever were there two"


def part(world: World, *, one_way: bool) -> int:
    """Cut the two off, or the Backup only from what the Active says, until both are Active; returns who took over."""
    (was,) = world.active()
    ways = [(was, 1 - was)] if one_way else [(was, 1 - was), (1 - was, was)]
    world.cut = {(*way, path) for way in ways for path in world.paths}
    world.run(world.random.uniform(intervals(5), intervals(30)))
    return 1 - was


@pytest.mark.parametrize("priorities", [[100, 100], [110, 100], [100, 110]], ids=str)
@pytest.mark.parametrize("one_way", [False, True])
def test_of_two_actives_the_one_stays_that_took_over_last(priorities: list[int], one_way: bool) -> None:
    """Neighbours believe it, so clients have spoken to it since; priority says nothing of that. And it goes on staying."""
    for seed in range(40):
        world = World(seed, priorities, interval=INTERVAL, sealed=True)
        world.run(intervals(20))
        if seed % 2:  # not always who was there first
            world.nodes[world.active()[0]].priority = 0
            world.run(intervals(10))
            for node, priority in zip(world.nodes, priorities, strict=True):
                node.priority = priority
            world.run(intervals(10))
        for _ in range(3):
            took_over = part(world, one_way=one_way)
            assert took_over in world.active(), f"seed {seed}"
            # The one that it was taken from hears it: it has given way before anything is healed.
            assert not one_way or world.active() == [took_over], f"seed {seed}"
            world.cut.clear()
            world.run(intervals(2))
            assert world.active() == [took_over], f"seed {seed}"
            changes = world.changes
            world.run(intervals(40))
            assert world.active() == [took_over] and world.changes == changes, f"seed {seed}: it does not stay"


@pytest.mark.parametrize("older", [0, 1])
def test_beside_a_version_without_terms_priority_decides(older: int) -> None:
    """It goes by priority itself: two that stay by two rules would both stay."""
    for seed in range(40):
        world = World(seed, [110, 100], interval=INTERVAL, sealed=True)
        world.nodes[older].says_term = False
        world.run(intervals(20))
        part(world, one_way=False)
        assert len(world.active()) == 2
        world.cut.clear()
        world.run(intervals(2))
        assert world.active() == [0], f"seed {seed}"


@pytest.mark.parametrize("sealed", [False, True], ids=["rfc", "pair"])
@settings(max_examples=max(10, SEEDS // 5), deadline=None)
@given(seed=st.integers(0, 2**32))
def test_whatever_happened_neighbours_believe_the_active_within_a_minute(sealed: bool, seed: int) -> None:
    world = World(seed, [100, 100], interval=INTERVAL, sealed=sealed)
    world.slow_kernel_s = 0.04
    for _ in range(12):
        disturb(world)
    for node in world.nodes:
        node.priority = 100
    settle(world)
    world.run(GARP_EVERY_S + GARP_AFTER_S[-1])
    assert [world.believed()] == world.active(), f"seed {seed}"
