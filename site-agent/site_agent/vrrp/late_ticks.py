"""How late timers come, counted in buckets: constant memory, no allocation a tick. Pure."""

from __future__ import annotations

import bisect

BOUNDS_MS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0)


class LateTicks:
    """Since the process began."""

    def __init__(self) -> None:
        self._buckets = [0] * (len(BOUNDS_MS) + 1)
        self._count, self._worst_ms = 0, 0.0

    def count(self, late_s: float) -> None:
        """One tick, this many seconds after it was due."""
        late_ms = late_s * 1000
        self._buckets[bisect.bisect_left(BOUNDS_MS, late_ms)] += 1
        self._count += 1
        self._worst_ms = max(self._worst_ms, late_ms)

    def quantile_ms(self, share: float) -> float:
        """The upper bound of the bucket that `share` of all ticks lie in or below; the worst where that is less."""
        wanted, seen = share * self._count, 0
        for bound, number in zip(BOUNDS_MS, self._buckets, strict=False):
            seen += number
            if seen >= wanted:
                return min(bound, self._worst_ms)
        return self._worst_ms

    def summary(self) -> dict[str, float]:
        """As the agent is told."""
        return {"count": self._count, "worst_ms": self._worst_ms, "p999_ms": self.quantile_ms(0.999)}
