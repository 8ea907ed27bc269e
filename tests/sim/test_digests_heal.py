"""Whatever happened, when it is quiet the Backup holds what the Active has, and nobody goes on about it."""

from __future__ import annotations

import itertools

import pytest

from site_agent.sync import digest_wire
from site_agent.sync import digest_words as words
from site_agent.sync.digest_compare import Cause, Finding
from site_agent.sync.digest_table import Of
from site_agent.sync.digests import SOON_S
from site_agent.sync.numbers_words import EventsLost
from site_agent.sync.repairs import MAX_REFUSED, MAX_TRIES, SETTLE_S
from tests.support.digest_checks import check_budget, check_mirror, happen, quiet
from tests.support.digest_world import BUDGET, VIP, Side, World

SEEDS = [*range(5), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(5, 48))]


def run(seed: int) -> World:
    world = World(seed)
    clients: list[int] = []
    world.join()
    world.loss, world.look_fails = 0.2, 0.1
    for _ in range(80):
        happen(world, clients)
        world.run(world.random.choice([0.0, 0.1, 1.0, 5.0, 20.0]))
    quiet(world)
    return world


@pytest.mark.parametrize("seed", SEEDS)
def test_when_quiet_the_mirror_equals_the_source(seed: int) -> None:
    world = run(seed)
    check_mirror(world)
    check_budget(world)


FAULT_REKEYS = {
    "sa": 1, "address": 1, "ports": 1, "settings": 1, "policy": 1, "child": 1,
    "ike": 2,  # it, and then its CHILD_SA
    "extra": 0, "spare policy": 0,
}  # fmt: skip
"""How many rekeys mend it."""
LEAVES_SPARE = {"extra", "spare policy", "child"}
"""Where something is left in the Backup's kernel that its charon does not know."""


def pair(clients: int, *, crowded: bool = False) -> World:
    """Two gateways that have found each other equal. `crowded`: all SPIs are of one bucket."""
    world = World(0)
    world.spi_bits = 0xFFFF_0000 if crowded else 0xFFFF_FFFF
    world.join()
    for _ in range(clients):
        world.connect()
    world.run(60.0)
    check_mirror(world)
    assert not world.repairs
    return world


@pytest.mark.parametrize("kind", FAULT_REKEYS)
def test_each_divergence_heals_with_as_little_as_it_takes(kind: str) -> None:
    world = pair(30)
    world.break_backup(kind)
    assert world.active.mirror() != world.backup.mirror(), "nothing was broken"
    world.run(60.0)
    check_mirror(world)
    assert len(world.repairs) == FAULT_REKEYS[kind]
    assert bool(world.removed) == (kind in LEAVES_SPARE)


@pytest.mark.parametrize("address", [True, False], ids=["MOBIKE", "NAT"])
def test_a_client_that_has_moved_is_mended_ike_first(address: bool) -> None:
    world = pair(10)
    (number, *_) = (child.reqid for child in world.active.children.values())
    world.move(number, address=address)
    world.run(60.0)
    check_mirror(world)
    assert [repair.child_id == "" for _at, repair in world.repairs] == [True, False]


def test_what_differs_for_a_moment_is_not_repaired() -> None:
    world = pair(20)
    name = next(iter(world.backup.sas))
    for _ in range(20):
        held = world.backup.sas.pop(name)
        world.run(2.5)
        world.backup.sas[name] = held
        world.run(11.0)
    assert not world.repairs


def test_a_lost_delete_is_made_up_for_in_the_backups_charon() -> None:
    world = pair(10)
    world.part()
    leaving, rekeyed = (child.reqid for child in list(world.active.children.values())[:2])
    world.leave(leaving)
    world.loss = 1.0
    world.join()
    world.rekey_child(rekeyed)
    world.loss = 0.0
    world.run(120.0)
    check_mirror(world)
    assert {type(action) for action in world.removed} == {words.DropIkeSa, words.DropChildSa}


def test_a_client_that_refuses_is_given_up_by_name_and_holds_up_nobody() -> None:
    world = pair(10)
    refuses = world.connect(refuses=True)
    world.run(30.0)
    (_number, child) = world.client(refuses) or pytest.fail("it has left")
    del world.backup.sas[child.spi_in, VIP]
    world.run(300.0)
    world.break_backup("policy")
    world.run(1000.0)
    assert [(gone.name, gone.refused) for gone in world.gave_up] == [(f"client {refuses}", True)]
    asked = [repair for _at, repair in world.repairs if repair.name == f"client {refuses}"]
    assert len(asked) == MAX_REFUSED
    fresh = world.active.core.freshness(world.now)
    assert (fresh.unprotected, fresh.of, fresh.waiting, fresh.given_up) == (1, 22, 0, 1)


def test_everything_gone_comes_back_at_the_budget() -> None:
    """A Backup that has rebooted."""
    world = pair(120)
    world.part()
    backup = world.backup
    backup.sas, backup.policies, backup.children, backup.ikes = {}, {}, {}, {}
    world.join()
    began = world.now
    world.run(240 / BUDGET + 60.0)
    check_mirror(world)
    check_budget(world)
    assert len(world.repairs) == 240, "each IKE_SA once and each CHILD_SA once"
    assert world.repairs[-1][0] - began > 239 // BUDGET - 1


def test_a_backup_that_lies_costs_each_client_a_few_rekeys_an_hour() -> None:
    world = pair(10)
    lying(world)
    world.run(1500.0)
    assert world.repairs and len(world.repairs) <= 10 * MAX_TRIES
    assert len(world.gave_up) == 10 and not any(gone.refused for gone in world.gave_up)
    check_budget(world)
    for number in range(10):
        times = [at for at, repair in world.repairs if repair.line[1] == world.repairs[number][1].line[1]]
        assert all(later >= at + SETTLE_S for at, later in itertools.pairwise(times)), "a rekey is given time to take effect"


def lying(world: World) -> None:
    """Its Backup says in every round that it has no SA at all."""

    def lie(side: Side, message: digest_wire.Message) -> digest_wire.Message:
        if side is world.backup and isinstance(message, digest_wire.Done):
            for record in world.active.kernel_look()[0]:
                finding = Finding(Of.SAS, record, Cause.MISSING_IN_KERNEL), True
                world.active.tell(words.Heard(digest_wire.Findings(round=message.round, of=Of.SAS, findings=(finding,))))
        return message

    world.lie = lie


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_an_active_that_has_lost_its_tunnels_does_not_take_the_only_copy_with_it(share: float) -> None:
    world = pair(40)
    before = dict(world.backup.sas)
    active = world.active
    for number in list(active.children)[int(40 * share) :]:
        active.ikes.pop(active.children[number].ike)
        active.uninstall(number, policies=True)
    world.run(300.0)
    assert world.backup.sas == before and not world.removed
    told = [message for message in world.sent if isinstance(message, digest_wire.Done)]
    assert told[-1].removes_nothing


def test_it_is_not_held_what_could_not_be_looked_at() -> None:
    world = pair(10)
    world.blind = world.backup
    world.run(200.0)
    fresh = world.active.core.freshness(world.now)
    assert (fresh.unprotected, fresh.of) == (20, 20)
    assert not world.repairs, "not knowing is no divergence"


def test_lost_events_lead_to_a_look_at_once() -> None:
    world = pair(5)
    active = world.active
    world.run(3.0)
    before = len(active.looks[-1])
    for _ in range(50):
        active.tell(EventsLost())
        world.run(0.01)
    assert len(active.looks[-1]) - before == 1, "and to one"
    assert world.now - active.looks[-1][-1] < 0.6


def test_roles_change_and_the_other_one_tells() -> None:
    world = pair(20)
    for turn in range(4):
        world.run(0.15 * turn)
        world.change_roles()
        world.break_backup("sa")
        world.run(90.0)
        check_mirror(world)
    assert len(world.repairs) == 4


def test_a_bucket_that_is_told_in_pieces_is_compared_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(digest_wire, "PIECE_BYTES", 150)
        world = pair(20, crowded=True)
        world.break_backup("sa")
        world.run(60.0)
        check_mirror(world)
        assert len(world.repairs) == 1


def test_what_was_repaired_is_seen_soon() -> None:
    """A Backup that has rebooted: two rounds, its IKE_SAs, a round, its CHILD_SAs, and one that sees all of it."""
    world = pair(12)
    world.part()
    backup = world.backup
    backup.sas, backup.policies, backup.children, backup.ikes = {}, {}, {}, {}
    world.join()
    began, fresh = world.now, world.active.core.freshness
    while fresh(world.now).unprotected or fresh(world.now).compared_at is None:
        world.run(0.1)
    assert world.now - began < 24 / BUDGET + 4 * (SOON_S + 1)
