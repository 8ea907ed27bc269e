"""Rekeys what was taken over, paced: each SA then begins at 0 again, on a gateway that made it itself.

charon's own rekey timers began anew with the takeover, so without this an SA would live on in its block until the client
rekeys it. Names of connections are the service's; a CHILD_SA is known by the SPI that it sends with.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable

from anycast.errors import PeerError
from anycast.runtime import boottime
from site_agent.ike.vici_client import Section, ViciClient

PER_SECOND = 50
"""A rekey costs charon about 1 ms of a core, and the client's answer as much."""
LIST_LIMIT_S, REKEY_LIMIT_S = 10.0, 2.0
LOOK_AGAIN_S = 1.0
"""Asking costs a moment's look at what is known; charon is asked only where something is to be done."""
ASK_AGAIN_S = 5.0
"""A client that is asleep answers later, or never: charon repeats its request by itself for much longer than this."""
TRIES = 3


class TakenOver:
    """`outbound()` tells which SPIs (four bytes) are to be rekeyed still. `run` as a task while Active."""

    def __init__(self, vici: ViciClient, connections: Collection[str], outbound: Callable[[], Iterable[bytes]]) -> None:
        self._vici, self._connections, self._outbound = vici, frozenset(connections), outbound
        self._asked: dict[bytes, tuple[int, float]] = {}
        """How often, and when last (CLOCK_BOOTTIME), by SPI."""

    async def run(self) -> None:
        """While Active: an SA may turn out later to be one that was taken over. Cancel freely."""
        while True:
            wanted, now = frozenset(self._outbound()), boottime()
            for spi in [spi for spi in self._asked if spi not in wanted]:
                del self._asked[spi]
            if due := frozenset(spi for spi in wanted if self._is_due(spi, now)):
                with contextlib.suppress(PeerError, TimeoutError):
                    await self._round(due)
            await asyncio.sleep(LOOK_AGAIN_S)

    def _is_due(self, spi: bytes, now: float) -> bool:
        tries, at = self._asked.get(spi, (0, -ASK_AGAIN_S))
        return tries < TRIES and now >= at + ASK_AGAIN_S

    async def rekey(self, outbound: Collection[bytes]) -> None:
        """Rekey these once, by their outbound SPIs."""
        with contextlib.suppress(PeerError, TimeoutError):
            await self._round(frozenset(outbound))

    async def _round(self, wanted: frozenset[bytes]) -> None:
        found: list[tuple[bytes, bytes]] = []

        def take(section: Section) -> None:
            for name, ike_sa in section.items():
                if name not in self._connections:
                    continue
                for child in ike_sa.get("child-sas", {}).values():
                    spi = bytes.fromhex(child.get("spi-out", b"").decode().rjust(8, "0"))
                    if spi in wanted and child.get("state") == b"INSTALLED":
                        found.append((spi, child["uniqueid"]))

        await self._vici.stream("list-sas", "list-sa", take, {"noblock": "yes"}, timeout_s=LIST_LIMIT_S)
        now = boottime()
        for spi in wanted:  # one that charon does not list now is not looked for at once again either
            self._asked[spi] = self._asked.get(spi, (0, 0.0))[0], now
        for spi, unique_id in found:
            self._asked[spi] = self._asked[spi][0] + 1, now
            with contextlib.suppress(PeerError):  # gone meanwhile
                await self._vici.request("rekey", {"child-id": unique_id}, timeout_s=REKEY_LIMIT_S)
            await asyncio.sleep(1 / PER_SECOND)
