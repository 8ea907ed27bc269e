"""Wishes for the rekey of a client that has moved, while Active: the other gateway is never told of the new address.

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
from anycast.reasons import Reason
from site_agent.ike.clients import printable
from site_agent.ike.rekey_queue import SaId, Wish, Wished
from site_agent.ike.vici_client import Section, ViciClient

LIST_LIMIT_S = 2.0
SETTLE_S = 0.2
"""From the event, which charon tells before it has changed anything. A client that tries several paths is rekeyed once."""
MOST_WAITING = 65536


class Moved:
    """`take` hears charon's events `ike-update`; `run` as a task. `active()` says whether this gateway is Active now: a
    Backup rekeys nothing. `requests` is this object's alone."""

    def __init__(
        self,
        requests: ViciClient,
        connections: Collection[str],
        active: Callable[[], bool],
        wish: Callable[[Wished], None],
    ) -> None:
        self._requests = requests
        self._connections, self._active, self._wish = frozenset(connections), active, wish
        self._waiting: collections.OrderedDict[bytes, float] = collections.OrderedDict()
        """When it moved, by the unique ID of the IKE_SA."""
        self._woken = asyncio.Event()

    def take(self, event: Section) -> None:
        if not self._active():
            return
        for name, ike_sa in event.items():
            if name not in self._connections or not isinstance(ike_sa, dict) or len(self._waiting) >= MOST_WAITING:
                continue
            if isinstance(unique := ike_sa.get("uniqueid"), bytes):
                self._waiting[unique] = asyncio.get_running_loop().time()
                self._waiting.move_to_end(unique)
                self._woken.set()

    async def run(self) -> None:
        """Until cancelled."""
        try:
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
                            await self._settled(unique)
        finally:
            self._requests.close()

    async def _settled(self, unique: bytes) -> None:
        wishes: list[Wish] = []
        ike = unique.decode()

        def take(event: Section) -> None:
            for ike_sa in event.values():
                client = printable(ike_sa.get("remote-id", b""))
                name = client or "an unnamed client"
                wishes.append(Wish(sa=SaId("ike", ike), ike=ike, name=f"the IKE_SA of {name}", client=client))
                for child in ike_sa.get("child-sas", {}).values():
                    if child.get("state") == b"INSTALLED":
                        number = child["uniqueid"].decode()
                        label = f"{child.get('name', b'').decode()}{{{number}}} of {name}"
                        wishes.append(Wish(sa=SaId("child", number), ike=ike, name=label, client=client))

        which = {"ike-id": ike, "noblock": "yes"}
        await self._requests.stream("list-sas", "list-sa", take, which, timeout_s=LIST_LIMIT_S)
        if not wishes:  # in use just now
            wishes.append(Wish(sa=SaId("ike", ike), ike=ike, name=f"IKE_SA {ike}"))
        self._wish(Wished(reason=Reason.CLIENT_MOVED, wishes=tuple(wishes), more=True))
