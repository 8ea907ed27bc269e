"""The events of all gateways, append-only and bounded: a SQLite file of its own, apart from what was decided (`store.py`).

    events       each record as its gateway sent it, in the order that it came; holes and comings and goings stand between
    gateways     what is kept of each, and up to which record: what the gateway is asked to go on from
    streams      the newest number of each agent's process, by which a record that comes twice is known

`synchronous = NORMAL`: a loss of power may take the last seconds back, and then the gateways are asked for them again.
What is too old goes, and what is too much goes from the gateway that has most, so one that floods pushes out its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from anycast.coordinator.failures import INTENT, Intent
from anycast.coordinator.sqlite_file import disk, opened, transaction
from anycast.event_wire import NOWHERE, Position, Told, missing_before, missing_record

VERSION = 1
ROW_BYTES = 150
"""What a row costs beside its text: its columns and its place in the index."""
STREAMS = 256
"""Of one gateway that are remembered."""
MOST_READ, LAST_SIGNS = 20_000, 100
"""Rows that are looked at for one moment of one gateway: two weeks of signs of life."""
PRUNED_AT_ONCE = 20_000
"""Rows: others want to write meanwhile."""
_TROUBLE = "the events cannot be kept"
FAREWELL = "AgentStopping"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY, gateway TEXT NOT NULL, at REAL NOT NULL, heard REAL NOT NULL, event TEXT NOT NULL,
    body TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS events_by_gateway ON events (gateway, at);
CREATE INDEX IF NOT EXISTS events_of_intents ON events (at) WHERE event = 'RouteIntentChanged';
CREATE TABLE IF NOT EXISTS gateways (
    gateway TEXT PRIMARY KEY, site TEXT NOT NULL, stream TEXT NOT NULL, seq INTEGER NOT NULL, farewell INTEGER NOT NULL,
    rows INTEGER NOT NULL, bytes INTEGER NOT NULL, forgotten REAL) STRICT;
CREATE TABLE IF NOT EXISTS streams (
    gateway TEXT NOT NULL, stream TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (gateway, stream)) STRICT;
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much is kept."""

    most_bytes: int = 1 << 30
    """Of all gateways together."""
    longest_s: float = 90 * 86_400.0
    """Since the coordinator heard of it."""


@dataclasses.dataclass(slots=True, kw_only=True)
class Kept:
    """What is kept of one gateway."""

    site: str
    """As it introduced itself last."""
    position: Position = NOWHERE
    """Everything up to there is stored."""
    farewell: bool = False
    """The process of `position` had said that it stops."""
    rows: int = 0
    bytes: int = 0
    forgotten: float | None = None
    """Unix time up to which retention has taken something away; None: it has not yet."""


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """What one gateway sent at once."""

    gateway: str
    heard: float
    """Unix time, by the coordinator's clock."""
    records: Sequence[Told]


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """Something that the coordinator itself saw of a gateway: it came, it went."""

    gateway: str
    site: str
    heard: float
    record: Mapping[str, Any]


class EventStore:
    """Use from one thread. Every method may raise PeerError where the disk does not do its part."""

    def __init__(self, path: Path, fleet: str, retention: Retention) -> None:
        """Open or make it. Raises ConfigError where the file is of another fleet or a newer version, or is none of ours."""
        self.path, self._retention = path, retention
        with disk(path, _TROUBLE):
            self._db = opened(path, _SCHEMA, VERSION, fleet)
        self._read_what_is_kept()

    def close(self) -> None:
        self._db.close()

    def kept(self, gateway: str) -> Kept | None:
        return self._gateways.get(gateway)

    def positions(self) -> dict[str, Position]:
        """Up to which record everything of each gateway is stored."""
        return {gateway: kept.position for gateway, kept in self._gateways.items()}

    def of_site(self, site: str) -> tuple[str, ...]:
        """The gateways that introduced themselves as this site's, by name."""
        return tuple(sorted(name for name, kept in self._gateways.items() if kept.site == site))

    def add(self, batches: Sequence[Batch | Seen]) -> None:
        """All of it or nothing. What is there already is passed over; a hole becomes a record of its own."""
        rows: list[tuple[str, float, float, str, str]] = []
        with self._transaction():
            for each in batches:
                if isinstance(each, Seen):
                    kept = self._gateways.setdefault(each.gateway, Kept(site=each.site))
                    kept.site = each.site
                    found = [_row(each.gateway, each.heard, each.heard, each.record)]
                else:
                    kept = self._gateways.setdefault(each.gateway, Kept(site=""))
                    found = self._new(each, kept)
                kept.rows += len(found)
                kept.bytes += sum(len(row[4]) + ROW_BYTES for row in found)
                rows += found
            self._db.executemany("INSERT INTO events (gateway, at, heard, event, body) VALUES (?, ?, ?, ?, ?)", rows)
            for gateway in {each.gateway for each in batches}:
                self._write_kept(gateway)

    def _new(self, batch: Batch, kept: Kept) -> list[tuple[str, float, float, str, str]]:
        streams, rows = self._streams.setdefault(batch.gateway, {}), []
        for told in batch.records:
            new = told.position
            if new.seq > streams.get(new.stream, 0):
                streams[new.stream] = new.seq
                if (hole := missing_before(new, kept.position, farewell=kept.farewell)) is not None:
                    at = json.loads(told.text)["at"]
                    rows.append(_row(batch.gateway, told.at, batch.heard, missing_record(hole, batch.gateway, at)))
                rows.append((batch.gateway, told.at, batch.heard, told.event, told.text))
            kept.farewell = told.event == FAREWELL or (kept.farewell and new.stream == kept.position.stream)
            kept.position = new
        for stream in list(streams)[:-STREAMS]:
            del streams[stream]
            self._db.execute("DELETE FROM streams WHERE gateway = ? AND stream = ?", (batch.gateway, stream))
        for stream in {told.position.stream for told in batch.records} & streams.keys():
            self._db.execute("INSERT OR REPLACE INTO streams VALUES (?, ?, ?)", (batch.gateway, stream, streams[stream]))
        return rows

    def prune(self, now: float) -> bool:
        """Take away some of what is too old or too much. Whether there is more of it."""
        with self._transaction():
            oldest = now - self._retention.longest_s
            # What came first was heard first, but for steps of the clock: the beginning is looked at, and no more.
            which = "SELECT id FROM (SELECT id, heard FROM events ORDER BY id LIMIT ?) WHERE heard < ?"
            gone = self._delete(which, (PRUNED_AT_ONCE, oldest))
            total = sum(kept.bytes for kept in self._gateways.values())
            if gone == 0 and total > self._retention.most_bytes:
                fullest = max(self._gateways, key=lambda name: self._gateways[name].bytes)
                which = "SELECT id FROM events WHERE gateway = ? ORDER BY at, id LIMIT ?"
                share = max(1, min(PRUNED_AT_ONCE, self._gateways[fullest].rows // 20))
                gone = self._delete(which, (fullest, share))
        return gone > 0

    def _delete(self, which: str, values: tuple[Any, ...]) -> int:
        """Rows gone; what is counted of their gateways is corrected."""
        deleted = self._db.execute(
            f"DELETE FROM events WHERE id IN ({which}) RETURNING gateway, at, length(CAST(body AS BLOB))", values
        ).fetchall()
        for gateway, at, size in deleted:
            kept = self._gateways[gateway]
            kept.rows -= 1
            kept.bytes -= size + ROW_BYTES
            kept.forgotten = at if kept.forgotten is None else max(at, kept.forgotten)
        for gateway in {row[0] for row in deleted}:
            self._write_kept(gateway)
        return len(deleted)

    def until(self, gateway: str, moment: float, most: int, more: int) -> list[dict[str, Any]]:
        """The newest `most` records up to a moment (Unix time), oldest first, and the `more` that follow it. Signs of life,
        which come every minute and say nothing else, are only among the last `LAST_SIGNS` of them."""
        with disk(self.path, _TROUBLE):
            newest = "SELECT id, event, body FROM events WHERE gateway = ? AND at <= ? ORDER BY at DESC, id DESC LIMIT ?"
            telling = f"SELECT id, body FROM ({newest}) WHERE event <> 'AgentAlive' LIMIT ?"
            found = self._db.execute(telling, (gateway, moment, MOST_READ, most)).fetchall()
            found += [(id_, body) for id_, _, body in self._db.execute(newest, (gateway, moment, LAST_SIGNS))]
            query = "SELECT id, body FROM events WHERE gateway = ? AND at > ? ORDER BY at, id LIMIT ?"
            found += self._db.execute(query, (gateway, moment, more)).fetchall()
        return [json.loads(body) for _, body in sorted(set(found))]

    def intents(self) -> list[Intent]:
        """The newest `MOST_READ` of what gateways said that they make of their routes, oldest first."""
        query = f"SELECT gateway, at, body FROM events WHERE event = '{INTENT}' ORDER BY at DESC LIMIT ?"
        with disk(self.path, _TROUBLE):
            rows = self._db.execute(query, (MOST_READ,)).fetchall()
        sites = {gateway: kept.site for gateway, kept in self._gateways.items()}
        return [Intent(sites.get(gateway, ""), gateway, at, json.loads(body)) for gateway, at, body in reversed(rows)]

    @property
    def longest_s(self) -> float:
        """So long a record is kept at most."""
        return self._retention.longest_s

    def _read_what_is_kept(self) -> None:
        with disk(self.path, _TROUBLE):
            self._gateways = {
                gateway: Kept(
                    site=site,
                    position=Position(stream, seq),
                    farewell=bool(farewell),
                    rows=rows,
                    bytes=size,
                    forgotten=forgotten,
                )
                for gateway, site, stream, seq, farewell, rows, size, forgotten in self._db.execute("SELECT * FROM gateways")
            }
            self._streams: dict[str, dict[str, int]] = {}
            for gateway, stream, seq in self._db.execute("SELECT * FROM streams ORDER BY rowid"):
                self._streams.setdefault(gateway, {})[stream] = seq

    def _write_kept(self, gateway: str) -> None:
        kept = self._gateways[gateway]
        place = gateway, kept.site, kept.position.stream, kept.position.seq, int(kept.farewell)
        values = *place, kept.rows, kept.bytes, kept.forgotten
        self._db.execute("INSERT OR REPLACE INTO gateways VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with disk(self.path, _TROUBLE):
            try:
                with transaction(self._db):
                    yield
            except BaseException:
                self._read_what_is_kept()
                raise


def _row(gateway: str, at: float, heard: float, record: Mapping[str, Any]) -> tuple[str, float, float, str, str]:
    return gateway, at, heard, str(record["event"]), json.dumps(record, separators=(",", ":"))
