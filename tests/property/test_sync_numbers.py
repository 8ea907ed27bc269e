"""No ESP sequence number is ever used twice with one key, whatever happens, and a takeover is above what clients saw."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

import pytest

from site_agent.netlink.xfrm_keys import SaKey
from site_agent.sync import numbers as module
from site_agent.sync import numbers_words as words
from site_agent.sync.numbers import Numbers
from tests.support import numbers_world
from tests.support.numbers_world import MAX_TAKEOVERS, DroppedByClients, Gateway, Reused, World, run

SEEDS = range(200)
"""For the core as it is and for its mutants alike: one that is found where the core itself fails would prove nothing."""


@pytest.mark.parametrize("seed", SEEDS)
def test_no_number_is_used_twice_whatever_happens(seed: int) -> None:
    world = run(seed)
    assert world.made, "nothing was tried"


def test_both_sides_sent_and_took_over() -> None:
    """The simulation reaches what it is about."""
    worlds = [run(seed) for seed in SEEDS]
    takeovers = sum(
        len({rank for (other, _), rank in world.used.items() if other == key}) > 1
        for world in worlds
        for key in {key for key, _ in world.used}
    )
    assert takeovers > 20


@pytest.mark.parametrize("seed", range(20))
def test_after_a_quiet_takeover_every_number_is_higher_than_all_before(seed: int) -> None:
    world = World(seed)
    world.join()
    one, two = world.gateways
    world.settle()
    for _ in range(5):
        world.make_sa(one)
    world.settle()
    before: dict[SaKey, int] = {}
    for turn in range(4):
        active, backup = (one, two) if turn % 2 == 0 else (two, one)
        for key in list(active.kernel):
            for _ in range(world.random.randrange(1, 9)):
                active.send(key)
        world.settle()
        highest = {key: max(n for k, n in world.used if k == key) for key in {k for k, _ in world.used}}
        assert all(highest[key] > before.get(key, -1) for key in highest)
        before = highest
        backup.tell(words.PromotionAsked())
        world.settle()
        active.demote()
        world.settle()
        assert backup.sends and len(backup.kernel) == 5
        for key in backup.kernel:
            backup.send(key)
            assert max(n for k, n in world.used if k == key) > before[key], "its clients would drop it"


def heal_and_take_over(seed: int) -> int:
    """After whatever happened the pair finds itself, one Active; then the other takes over. How many SAs were looked at."""
    world = run(seed)
    world.part()
    active, backup = world.random.sample(world.gateways, 2)
    backup.demote()
    world.settle()
    active.tell(words.PromotionAsked())
    world.settle()
    assert (active.sends, backup.sends) == (True, False)
    world.join()
    world.settle()
    for key in list(active.kernel):
        active.send(key)
    world.settle()
    # Of an SA that only one of them has nothing is promised: the digests and a rekey mend it.
    both = [key for key in backup.kernel if key in active.kernel]
    backup.tell(words.PromotionAsked())
    active.demote()
    world.settle()
    assert backup.sends is True
    looked = 0
    for key in both:
        highest = max((n for other, n in world.used if other == key), default=0)
        before = len(world.used)
        backup.send(key)
        if len(world.used) > before:
            looked += 1
            if (key, highest) in world.used and max(n for other, n in world.used if other == key) == highest:
                raise DroppedByClients(f"seed {seed}: {key!r} after {highest}")
    return looked


def test_once_healed_a_takeover_is_above_what_the_clients_saw() -> None:
    assert sum(heal_and_take_over(seed) for seed in SEEDS) > 100


def take_over(world: World, new: Gateway, old: Gateway) -> None:
    old.demote()
    new.tell(words.PromotionAsked())
    world.settle()
    assert new.sends


def send_above(world: World, gateway: Gateway, key: SaKey) -> None:
    before = max((n for other, n in world.used if other == key), default=0)
    gateway.send(key)
    assert (key, before) not in world.used or (gateway.kernel[key].oseq > before), "its clients would drop it"


def pair_with_one_sa(maker: int) -> tuple[World, Gateway, Gateway, SaKey]:
    world = World(0)
    world.join()
    world.settle()
    if maker == 1:
        take_over(world, world.gateways[1], world.gateways[0])
    one, two = world.gateways[maker], world.gateways[1 - maker]
    world.pass_time(world.now + 2 * module.UNSURE_S)
    world.make_sa(one)
    world.settle()
    (key,) = one.kernel
    one.send(key)
    return world, one, two, key


@pytest.mark.parametrize("maker", [0, 1])
@pytest.mark.parametrize("connected", [True, False])
def test_fast_failovers_go_up_and_end_with_the_seventh(maker: int, connected: bool) -> None:
    world, one, two, key = pair_with_one_sa(maker)
    if not connected:
        world.part()
    takeovers = 0
    for turn in range(30):
        new, old = (two, one) if turn % 2 == 0 else (one, two)
        take_over(world, new, old)
        if key in new.kernel:
            send_above(world, new, key)
            takeovers += 1
    assert 6 <= takeovers <= MAX_TAKEOVERS
    assert key not in one.kernel and key not in two.kernel, "charon negotiates another"


@pytest.mark.parametrize("maker", [0, 1])
def test_a_backup_whose_process_was_dead_when_it_was_demoted_is_above_the_new_active(maker: int) -> None:
    world, one, two, key = pair_with_one_sa(maker)
    world.part()
    take_over(world, two, one)
    send_above(world, two, key)
    two.sends = False  # nobody told its process
    one.tell(words.PromotionAsked())
    world.settle()
    send_above(world, one, key)
    two.restart()
    world.settle()
    take_over(world, two, one)
    send_above(world, two, key)


@pytest.mark.parametrize("maker", [0, 1])
def test_two_actives_that_find_each_other_again(maker: int) -> None:
    world, one, two, key = pair_with_one_sa(maker)
    world.part()
    two.tell(words.PromotionAsked())
    world.settle()
    for _ in range(3):
        two.send(key)
        one.send(key)
    two.demote()
    world.settle()
    world.join()
    world.settle()
    assert one.sends and not two.sends
    send_above(world, one, key)
    take_over(world, two, one)
    send_above(world, two, key)


MUTANTS: dict[str, tuple[str, str, str]] = {
    "a new SA's copy stays where it is": ("_on_reported", "if mirrored:", "if False:"),
    "ready while some come": ("_perhaps_ready", "now - handed < READY_WITHIN_S", "False"),
    "ready without a listing": ("_perhaps_ready", "self._listed is not None or ", ""),
    "ready before all was read": ("_perhaps_ready", " or not self._drained", ""),
    "a restarted Active adopts block 0": ("_on_listed", "own = block > 0 and", "own = self.role is Role.ACTIVE or"),
    "a restarted Backup adopts what was used": ("_on_listed", "oseq == block << self._bits", "True"),
    "takeovers without end": ("_place", "target > LAST_BLOCK", "False"),
    "who is demoted stays": ("_on_demoted", "if sent_nothing:", "if True:"),
    "who is demoted stays below the new Active": ("_on_demoted", "own_above(1 - self._rank, copy.top)", "0"),
    "an Active below its Backup stays": ("_on_mark_told", "> copy.top:", "> 99:"),
    "a Backup below its Active stays": ("_on_mark_asked", "if copy.top <= block:", "if False:"),
    "nobody tells": ("_tells", "copy.block > own_above(self._rank, 0)", "False"),
    "an Active asks for nothing": ("_ask", "if self.connected and", "if False and"),
}
"""By what is broken: a method of the core, what stands there, what takes its place."""


def broken(name: str) -> Any:
    method, right, wrong = MUTANTS[name]
    source = textwrap.dedent(inspect.getsource(getattr(Numbers, method)))
    assert right in source, "a rule has moved: move its mutant too"
    made: dict[str, Any] = {}
    exec(compile(source.replace(right, wrong), name, "exec"), vars(module), made)
    return made[method]


def look_everywhere() -> None:
    for maker in (0, 1):
        test_fast_failovers_go_up_and_end_with_the_seventh(maker, True)
        test_fast_failovers_go_up_and_end_with_the_seventh(maker, False)
        test_a_backup_whose_process_was_dead_when_it_was_demoted_is_above_the_new_active(maker)
        test_two_actives_that_find_each_other_again(maker)
    for seed in range(20):
        test_after_a_quiet_takeover_every_number_is_higher_than_all_before(seed)
    for seed in SEEDS:
        heal_and_take_over(seed)


@pytest.mark.parametrize("name", MUTANTS)
def test_each_broken_rule_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Numbers, MUTANTS[name][0], broken(name))
    with pytest.raises(AssertionError):
        look_everywhere()


def test_without_the_kernels_own_bound_a_number_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers_world, "LIFE", 1 << 30)
    with pytest.raises(Reused):
        look_everywhere()


def test_with_blocks_that_both_own_a_number_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "own_above", lambda rank, block: max(block, 0) + 1)
    with pytest.raises(Reused):
        look_everywhere()
