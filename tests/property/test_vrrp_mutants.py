"""Each rule of election, router and seal, broken once: some unit test or history must notice, or they prove nothing.

A mutant replaces one method or constant, as narrowly as the rule is written.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from site_agent.vrrp import familiar, packet, router, seal
from site_agent.vrrp.election import Choice, Peer, Role, choose
from site_agent.vrrp.router import Active, Backup, VirtualRouter
from site_agent.vrrp.router_words import RemoveAddresses
from site_agent.vrrp.seal import Flag, Path, Window

Mutation = Callable[[pytest.MonkeyPatch], None]
MUTANTS: dict[str, Mutation] = {}
SUITES = (
    "tests.unit.test_vrrp_router",
    "tests.unit.test_vrrp_lease",
    "tests.unit.test_vrrp_packet",
    "tests.unit.test_vrrp_familiar",
)


def mutant(mutate: Mutation) -> Mutation:
    MUTANTS[mutate.__name__] = mutate
    return mutate


def chooses(patch: pytest.MonkeyPatch, decide: Callable[..., Choice]) -> None:
    patch.setattr(router, "choose", decide)


def wraps(patch: pytest.MonkeyPatch, owner: Any, name: str, replace: Callable[..., Any]) -> None:
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **kwargs: replace(original, *args, **kwargs))


# Who takes over when


@mutant
def a_backup_asks_nobody(patch: pytest.MonkeyPatch) -> None:
    chooses(patch, lambda role, **given: Choice.TAKE_OVER if role is Role.BACKUP else choose(role, **given))


@mutant
def management_does_not_count(patch: pytest.MonkeyPatch) -> None:
    chooses(patch, lambda role, *, heard, **given: choose(role, heard=heard & ~Path.MANAGEMENT, **given))


@mutant
def an_active_needs_no_uplink(patch: pytest.MonkeyPatch) -> None:
    chooses(patch, lambda role, **given: Choice.STAY if role is Role.ACTIVE else choose(role, **given))


@mutant
def an_active_without_uplink_gives_way_to_the_unfit(patch: pytest.MonkeyPatch) -> None:
    chooses(patch, lambda role, *, peer, **given: choose(role, peer=Peer.FIT if peer is Peer.UNFIT else peer, **given))


# RFC 9568 section 6.4


@mutant
def skew_time_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VirtualRouter, "skew_time", lambda self, interval=None: 0.0)


@mutant
def the_interval_is_not_learned(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VirtualRouter, "_interval", property(lambda self: self._p.advertisement_interval))


@mutant
def a_lower_priority_resets_the_timer(patch: pytest.MonkeyPatch) -> None:
    def hear(original: Any, self: Any, backup: Any, advert: Any, now: float) -> Any:
        actions = original(self, backup, advert, now)
        if advert.priority:
            backup.active_down_timer = now + self.active_down_interval()
        return actions

    wraps(patch, VirtualRouter, "_heard_as_backup", hear)


@mutant
def an_active_never_yields(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VirtualRouter, "_own_rank", lambda self, advert: (2**129,))


@mutant
def an_active_yields_to_its_equal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VirtualRouter, "_own_rank", lambda self, advert: (-1,))


@mutant
def nobody_is_answered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VirtualRouter, "_answer", lambda self, active, now: [])


@mutant
def answers_have_no_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(router, "ANSWER_EVERY_S", -1.0)


@mutant
def a_shutdown_says_nothing(patch: pytest.MonkeyPatch) -> None:
    wraps(patch, VirtualRouter, "_on_shutdown", lambda original, self: original(self)[1:])


@mutant
def a_takeover_is_announced_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(router, "GARP_AFTER_S", ())


# The lease


@mutant
def a_grant_has_no_end(patch: pytest.MonkeyPatch) -> None:
    def grant(original: Any, self: Any, event: Any, now: float) -> Any:
        actions = original(self, event, now)
        self._granted_until = float("inf")
        return actions

    wraps(patch, VirtualRouter, "_on_grant", grant)


@mutant
def a_gap_is_not_noticed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VirtualRouter, "_notice_gap", lambda self, now: [])


@mutant
def a_demotion_keeps_the_addresses(patch: pytest.MonkeyPatch) -> None:
    wraps(patch, VirtualRouter, "_demote",
          lambda original, *args: [a for a in original(*args) if not isinstance(a, RemoveAddresses)])  # fmt: skip


@mutant
def addresses_are_renewed_too_late(patch: pytest.MonkeyPatch) -> None:
    def run(original: Any, self: Any, active: Active, now: float) -> Any:
        before = active.renew_timer
        actions = original(self, active, now)
        if active.renew_timer != before:
            active.renew_timer = now + self._p.address_life_s
        return actions

    wraps(patch, VirtualRouter, "_run_active", run)


@mutant
def a_refusal_is_ignored(patch: pytest.MonkeyPatch) -> None:
    def handle(original: Any, self: Any, event: Any, now: float) -> Any:
        return [] if isinstance(event, router.AddressesRefused) else original(self, event, now)

    wraps(patch, VirtualRouter, "handle", handle)


@mutant
def a_late_backup_looks_at_nothing(patch: pytest.MonkeyPatch) -> None:
    def run(original: Any, self: Any, backup: Backup, now: float) -> Any:
        backup.graced = True
        return original(self, backup, now)

    wraps(patch, VirtualRouter, "_run_backup", run)


@mutant
def a_release_breaks_before_it_is_made(patch: pytest.MonkeyPatch) -> None:
    def give_way(original: Any, self: Any, now: float, cause: Any) -> Any:
        if not isinstance(self.state, Active) or self.state.release is not None:
            return []
        return [router.SendAdvert(priority=0, flags=Flag.ACTIVE), *self._demote(now, cause)]

    wraps(patch, VirtualRouter, "_give_way", give_way)


@mutant
def a_release_is_kept_for_ever(patch: pytest.MonkeyPatch) -> None:
    wraps(patch, router, "Release", lambda original, *, until, cause: original(until=float("inf"), cause=cause))


@mutant
def two_backups_race(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VirtualRouter, "_outranked", lambda self, now: False)


@mutant
def a_backup_is_silent(patch: pytest.MonkeyPatch) -> None:
    def run(original: Any, self: Any, backup: Backup, now: float) -> Any:
        backup.presence_timer = float("inf")
        return original(self, backup, now)

    wraps(patch, VirtualRouter, "_run_backup", run)


@mutant
def the_unfit_take_what_is_offered(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(VirtualRouter, "_fit", property(lambda self: True))


# Packet and seal


@mutant
def any_ttl_will_do(patch: pytest.MonkeyPatch) -> None:
    wraps(patch, packet, "decode", lambda original, data, source, to, ttl, *more: original(data, source, to, 255, *more))


@mutant
def the_checksum_is_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(packet, "_checksum_fits", lambda *given: True)


@mutant
def the_seal_covers_no_addresses(patch: pytest.MonkeyPatch) -> None:
    nobody = packet.GROUP_V4
    wraps(patch, seal, "_digest", lambda original, key, source, to, message: original(key, nobody, nobody, message))


@mutant
def the_seal_covers_itself_only(patch: pytest.MonkeyPatch) -> None:
    size = seal._FIELDS.size
    wraps(patch, seal, "_digest", lambda original, key, source, to, message: original(key, source, to, message[-size:]))


@mutant
def any_digest_fits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(seal.hmac, "compare_digest", lambda a, b: True)


@mutant
def a_record_may_be_played_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Window, "take", lambda self, said: self.last.update({said.router_id: (said.boot, said.sequence)}))


@mutant
def a_restart_forgets_what_it_heard(patch: pytest.MonkeyPatch) -> None:
    wraps(patch, Window, "__init__", lambda original, self, last=None: original(self))


# What is known again


@mutant
def a_repetition_needs_no_digest(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(familiar, "compare_digest", lambda a, b: True)


@mutant
def a_repetition_may_be_played_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Window, "take_fields", lambda self, fields: True)


@mutant
def a_repetition_may_be_routed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(familiar, "_TTL_AT", 1)
    patch.setattr(familiar, "TTL", 0xC0)


@mutant
def a_repetition_may_say_something_else(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(familiar, "_SAID_BEFORE", 2)


@mutant
def who_gives_way_announces(patch: pytest.MonkeyPatch) -> None:
    def run(original: Any, self: Any, active: Active, now: float) -> Any:
        actions = original(self, active, now)
        due = bool(active.announce_timers) and now >= active.announce_timers[0]
        return [*actions, router.AnnounceAddresses()] if due and active.release is not None else actions

    wraps(patch, VirtualRouter, "_run_active", run)


@mutant
def a_backup_answers_no_tick(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(router, "PRESENCE_SLACK", -1.0)


def battery() -> Iterator[Callable[[], None]]:
    """Every test of the suites without fixtures, with each of its parameters, and some histories of fixed seeds."""
    for name in SUITES:
        module = importlib.reload(importlib.import_module(name))  # names imported from a mutated module are the mutant's
        members = [member for _, member in inspect.getmembers(module) if getattr(member, "__module__", "") == name]
        functions = [member for member in members if inspect.isfunction(member) and member.__name__.startswith("test_")]
        for owner in (member for member in members if inspect.isclass(member) and member.__name__.startswith("Test")):
            functions += [getattr(owner(), each) for each in dir(owner) if each.startswith("test_")]
        for function in functions:
            marks = [mark for mark in getattr(function, "pytestmark", []) if mark.name == "parametrize"]
            if not marks:
                yield function
            if len(marks) == 1:
                names, rows = marks[0].args
                several = not isinstance(names, str) or "," in names
                yield from (lambda f=function, row=row if several else (row,): f(*row) for row in rows)
    histories = importlib.import_module("tests.sim.test_vrrp_election")
    yield histories.test_a_verdict_costs_a_pair_nothing
    yield histories.test_data_paths_cut_and_management_left_changes_nothing
    for sealed in (False, True):
        yield lambda sealed=sealed: histories.test_a_dead_active_is_replaced_within_active_down_interval(sealed)
    for test, arguments in (
        (histories.test_a_pair_never_has_two_while_one_path_is_left, {}),
        (histories.test_after_everything_healed_there_is_one_active, {"sealed": True}),
    ):
        inner = test.hypothesis.inner_test
        for seed in range(8):
            more = arguments | {"seed": seed} | ({"routers": 2} if arguments else {})
            yield lambda inner=inner, more=more: inner(**more)


def noticed() -> str:
    """Which test notices that something is wrong; nothing where none does."""
    quiet = settings(max_examples=30, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    settings.register_profile("mutants", quiet)
    before = settings.default
    settings.load_profile("mutants")
    try:
        for test in battery():
            try:
                test()
            except (Exception, pytest.fail.Exception) as exc:  # whatever it is, the test did not pass
                return f"{test}: {exc!r:.200}"
    finally:
        settings.register_profile("before", before)
        settings.load_profile("before")
    return ""


def test_unmutated() -> None:
    assert noticed() == ""


@pytest.mark.parametrize("mutate", MUTANTS.values(), ids=MUTANTS)
def test_mutant_is_caught(mutate: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    assert noticed(), "no test notices the broken rule"
