"""How many inner addresses of each rendered pool are in use, where charon alone hands them out (a gateway without a mirror).

charon's leases in force are all that there is to know there; where tunnels are mirrored they are not, as a copy takes none,
and `inner_addresses.py` knows better. Nothing goes by these counts but forecasts (docs/prefixes.md), so one that charon does
not give is unknown until the next time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from anycast.errors import AnycastError
from site_agent.ike.vici_client import ViciClient

EVERY_S = 30.0
LIMIT_S = 5.0


class PoolCounts:
    """Use from the event loop's thread: `run` until cancelled."""

    def __init__(self, vici: ViciClient, pools: Mapping[str, str]) -> None:
        """`pools`: the prefix of each, by the name that it is rendered under."""
        self._vici, self._pools = vici, pools
        self.in_use: dict[str, int] | None = None
        """By prefix; None: charon did not say when it was asked last."""

    async def run(self) -> None:
        while True:
            try:
                self.in_use = counted(await self._vici.request("get-pools", None, timeout_s=LIMIT_S), self._pools)
            except (AnycastError, TimeoutError, OSError):
                self.in_use = None
            await asyncio.sleep(EVERY_S)


def counted(answer: Mapping[str, Any], pools: Mapping[str, str]) -> dict[str, int] | None:
    """Of charon's answer to `get-pools`; None where it does not name each of ours, or not so that it can be understood."""
    try:
        return {prefix: int(answer[name]["online"]) for name, prefix in pools.items()}
    except (KeyError, TypeError, ValueError):
        return None
