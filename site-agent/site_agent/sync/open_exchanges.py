"""Before a planned handover: this gateway begins no more rekeys, and what charon has begun with clients comes to its end.

A request that is open when the other gateway takes over is answered to one that did not make it, and what came of it is
not mirrored any more. In a failure nobody can wait; here the time is ours to choose, so a moment is worth it. charon itself
still begins what it must (its own timers). So this is bounded, and what is still open then is counted: the handover goes on.
Then clients are hushed (`door`), until what charon has said of them is with the other gateway and it serves.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection

from anycast.errors import PeerError
from site_agent.ike.vici_client import Section, ViciClient
from site_agent.sync.ha_relay import HaRelay

ENDED_WITHIN_S = 1.0
"""A rekey is two exchanges, of a round trip each. A client that is asleep answers none, and is asked for minutes."""
PAUSE_S = 3.0
"""For so long nothing is begun: until the addresses have moved, or the handover has failed."""
HUSHED_S = 1.0
"""A handover is over by then, or has failed."""
ACKNOWLEDGED_WITHIN_S = 0.2
"""charon works off what its sockets held, a few ms each; then it is one message's way and back."""
LOOK_AGAIN_S = 0.02


class OpenExchanges:
    """Of IKE_SAs of these connections. `vici` is this object's alone; `hush` gives charon no request of a client's for so
    long; `relay` knows what charon has said of its clients."""

    def __init__(
        self, vici: ViciClient, connections: Collection[str], *, hush: Callable[[float], None], relay: HaRelay
    ) -> None:
        self._vici, self._connections = vici, frozenset(connections)
        self._hush, self._relay = hush, relay

    async def end(self) -> int:
        """Wait until nothing is open, and the other gateway has what came of it; how many IKE_SAs are still busy after that.
        -1: charon cannot be asked. Whoever calls it sees to it that nothing more is begun, for `PAUSE_S`."""
        left = await self._ended()
        self._hush(HUSHED_S)
        await self._acknowledged()
        return left

    async def _ended(self) -> int:
        left = -1
        with contextlib.suppress(PeerError, TimeoutError):
            async with asyncio.timeout(ENDED_WITHIN_S):
                while (left := await self._busy()) > 0:
                    await asyncio.sleep(LOOK_AGAIN_S)
        return left

    async def _acknowledged(self) -> None:
        """charon has said nothing more for a moment, and nothing waits; or it takes too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ACKNOWLEDGED_WITHIN_S):
                last = -1
                while last != self._relay.last or self._relay.waiting:
                    last = self._relay.last
                    await asyncio.sleep(LOOK_AGAIN_S)

    async def _busy(self) -> int:
        busy = 0

        def take(section: Section) -> None:
            nonlocal busy
            for name, ike_sa in section.items():
                open_now = bool(ike_sa.get("tasks-active") or ike_sa.get("tasks-queued"))
                busy += name in self._connections and open_now

        await self._vici.stream("list-sas", "list-sa", take, timeout_s=ENDED_WITHIN_S)
        return busy
