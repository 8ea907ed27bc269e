"""Hostile histories of a pair's mirror: who is handed what, what is told as lost, what is refused. Each invariant is tried.

A seed that fails stands in the test's name; `mirror_world.run(seed)` plays it again.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from typing import Any

import pytest

from site_agent.sync import ha_relay
from site_agent.sync.ha_relay import HaRelay
from site_agent.sync.numbers_words import Role
from site_agent.sync.promotion import Promotion
from site_agent.sync.windows import Windows
from tests.support import mirror_checker as found
from tests.support import mirror_world
from tests.support.mirror_world import run

SEEDS = range(200)
"""For the cores as they are and for their mutants alike: one that is found where a core itself fails would prove nothing."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is full, and a burst is over, after a few messages."""
    monkeypatch.setattr(ha_relay, "MAX_KEPT", 8)
    monkeypatch.setattr(ha_relay, "ACK_EVERY", 3)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_mirror_holds_whatever_happens(seed: int) -> None:
    run(seed)


def test_both_were_handed_messages_and_told_of_gaps() -> None:
    """The simulation reaches what it is about."""
    worlds = [run(seed) for seed in SEEDS]
    assert sum(world.checker.handed_over for world in worlds) > 10 * len(SEEDS)
    assert sum(world.checker.gaps for world in worlds) > len(SEEDS)


def test_a_process_that_begins_as_backup_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before it may have been killed when charon served already."""
    monkeypatch.setattr(mirror_world, "FIRST_ROLE", Role.BACKUP)
    with pytest.raises(found.HandedToAnActive):
        for seed in SEEDS:
            run(seed)


Mutant = tuple[type, str, str, str]
MUTANTS: dict[type[AssertionError], dict[str, Mutant]] = {
    found.HandedToAnActive: {
        "while being promoted": (HaRelay, "_on_peer", "is Role.BACKUP", "is not Role.ACTIVE"),
        "to whom the peer was Active once": (HaRelay, "_on_peer", "self.role is Role.BACKUP", "True"),
        "open before charon is passive": (
            Promotion, "_begin", "else DEMOTION", "else (*DEMOTION[:-2], Step.OPEN, Step.CONFIRM_PASSIVE)",
        ),
    },
    found.Disorder: {
        "twice": (HaRelay, "_on_peer", "event.number <= self._peer_has_given", "False"),
        "a gap is not told": (HaRelay, "_on_peer", "if missing:", "if False:"),
        "a gap is told one short": (HaRelay, "_on_peer", "- self._peer_has_given - 1", "- self._peer_has_given - 2"),
        "what was dropped is no gap": (HaRelay, "_on_peer", "self._not_handed += missing + 1", "pass"),
        "a dropped gap is none": (HaRelay, "_on_peer", "self._not_handed += missing + 1", "self._not_handed += 1"),
        "told again at each role": (HaRelay, "_dispatch", "self._not_handed = 0", "pass"),
        "an epoch is not seen": (HaRelay, "_on_peer", "event.epoch != self._peer_epoch", "self._peer_epoch is None"),
        "an epoch begins in the middle": (HaRelay, "_on_peer", "event.epoch, 0, 0", "event.epoch, event.number - 1, 0"),
    },
    found.Stale: {
        "kept for another time as Active": (HaRelay, "_dispatch", "role is not Role.ACTIVE:", "False:"),
        "kept by a Backup": (HaRelay, "_dispatch", "role is not Role.ACTIVE:", "role is Role.PROMOTING:"),
    },
    found.NotHanded: {
        "a lost acknowledgement": (HaRelay, "_on_peer", "self._acknowledged = 0\n", "pass\n"),
        "nothing is said again": (HaRelay, "_dispatch", "in self._kept:", "in ():"),
        "no acknowledgement": (HaRelay, "_dispatch", "yield from self._acknowledge()", "pass"),
        "acknowledged one short": (HaRelay, "_dispatch", "[0][0] <= number", "[0][0] < number"),
        "the newest is lost": (HaRelay, "_on_charon", "popleft()", "pop()"),
        "the last number is acknowledged before": (
            HaRelay, "_acknowledge", "number=self._peer_has_given)", "number=self._peer_has_given - 1)",
        ),
        "bytes of one that came twice are kept": (
            HaRelay, "_on_peer", "self._acknowledged = 0\n", "self._acknowledged = 0\n            return\n",
        ),
    },
    found.NeverCarried: {
        "any type": (HaRelay, "_on_charon", "event.kind not in CARRIED", "False"),
        "a Backup's": (HaRelay, "_on_charon", "is not Role.ACTIVE", "is Role.PROMOTING"),
        "while being promoted": (HaRelay, "_on_charon", "is not Role.ACTIVE", "is Role.BACKUP"),
    },
    found.WrongSteps: {
        "serves before it closes": (Promotion, "_begin", "PROMOTION if", "(Step.ACTIVATE, Step.CLOSE) if"),
        "what failed is done": (Promotion, "handle", "self._failed(why, now) if", 'self._done("", now) if'),
        "the gate stays closed": (Promotion, "_begin", "else DEMOTION", "else DEMOTION[:-1]"),
        "two at once": (Promotion, "_next", "self._in_flight or", "False or"),
        "what was given up counts": (Promotion, "_answers", "return not void", "return True"),
        "waits for what was given up, and for ever": (
            Promotion, "handle", "self._done(detail, now) if self._answers(attempt) else self._next(now)",
            "self._done(detail, now) if self._answers(attempt) else []",
        ),
        "not tried again": (Promotion, "handle", "self._retry_at = None\n", "return []\n"),
        "charon's end is not seen": (Promotion, "handle", "self._active is None else", "True else"),
        "any answer counts": (Promotion, "_answers", " or attempt != self._attempt", ""),
    },
    found.NotRefused: {
        "told early, forgotten": (Windows, "_on_peer_saw", "self._early[key] = max(", "_ = max("),
        "told as Active, forgotten": (Windows, "_dispatch", "if role is Role.BACKUP:", "if False:"),
        "a write that failed": (Windows, "_on_there", "elif seq < known", "elif False"),
        "no word to a new peer": (Windows, "_dispatch", "if seq > 0)", "if False)"),
        "no word of the past": (Windows, "_dispatch", "self.role = role\n", "self.role = role; self._untold.clear()\n"),
        "no word of an advance": (Windows, "_on_there", "self._untold[key] = None", "pass"),
        "told is known, though it is behind": (Windows, "_on_peer_saw", "if seq >= known:", "if True:"),
    },
    found.RefusedTooMuch: {
        "an Active's kernel": (Windows, "_on_peer_saw", " or self.role is Role.ACTIVE", ""),
        "an Active's, at a listing": (Windows, "_on_there", " and self.role is not Role.ACTIVE", ""),
        "one more": (Windows, "_on_peer_saw", "RefuseUpTo(key=key, seq=seq)", "RefuseUpTo(key=key, seq=seq + 1)"),
        "a window more": (Windows, "_on_there", "RefuseUpTo(key=key, seq=known)", "RefuseUpTo(key=key, seq=known + 32)"),
    },
}  # fmt: skip
"""By the invariant that must find it: class, method, what stands there, what takes its place."""


def broken(core: type, method: str, right: str, wrong: str) -> Any:
    source = inspect.getsource(getattr(core, method))
    assert source.count(right) == 1, "a rule has moved: move its mutant too"
    made: dict[str, Any] = {}
    exec(compile(textwrap.dedent(source.replace(right, wrong)), method, "exec"), vars(sys.modules[core.__module__]), made)
    return made[method]


@pytest.mark.parametrize(("invariant", "name"), [(invariant, name) for invariant, all_ in MUTANTS.items() for name in all_])
def test_each_broken_rule_is_found(invariant: type[AssertionError], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    core, method, right, wrong = MUTANTS[invariant][name]
    monkeypatch.setattr(core, method, broken(core, method, right, wrong))
    with pytest.raises(invariant):
        for seed in SEEDS:
            run(seed)
