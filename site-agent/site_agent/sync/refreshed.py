"""Rekeys every IKE_SA once, paced: message IDs begin at 0 again, on both gateways, whatever the mirror has missed of them.

A message ID that the Backup did not hear of is seen by nobody: VICI does not tell it, and no digest has it. Where messages
of charon's plugin are known to be lost, and not which, this is what is left to do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection

from anycast.errors import PeerError
from site_agent.ike.vici_client import Section, ViciClient

PER_SECOND = 10
"""Half of what digests repair with: nobody is known to be in need."""
LIST_LIMIT_S, REKEY_LIMIT_S = 10.0, 2.0
FIRST_S = 3.0
"""What else was lost is repaired first, and makes some of this needless."""


class Refreshed:
    """`run` as a task while Active; `needed` whenever something was lost."""

    def __init__(self, vici: ViciClient, connections: Collection[str], paused: Callable[[], bool]) -> None:
        """`paused()`: begin nothing now."""
        self._vici, self._connections, self._paused = vici, frozenset(connections), paused
        self._needed = asyncio.Event()

    def needed(self) -> None:
        self._needed.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._needed.wait()
            await asyncio.sleep(FIRST_S)
            self._needed.clear()
            with contextlib.suppress(PeerError, TimeoutError):
                await self._once()

    async def _once(self) -> None:
        found: list[bytes] = []

        def take(section: Section) -> None:
            found.extend(
                ike_sa["uniqueid"]
                for name, ike_sa in section.items()
                if name in self._connections and ike_sa.get("state") == b"ESTABLISHED"
            )

        await self._vici.stream("list-sas", "list-sa", take, timeout_s=LIST_LIMIT_S)
        for unique_id in found:
            while self._paused():
                await asyncio.sleep(1 / PER_SECOND)
            with contextlib.suppress(PeerError):  # gone meanwhile
                await self._vici.request("rekey", {"ike-id": unique_id}, timeout_s=REKEY_LIMIT_S)
            await asyncio.sleep(1 / PER_SECOND)
