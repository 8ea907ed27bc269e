"""Whatever happened, when it is quiet the Backup holds what the Active has, and nobody goes on about it."""

from __future__ import annotations

import pytest

from tests.support.digest_world import World, check_budget, check_mirror, happen, quiet

SEEDS = range(60)


def run(seed: int) -> World:
    world = World(seed)
    clients: list[int] = []
    world.join()
    world.loss, world.look_fails = 0.2, 0.1
    for _ in range(120):
        happen(world, clients)
        world.run(world.random.choice([0.0, 0.1, 1.0, 5.0, 20.0]))
    quiet(world)
    return world


@pytest.mark.parametrize("seed", SEEDS)
def test_when_quiet_the_mirror_equals_the_source(seed: int) -> None:
    world = run(seed)
    check_mirror(world)
    check_budget(world)
