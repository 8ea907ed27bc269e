"""Does what `reunion` has found: charon adopts what another Active said, and what cannot be put together is ended.

What needs charon PASSIVE is done in a promotion's steps (`promotion.ADOPTION`), everything else at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterable

from anycast.errors import PeerError
from site_agent.ike.mirror_view import ike_spis
from site_agent.ike.vici_client import Section, ViciClient
from site_agent.sync.reunion import End, Reunite

LIST_LIMIT_S, REQUEST_LIMIT_S = 10.0, 2.0
HANDED_S = 0.05
"""charon reads what it is handed in a thread of its own."""


class Reuniter:
    """`adopt` hands charon messages by handle, `forget` drops them; `ended` is told each tunnel that was ended."""

    def __init__(
        self,
        vici: ViciClient,
        *,
        adopt: Callable[[Iterable[int]], None],
        forget: Callable[[Iterable[int]], None],
        ended: Callable[[str], None],
    ) -> None:
        self._vici, self._adopt, self._forget, self._ended = vici, adopt, forget, ended
        self._pending = list[Reunite]()

    def take(self, reunite: Reunite) -> bool:
        """Whether it waits for charon to be PASSIVE (`adopt_pending`). `finish` is due when charon serves."""
        waits = reunite.passive or bool(self._pending)
        if not waits:
            self._adopt(reunite.adopt)
            reunite = dataclasses.replace(reunite, adopt=())
        self._pending.append(reunite)
        return waits

    async def adopt_pending(self) -> int:
        """charon is PASSIVE. Returns how many messages it was handed."""
        handles = [handle for reunite in self._pending for handle in reunite.adopt]
        self._pending = [dataclasses.replace(reunite, adopt=()) for reunite in self._pending]
        self._adopt(handles)
        await asyncio.sleep(HANDED_S)
        return len(handles)

    def drop(self) -> None:
        """Nothing of it is to be done any more."""
        for reunite in self._pending:
            self._forget([*reunite.adopt, *(end.raised_by for end in reunite.end if end.raised_by is not None)])
        self._pending.clear()

    async def finish(self) -> None:
        """End and renew. Each client is told by a DELETE with the message ID that it expects, as far as anybody knows. Who
        does not take it finds nobody that answers, and comes back by its own dead peer detection."""
        ends = [end for reunite in self._pending for end in reunite.end]
        renew = {ike for reunite in self._pending for ike in reunite.renew}
        self._pending = [reunite for reunite in self._pending if reunite.adopt]
        if not ends and not renew:
            return
        raised = [end.raised_by for end in ends if end.raised_by is not None]
        self._adopt(raised)
        await asyncio.sleep(HANDED_S)
        with contextlib.suppress(PeerError, TimeoutError):
            await self._end(ends, renew)

    async def _end(self, ends: list[End], renew: set[bytes]) -> None:
        found: dict[bytes, tuple[str, str]] = {}
        children: list[bytes] = []

        def take(section: Section) -> None:
            for name, ike_sa in section.items():
                with contextlib.suppress(KeyError, ValueError, TypeError, OverflowError):
                    identity = ike_sa.get("remote-id", b"").decode(errors="replace")
                    unique = ike_sa["uniqueid"].decode()
                    found[ike_spis(ike_sa)] = unique, f"{name}[{unique}] of {identity or 'an unnamed client'}"
                    if ike_spis(ike_sa) in renew:
                        children.extend(child["uniqueid"] for child in ike_sa.get("child-sas", {}).values())

        await self._vici.stream("list-sas", "list-sa", take, timeout_s=LIST_LIMIT_S)
        for end in ends:
            if (one := found.get(end.ike)) is None:
                continue
            with contextlib.suppress(PeerError):  # gone meanwhile
                message = {"ike-id": one[0], "force": "yes", "timeout": "-1"}
                await self._vici.request("terminate", message, timeout_s=REQUEST_LIMIT_S)
                self._ended(one[1])
        for child in children:
            with contextlib.suppress(PeerError):
                await self._vici.request("rekey", {"child-id": child}, timeout_s=REQUEST_LIMIT_S)
