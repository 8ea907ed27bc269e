"""Flap control: what a router that damps our route would count, kept so that it never has to. Pure; numbers and times only.

Theory of operation
-------------------
A receiver that damps (RFC 2439) adds 1,000 to a route's penalty at each withdrawal, halves it every 15 minutes, and hides
the route once the penalty passes its suppress threshold: at least 6,000 by RFC 7196. Hidden there, a healthy site stays
dark for up to an hour and nobody here can help it. So the same sum is done here, and an announcement waits while the
*next* withdrawal would pass the threshold. Only the return of a route is ever delayed; a withdrawal asks nobody.

Six withdrawals in a row are free; from then on the route may come back about every four minutes. Sites that failed together
would also return together and swing the fleet's clients once more, so each delay is lengthened by a share of `JITTER_S`
that depends on the gateway's name and on how often it flapped, and on no dice: the same history gives the same delay.

What counts is a withdrawal that our own verdict or an operator caused. A lost BGP session does not: a stranger could cause
that, and nothing a stranger can do may keep a site dark.
"""

from __future__ import annotations

import hashlib
import math

WITHDRAWAL = 1000.0
"""Penalty of one withdrawal, in the scale that routers use (RFC 7196)."""
HALF_LIFE_S = 900.0
"""15 minutes, the default of the routers that RFC 7196 looks at."""
CEILING = 50_000.0
"""The maximum penalty that RFC 7196 asks routers to allow. Less than an hour's halvings lead from it to below 6,000."""
JITTER_S = 30.0


class FlapControl:
    """Told of withdrawals; asked how long an announcement has to wait. Times are CLOCK_BOOTTIME seconds."""

    def __init__(self, *, gateway: str, threshold: float) -> None:
        """`threshold`: the lowest suppress threshold that any receiver is expected to use; at least two withdrawals'."""
        self._gateway = gateway
        self.threshold = threshold
        self._penalty, self._as_of, self._until, self._count = 0.0, 0.0, 0.0, 0

    def withdrawn(self, now: float) -> None:
        """The route has been withdrawn."""
        self._penalty, self._as_of = min(CEILING, self.penalty(now) + WITHDRAWAL), now
        self._count += 1
        self._wait(now)

    def restore(self, penalty: float, *, age_s: float, waiting: bool, now: float) -> None:
        """Go on from what an agent before this one had counted `age_s` ago. `waiting`: its route was not announced, so a
        wait that has not ended goes on; one that was announced keeps its right to stay.
        """
        self._penalty, self._as_of = min(CEILING, penalty), now - max(0.0, age_s)
        self._penalty, self._as_of = self.penalty(now), now
        if waiting:
            self._wait(now)

    def penalty(self, now: float) -> float:
        """As a receiver would have it now."""
        return self._penalty * math.exp2(-max(0.0, now - self._as_of) / HALF_LIFE_S)

    def left_s(self, now: float) -> float:
        """How long an announcement still has to wait; 0 where it need not."""
        return max(0.0, self._until - now)

    def clear(self) -> None:
        """The operator knows better, for instance that no receiver damps. The count, and with it the jitter, goes on."""
        self._penalty = self._until = 0.0

    def _wait(self, now: float) -> None:
        target = self.threshold - WITHDRAWAL
        if self._penalty > target:
            self._until = now + HALF_LIFE_S * math.log2(self._penalty / target) + self._jitter_s()

    def _jitter_s(self) -> float:
        digest = hashlib.sha256(f"{self._gateway} {self._count}".encode()).digest()
        return JITTER_S * int.from_bytes(digest[:4], "big") / 2**32
