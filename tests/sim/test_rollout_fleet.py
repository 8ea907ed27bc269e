"""A rollout over a fleet that loses words, falls silent and breaks by the new content; its coordinator is killed anywhere.

The coordinator is the real core with a shell of a dozen lines: it stores before it performs, as `RolloutCore` asks. What is
checked is the fleet: which gateways run by what, and who announces.
"""

from __future__ import annotations

import dataclasses
import random

import pytest

from anycast.policy.gates import Verdict
from anycast.policy.rollout import (
    ENDED,
    Action,
    Activate,
    Command,
    GatewayTold,
    Looked,
    Rollout,
    RolloutCore,
    Stage,
    Step,
    Version,
)
from anycast.timer import TimerExpired

OLD, NEW, BACK = Version(4, "old"), Version(5, "new"), Version(6, "old")
TICK_S = 2.0
LONGEST_S = 6 * 3600.0


@dataclasses.dataclass
class Gateway:
    """An agent: takes what it is told, if the word arrives, and obeys after a while."""

    site: str
    active: Version = OLD
    staged: Version | None = None
    restarting_until: float = 0.0
    silent_until: float = 0.0

    def announces(self, now: float, broken: set[str]) -> bool:
        return now >= self.restarting_until and not (self.site in broken and self.active == NEW)

    def told(self, now: float, broken: set[str]) -> GatewayTold:
        return GatewayTold(
            staged=self.staged, active=self.active, announcing=self.announces(now, broken), fresh=now >= self.silent_until
        )


class World:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        pick = self.random
        self.sites = [f"s{n}" for n in range(pick.randint(2, 7))]
        self.gateways = {f"{site}-g{n}": Gateway(site) for site in self.sites for n in range(pick.choice([1, 2]))}
        of_site = {site: tuple(n for n, g in self.gateways.items() if g.site == site) for site in self.sites}
        order = pick.sample(self.sites, len(self.sites))
        self.broken = {site for site in self.sites if pick.random() < 0.15}
        """Announce no more by the new content."""
        self.mute = {site for site in self.sites if pick.random() < 0.1} - self.broken
        """Announce, and their clients are lost: only the gate sees it."""
        self.stored = Rollout(
            id="r", by="alice", target=NEW, back=BACK, sites=tuple(order), gateways=of_site, bake_s=60.0,
            quiet=(),
        )  # fmt: skip
        self.core = RolloutCore(self.stored)
        self.slots: set[str] = set()
        self.allowed = pick.randint(1, 2)
        self.now = 0.0
        self.activated: list[tuple[str, Version]] = []
        self.aborted = False

    def run(self) -> None:
        while self.core.rollout.step not in ENDED and self.now < LONGEST_S:
            self.now += TICK_S
            self._happen()
            self._ledger()
            site = self.core.rollout.site
            gateways = {name: gateway.told(self.now, self.broken) for name, gateway in self.gateways.items()}
            looked = Looked(gateways=gateways, gate=self._gate(site), gate_why="as simulated", held=frozenset(self.slots))
            self._take(self.core.handle(looked, self.now))
            if (deadline := self.core.deadline) is not None and self.now >= deadline:
                self._take(self.core.handle(TimerExpired(), self.now))
            self.check()

    def _ledger(self) -> None:
        """Of the stored state, as a coordinator reads it that was started anew."""
        self.slots &= self.stored.slots
        for site in self.stored.slots:
            if len(self.slots | {site}) <= self.allowed:
                self.slots.add(site)

    def _gate(self, site: str) -> Verdict:
        if self.random.random() < 0.2:
            return Verdict.UNKNOWN
        changed = any(g.active == NEW for g in self.gateways.values() if g.site == site)
        return Verdict.FAILS if changed and site in self.mute else Verdict.PASSES

    def _happen(self) -> None:
        pick = self.random
        if pick.random() < 0.02:
            pick.choice(list(self.gateways.values())).silent_until = self.now + pick.choice([4, 30, 300])
        if pick.random() < 0.005 and not self.aborted:
            self.aborted = True
            self._take(self.core.handle(Command("abort", "bob"), self.now))
        if pick.random() < 0.02:
            self._take(self.core.handle(Command(pick.choice(["pause", "resume", "resume"]), "bob"), self.now))
        elif pick.random() < 0.02:
            self._take(self.core.handle(Command("resume", "bob"), self.now))

    def _take(self, actions: list[Action]) -> None:
        self.stored = self.core.rollout  # before anything is performed
        for action in actions:
            if self.random.random() < 0.03:  # SIGKILL between two actions; the next one reads what was stored
                self.core = RolloutCore(self.stored)
                return
            self._perform(action)

    def _perform(self, action: Action) -> None:
        match action:
            case Stage(version, names):
                for name in names:
                    if (gateway := self._reached(name)) is not None and version.generation > gateway.active.generation:
                        gateway.staged = version
            case Activate(site, version):
                self.activated.append((site, version))
                for name, gateway in self.gateways.items():
                    if gateway.site == site and self._reached(name) is not None and gateway.staged == version:
                        gateway.active, gateway.staged = version, None
                        gateway.restarting_until = self.now + self.random.choice([1, 10])

    def _reached(self, name: str) -> Gateway | None:
        gateway = self.gateways[name]
        return gateway if self.now >= gateway.silent_until and self.random.random() > 0.1 else None

    def check(self) -> None:
        """Of the fleet, whatever the core believes."""
        returning = self.core.rollout.step in (Step.RETURNING, Step.STOPPED)
        fine = set(self.core.rollout.sites[: self.core.rollout.at])
        changing = {g.site for g in self.gateways.values() if g.active == NEW} - fine
        assert len(changing) <= 1 or returning, f"two sites are being changed: {changing}"
        assert changing <= self.slots or returning or self.core.rollout.step is Step.DONE, "changed without a slot"
        assert len(self.slots) <= self.allowed
        by_new = {g.site for g in self.gateways.values() if g.active == NEW}
        assert len(by_new & (self.broken | self.mute)) <= 1, "a bad content reached a second site"


def run(seed: int) -> World:
    world = World(seed)
    world.run()
    step = world.core.rollout.step
    assert step in ENDED, f"did not end within {LONGEST_S} s: {world.core.rollout}"
    active = {name: gateway.active for name, gateway in world.gateways.items()}
    failed = [page for page in world.stored.pages if page.reason == "return_failed"]
    world._ledger()
    assert not world.slots, "a slot is left"
    if step is Step.DONE:
        assert set(active.values()) == {NEW}
        assert not world.broken | world.mute
    elif not failed:
        # A word on its way when it stopped may still have arrived; but nobody is left on the new content.
        assert NEW not in active.values(), (active, world.core.rollout)
    first_return = next((n for n, (_, version) in enumerate(world.activated) if version == BACK), None)
    if first_return is not None:
        assert all(version == BACK for _, version in world.activated[first_return:]), "went forward again after turning back"
    return world


@pytest.mark.parametrize("seed", range(150))
def test_a_rollout_ends_one_way_or_the_other(seed: int) -> None:
    run(seed)


@pytest.mark.long
@pytest.mark.parametrize("block", range(20))
def test_more_of_them(block: int) -> None:
    for seed in range(1000 + block * 200, 1200 + block * 200):
        try:
            run(seed)
        except AssertionError as exc:
            raise AssertionError(f"seed {seed}: {exc}") from exc
