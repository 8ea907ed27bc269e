"""Samples of leases on the disk: a SQLite file of its own, bounded (`leases.py`), apart from what was decided (`store.py`).

    samples    the most of one pool within one span: an hour, or a day that was made of hours

`synchronous = NORMAL`: a loss of power may take the last minutes, which a forecast over weeks does not miss.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path

from anycast.coordinator.leases import AHEAD_H, DAY_H, DAYS_KEPT, HOURS_KEPT, MOST_POOLS, PoolDays, Sample
from anycast.coordinator.sqlite_file import disk, opened, transaction

VERSION = 1
_TROUBLE = "the leases cannot be kept"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS samples (
    site TEXT NOT NULL, pool TEXT NOT NULL, span INTEGER NOT NULL, hour INTEGER NOT NULL, most INTEGER NOT NULL,
    PRIMARY KEY (site, pool, span, hour)) STRICT, WITHOUT ROWID;
"""
_MERGE = "ON CONFLICT (site, pool, span, hour) DO UPDATE SET most = max(most, excluded.most)"


class LeaseStore:
    """Use from one thread. Every method may raise PeerError where the disk does not do its part."""

    def __init__(self, path: Path, fleet: str) -> None:
        """Open or make it. Raises ConfigError where the file is of another fleet or a newer version, or is none of ours."""
        self.path = path
        with disk(path, _TROUBLE):
            self._db = opened(path, _SCHEMA, VERSION, fleet)

    def close(self) -> None:
        self._db.close()

    def add(self, samples: Sequence[Sample]) -> None:
        """All of them or none; one of an hour that is there raises it, and never lowers it."""
        with self._transaction():
            self._db.executemany(
                f"INSERT INTO samples VALUES (?, ?, 1, ?, ?) {_MERGE}",
                [(each.site, each.pool, each.hour, each.most) for each in samples],
            )

    def thin(self, hour: int) -> None:
        """Make days of hours that are old, and take away what is too old, too many or of a wrong clock. `hour`: now."""
        old = (hour - HOURS_KEPT) // DAY_H * DAY_H  # whole days: a day's hours are not in two places
        with self._transaction():
            self._db.execute("DELETE FROM samples WHERE hour > ?", (hour + AHEAD_H,))
            self._db.execute(
                f"INSERT INTO samples SELECT site, pool, {DAY_H}, hour / {DAY_H} * {DAY_H}, max(most) FROM samples"
                f" WHERE span = 1 AND hour < ? GROUP BY site, pool, hour / {DAY_H} {_MERGE}",
                (old,),
            )
            self._db.execute("DELETE FROM samples WHERE span = 1 AND hour < ?", (old,))
            self._db.execute("DELETE FROM samples WHERE hour < ?", (hour - DAYS_KEPT * DAY_H,))
            self._db.execute(
                "DELETE FROM samples WHERE (site, pool) IN (SELECT site, pool FROM (SELECT site, pool, row_number() OVER"
                " (PARTITION BY site ORDER BY max(hour) DESC, pool) AS nth FROM samples GROUP BY site, pool) WHERE nth > ?)",
                (MOST_POOLS,),
            )

    def days(self, since: int) -> list[PoolDays]:
        """Of every pool, by site and prefix; `since`: the first hour of the first day."""
        found: dict[tuple[str, str], dict[str, int]] = {}
        with disk(self.path, _TROUBLE):
            rows = self._db.execute(
                f"SELECT site, pool, hour / {DAY_H}, max(most) FROM samples WHERE hour >= ?"
                f" GROUP BY site, pool, hour / {DAY_H} ORDER BY site, pool, hour / {DAY_H}",
                (since,),
            ).fetchall()
        epoch = datetime.date(1970, 1, 1)
        for site, pool, day, most in rows:
            found.setdefault((site, pool), {})[str(epoch + datetime.timedelta(days=day))] = most
        return [PoolDays(site=site, pool=pool, days=days) for (site, pool), days in found.items()]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with disk(self.path, _TROUBLE), transaction(self._db):
            yield
