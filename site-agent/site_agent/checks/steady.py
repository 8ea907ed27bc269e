"""What keeps checks from fluttering: a rate between two looks, and a change that must be seen more than once. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from anycast.model import Status
from site_agent.checks.base import Finding, passing


class Steady:
    """Rise and fall: a burst that one look catches is no state, and a pause in a flood is no end.

    A new status counts from the `rise`-th or `fall`-th look in a row that sees it. The first passing look counts at once.
    """

    def __init__(self, *, rise: int, fall: int) -> None:
        self._looks = {Status.PASSING: rise, Status.FAILING: fall}
        self._settled = Status.PASSING
        self._held: Finding | None = None
        self._against = 0

    def settle(self, seen: Finding) -> Finding:
        """What to report now that `seen` was seen. UNKNOWN is neither for nor against: it is reported and not counted."""
        if seen.status is Status.UNKNOWN:
            return seen
        if seen.status is self._settled:
            self._against, self._held = 0, seen
            return seen
        self._against += 1
        if self._against >= self._looks[seen.status]:
            self._settled, self._held, self._against = seen.status, seen, 0
            return seen
        if self._held is None:
            return passing(seen.name, f"once: {seen.detail}", seen.value)
        # The status and reason that stand, with what was seen now: nobody shall read a stale figure.
        return dataclasses.replace(self._held, detail=f"once: {seen.detail}", value=seen.value)


class Rates:
    """How fast counters grow, per second, between two looks."""

    def __init__(self) -> None:
        self._before: tuple[float, Mapping[str, int]] | None = None

    def since_last(self, counters: Mapping[str, int], now: float) -> dict[str, float] | None:
        """Of every counter that grew; None at the first look. One that fell was reset: it counts from zero."""
        before, self._before = self._before, (now, dict(counters))
        if before is None or now <= before[0]:
            return None
        span = now - before[0]
        grown = {}
        for name, value in counters.items():
            old = before[1].get(name, 0)
            if growth := value - old if value >= old else value:
                grown[name] = growth / span
        return grown
