"""Ends the tunnels that charon believes in, the kernel has lost and no rekey has brought back: the last resort.

A lost tunnel is rekeyed first (`tunnel_repair`). What is still lost after `CLIENTS_LEAVE_S` has a client that does not
answer, or refuses. When all were lost the route is withdrawn by then, and with it the way back for the clients' IKE
packets: they reach another site, find out by their own dead peer detection, and connect there. When some are lost, a
client that comes back would find an IKE_SA that answers and a tunnel that carries nothing. Either way charon would
believe in them until its retransmissions give up, three minutes with strongSwan's defaults; so they are ended at this
end, without waiting for an answer, and a client that is still there connects anew.

Only what was lost at the beginning and at the end of that time is ended: a tunnel that was lost meanwhile has its own time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from anycast.errors import KernelError, PeerError
from anycast.events import Event, TunnelsForgotten
from anycast.model import Status
from site_agent.bulkhead import Bulkhead
from site_agent.ike.child_sa import ChildSa
from site_agent.ike.vici_client import ViciClient

CLIENTS_LEAVE_S = 15.0
"""A client of the documented profile knows after 2 s of silence and 4 s of retransmissions; others get twice that."""
TERMINATE_LIMIT_S = 3.0


class LostTunnels:
    """Tell it each change of `sa_state` and `sa_state_partial`. Use from the event loop's thread."""

    def __init__(
        self,
        vici: ViciClient,
        lost: Callable[[], Awaitable[Sequence[ChildSa]]],
        happened: Callable[[Event], None],
        bulkhead: Bulkhead,
        *,
        patience_s: float = CLIENTS_LEAVE_S,
    ) -> None:
        """`lost` looks for the client CHILD_SAs without kernel state now."""
        self._vici, self._lost, self._happened = vici, lost, happened
        self._patience_s = patience_s
        self._bulkhead = bulkhead
        self._failing: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def state_changed(self, check: str, status: Status) -> None:
        """UNKNOWN changes nothing: `lost` is asked before anything is ended."""
        if status is Status.FAILING:
            self._failing.add(check)
        elif status is Status.PASSING:
            self._failing.discard(check)
        if self._failing and self._task is None:
            self._task = asyncio.create_task(self._bulkhead.keep(self._forget_until_healthy))
        elif not self._failing:
            self.close()

    def close(self) -> None:
        """Forget nothing more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _forget_until_healthy(self) -> None:
        before = await self._lost_now()
        while True:
            await asyncio.sleep(self._patience_s)
            now = await self._lost_now()
            ended = 0
            for ike_id in sorted({child.ike_id for name, child in now.items() if name in before}):
                message = {"ike-id": ike_id, "force": "yes", "timeout": "-1"}
                with contextlib.suppress(PeerError, TimeoutError):  # ended meanwhile, or charon is busy: the next round
                    await self._vici.request("terminate", message, timeout_s=TERMINATE_LIMIT_S)
                    ended += 1
            if ended:
                self._happened(TunnelsForgotten(count=ended))
            before = now

    async def _lost_now(self) -> dict[str, ChildSa]:
        with contextlib.suppress(PeerError, KernelError, TimeoutError):  # charon is gone or busy: the next round
            return {child.unique_id: child for child in await self._lost()}
        return {}
