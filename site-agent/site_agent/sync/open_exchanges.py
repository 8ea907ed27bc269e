"""Before a planned handover: this gateway begins no more rekeys, and what charon has begun with clients comes to its end.

A request that is open when the other gateway takes over is answered to one that did not make it, and what came of it is
not mirrored any more. In a failure nobody can wait; here the time is ours to choose, so a moment is worth it. charon itself
still begins what it must (its own timers), and clients do. So this is bounded, and what is still open then is counted: the
handover goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection

from anycast.errors import PeerError
from site_agent.ike.vici_client import Section, ViciClient

ENDED_WITHIN_S = 1.0
"""A rekey is two exchanges, of a round trip each. A client that is asleep answers none, and is asked for minutes."""
PAUSE_S = 3.0
"""For so long nothing is begun: until the addresses have moved, or the handover has failed."""
LOOK_AGAIN_S = 0.02


class OpenExchanges:
    """Of IKE_SAs of these connections. `vici` is this object's alone."""

    def __init__(self, vici: ViciClient, connections: Collection[str]) -> None:
        self._vici, self._connections = vici, frozenset(connections)

    async def end(self) -> int:
        """Wait until nothing is open; how many IKE_SAs are still busy after that. -1: charon cannot be asked. Whoever calls
        it sees to it that nothing more is begun, for `PAUSE_S`."""
        left = -1
        with contextlib.suppress(PeerError, TimeoutError):
            async with asyncio.timeout(ENDED_WITHIN_S):
                while (left := await self._busy()) > 0:
                    await asyncio.sleep(LOOK_AGAIN_S)
        return left

    async def _busy(self) -> int:
        busy = 0

        def take(section: Section) -> None:
            nonlocal busy
            for name, ike_sa in section.items():
                open_now = bool(ike_sa.get("tasks-active") or ike_sa.get("tasks-queued"))
                busy += name in self._connections and open_now

        await self._vici.stream("list-sas", "list-sa", take, timeout_s=ENDED_WITHIN_S)
        return busy
