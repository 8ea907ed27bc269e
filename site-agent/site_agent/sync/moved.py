"""Rekeys the tunnels of a client that has moved, while Active: its other gateway is never told of the new address.

The `ha` plugin carries an IKE_SA's new address when a client moves (MOBIKE, RFC 4555) or its NAT rebinds, but the Backup's
kernel keeps its SAs where they were: after a failover IKE would be answered at the new address and ESP sent to the old one,
without end. A rekey of the IKE_SA and then of its CHILD_SAs makes both anew, at the new address. charon says `ike-update` on
its control socket when the address changes. A move that is missed all the same is found by the digests, 4 to 14 s later.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import Callable, Collection

from anycast.errors import PeerError
from site_agent.ike.vici_client import Section, ViciClient

REGISTER_LIMIT_S, LIST_LIMIT_S, REKEY_LIMIT_S = 2.0, 2.0, 2.0
AGAIN_S = 1.0
"""After a connection that could not be had or that ended."""
SETTLE_S = 0.2
"""From the event, which charon tells before it has changed anything. A client that tries several paths is rekeyed once."""
IKE_FIRST_S = 0.3
"""For the IKE_SA's own rekey. One that takes longer hands the CHILD_SA's, which waits behind it, on to the new IKE_SA."""
PER_SECOND = 20
"""Tunnels: a network that moves a thousand clients at once has them protected again within a minute."""
MOST_WAITING = 65536


class Moved:
    """`run` as a task. `active()` says whether this gateway is Active now: a Backup rekeys nothing."""

    def __init__(
        self, events: ViciClient, requests: ViciClient, connections: Collection[str], active: Callable[[], bool]
    ) -> None:
        """`events` is this object's alone."""
        self._events, self._requests = events, requests
        self._connections, self._active = frozenset(connections), active
        self._waiting: collections.OrderedDict[bytes, float] = collections.OrderedDict()
        """When it moved, by the unique ID of the IKE_SA."""
        self._woken = asyncio.Event()
        self.rekeyed = 0
        """Tunnels."""

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen())
                group.create_task(self._work())
        finally:
            self._events.close()

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(PeerError, TimeoutError):
                await self._events.listen("ike-update", self._take, register_s=REGISTER_LIMIT_S)
            await asyncio.sleep(AGAIN_S)

    def _take(self, event: Section) -> None:
        if not self._active():
            return
        for name, ike_sa in event.items():
            if name not in self._connections or not isinstance(ike_sa, dict) or len(self._waiting) >= MOST_WAITING:
                continue
            if isinstance(unique := ike_sa.get("uniqueid"), bytes):
                self._waiting[unique] = asyncio.get_running_loop().time()
                self._waiting.move_to_end(unique)
                self._woken.set()

    async def _work(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._waiting:
                unique, moved = next(iter(self._waiting.items()))
                if (left := moved + SETTLE_S - asyncio.get_running_loop().time()) > 0:
                    await asyncio.sleep(left)
                    continue  # it may have moved once more meanwhile
                del self._waiting[unique]
                if self._active():
                    with contextlib.suppress(PeerError, TimeoutError):  # gone, or the digests find it
                        await self._rekey(unique)
                    await asyncio.sleep(1 / PER_SECOND)

    async def _rekey(self, unique: bytes) -> None:
        children: list[bytes] = []

        def take(event: Section) -> None:
            for ike_sa in event.values():
                children.extend(
                    c["uniqueid"] for c in ike_sa.get("child-sas", {}).values() if c.get("state") == b"INSTALLED"
                )

        which = {"ike-id": unique, "noblock": "yes"}
        await self._requests.stream("list-sas", "list-sa", take, which, timeout_s=LIST_LIMIT_S)
        await self._requests.request("rekey", {"ike-id": unique}, timeout_s=REKEY_LIMIT_S)
        await asyncio.sleep(IKE_FIRST_S)
        for child in children:
            await self._requests.request("rekey", {"child-id": child}, timeout_s=REKEY_LIMIT_S)
        self.rekeyed += 1
