"""What the coordinator decided, on disk before anybody hears of it: SQLite in WAL mode, one file, one writer.

    decisions    (kind, key) → body, with the revision that it was written under; a deleted one keeps its revision
    history      who did what, when and why, each line hashed over the one before it
    meta         format version, fleet, epoch

Every write is one transaction that names what it has read (`expected`) and under which leadership it was decided (`Fence`):
a coordinator that was paused while another one took over writes nothing. `synchronous = FULL`, so that a decision survives
the power of the machine that made it. Whoever wants to know what changed asks for everything after a revision.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anycast.coordinator.sqlite_file import belongs, disk, transaction
from anycast.errors import AnycastError

VERSION = 1
_TROUBLE = "the store cannot be used"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS decisions (
    kind TEXT NOT NULL, key TEXT NOT NULL, revision INTEGER NOT NULL, body TEXT, PRIMARY KEY (kind, key)) STRICT;
CREATE INDEX IF NOT EXISTS decisions_by_revision ON decisions (revision);
CREATE TABLE IF NOT EXISTS history (
    seq INTEGER PRIMARY KEY, at REAL NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL, reason TEXT NOT NULL,
    body TEXT NOT NULL, hash TEXT NOT NULL) STRICT;
"""
Key = tuple[str, str]
"""Kind and key of a decision."""
Body = Mapping[str, Any]


class Conflict(AnycastError):
    """Somebody has written meanwhile what this transaction has read. Nothing was written; read again."""

    def __init__(self, key: Key) -> None:
        self.key = key
        super().__init__(f"{key[0]} {key[1]} has changed meanwhile")


class Fenced(AnycastError):
    """Another coordinator leads by now. Nothing was written, and nothing will be."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fence:
    """A leadership; the store takes writes of the newest one only."""

    epoch: int
    """For people: it grows, but a store that was restored counts again."""
    leader: str
    """A random word that no other leadership ever had."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One decision as it stands."""

    revision: int
    body: Body | None
    """None: deleted."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """One line of history that is to be written."""

    at: float
    """Unix time, for people."""
    who: str
    action: str
    reason: str = ""
    body: Body = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line(Deed):
    """One that was."""

    seq: int
    hash: str


class Store:
    """Use from one thread. Every method may raise PeerError where the disk does not do its part."""

    def __init__(self, path: Path, fleet: str) -> None:
        """Open or make it. Raises ConfigError where the file is of another fleet or a newer version, or is none of ours."""
        self.path = path
        with disk(path, _TROUBLE):
            self._db = sqlite3.connect(path, isolation_level=None)
            path.chmod(0o600)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
        with self._transaction():
            known = dict(self._db.execute("SELECT key, value FROM meta"))
            if not known:
                start = {"version": str(VERSION), "fleet": fleet, "epoch": "0", "revision": "0"}
                self._db.executemany("INSERT INTO meta VALUES (?, ?)", list(start.items()))
                known = start
        belongs(path, known, VERSION, fleet)

    def close(self) -> None:
        self._db.close()

    def lead(self) -> Fence:
        """Begin a new leadership; every earlier one is over."""
        with self._transaction():
            leader = secrets.token_hex(8)
            self._db.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'epoch'")
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('leader', ?)", (leader,))
            return Fence(self._number("epoch"), leader)

    @property
    def revision(self) -> int:
        return self._number("revision")

    def read(self, kind: str) -> dict[str, Entry]:
        """Every decision of a kind that stands, by key."""
        with disk(self.path, _TROUBLE):
            rows = self._db.execute("SELECT key, revision, body FROM decisions WHERE kind = ? AND body NOT NULL", (kind,))
            return {key: Entry(revision, json.loads(body)) for key, revision, body in rows}

    def since(self, revision: int) -> list[tuple[Key, Entry]]:
        """What was written or deleted after `revision`, oldest first."""
        with disk(self.path, _TROUBLE):
            columns = "kind, key, revision, body"
            query = f"SELECT {columns} FROM decisions WHERE revision > ? ORDER BY revision, kind, key"
            rows = self._db.execute(query, (revision,))
            return [
                ((kind, key), Entry(found, None if body is None else json.loads(body))) for kind, key, found, body in rows
            ]

    def transact(
        self, fence: Fence, *, expected: Mapping[Key, int], writes: Mapping[Key, Body | None], deeds: tuple[Deed, ...] = ()
    ) -> int:
        """Write all of it or nothing; its revision. `expected`: the revision of each decision that was read, 0 for none.

        Raises Conflict and Fenced.
        """
        with self._transaction():
            (leader,) = self._db.execute("SELECT value FROM meta WHERE key = 'leader'").fetchone()
            if leader != fence.leader:
                raise Fenced("another coordinator leads by now")
            for key, revision in expected.items():
                row = self._db.execute("SELECT revision, body FROM decisions WHERE kind = ? AND key = ?", key).fetchone()
                if (0 if row is None or row[1] is None else row[0]) != revision:
                    raise Conflict(key)
            self._db.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'revision'")
            revision = self._number("revision")
            for (kind, name), body in writes.items():
                text = None if body is None else _canonical(body)
                self._db.execute("INSERT OR REPLACE INTO decisions VALUES (?, ?, ?, ?)", (kind, name, revision, text))
            for deed in deeds:
                self._append(deed)
            return revision

    def history(self, *, after: int = 0, limit: int = 1000) -> list[Line]:
        """Oldest first."""
        with disk(self.path, _TROUBLE):
            rows = self._db.execute("SELECT * FROM history WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit))
            return [
                Line(seq=seq, at=at, who=who, action=action, reason=reason, body=json.loads(body), hash=hash_)
                for seq, at, who, action, reason, body, hash_ in rows
            ]

    def history_until(self, at: float, limit: int) -> list[Line]:
        """The newest lines up to a moment (Unix time), oldest first."""
        with disk(self.path, _TROUBLE):
            (last,) = self._db.execute("SELECT MAX(seq) FROM history WHERE at <= ?", (at,)).fetchone()
        return self.history(after=max(0, (last or 0) - limit), limit=min(limit, last or 0))

    def first_broken(self) -> int | None:
        """Number of the first line of history whose hash is not that of itself and everything before it; None: all are."""
        before, expected_seq = "", 1
        with disk(self.path, _TROUBLE):
            for seq, at, who, action, reason, body, hash_ in self._db.execute("SELECT * FROM history ORDER BY seq"):
                if seq != expected_seq or hash_ != _chained(before, seq, at, who, action, reason, body):
                    return expected_seq
                before, expected_seq = hash_, seq + 1
        return None

    def last(self) -> tuple[int, str]:
        """Number and hash of the newest line of history; 0 of none. Whoever keeps them elsewhere sees later whether lines
        were taken off the end, which no chain tells by itself."""
        with disk(self.path, _TROUBLE):
            row = self._db.execute("SELECT seq, hash FROM history ORDER BY seq DESC LIMIT 1").fetchone()
        return (0, "") if row is None else (row[0], row[1])

    def _append(self, deed: Deed) -> None:
        last, before = self.last()
        seq = last + 1
        text = _canonical(deed.body)
        chained = _chained(before, seq, deed.at, deed.who, deed.action, deed.reason, text)
        line = (seq, deed.at, deed.who, deed.action, deed.reason, text, chained)
        self._db.execute("INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?)", line)

    def _number(self, key: str) -> int:
        with disk(self.path, _TROUBLE):
            return int(self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with disk(self.path, _TROUBLE), transaction(self._db):
            yield


def _canonical(body: Body) -> str:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _chained(before: str, seq: int, at: float, who: str, action: str, reason: str, body: str) -> str:
    line = json.dumps([before, seq, at, who, action, reason, body], separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(line.encode()).hexdigest()
