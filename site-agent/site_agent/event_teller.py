"""Tells the coordinator this gateway's events, one batch for each time that it is asked (`anycast/event_wire.py`).

Nobody here remembers what was sent: the coordinator says up to where it has everything, over each connection anew. One that
keeps no events, or not now, asks for none, and the log goes on as the spool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from anycast.event_wire import Position
from anycast.link_wire import EventsKept, EventsTold
from site_agent.event_spool import EventSpool

GATHER_S = 0.1
"""For what follows an event at once, to go with it."""


class EventTeller:
    """Use from the event loop's thread; `run` until cancelled."""

    def __init__(self, spool: EventSpool, say: Callable[[EventsTold], None]) -> None:
        self._spool, self._say = spool, say
        self._asked: EventsKept | None = None
        self._kept: EventsKept | None = None
        self._changed = asyncio.Event()

    def kept(self, message: EventsKept) -> None:
        """The coordinator asks for what follows."""
        self._asked = self._kept = message
        self._changed.set()

    def connected(self, session: int | None) -> None:
        """Whoever answers now has not asked for anything yet."""
        self._asked = None

    def news(self) -> None:
        """There are new events."""
        self._changed.set()

    def describe(self) -> dict[str, Any]:
        """For `status`: the newest event, and the newest that the coordinator has said it keeps."""
        return {"newest": self._spool.last_seq, "kept": None if self._kept is None else self._kept.seq}

    async def run(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            asked = self._asked
            if asked is None:
                continue
            records = await self._spool.batch(Position(asked.stream, asked.seq))
            if records and asked is self._asked:
                self._asked = None
                self._say(EventsTold(records=records))
            await asyncio.sleep(GATHER_S)
