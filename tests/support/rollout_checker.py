"""What must hold of a `rollout_world` at every moment, beside what must of tokens: by routes, contents on gateways' disks
and the store's slots, without a core of the coordinator's."""

from __future__ import annotations

from anycast.content.content import Intent
from anycast.policy.rollout import Version
from tests.support.rollout_world import Gateway, RolloutWorld
from tests.support.token_checker import Checker

KINDS = {Intent.DRAINED: "drain", Intent.DEGRADED: "degrade"}


class RolloutChecker(Checker):
    def __init__(self, world: RolloutWorld) -> None:
        super().__init__(world)
        self.fleet = world
        world.on_activated = self.activated

    @property
    def allowed(self) -> int:
        """By the lowest floor that was ever signed: one that rises ends nobody's darkness at once."""
        return len(self.world.names) - self.fleet.weakest

    def activated(self, node: Gateway, before: Version, after: Version) -> None:
        """A site that changes, or that goes dark, has a slot that was given while the floors stood (`given`)."""
        world = self.fleet
        old, new = (world.contents[each.hash].sites[node.site] for each in (before, after))
        darkens = new.intent.dark and not old.intent.dark
        world.counts["dark_returns"] += darkens and after in world.backs
        if not darkens and (after in world.backs or new == old):
            return
        slots = {entry.site for entry in (*world.store.entries.values(), *world.lost.values())}
        assert node.site in slots, self._say(f"{node.name} is changed to {new.intent} without a slot")

    def settled(self) -> None:
        """Nothing is under way any more: who is dark by a content has a slot, which stands, by a word for it. Where a return
        did not end somebody was called, and what came late has a slot that cannot return before it announces. So has who was
        left by a recovery with another content than its neighbour, by which the site attracts."""
        world, late = self.fleet, self.fleet.counts["return_failed"] > 0
        meant = {(node.site, world.intent(node)) for node in world.nodes.values()}
        split = {site for site, intent in meant if intent not in KINDS}
        stand = {
            (e.site, "" if late else e.kind) for e in world.store.entries.values() if late or e.site in split or not e.ending
        }
        dark = {(site, "" if late else KINDS[intent]) for site, intent in meant if intent in KINDS}
        assert dark <= stand, self._say(f"dark by contents: {sorted(dark)}, by the ledger: {world.store.entries}")

    def _floor_now(self) -> int:
        return min(self.fleet.content_of(node).budget.min_sites for node in self.fleet.nodes.values())

    def _dark_by_ledger(self) -> set[str]:
        world = self.fleet
        own = {
            node.site for node in world.nodes.values()
            if world.intent(node) is not Intent.ANNOUNCED or (node.active.hash, node.site) in world.broken
        }  # fmt: skip
        return super()._dark_by_ledger() | own

    def _may_become_dark(self) -> set[str]:
        """Also by an activation that is under way or waits for a disk."""
        world, found = self.fleet, super()._may_become_dark()
        for name, session, version in world.orders.values():
            node = world.nodes[name]
            if session == node.session and version == node.staged:
                found |= self._darkens(node, version)
        for node in world.nodes.values():
            if node.pending is not None:
                found |= self._darkens(node, node.pending[0])
        return found

    def _darkens(self, node: Gateway, version: Version) -> set[str]:
        return {node.site} if self.fleet.contents[version.hash].sites[node.site].intent.dark else set()

    def given(self, site: str) -> None:
        """Or a site is to be changed that facts have dark: that darkens nobody, so only what is on purpose counts."""
        weakest, self.fleet.weakest = self.fleet.weakest, self._floor_now()
        if self.world.grants[-1][2] == "rollout" and not any(node.announced for node in self.world.of_site[site]):
            on_purpose = self._dark_by_ledger() | self._may_become_dark() | {site}
            assert len(on_purpose) <= self.allowed, self._say(f"{site} is changed; on purpose dark: {sorted(on_purpose)}")
        else:
            super().given(site)
        self.fleet.weakest = weakest
