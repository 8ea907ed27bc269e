"""The shell around `event_store.py`: asks gateways for their events, has them stored together, and asks for more.

    Agents ──told──▶ inbox ──▶ one transaction for all that wait (a thread of its own) ──▶ asked for what follows

Each gateway has one batch under way at most: it is asked again when that is stored, and not sooner than its pace allows. So
one that floods fills its own share and waits, a disk that hangs costs a batch of memory a gateway, and nothing that is
decided waits for events: where they cannot be kept that is an alarm, nobody is asked for more, and gateways' own logs spool.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from anycast import event_wire
from anycast.coordinator.event_store import Batch, EventStore, Retention, Seen
from anycast.coordinator.sqlite_file import DISK_LIMIT_S, answered
from anycast.coordinator.why import HEARD, UNHEARD
from anycast.errors import AnycastError, DecodeError, PeerError
from anycast.event_wire import NOWHERE, Position
from anycast.events import utc_text
from anycast.link_wire import EventsKept, Hello
from anycast.runtime import boottime

PACE = 500.0
"""Records a second of one gateway, for long. A busy one writes one; after a day away it has some ten thousand to tell."""
BURST = 5_000.0
MOST_AT_ONCE = 128
"""Batches of one transaction."""
RETRY_S = 5.0
PRUNE_EVERY_S = 10.0
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Pace:
    """What one gateway may still say now: a bucket that fills with `rate` tokens a second, up to `burst`."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst, self._tokens, self._at = rate, burst, burst, now

    def take(self, count: int, now: float) -> float:
        """Take `count` tokens, which may leave a debt; seconds until it is paid."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate) - count
        self._at = now
        return max(0.0, -self._tokens / self._rate)

    def left(self, now: float) -> bool:
        """Whether one may be taken without a debt."""
        return self._tokens + (now - self._at) * self._rate >= 1


class EventKeeper:
    """Use from the event loop's thread: `run` until cancelled, `close` when done."""

    def __init__(
        self, path: Path, fleet: str, retention: Retention, *, ask: Callable[[str, int, EventsKept], None]
    ) -> None:
        """`ask` sends over one connection of one gateway."""
        self._path, self._fleet, self._retention, self._ask_for = path, fleet, retention, ask
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "events")
        self._store: EventStore | None = None
        self._positions: dict[str, Position] = {}
        self._sessions: dict[str, int] = {}
        self._asked: set[str] = set()
        """Gateways that may send a batch."""
        self._paces: dict[str, Pace] = {}
        self._inbox: asyncio.Queue[Batch | Seen] = asyncio.Queue()
        self._writing_since: float | None = None
        self._problem = ""
        self._refused: dict[str, str] = {}
        """Why nothing more is asked of a gateway over the connection that it has."""
        self._pruned_at = boottime()

    @property
    def alarms(self) -> tuple[str, ...]:
        """What is wrong, all of it."""
        refused = [f"{gateway}: its events are refused: {why}" for gateway, why in sorted(self._refused.items())]
        return (*filter(None, (self.problem,)), *refused)

    @property
    def problem(self) -> str:
        """Why events are not kept now; empty: they are."""
        if self._writing_since is not None and (waits := boottime() - self._writing_since) > DISK_LIMIT_S:
            return f"{self._path}: the events are not kept: the disk has not answered for {waits:.0f} s"
        return self._problem

    def came(self, hello: Hello, session: int) -> None:
        gateway = hello.gateway
        self._sessions[gateway] = session
        self._asked.discard(gateway)
        self._refused.pop(gateway, None)
        pace = self._paces.setdefault(gateway, Pace(PACE, BURST, boottime()))
        self._saw(gateway, hello.site, {"event": HEARD, "agent": hello.agent, "instance": hello.instance})
        asyncio.get_running_loop().call_later(pace.take(0, boottime()), self._ask, gateway, session)

    def went(self, gateway: str, site: str, session: int) -> None:
        if self._sessions.get(gateway) == session:
            del self._sessions[gateway]
            self._asked.discard(gateway)
            self._refused.pop(gateway, None)
            self._saw(gateway, site, {"event": UNHEARD})

    def told(self, gateway: str, session: int, records: Sequence[str]) -> None:
        """Raises DecodeError where the gateway was not asked. One that sends what is no record of its own is asked no more:
        what else goes over its connection decides more than events do."""
        if self._sessions.get(gateway) != session:
            return
        if gateway not in self._asked:
            raise DecodeError("events", 0, "come without being asked for")
        self._asked.discard(gateway)
        try:
            batch = Batch(gateway, time.time(), [event_wire.read(text, gateway) for text in records])
        except DecodeError as exc:
            self._refused[gateway] = str(exc)
            _log.warning("%s: its events are refused: %s", gateway, exc)
            return
        self._inbox.put_nowait(batch)

    async def run(self) -> None:
        while True:
            batches: list[Batch | Seen] = []
            try:
                if self._store is None:
                    await self._open()
                batches = await self._waiting()
                if batches:
                    await self._add(batches)
                    self._problem = ""
                await self._prune()
            except AnycastError as exc:
                if str(exc) != self._problem:
                    _log.error("%s", exc)
                self._problem = str(exc)
                await asyncio.sleep(RETRY_S)
                for each in batches:
                    if isinstance(each, Seen):
                        self._inbox.put_nowait(each)
            for each in batches:  # stored, or to be sent once more: both go on from what is stored
                if isinstance(each, Batch) and (session := self._sessions.get(each.gateway)) is not None:
                    wait_s = self._paces[each.gateway].take(len(each.records), boottime())
                    asyncio.get_running_loop().call_later(wait_s, self._ask, each.gateway, session)

    async def read(self, work: Callable[[EventStore], _T]) -> _T:
        """What `work` finds in the store. Raises PeerError where there is none, or the disk does not answer."""
        if self._store is None:
            raise PeerError(str(self._path), self.problem or "the events are not read yet")
        store = self._store
        return await answered(self._thread, self._path, lambda: work(store))

    async def close(self) -> None:
        if self._store is not None and self._writing_since is None:
            self._thread.submit(self._store.close)
        self._thread.shutdown(wait=False)

    def _saw(self, gateway: str, site: str, what: dict[str, str]) -> None:
        """Who comes and goes all the time is not written down each time."""
        pace, now = self._paces[gateway], boottime()
        if pace.left(now):
            pace.take(1, now)
            heard = time.time()
            at = utc_text(datetime.datetime.fromtimestamp(heard, datetime.UTC))
            self._inbox.put_nowait(Seen(gateway, site, heard, {"v": 1, "at": at, "gateway": gateway, **what}))

    def _ask(self, gateway: str, session: int) -> None:
        if self._store is not None and self._sessions.get(gateway) == session and gateway not in self._asked:
            self._asked.add(gateway)
            position = self._positions.get(gateway, NOWHERE)
            self._ask_for(gateway, session, EventsKept(stream=position.stream, seq=position.seq))

    async def _open(self) -> None:
        self._store = await self._in_thread(lambda: EventStore(self._path, self._fleet, self._retention))
        self._positions = self._store.positions()
        for gateway, session in self._sessions.items():
            self._ask(gateway, session)

    async def _waiting(self) -> list[Batch | Seen]:
        """What has come; nothing after `PRUNE_EVERY_S`."""
        found: list[Batch | Seen] = []
        try:
            async with asyncio.timeout(PRUNE_EVERY_S):
                found.append(await self._inbox.get())
        except TimeoutError:
            return []
        while len(found) < MOST_AT_ONCE and not self._inbox.empty():
            found.append(self._inbox.get_nowait())
        return found

    async def _add(self, batches: list[Batch | Seen]) -> None:
        store = self._store
        assert store is not None
        await self._in_thread(lambda: store.add(batches))
        for each in batches:
            if isinstance(each, Batch):
                self._positions[each.gateway] = each.records[-1].position

    async def _prune(self) -> None:
        store, now = self._store, boottime()
        assert store is not None
        if now - self._pruned_at >= PRUNE_EVERY_S:
            more = await self._in_thread(lambda: store.prune(time.time()))
            self._pruned_at = now - PRUNE_EVERY_S if more else now

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        """However long the disk takes: meanwhile `problem` says so."""
        self._writing_since = boottime()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._writing_since = None
