"""Whatever happens while contents change: drains and changes are rolled out, aborted, taken back, and fail, beside tokens,
holds and facts, in a fleet with bad networks, two coordinators, kills at their writes and restored stores. No more sites are
dark on purpose than may be whenever a slot is given or a gateway changes; nothing changes without a slot; and when it is
over who is dark has a slot, and nobody else. Prints the seed."""

from __future__ import annotations

import inspect
import sys
import textwrap
from typing import Any

import pytest

from anycast.content.content import Content, Intent
from anycast.coordinator.slots import Slots
from anycast.policy.ledger import Ledger
from anycast.policy.rollout import ENDED, RolloutCore
from anycast.policy.tokens import Tokens
from tests.support.rollout_checker import RolloutChecker
from tests.support.rollout_world import RolloutWorld
from tests.support.token_world import Leader

SEEDS, BLOCK = 24, 100
STEPS = 45
ENDS_S, ABORT_S, STEP_S = 700.0, 400.0, 10.0
"""From when everything is healed until the rollout under way has ended: each site is activated and baked."""

WEIGHTS = {
    "drain": 14, "undrain": 16, "change": 4, "floor": 1, "abort": 14, "pause rollout": 1, "resume rollout": 6, "broken": 3,
    "fact": 7, "facts end": 7, "hold": 1, "holds end": 2, "fail": 3, "pass": 2, "heal": 6, "cut": 2, "half": 1, "loss": 2,
    "late": 1, "pause": 1, "freeze": 1, "resume": 4, "crash": 1, "lead": 1, "leader pause": 1, "leader resume": 2,
    "leader crash": 1, "step crash": 2, "commit": 1, "slow disks": 1, "backup": 2, "restore": 2, "recover": 6,
}  # fmt: skip


def disturb(world: RolloutWorld) -> None:
    """One thing that somebody wants, or that goes wrong, or right again."""
    rng = world.random
    node, leader = rng.choice(list(world.nodes.values())), rng.choice(world.leaders[-2:])
    shell = world.shells[leader.key]
    (what,) = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
    running = world.contents[rng.choice(list(shell.decisions.running.values())).hash]
    match what:
        case "drain":
            intent = rng.choice([Intent.DRAINED, Intent.DRAINED, Intent.DEGRADED])
            world.submit(leader, running.with_intent(node.site, intent), bake_s=rng.choice([1.0, 20.0]))
        case "undrain":
            dark = [name for name, site in running.sites.items() if site.intent.dark]
            if dark:
                bake_s = rng.choice([10.0, 60.0])
                world.submit(leader, running.with_intent(rng.choice(dark), Intent.ANNOUNCED), bake_s=bake_s, blind=True)
        case "change" | "broken":
            names = rng.sample(world.names, rng.randint(1, 3))
            changed = change(world, running, names)
            if world.submit(leader, changed, bake_s=5.0) and what == "broken":
                spoilt = rng.choice([world.broken, world.mute])
                if node.site in names:  # where it changes nothing it breaks nothing, and needs no slot
                    spoilt.add((world.known(changed), node.site))
        case "floor":
            budget = running.budget.model_copy(update={"min_sites": rng.choice([2, 3, 4])})
            world.submit(leader, running.model_copy(update={"budget": budget}))
        case "abort":
            world.command(leader, "abort")
        case "pause rollout" | "resume rollout":
            world.command(leader, what.split()[0])
        case "fact":
            for each in world.of_site[node.site]:
                world.set_fact(each, False)
        case "facts end":
            for each in world.nodes.values():
                world.set_fact(each, True)
        case "hold":
            world.set_hold(node, True)
        case "holds end":
            for each in world.nodes.values():
                world.set_hold(each, False)
        case "fail":
            for each in world.of_site[node.site]:
                each.failing.add("dns")
        case "pass":
            for each in world.nodes.values():
                each.failing.clear()
        case "heal":
            world.cut.clear()
            world.loss, world.delay_s, world.slow_disks = 0.0, 0.1, False
        case "cut":
            world.cut |= {(node.name, rng.choice(["*", leader.key]))}
        case "half":
            world.cut |= {(each.name, "*") for each in world.nodes.values() if each.site in world.names[:2]}
        case "loss":
            world.loss = rng.choice([0.1, 0.5])
        case "late":
            world.delay_s = rng.choice([3.0, 40.0])
        case "pause" | "freeze":
            world.pause(node, frozen=what == "freeze")
        case "resume":
            for each in world.nodes.values():
                world.resume(each)
        case "crash":
            world.kill(node)
            world.start(node)
        case "lead":
            world.lead()
        case "leader pause":
            world.pause_leader(leader)
        case "leader resume":
            for stopped in world.leaders:
                world.resume_leader(stopped)
        case "leader crash":
            leader.dead = True
        case "step crash":
            world.crash_at_step = rng.choice(["before", "after"])
        case "commit":
            world.crash_at_commit = rng.choice(["before", "after"])
        case "slow disks":
            world.slow_disks = True
        case "backup":
            world.backup()
        case "restore":
            world.restore()
        case "recover":
            world.recover(leader)


def change(world: RolloutWorld, running: Content, names: list[str]) -> Content:
    """Something of these sites that attracts as before."""
    new = {name: running.sites[name].model_copy(update={"capacity": world.random.randint(500, 2000)}) for name in names}
    return running.model_copy(update={"sites": {**running.sites, **new}})


def heal(world: RolloutWorld) -> Leader:
    """Everything is as it should be, from now on, and operators recover what was restored."""
    world.cut.clear()
    world.broken.clear()
    world.mute.clear()
    world.loss, world.delay_s, world.crash_at_commit, world.crash_at_step, world.slow_disks = 0.0, 0.1, "", "", False
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
    world.run(15.0)
    if world.shells[leader.key].decisions.restored:
        assert world.recover(leader)
    return leader


def ends(world: RolloutWorld, leader: Leader) -> None:
    """The rollout under way, one way or the other; one that has waited for a slot for long is aborted."""
    for tried in range(round(ENDS_S / STEP_S)):
        world.command(leader, "abort" if tried * STEP_S > ABORT_S else "resume")
        world.run(STEP_S)
        core = world.shells[leader.key].core
        if core is None or core.rollout.step in ENDED:
            world.run(50.0)  # what it left: slots return, late words come, tokens end
            return
    raise AssertionError(f"seed {world.seed}: it does not end: {core and core.rollout}, {world.store.entries}")


def history(seed: int) -> RolloutWorld:
    world = RolloutWorld(seed, min_sites=(3, 4, 2)[seed % 3])
    checker = RolloutChecker(world)
    world.run(45.0)
    for _ in range(STEPS):
        disturb(world)
        if all(leader.dead for leader in world.leaders):
            world.lead()
        world.run(world.random.choice([0.5, 1.0, 3.0, 10.0, 20.0]))
    leader = heal(world)
    ends(world, leader)
    checker.settled()
    all_announce_again(world, leader)
    return world


def all_announce_again(world: RolloutWorld, leader: Leader) -> None:
    shell = world.shells[leader.key]
    highest = max(shell.decisions.running.values(), key=lambda each: each.generation)
    running = world.contents[highest.hash]
    lit = {name: site.model_copy(update={"intent": Intent.ANNOUNCED}) for name, site in running.sites.items()}
    world.submit(leader, running.model_copy(update={"sites": lit}), bake_s=1.0, blind=True)
    ends(world, leader)
    silent = [node.name for node in world.nodes.values() if not node.announced]
    assert not silent, f"seed {world.seed}: {silent} do not announce"
    assert not world.store.entries, f"seed {world.seed}: {world.store.entries}"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_happens_while_contents_change(seed: int) -> None:
    history(seed)


@pytest.mark.long
@pytest.mark.parametrize("block", range(30))
def test_whatever_else_happens_while_contents_change(block: int) -> None:
    for seed in range(SEEDS + block * BLOCK, SEEDS + (block + 1) * BLOCK):
        history(seed)


MUTANTS: dict[str, tuple[type, str, str, str, int]] = {
    # As it was before an undrain that is taken back waited for a slot.
    "a return darkens without a slot": (
        RolloutCore, "_return", "site not in rollout.dark_before or site in seen.held", "True", 36),
    "a site is changed without a slot": (RolloutCore, "_wait", "rollout.site not in seen.held and", "False and", 0),
    "a site is changed by the slot of the one before": (
        RolloutCore, "_wait", "rollout.site not in seen.held and", "not seen.held and", 5),
    "the ledger is not asked": (
        Tokens, "_on_take", "decision = self.ledger.may_darken(wanted.site, self.standings(now))",
        "decision = Decision(granted=True, cause=Cause(reason=Reason.WITHIN_BUDGET))", 0),
    "hard failures do not count": (Ledger, "dark", "is not Site.ANNOUNCES", "is Site.UNHEARD", 0),
    "silence does not count": (Ledger, "dark", "is not Site.ANNOUNCES", "is Site.DARK", 22),
    "a drain's slot ends with its rollout": (
        Slots, "keep", " and not (entry.kind in DARK_KINDS and site in running)", "", 1),
    "a slot keeps its word when the site has another": (
        Slots, "keep", "(slot.kind, slot.until) != (asked.kind, asked.until)", "False", 9),
    "a lost slot is not given again": (Slots, "keep_dark", "if not self.recovered or in_force is None:", "if True:", 213),
}  # fmt: skip
"""By what is broken: where, what stands there, what takes its place, and the seed of a history that finds it."""


@pytest.mark.parametrize("name", MUTANTS)
def test_each_broken_rule_of_a_rollout_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, function, right, wrong, seed = MUTANTS[name]
    source = textwrap.dedent(inspect.getsource(getattr(where, function)))
    assert source.count(right) == 1, "a rule has moved: move its mutant too"
    made: dict[str, Any] = {}
    exec(compile(source.replace(right, wrong), name, "exec"), vars(sys.modules[where.__module__]), made)
    monkeypatch.setattr(where, function, made[function])
    with pytest.raises(AssertionError, match=f"seed {seed}"):
        history(seed)
