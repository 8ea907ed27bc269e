"""In the place of a `RouteHolder` where the site speaks no BGP: nothing is announced, and no ExaBGP runs.

What attracts traffic there is the VRRP address alone, and its lease is the virtual router's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from anycast.model import Route, SessionState
from anycast.policy.verdict import VerdictReached


class NoLease:
    """A lease on no route."""

    announced: frozenset[Route] = frozenset()
    own_announced: frozenset[Route] = frozenset()
    knows = False
    sessions: Mapping[str, SessionState] = {}


class NoRoute:
    """Takes what a `RouteHolder` takes, and holds nothing."""

    lease = NoLease()
    process = None

    def verdict(self, verdict: VerdictReached, own: VerdictReached | None = None) -> None:
        """Nothing is renewed from it."""

    def announce(self, routes: tuple[Route, ...], own: tuple[Route, ...] = ()) -> None:
        """There are none."""

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.Event().wait()

    async def stop(self) -> float:
        """No route was left."""
        return 0.0

    async def reload(self) -> str:
        return "is not run: this site speaks no BGP"
