"""The shell around `lease_store.py`: what gateways report is collected in memory and written once a minute.

Nothing that is decided waits for it. A disk that takes nothing is an alarm, and what was collected waits; a kill costs the
last minute, which an hour's most rarely misses.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from anycast.coordinator.lease_store import LeaseStore
from anycast.coordinator.leases import DAY_H, HOUR_S, Collector, FamilyDays, Leases
from anycast.coordinator.sqlite_file import answered
from anycast.errors import AnycastError, PeerError
from anycast.fleet.values import FAMILIES
from anycast.link_wire import Report

WRITE_EVERY_S = 60.0
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class LeaseKeeper:
    """Use from the event loop's thread: `run` until cancelled, `close` when done."""

    def __init__(self, path: Path, fleet: str) -> None:
        self._path, self._fleet = path, fleet
        self._collector = Collector()
        self._store: LeaseStore | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "leases")
        self._thinned = 0
        """The hour in which it was done last."""
        self.problem = ""
        """Why samples are not kept now; empty: they are."""

    def reported(self, site: str, report: Report) -> None:
        self._collector.reported(site, report, time.time())

    async def run(self) -> None:
        while True:
            await self._write()
            await asyncio.sleep(WRITE_EVERY_S)

    async def leases(self, days: int) -> Leases:
        """Of so many days and today. Raises PeerError where the disk does not answer."""
        await self._write()
        store, today = self._store, int(time.time() // HOUR_S) // DAY_H
        if store is None:
            raise PeerError(str(self._path), self.problem or "the leases are not read yet")
        kept = await self._in_thread(lambda: store.days((today - days) * DAY_H))
        return Leases(
            pools=tuple(each for each in kept if each.pool not in FAMILIES),
            together=tuple(
                FamilyDays(site=each.site, family=family, days=each.days)
                for each in kept for family in FAMILIES if each.pool == family
            ),
        )  # fmt: skip

    async def close(self) -> None:
        with contextlib.suppress(AnycastError):
            await self._write()
            if self._store is not None:
                await self._in_thread(self._store.close)
        self._thread.shutdown(wait=False)

    async def _write(self) -> None:
        samples, hour = self._collector.take(), int(time.time() // HOUR_S)
        try:
            if self._store is None:
                self._store = await self._in_thread(lambda: LeaseStore(self._path, self._fleet))
            store = self._store
            if samples:
                await self._in_thread(lambda: store.add(samples))
            if hour != self._thinned:
                await self._in_thread(lambda: store.thin(hour))
                self._thinned = hour
            self.problem = ""
        except AnycastError as exc:
            self._collector.back(samples)
            if str(exc) != self.problem:
                _log.error("%s", exc)
            self.problem = str(exc)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await answered(self._thread, self._path, work)
