"""The ledger's slots of rollouts and of dark intents: what is needed, no more and no less, one a site.

A dark one stays for as long as the site runs by a content that says so, whatever else is rolled out, and is called what
operators signed last. Where a store was recovered, what contents have dark may be without the slot that the old one gave.
"""

from __future__ import annotations

from collections.abc import Callable

from anycast.content.content import Content, Intent, Site
from anycast.coordinator.darkness import Darkness
from anycast.model import Cause
from anycast.policy.ledger import Entry, Kind
from anycast.policy.rollout import Rollout, Step
from anycast.policy.token_words import RenameSlot, TakeSlot
from anycast.reasons import Reason

DARK_KINDS = (Kind.DRAIN, Kind.MAINTENANCE, Kind.DEGRADE)
"""Of slots that a site keeps after the rollout that darkened it."""


class Slots:
    """Use from the event loop's thread."""

    def __init__(self, darkness: Darkness) -> None:
        self._darkness = darkness
        self.refused = ""
        """Why the ledger has no slot for the rollout now."""
        self.recovered = False
        """Dark sites may be without their slot."""

    def held(self) -> dict[str, Entry]:
        """By site: the slot of a rollout or a dark intent that stands."""
        kinds = (Kind.ROLLOUT, *DARK_KINDS)
        return {entry.site: entry for entry in self._darkness.entries if entry.kind in kinds and not entry.ending}

    async def keep(
        self, rollout: Rollout, target: Content, in_force: Content | None, too_much: Callable[[], str] = lambda: ""
    ) -> None:
        """Take, rename and end them. `target`: the content that sites are changed to now, also back to; `in_force`: what
        gateways run by; `too_much`: why the site that is to be changed next must not go dark, whatever the ledger says;
        empty: it may."""
        held = self.held()
        running = _dark(in_force or target)
        for site, entry in held.items():
            if site not in rollout.slots and not (entry.kind in DARK_KINDS and site in running):
                self._darkness.end(entry.id, Reason.CAUSE_GONE)
        self.refused = ""
        for site in sorted(rollout.slots | held.keys()):
            changing = site in rollout.slots
            wanted = (target.sites.get(site) if changing else None) or running.get(site)
            slot = held.get(site)
            if slot is None and rollout.step is Step.WAITING and not rollout.despite and (why := too_much()):
                self.refused = why
            elif slot is None:
                taken = await self._darkness.take(_slot(site, wanted, rollout.by, f"rollout {rollout.id}"))
                if isinstance(taken, Cause):
                    self.refused = f"{site}: {taken}"
            elif wanted is not None and wanted.intent.dark:
                by = rollout.by if changing and rollout.step is not Step.RETURNING else slot.by
                asked = _slot(site, wanted, by, f"rollout {rollout.id}")
                # Who drained it stays who drained it, whatever else is rolled out, until the words change.
                if (slot.kind, slot.until) != (asked.kind, asked.until) or (wanted.because and slot.why != asked.why):
                    self._darkness.feed(
                        RenameSlot(entry_id=slot.id, kind=asked.kind, by=asked.by, why=asked.why, until=asked.until)
                    )

    async def keep_dark(self, in_force: Content | None) -> None:
        """A site that is dark by a content that was recovered: its slot was lost with the store that gave it."""
        if not self.recovered or in_force is None:
            return
        held, dark = self.held(), _dark(in_force)
        self.recovered = False
        for site in sorted(dark.keys() - held.keys()):
            taken = await self._darkness.take(_slot(site, dark[site], "recover", "dark before"))
            self.recovered |= isinstance(taken, Cause)


def _dark(content: Content) -> dict[str, Site]:
    return {name: site for name, site in content.sites.items() if site.intent.dark}


def _slot(site: str, wanted: Site | None, by: str, why: str) -> TakeSlot:
    """What the ledger is asked for, by what the site is to be. `why`: where operators said nothing."""
    if wanted is None or not wanted.intent.dark:
        return TakeSlot(kind=Kind.ROLLOUT, site=site, by=by, why=why)
    if (because := wanted.because) is None:
        return TakeSlot(kind=Kind.DEGRADE if wanted.intent is Intent.DEGRADED else Kind.DRAIN, site=site, by=by, why=why)
    return TakeSlot(kind=Kind(because.kind), site=site, by=by, why=because.why, until=because.until)
