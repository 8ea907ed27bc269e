"""A record now and then while nothing happens, so that a log without a farewell says until when its agent was there.

Bound to the verdicts, which renew the lease: an agent that runs but reaches none holds no route, and is not alive here.
"""

from __future__ import annotations

from anycast.events import ALIVE_PERIOD_S, AgentAlive
from anycast.policy.verdict import VerdictReached


class LifeSign:
    """Times are CLOCK_BOOTTIME in seconds."""

    def __init__(self, *, lease_s: float, now: float) -> None:
        self._lease_s, self._last = lease_s, now

    def after(self, verdict: VerdictReached) -> AgentAlive | None:
        """What to record after `verdict`; None while the last sign is younger than `ALIVE_PERIOD_S`."""
        if verdict.at - self._last < ALIVE_PERIOD_S:
            return None
        self._last = verdict.at
        return AgentAlive(serving=verdict.serving, lease_s=self._lease_s)
