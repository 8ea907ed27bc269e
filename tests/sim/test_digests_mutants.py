"""Each rule of the digests is needed: with it broken, a simulation fails."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from site_agent.ike.rekey_queue import RekeyQueue
from site_agent.sync import digest_backup, digests, repairs
from site_agent.sync.digest_backup import BackupRounds
from site_agent.sync.digests import Digests
from site_agent.sync.repairs import Repairs
from tests.sim import test_digests_heal as sim

Found = Callable[[], None]


def each(kind: str) -> Found:
    return lambda: sim.test_each_divergence_heals_with_as_little_as_it_takes(kind)


def rekeys_cost_nothing() -> None:
    """Ordinary rekeys need no repair, though the old SA stays with the Active for a while."""
    world = sim.pair(10)
    for _ in range(10):
        world.rekey_child(world.random.choice([child.reqid for child in world.active.children.values()]))
        world.run(7.0)
    assert not world.repairs and not world.removed
    assert world.active.core.freshness(world.now).of == len(world.active.children) * 2


def asked_once() -> None:
    """A client that does not answer is not asked again while charon still asks."""
    world = sim.pair(10)
    reqid = next(child.reqid for child in world.active.children.values())
    world.refusing.add(reqid)
    found = world.client(reqid)
    assert found is not None
    del world.backup.sas[found[1].spi_in, sim.VIP]
    world.run(repairs.ASK_AGAIN_S)
    assert len(world.repairs) == 1


def storm() -> None:
    """An Active that begins rounds without end."""
    world = sim.pair(5)
    sums = [message for message in world.sent if isinstance(message, sim.digest_wire.Sums)][-4:]
    before = len(world.backup.looks[-1])
    for number in range(200):
        for each_of in sums:
            told = sim.digest_wire.Sums(round=number, of=each_of.of, entries=each_of.entries, sums=each_of.sums)
            world.backup.tell(sim.words.Heard(told))
        world.run(0.05)
    assert len(world.backup.looks[-1]) - before < 12
    sim.check_budget(world)


def ike_first() -> None:
    """A CHILD_SA is asked for when its IKE_SA is there, and not in vain before."""
    for seed in range(6):
        world = sim.pair(5)
        world.random.seed(seed)
        world.break_backup("ike")
        world.run(60.0)
        sim.check_mirror(world)
        assert len(world.repairs) == 2


def crowded() -> None:
    """All SAs in one bucket, which is told in pieces."""
    sim.test_a_bucket_that_is_told_in_pieces_is_compared_whole(pytest.MonkeyPatch())


MUTANTS: dict[str, tuple[object, str, str, str, Found]] = {
    "one look is enough": (
        BackupRounds, "_finish", "finding in stands", "True", sim.test_what_differs_for_a_moment_is_not_repaired),
    "orphans stay": (BackupRounds, "_finish", "if extra in stands]", "if False]", each("extra")),
    "what charon holds is removed from the kernel": (
        digest_backup, "_is_charons", "in own.spis", "in ()", sim.test_a_lost_delete_is_made_up_for_in_the_backups_charon),
    "an ended CHILD_SA stays": (
        BackupRounds, "_ended", "not in dropped:", "is None:", sim.test_a_lost_delete_is_made_up_for_in_the_backups_charon),
    "an ended IKE_SA stays": (
        BackupRounds, "_ended", "not in living:", "is None:", sim.test_a_lost_delete_is_made_up_for_in_the_backups_charon),
    "all may be removed": (
        BackupRounds, "_finish", "if not too_many:", "if True:",
        lambda: sim.test_an_active_that_has_lost_its_tunnels_does_not_take_the_only_copy_with_it(0.0)),
    "asks for the first buckets only": (
        BackupRounds, "_go_on", "if self._queue:", "if len(self._queue) > 1:", each("sa")),
    "a bucket in pieces is compared too early": (
        BackupRounds, "_on_records", "if piece.last:", "if True:", crowded),
    "the Backup looks as often as it is told to": (
        digest_backup, "soonest_after", "now + max", "now + 0 * max", storm),
    "the Active looks as often as events are lost": (
        Digests, "_dispatch", "max(now, self._soonest))", "now)", sim.test_lost_events_lead_to_a_look_at_once),
    "lost events are not looked for": (
        Digests, "_dispatch", "self._next_look = min(self._next_look, max(now, self._soonest))", "pass",
        sim.test_lost_events_lead_to_a_look_at_once),
    "what could not be looked at counts as held": (
        Digests, "_on_done", "if not (done.kernel_seen and done.charon_seen):", "if False:",
        sim.test_it_is_not_held_what_could_not_be_looked_at),
    "what differs counts as held": (
        Digests, "_on_done", "told.ends - unheld", "told.ends",
        sim.test_a_client_that_refuses_is_given_up_by_name_and_holds_up_nobody),
    "what is on its way out is told": (
        digests, "_tell", "if tunnel.carrying]", "]", rekeys_cost_nothing),
    "no budget": (
        RekeyQueue, "_go_on", "while now >= max(self._free_at, self._held_until) and", "while",
        sim.test_everything_gone_comes_back_at_the_budget),
    "CHILD_SAs do not wait for their IKE_SA": (
        Repairs, "found", "or want.ike_id in first", "", ike_first),
    "nobody is given up": (
        Repairs, "found", "history.given_up = True", "pass",
        sim.test_a_client_that_refuses_is_given_up_by_name_and_holds_up_nobody),
    "tries without end": (
        Repairs, "found", "history.tries < (", "0 < (",
        sim.test_a_client_that_refuses_is_given_up_by_name_and_holds_up_nobody),
    "asked again in every round": (
        Repairs, "found", "if now >= due:\n                wanted", "if True:\n                wanted",
        sim.test_a_backup_that_lies_costs_each_client_a_few_rekeys_an_hour),
    "asked again while charon asks": (
        RekeyQueue, "_not_before", "min(at, last_call) if asked.last < last_call else at", "asked.last", asked_once),
    "a rekeyed tunnel begins anew": (
        repairs, "line_of", "tunnel.reqid.to_bytes(4)", "tunnel.record",
        sim.test_a_backup_that_lies_costs_each_client_a_few_rekeys_an_hour),
}  # fmt: skip
"""By what is broken: where, what stands there, what takes its place, and who finds it."""


def test_the_simulations_pass_where_nothing_is_broken() -> None:
    for found in (rekeys_cost_nothing, asked_once, storm, crowded, ike_first):
        found()


@pytest.mark.parametrize("name", MUTANTS)
def test_each_broken_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, function, right, wrong, found = MUTANTS[name]
    source = textwrap.dedent(inspect.getsource(getattr(where, function)))
    assert source.count(right) == 1, "a rule has moved: move its mutant too"
    module: Any = where if inspect.ismodule(where) else sys.modules[where.__module__]
    made: dict[str, Any] = {}
    exec(compile(source.replace(right, wrong), name, "exec"), vars(module), made)
    monkeypatch.setattr(where, function, made[function])
    with pytest.raises((AssertionError, KeyError, StopIteration)):
        found()
