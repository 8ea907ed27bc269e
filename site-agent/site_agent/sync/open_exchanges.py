"""Before a planned handover: this gateway begins no more rekeys, and what charon has begun with clients comes to its end.

A request that is open when the other gateway takes over is answered to one that did not make it, and what came of it is
not mirrored any more. In a failure nobody can wait; here the time is ours to choose, so a moment is worth it. charon itself
still begins what it must (its own timers). So this is bounded, and what is still open then is counted: the handover goes on.
Then charon is quiet until the handover is over: it hears no request of a client's (`door`) and begins none, as its IKE_SAs
are PASSIVE; tunnels carry packets all the same. Where an exchange is open still they stay as they are, because a PASSIVE one
would throw its response away and never ask again. What charon has said until then is, in a moment, with the other gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection

from anycast.errors import PeerError
from site_agent.ike.ha_segment import Segment
from site_agent.ike.vici_client import Section, ViciClient
from site_agent.sync.doorkeeper import Doorkeeper
from site_agent.sync.ha_relay import HaRelay

ENDED_WITHIN_S = 1.0
"""A rekey is two exchanges, of a round trip each. A client that is asleep answers none, and is asked for minutes."""
PAUSE_S = 6.0
"""For so long nothing is begun: longer than all of it, as what a PASSIVE IKE_SA is asked for is not done."""
QUIET_S = 4.5
"""Where nobody says that the handover is over: longer than `handover.LIMIT_S`, so the agent has ended."""
ACKNOWLEDGED_WITHIN_S = 0.2
"""charon works off what its sockets held, a few ms each; then it is one message's way and back."""
LOOK_AGAIN_S = 0.02


class OpenExchanges:
    """Of IKE_SAs of these connections. `vici` is this object's alone; `relay` knows what charon has said of its clients;
    `quiet` is called when charon has become so, and when it need not be any more."""

    def __init__(
        self,
        vici: ViciClient,
        connections: Collection[str],
        *,
        doorkeeper: Doorkeeper,
        segment: Segment,
        relay: HaRelay,
        quiet: Callable[[bool], None],
    ) -> None:
        self._vici, self._connections = vici, frozenset(connections)
        self._doorkeeper, self._segment, self._relay, self._quiet = doorkeeper, segment, relay, quiet
        self._timer: asyncio.TimerHandle | None = None

    async def end(self) -> int:
        """Wait until nothing is open, and the other gateway has what came of it; how many IKE_SAs are still busy after that.
        -1: charon cannot be asked. Whoever calls it sees to it that nothing more is begun, for `PAUSE_S`. charon is quiet
        when this returns, until `over`."""
        left = await self._ended()
        self._cancel()
        self._timer = asyncio.get_running_loop().call_later(QUIET_S, self.over)
        self._doorkeeper.hush()
        if left == 0:
            self._quiet(True)
            with contextlib.suppress(PeerError):
                self._segment.switch(False)
        await self._acknowledged()
        return left

    def over(self) -> None:
        """The handover has come to its end, whichever."""
        self._cancel()
        self._doorkeeper.unhush()
        self._quiet(False)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

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
