"""Are the BGP sessions to all upstreams up?

Shared, not a fact about this gateway: an upstream's maintenance or a provider's outage ends sessions at many sites at
once. And nothing is left to decide: a session that is down carries no route, BGP itself has withdrawn it there, and to
withdraw from the upstreams that remain would only add to it. So: an alarm that names the lost ones.

Event-driven: the bridge reports each change of a session, and the agent has this check look at once. The interval only
bounds what a lost report costs. One look is enough either way, because a session is up or down and does not flutter.

A session that has not been up yet has `FIRST_LIMIT_S` to come: the start of a gateway is no loss. The value is the
number of sessions that are down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from anycast.document import Neighbor
from anycast.model import EvidenceClass, SessionState
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.checks.base import Finding, Timing, failing, passing, unknown

NAME = "upstreams"
FIRST_LIMIT_S = 30.0
"""ExaBGP starts in up to 6 s (User Mode Linux) and an upstream may refuse it for a while after its last session."""


class UpstreamsCheck:
    """Reports `upstreams`."""

    reports: Mapping[str, EvidenceClass] = {NAME: EvidenceClass.SHARED}
    timing = Timing(interval_s=5.0, timeout_s=1.0, rise=1, fall=1)

    def __init__(
        self,
        neighbors: Sequence[Neighbor],
        sessions: Callable[[], Mapping[str, SessionState]],
        clock: Callable[[], float] = boottime,
    ) -> None:
        """`sessions` gives the last reported state by a neighbor's address; one that nobody spoke of is missing in it."""
        self._neighbors, self._sessions, self._clock = tuple(neighbors), sessions, clock
        self._started = clock()
        self._been_up: set[str] = set()

    async def look(self) -> Sequence[Finding]:
        sessions = self._sessions()
        down = [n for n in self._neighbors if sessions.get(n.address) is not SessionState.UP]
        self._been_up |= {n.address for n in self._neighbors} - {n.address for n in down}
        waited_s = self._clock() - self._started
        lost = down if waited_s >= FIRST_LIMIT_S else [n for n in down if n.address in self._been_up]
        if lost:
            return [failing(NAME, Reason.UPSTREAM_LOST, f"down: {_names(lost)}", float(len(down)))]
        if down:
            waiting = f"not up yet, {waited_s:.0f} of {FIRST_LIMIT_S:.0f} s after the start: {_names(down)}"
            return [unknown(NAME, Reason.CHECK_UNAVAILABLE, waiting)]
        return [passing(NAME, f"up: {_names(self._neighbors)}", 0.0)]


def _names(neighbors: Sequence[Neighbor]) -> str:
    return ", ".join(f"{neighbor.name} ({neighbor.address})" for neighbor in neighbors)
