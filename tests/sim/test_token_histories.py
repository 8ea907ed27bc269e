"""Whatever happens to agents, coordinators, store and network: no more sites are dark on purpose than may be, none for
longer than promised, and when it is over all announce and the ledger is empty. Prints the seed."""

from __future__ import annotations

import pytest

from anycast.policy import token_words as words
from anycast.policy.ledger import Kind
from tests.support.token_checker import Checker
from tests.support.token_world import Leader, World

SEEDS, BLOCK = 60, 97
QUIET_S = 45.0
"""From when everything is healed until every slot has returned: a token's life, the freshness limit, a new connection."""


WEIGHTS = {
    "fail": 16, "pass": 6, "resume": 6, "heal": 8, "drain": 3, "undrain": 3, "cut": 2, "loss": 2, "late": 2, "fact": 2,
    "hold": 1, "pause": 2, "freeze": 2, "crash": 1, "half": 1, "lead": 1, "backup": 1, "restore": 1, "leader pause": 1,
    "leader resume": 2, "leader crash": 1, "commit": 1, "everywhere": 1,
}  # fmt: skip


def disturb(world: World) -> None:
    """One thing that goes wrong, or right again."""
    rng = world.random
    node = rng.choice(list(world.nodes.values()))
    leader = rng.choice(world.leaders[-2:])
    (what,) = rng.choices(list(WEIGHTS), [weight**world.harsh for weight in WEIGHTS.values()])
    match what:
        case "fail":
            check = rng.choice(["dns", "canary"])
            for each in world.of_site[node.site] if rng.random() < 0.8 else [node]:
                each.failing.add(check)
        case "everywhere":
            for each in world.nodes.values():
                each.failing |= {"dns"} if rng.random() < 0.8 else set()
        case "pass":
            for each in world.of_site[node.site]:
                each.failing.clear()
        case "fact":
            world.set_fact(node, not node.fact)
        case "hold":
            world.set_hold(node, not node.hold)
        case "drain":
            world.operate(leader, words.TakeSlot(kind=Kind.DRAIN, site=node.site, by="alice"))
        case "undrain":
            undrain(world, leader)
        case "pause":
            world.pause(node)
        case "freeze":
            world.pause(node, frozen=True)
        case "resume":
            for each in world.nodes.values():
                world.resume(each)
        case "crash":
            world.kill(node)
            world.start(node)
        case "cut":
            world.cut |= {(node.name, rng.choice(["*", leader.key]))}
        case "half":
            world.cut |= {(each.name, "*") for each in world.nodes.values() if each.site in world.names[:3]}
        case "loss":
            world.loss = rng.choice([0.0, 0.1, 0.5])
        case "late":
            world.delay_s = rng.choice([0.1, 3.0, 40.0])
        case "heal":
            world.cut.clear()
            world.loss, world.delay_s = 0.0, 0.1
        case "lead":
            world.lead()
        case "backup":
            world.backup()
        case "restore":
            world.restore()
            if rng.random() < 0.7:
                world.lead()
        case "leader pause":
            world.pause_leader(leader)
        case "leader resume":
            world.resume_leader(leader)
        case "leader crash":
            leader.dead = True
            world.lead()
        case "commit":
            world.crash_at_commit = rng.choice(["before", "after"])


def undrain(world: World, leader: Leader) -> None:
    for entry in list(world.store.entries.values()):
        if entry.kind == Kind.DRAIN:
            world.operate(leader, words.EndSlot(entry.id, "undrain"))


def heal(world: World) -> Leader:
    """Everything is as it should be, from now on."""
    world.cut.clear()
    world.loss, world.delay_s, world.crash_at_commit = 0.0, 0.1, ""
    for leader in world.leaders:
        leader.dead = True
    leader = world.lead()
    for node in world.nodes.values():
        if node.holder is None:
            world.start(node)
        world.resume(node)
        node.failing.clear()
        world.set_fact(node, True)
        world.set_hold(node, False)
    undrain(world, leader)
    return leader


def history(seed: int, steps: int = 40) -> tuple[World, Checker]:
    world = World(seed, min_sites=(2, 4, 5)[seed % 3])
    world.harsh = (1.0, 1.0, 0.0)[seed // 3 % 3]
    checker = Checker(world)
    world.run(45.0)
    for _ in range(steps):
        disturb(world)
        if all(leader.dead for leader in world.leaders):
            world.lead()
        world.run(world.random.choice([0.1, 1.0, 5.0, 20.0, 60.0]))
    return world, checker


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_happens(seed: int) -> None:
    all_is_well_in_the_end(seed)


@pytest.mark.long
@pytest.mark.parametrize("block", range(20))
def test_whatever_else_happens(block: int) -> None:
    for seed in range(SEEDS + block * BLOCK, SEEDS + (block + 1) * BLOCK):
        all_is_well_in_the_end(seed)


def all_is_well_in_the_end(seed: int) -> None:
    world, _ = history(seed)
    leader = heal(world)
    world.run(QUIET_S / 2)
    undrain(world, leader)
    world.run(QUIET_S / 2)
    silent = [node.name for node in world.nodes.values() if not node.announced]
    assert not silent, f"seed {seed}: {silent} do not announce"
    assert not world.store.entries, f"seed {seed}: {world.store.entries}"
