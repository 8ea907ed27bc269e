"""Ends the tunnels that charon believes in and the kernel has lost, so that the gateway can become healthy again.

When every client CHILD_SA has lost its kernel state the route is withdrawn, and with it the way back for the clients' IKE
packets: they reach another site. So a rekey could not repair these tunnels any more, and charon would believe in them
until its own dead peer detection gives up, three minutes with strongSwan's defaults. The clients find out by theirs and
connect to the other site. After the time that takes, what is left here belongs to nobody and is ended without
waiting for an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from anycast.errors import KernelError, PeerError
from anycast.events import Event, TunnelsForgotten
from anycast.model import Status
from site_agent.checks.child_sas import ChildSa
from site_agent.ike.vici_client import ViciClient

CLIENTS_LEAVE_S = 15.0
"""A client of the documented profile knows after 2 s of silence and 4 s of retransmissions; others get twice that."""
TERMINATE_LIMIT_S = 3.0


class LostTunnels:
    """Tell it each change of `sa_state`. Use from the event loop's thread."""

    def __init__(
        self,
        vici: ViciClient,
        lost: Callable[[], Awaitable[Sequence[ChildSa]]],
        happened: Callable[[Event], None],
        *,
        patience_s: float = CLIENTS_LEAVE_S,
    ) -> None:
        """`lost` looks for the client CHILD_SAs without kernel state now."""
        self._vici, self._lost, self._happened = vici, lost, happened
        self._patience_s = patience_s
        self._task: asyncio.Task[None] | None = None

    def sa_state(self, status: Status) -> None:
        """UNKNOWN changes nothing: `lost` is asked before anything is ended."""
        if status is Status.FAILING and self._task is None:
            self._task = asyncio.create_task(self._forget_until_healthy())
        elif status is Status.PASSING:
            self.close()

    def close(self) -> None:
        """Forget nothing more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _forget_until_healthy(self) -> None:
        while True:
            await asyncio.sleep(self._patience_s)
            with contextlib.suppress(PeerError, KernelError, TimeoutError):  # charon is gone or busy: the next round
                ike_ids = sorted({child.ike_id for child in await self._lost()})
                for ike_id in ike_ids:
                    message = {"ike-id": ike_id, "force": "yes", "timeout": "-1"}
                    await self._vici.request("terminate", message, timeout_s=TERMINATE_LIMIT_S)
                if ike_ids:
                    self._happened(TunnelsForgotten(count=len(ike_ids)))
