"""How old IKE_SAs are, whoever made them: a charon that takes one over counts from that moment. Pure.

charon's `ha` plugin tells no lifetimes, and its timers begin anew with a promotion (strongSwan 5.9.8, ike_sa.c, where
IKE_PASSIVE becomes IKE_ESTABLISHED), so an IKE_SA that is taken over again and again would keep its keys for ever. Each
gateway therefore knows when the IKE_SAs of both were made, as times of its own clock: by its own charon's word, by when it
saw a copy first, and by the peer's word, which tells ages, because no two clocks agree. The oldest one counts. What both
gateways' sync processes have forgotten (both killed after a takeover) is as young as charon says.

CHILD_SAs need none of this: the Backup's kernel installs its copy when the Active does, and counts by itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from site_agent.sync.bodies import Age

KEPT_S = 300.0
"""Unlisted for so long, an IKE_SA is forgotten: the peer may tell of one before our charon has it."""
TOLD_WITHIN_S = 2.0
MOST = 1 << 17


@dataclasses.dataclass(slots=True)
class _Known:
    made_at: float
    seen_at: float
    """When it was listed, or told of, last."""
    told: bool = False
    """On this connection."""

    def is_as_old_as(self, made_at: float) -> bool:
        """charon and the peer tell whole seconds."""
        return made_at > self.made_at - TOLD_WITHIN_S


class Ages:
    """IKE_SAs go by both SPIs. Times are CLOCK_BOOTTIME seconds."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Known] = {}

    def looked(self, established_s: Mapping[bytes, float | None], now: float) -> None:
        """What our charon lists, and for how long each has been up; None where it does not say (PASSIVE)."""
        for spis, seconds in established_s.items():
            self._learn(spis, now - (seconds or 0.0), now)
        self._known = {spis: known for spis, known in self._known.items() if now - known.seen_at < KEPT_S}

    def told(self, ages: Iterable[Age], now: float) -> None:
        """By the peer."""
        for age in ages:
            self._learn(age.spis, now - age.seconds, now)

    def connected(self) -> None:
        """The peer may have forgotten everything."""
        for known in self._known.values():
            known.told = False

    def to_tell(self, now: float) -> list[Age]:
        """What the peer was not told on this connection, or is older than it was told. Counts as told now."""
        ages = [Age(spis, round(now - known.made_at)) for spis, known in self._known.items() if not known.told]
        for age in ages:
            self._known[age.spis].told = True
        return ages

    def made_at(self, spis: bytes) -> float | None:
        known = self._known.get(spis)
        return None if known is None else known.made_at

    def _learn(self, spis: bytes, made_at: float, now: float) -> None:
        known = self._known.get(spis)
        if known is None:
            if len(self._known) < MOST:
                self._known[spis] = _Known(made_at, now)
            return
        known.seen_at = now
        if not known.is_as_old_as(made_at):
            known.told = False
        known.made_at = min(known.made_at, made_at)
