"""The store as one file that can be carried away, and back: `anycast backup`, `anycast restore`.

    line 1   JSON, at most `LONGEST_HEAD` bytes: what this is, of which fleet, as of when, how long and with which SHA-256
    rest     the database as SQLite has it, of `size` bytes

A backup is one snapshot, taken by SQLite's online backup inside one read transaction: a coordinator that writes meanwhile
neither waits nor has half a decision in it. It holds the whole history and hashes of credentials: it is its owner's alone.

A restore is refused while a coordinator has the store open (`coordinator/store_folder.py`). It checks everything on a copy
beside the store, makes that a leadership of its own (docs/ledger.md: whoever led the store before writes nothing any more),
notes it in the history and as `RESTORED`, and then puts it in place by one rename; what was there before is kept beside it.
A kill at any moment leaves the store before or the store after, and running it again is always right.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, Literal
from urllib.parse import quote

import pydantic

from anycast import trusted_file, whole_file
from anycast.content.canonical import Name, Sha256
from anycast.coordinator import store_folder
from anycast.coordinator.store import VERSION as STORE_VERSION
from anycast.coordinator.store import Deed, Store
from anycast.errors import ConfigError, DecodeError, KernelError, PeerError, Problem
from anycast.pki import files

VERSION: Literal[1] = 1
LONGEST_HEAD = 4096
RESTORED, MARK = "restored", "store"
"""Kind and key of the decision that stands from a restore until what agents say has confirmed the store."""
_CHUNK = 1 << 20
_PAGES = 256
"""Of a database, between two words about progress."""
_MARKS = ("-wal", "-shm", "-journal")
Count = Annotated[int, pydantic.Field(ge=0, le=2**63 - 1)]
Progress = Callable[[int, int], None]
"""Bytes that are done, and of how many."""


class Head(pydantic.BaseModel):
    """What a backup says of itself. Unknown fields are ignored; a later version has another number."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    anycast_backup: int
    fleet: Name
    at: Annotated[float, pydantic.Field(ge=0, le=1e11)]
    """Unix time of the snapshot."""
    revision: Count
    """Of the newest decision in it."""
    history: Count
    """Lines of it."""
    size: Count
    sha256: Sha256


@dataclasses.dataclass(frozen=True, slots=True)
class Restored:
    head: Head
    aside: Path | None
    """Where the store is kept that was there before; None: there was none."""


def back_up(store: Path, to: Path, progress: Progress = lambda done, of: None) -> Head:
    """Write a backup of `store` to the new file `to`. Raises ConfigError, PeerError, KernelError, and then there is none."""
    scratch, beside = to.with_name(f".{to.name}.db"), to.with_name(f".{to.name}.new")
    with _file_errors(to):
        if to.exists() or to.is_symlink():
            raise _unusable(to, "is there already; a backup replaces nothing")
        try:
            _clear(scratch, beside)
            _new_file(scratch).close()
            at = time.time()
            _snapshot(store, scratch, progress)
            head = _head_of(scratch, at)
            with _new_file(beside) as out, open(scratch, "rb") as database:
                out.write(head.model_dump_json().encode() + b"\n")
                while chunk := database.read(_CHUNK):
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
            try:
                os.link(beside, to)
            except FileExistsError as exc:
                raise _unusable(to, "is there already; a backup replaces nothing") from exc
        finally:
            _clear(scratch, beside)
        whole_file.settle(to)
    return head


def look(backup: Path, fleet: str, progress: Progress = lambda done, of: None) -> Head:
    """Check a backup from its first byte to its last. Raises ConfigError where it is none, or is of another fleet."""
    with _file_errors(backup), _opened(backup) as file:
        head = _read_head(file, backup, fleet)
        for _ in _body(file, head, backup, progress):
            pass
    return head


def restore(
    backup: Path, store: Path, fleet: str, *, who: str, reason: str, progress: Progress = lambda done, of: None
) -> Restored:
    """Put what `backup` holds in place of `store`. Raises ConfigError where it is no backup of this fleet, PeerError where a
    coordinator has the store open, KernelError; in each case the store is as it was."""
    files.make_folder(store.parent)
    scratch = store.with_name(f".{store.name}.restoring")
    with store_folder.alone(store.parent), _file_errors(store):
        try:
            _clear(scratch)
            with _opened(backup) as file:
                head = _read_head(file, backup, fleet)
                with _new_file(scratch) as out:
                    for chunk in _body(file, head, backup, progress):
                        out.write(chunk)
            _make_ready(scratch, head, backup, who, reason)
            aside = _keep(store)
            scratch.replace(store)
        finally:
            _clear(scratch)
        whole_file.settle(store)
    return Restored(head, aside)


def _snapshot(store: Path, to: Path, progress: Progress) -> None:
    with _database_errors(store), contextlib.closing(_connect(store)) as source, contextlib.closing(_connect(to)) as target:
        # The page size is the source's; while this transaction lasts nobody's write can make the copy begin anew.
        source.execute("BEGIN")
        source.execute("SELECT value FROM meta WHERE key = 'version'").fetchone()
        (size,) = source.execute("PRAGMA page_size").fetchone()
        source.backup(target, pages=_PAGES, progress=lambda _, left, of: progress((of - left) * size, of * size))
        source.execute("ROLLBACK")
        target.execute("PRAGMA journal_mode = DELETE")
        _whole(target)


def _head_of(database: Path, at: float) -> Head:
    with _database_errors(database), contextlib.closing(_connect(database)) as db:
        meta = dict(db.execute("SELECT key, value FROM meta"))
        (lines,) = db.execute("SELECT count(*) FROM history").fetchone()
    if meta.get("version") != str(STORE_VERSION):
        raise PeerError("the store", f"is of version {meta.get('version')}; this program reads {STORE_VERSION}")
    with open(database, "rb") as file:
        size, digest = 0, hashlib.sha256()
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            digest.update(chunk)
    return Head(
        anycast_backup=VERSION, fleet=meta["fleet"], at=at, revision=int(meta["revision"]), history=lines, size=size,
        sha256=digest.hexdigest(),
    )  # fmt: skip


def _read_head(file: BinaryIO, place: Path, fleet: str) -> Head:
    line = file.readline(LONGEST_HEAD)
    try:
        raw = json.loads(line)
        version = raw["anycast_backup"] if isinstance(raw, dict) else None
        if isinstance(version, int) and not isinstance(version, bool) and version != VERSION:
            raise _unusable(place, f"is a backup of version {version}; this program reads {VERSION}")
        head = Head.model_validate(raw)
    except (ValueError, KeyError, RecursionError) as exc:
        raise _unusable(place, "is no backup that `anycast backup` made") from exc
    if head.fleet != fleet:
        raise _unusable(place, f"is of the fleet {head.fleet[:63]!r}, and this machine's certificate is of {fleet!r}")
    return head


def _body(file: BinaryIO, head: Head, place: Path, progress: Progress) -> Iterator[bytes]:
    done, digest = 0, hashlib.sha256()
    while chunk := file.read(_CHUNK):
        done += len(chunk)
        if done > head.size:
            raise _unusable(place, f"is longer than it says: {head.size} bytes of a store, and something behind them")
        digest.update(chunk)
        yield chunk
        progress(done, head.size)
    if done < head.size:
        raise _unusable(place, f"is cut off: {done} of {head.size} bytes")
    if digest.hexdigest() != head.sha256:
        raise _unusable(place, "was changed since it was made: its hash is another one")


def _make_ready(database: Path, head: Head, place: Path, who: str, reason: str) -> None:
    """What was copied becomes a store that nobody leads yet. Raises ConfigError where it is none."""
    with _database_errors(place):
        store = Store(database, head.fleet)
        try:
            if store.revision != head.revision:
                raise _unusable(place, f"says revision {head.revision}, and the store in it has {store.revision}")
            body = {"from": _when(head.at), "revision": head.revision, "sha256": head.sha256}
            mark = {"v": 1, "at": time.time(), "of": head.at, "revision": head.revision, "by": who}
            deed = Deed(at=time.time(), who=who, action="store.restore", reason=reason, body=body)
            store.transact(store.lead(), expected={}, writes={(RESTORED, MARK): mark}, deeds=(deed,))
        finally:
            store.close()
        with contextlib.closing(_connect(database)) as db:
            _whole(db)
            db.execute("PRAGMA journal_mode = DELETE")
    with open(database, "rb") as file:
        os.fsync(file.fileno())


def _keep(store: Path) -> Path | None:
    """Give the store a second name that stays. Its last writes are in that one file afterwards: a log beside the next store
    would be taken for that one's. Raises PeerError where somebody has it open."""
    if not store.exists():
        return None
    aside = store.with_name(f"{store.name}.replaced-{_when(time.time()).replace(':', '')}")
    if aside.exists():
        aside = aside.with_name(f"{aside.name}-{os.getpid()}")
    try:
        with contextlib.closing(_connect(store)) as db:
            db.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.OperationalError as exc:
        raise PeerError(str(store), f"somebody has it open, or it fails: {exc}; nothing was changed") from exc
    except sqlite3.DatabaseError:
        # A damaged one is kept as it is, with its log under the name that belongs to it.
        os.link(store, aside)
        for mark in _MARKS:
            with contextlib.suppress(FileNotFoundError):
                store.with_name(store.name + mark).rename(aside.with_name(aside.name + mark))
        return aside
    os.link(store, aside)
    return aside


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=rw", uri=True, isolation_level=None)


def _whole(db: sqlite3.Connection) -> None:
    found = [str(row[0]) for row in db.execute("PRAGMA quick_check(1)")]
    if found != ["ok"]:
        raise sqlite3.DatabaseError(found[0] if found else "nothing in it")


def _clear(*scratch: Path) -> None:
    """Take away what is ours alone: of this run, or of one that was killed, whose log would be taken for this one's."""
    for path in scratch:
        for each in (path, *(path.with_name(path.name + mark) for mark in _MARKS)):
            with contextlib.suppress(OSError):
                each.unlink(missing_ok=True)


def _new_file(path: Path) -> BinaryIO:
    return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def _opened(path: Path) -> BinaryIO:
    try:
        return trusted_file.opened(path)
    except trusted_file.NotTrusted as exc:
        raise _unusable(exc.place, exc.what) from exc
    except DecodeError as exc:
        raise _unusable(path, exc.what) from exc
    except OSError as exc:
        raise files.refused(path, exc) from exc


def _unusable(place: Path, what: str) -> ConfigError:
    return ConfigError([Problem("", what, str(place))])


def _when(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextlib.contextmanager
def _database_errors(place: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as exc:
        missing = not place.exists()
        what = "there is no store; --state names its folder" if missing else f"the store cannot be used: {exc}"
        raise _unusable(place, what) from exc
    except sqlite3.DatabaseError as exc:
        raise _unusable(place, f"is no store of ours, or a damaged one: {exc}") from exc


@contextlib.contextmanager
def _file_errors(place: Path) -> Iterator[None]:
    try:
        yield
    except (PermissionError, FileNotFoundError, NotADirectoryError) as exc:
        raise files.refused(place, exc) from exc
    except OSError as exc:
        raise KernelError(exc.errno or 0, f"write {place}") from exc
