"""Two Actives that meet, with clients that spoke to both: no client is left with a tunnel that is none. Each rule is tried.

A seed that fails is printed; `reunion_world.run` plays it again.
"""

from __future__ import annotations

import inspect
import itertools
import os
import sys
import textwrap
from typing import Any

import pytest

from site_agent.sync import reunion
from site_agent.sync.mirror import Mirror
from site_agent.sync.promotion import Promotion
from tests.support.reunion_world import CLIENTS, run

SEEDS = range(int(os.environ.get("SIM_SEEDS", "150")))
EVERY = [dict(zip(("flips", "channel", "stays"), each, strict=True)) for each in itertools.product((0, 1), repeat=3)]


@pytest.mark.parametrize("how", EVERY, ids=str)
def test_no_client_is_left_in_a_black_hole(how: dict[str, Any]) -> None:
    """Its tunnel is whole at the one that stays, or it was told, or its own dead peer detection meets silence."""
    for seed in SEEDS:
        assert run(seed, **how).black_holes() == [], f"seed {seed}"


@pytest.mark.parametrize("stays", [0, 1])
@pytest.mark.parametrize("channel", [False, True])
def test_where_one_of_the_two_spoke_to_the_clients_nobody_loses_a_tunnel(channel: bool, stays: int) -> None:
    """Whoever stays."""
    for seed in SEEDS:
        world = run(seed, flips=False, channel=channel, stays=stays, quiet=True)
        assert (world.black_holes(), world.lost()) == ([], 0), f"seed {seed}"
        assert not sum(gateway.ended for gateway in world.gateways), f"seed {seed}"


def test_who_got_no_answer_has_nothing_to_say() -> None:
    """The first one asks, repeats, and gives up, while the clients' packets go to the other one."""
    for seed in SEEDS:
        world = run(seed, flips=False, stays=1)
        assert [(gateway.adoptions, gateway.ended) for gateway in world.gateways] == [(0, 0)] * 2, f"seed {seed}"


def test_the_simulation_reaches_what_it_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    worlds = [run(seed, flips=True, stays=0) for seed in SEEDS]
    assert sum(gateway.adoptions for world in worlds for gateway in world.gateways) > 3 * len(worlds)
    assert sum(gateway.ended for world in worlds for gateway in world.gateways) > 0
    kept = CLIENTS * len(worlds) - sum(world.lost() for world in worlds)
    monkeypatch.setattr(reunion, "decide", lambda *_: reunion.Reunite())
    worlds = [run(seed, flips=True, stays=0) for seed in SEEDS]
    assert any(world.black_holes() for world in worlds), "without all this"
    assert CLIENTS * len(worlds) - sum(world.lost() for world in worlds) < kept / 2


Mutant = tuple[Any, str, str, str]
MUTANTS: dict[str, Mutant] = {
    "the higher one is not asked for": (reunion, "_counts", "> mine.handled", "< mine.handled"),
    "one request is an answer": (reunion._Half, "asked", "len(self.requests) > 1", "len(self.requests) > 0"),
    "nothing is renewed": (reunion, "decide", "half.ever & mine.ever", "False"),
    "the old one is renewed": (reunion, "decide", "half.now if half.whole else mine.now", "mine.now"),
    "what was given up is the client's": (reunion._Half, "take", "and last != MessageType.IKE_MID_RESPONDER", "and 0"),
    "what we gave up is adopted": (reunion, "decide", "if mine.gone:", "if False:"),
    "nothing clashes": (reunion, "decide", "        if clash:", "        if False:"),
    "one line a name": (reunion._Lines, "of", "self._before.get(ike)", "None"),
    "nothing is said late": (reunion.Reunion, "_testify", "in self._unheard:", "in ():"),
    "not said that it is Backup": (reunion.Reunion, "_testify", "yield SaySettled(late=len(self._unheard))", "pass"),
    "said at the next session only": (reunion.Reunion, "_on_role", "yield from self._testify()", "pass"),
    "not said at the next session": (reunion.Reunion, "_dispatch", "yield from self._testify()", "pass"),
    "half of it": (Mirror, "adopt", "self._plugin.send(datagram)", "(datagram[1] == 3 or self._plugin.send(datagram))"),
    "not promoted again": (Promotion, "handle", "self._begin_adoption(now) if self.settled else []", "[]"),
}
"""What stands there, and what takes its place."""


def broken(owner: Any, name: str, right: str, wrong: str) -> Any:
    found = inspect.getattr_static(owner, name)
    source = textwrap.dedent(inspect.getsource(found.fget if isinstance(found, property) else found))
    right, wrong = textwrap.dedent(right), textwrap.dedent(wrong)
    assert source.count(right) == 1, "a rule has moved: move its mutant too"
    made: dict[str, Any] = {}
    module = owner if inspect.ismodule(owner) else sys.modules[owner.__module__]
    exec(compile(source.replace(right, wrong), name, "exec"), vars(module), made)
    return made[name]


@pytest.mark.parametrize("name", MUTANTS)
def test_each_broken_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, method, right, wrong = MUTANTS[name]
    monkeypatch.setattr(owner, method, broken(owner, method, right, wrong))
    with pytest.raises((AssertionError, KeyError)):
        for seed in range(150):
            for how in EVERY:
                assert run(seed, **how).black_holes() == []
            world = run(seed, flips=False, stays=1)
            assert [(gateway.adoptions, gateway.ended) for gateway in world.gateways] == [(0, 0)] * 2
            for stays in (0, 1):
                world = run(seed, flips=False, stays=stays, quiet=True)
                assert (world.black_holes(), world.lost()) == ([], 0)
