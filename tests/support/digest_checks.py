"""What happens in a `digest_world` by chance, and what must hold in it."""

from __future__ import annotations

import itertools
from typing import Any

from site_agent.sync import digest_wire
from site_agent.sync.repairs import FORGET_S
from tests.support.digest_world import BUDGET, Diverged, World


def happen(world: World, clients: list[int]) -> None:
    """One thing, by chance."""
    chance, reqid = world.random.random(), world.random.choice(clients) if clients else 0
    if chance < 0.2:
        clients.append(world.connect())
    elif chance < 0.25:
        world.leave(reqid)
    elif chance < 0.35:
        world.rekey_child(reqid)
    elif chance < 0.4 and (found := world.client(reqid)) is not None:
        world.rekey_ike(found[1].ike)
    elif chance < 0.5:
        world.move(reqid, address=world.random.random() < 0.5)
    elif chance < 0.75:
        world.break_backup(world.random.choice(World.FAULTS))
    elif chance < 0.8:
        world.part()
    elif chance < 0.9:
        world.join()
    elif chance < 0.94:
        world.restart(world.random.choice(world.sides))
    elif chance < 0.97:
        world.lose_events()


def quiet(world: World, seconds: float = 700.0) -> None:
    world.loss = world.look_fails = 0.0
    world.join()
    world.run(seconds)
    if world.gave_up:
        world.run(FORGET_S)


def check_budget(world: World) -> None:
    times = [at for at, _repair in world.repairs]
    for first, at in enumerate(times):
        if first + BUDGET < len(times) and times[first + BUDGET] < at + 1.0:
            raise Diverged(f"{BUDGET + 1} rekeys within a second at {at}")
    for looks in (*world.sides[0].looks, *world.sides[1].looks):
        if any(later < at + 1.0 for at, later in itertools.pairwise(looks)):
            raise Diverged("two looks within a second")


def check_mirror(world: World) -> None:
    """Also that nothing goes on: neither repairs, nor removals, nor questions."""
    names = "SAs", "policies", "CHILD_SAs", "IKE_SAs"
    for name, ours, theirs in zip(names, world.active.mirror(), world.backup.mirror(), strict=True):
        if ours != theirs:
            raise Diverged(f"{name}: {_first_difference(ours, theirs)}")
    fresh = world.active.core.freshness(world.now)
    if (fresh.unprotected, fresh.of, fresh.waiting) != (0, len(world.active.sas), 0):
        raise Diverged(f"{fresh}")
    before = len(world.repairs), len(world.removed)
    world.sent.clear()
    world.run(200.0)
    if (len(world.repairs), len(world.removed)) != before:
        raise Diverged("what is equal was repaired")
    told = {type(message) for message in world.sent}
    if told != {digest_wire.Sums, digest_wire.Done}:
        raise Diverged(f"of what is equal was said {told}")


def _first_difference(ours: Any, theirs: Any) -> str:
    if isinstance(ours, set):
        return f"only the Active has {list(ours - theirs)[:2]}, only the Backup {list(theirs - ours)[:2]}"
    differing = [key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)]
    return f"{len(differing)} of {len(ours)}: " + "; ".join(f"{k}: {ours.get(k)} / {theirs.get(k)}" for k in differing[:2])
