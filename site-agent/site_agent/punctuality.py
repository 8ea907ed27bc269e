"""Did something of ours keep the loop that renews the lease? Told from the verdicts' own times. Pure.

A verdict is reached every sixth of a lease. One that comes a third of a lease later than that has cost renewals: nothing is
lost yet, and the next such thing may take the route. How much of the time the loop's own thread computed tells
whose fault it is: a callback of ours that computes, or else one that waits (a disk), or a machine without a free processor.
A gap of more than a lease without computing is a machine that was frozen; `ClockGapSeen` says that already.
"""

from __future__ import annotations

from anycast.events import AlarmCleared, AlarmRaised
from anycast.policy.verdict import TICKS_PER_LEASE
from anycast.reasons import Reason

QUIET_S = 60.0
"""After so long without another one the alarm ends."""


class Punctuality:
    """Told of each verdict. Times are CLOCK_BOOTTIME in seconds, `cpu_s` what the loop's thread has computed so far."""

    def __init__(self, *, lease_s: float) -> None:
        self._lease_s = lease_s
        self._last: tuple[float, float] | None = None
        self._late_at: float | None = None

    def after(self, at: float, cpu_s: float) -> AlarmRaised | AlarmCleared | None:
        """What follows from a verdict at `at`. A standing alarm is not raised again."""
        before, self._last = self._last or (at, cpu_s), (at, cpu_s)
        gap_s, computed_s = at - before[0], cpu_s - before[1]
        late = gap_s - self._lease_s / TICKS_PER_LEASE > self._lease_s / 3
        if late and (gap_s <= self._lease_s or computed_s > gap_s / 2):
            standing, self._late_at = self._late_at is not None, at
            detail = f"no verdict for {gap_s:.2f} s, {computed_s:.2f} s of it computing in the loop that renews the lease"
            return None if standing else AlarmRaised(reason=Reason.LOOP_LATE, detail=detail)
        if self._late_at is not None and at - self._late_at >= QUIET_S:
            self._late_at = None
            return AlarmCleared(reason=Reason.LOOP_LATE)
        return None
