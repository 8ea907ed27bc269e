"""A coordinator that is away for a day: what runs out, what stands, and what the next one finds. Virtual time."""

from __future__ import annotations

import pytest

from anycast.policy import token_holder
from anycast.policy import token_words as words
from anycast.policy.ledger import Kind, Site
from anycast.policy.token_times import FRESH_S, SETTLE_S, TOKEN_LIFE_S, WINDOW_S
from tests.support import token_world
from tests.support.token_checker import Checker
from tests.support.token_world import World

DAY_S = 86_400.0
WALL = 1_800_000_000.0


def test_a_day_without_a_coordinator_ends_tokens_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(1, sites=5, min_sites=2, pairs=0)
    Checker(world)
    world.run(SETTLE_S + FRESH_S)
    first, (token, drained, held, *_) = world.leaders[-1], world.names
    world.operate(first, words.TakeSlot(kind=Kind.DRAIN, site=drained, by="alice", until=WALL + 7200))
    (node,) = world.of_site[token]
    node.failing.add("dns")
    world.run(WINDOW_S + 3 * token_world.LOOK_S)
    assert dark(world) == {token, drained} and node.token_dark
    before = dict(world.store.entries)

    first.dead = True
    world.run(TOKEN_LIFE_S + 1.0)
    assert dark(world) == {drained}, "its lease on being dark is over, though the check fails still"
    assert world.store.entries == before, "nobody wrote anything"

    # Its agents have nobody to talk to; a look and a heartbeat now and then are enough to see that nothing changes.
    with monkeypatch.context() as rarely:
        rarely.setattr(token_world, "LOOK_S", 60.0)
        rarely.setattr(token_world, "STANDS_S", 60.0)
        rarely.setattr(token_holder, "HEARTBEAT_S", 3.5)
        for hour in range(24):
            if hour == 12:
                world.set_hold(world.of_site[held][0], True)
            world.run(DAY_S / 24)
            assert dark(world) == ({drained} if hour < 12 else {drained, held}), f"after {hour + 1} h"

    leader, began = world.lead(), world.now
    ledger = leader.core.ledger
    assert {standing.state for standing in leader.core.standings(leader.clock.read(world.now)).values()} == {Site.UNHEARD}
    assert [entry.site for entry in ledger.overdue(WALL + DAY_S)] == [drained], "that is an alarm, and it stays dark"
    while any(each.state is Site.UNHEARD for each in leader.core.standings(leader.clock.read(world.now)).values()):
        world.run(1.0)
        assert world.now - began < 2 * FRESH_S + world.reconnect_s, "each agent has called within this"
    world.run(2 * FRESH_S)
    kinds = {(entry.site, str(entry.kind)) for entry in world.store.entries.values()}
    assert kinds == {(drained, "drain"), (held, "hold")}, "the token's slot has returned, and the hold is entered"
    given = [at for at, site, _ in world.grants if site == token and at >= began]
    assert not given or min(given) >= began + SETTLE_S, "none by a leader that is new"
    world.run(SETTLE_S + WINDOW_S + 3 * token_world.LOOK_S)
    assert dark(world) == {token, drained, held}, "the check fails there alone: all three are within the budget"
    world.operate(leader, words.EndSlot(next(e.id for e in ledger.entries.values() if e.site == drained), "undrain"))
    world.run(2 * FRESH_S)
    assert dark(world) == {token, held}


def dark(world: World) -> set[str]:
    return {node.site for node in world.nodes.values() if not node.announced}
