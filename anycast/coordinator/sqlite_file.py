"""What every SQLite file of the coordinator has in common: whose it is, transactions, a disk that does not do its part."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from anycast.errors import ConfigError, PeerError, Problem

LOCK_LIMIT_S = 2.0
"""Nobody else writes there; whoever reads, or copies, holds the file for moments."""
DISK_LIMIT_S = 5.0
_T = TypeVar("_T")


@contextlib.contextmanager
def disk(path: Path, trouble: str) -> Iterator[None]:
    """PeerError with `trouble` where the disk fails; ConfigError where the file is no store, or a damaged one."""
    try:
        yield
    except OSError as exc:  # of what is done beside SQLite: a file system that is read-only refuses even chmod(2)
        raise PeerError(str(path), f"{trouble}: {(exc.strerror or str(exc)).lower()}") from exc
    except sqlite3.DatabaseError as exc:
        if isinstance(exc, sqlite3.OperationalError):
            raise PeerError(str(path), f"{trouble}: {exc}") from exc
        raise ConfigError([Problem("", f"is no store of ours, or a damaged one: {exc}", str(path))]) from exc


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing, also where COMMIT itself fails."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def opened(path: Path, schema: str, version: int, fleet: str) -> sqlite3.Connection:
    """A file whose last moments may be lost with the power (`synchronous = NORMAL`), made where there is none.

    Raises ConfigError where it is of another fleet or version; sqlite3.DatabaseError as `disk` takes it.
    """
    db = sqlite3.connect(path, isolation_level=None, timeout=LOCK_LIMIT_S)
    path.chmod(0o600)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.executescript(schema)
    db.execute("INSERT OR IGNORE INTO meta VALUES ('version', ?), ('fleet', ?)", (str(version), fleet))
    belongs(path, dict(db.execute("SELECT key, value FROM meta")), version, fleet)
    return db


def belongs(path: Path, known: dict[str, str], version: int, fleet: str) -> None:
    """Raises ConfigError where a file with `known` as its meta is of another version or fleet."""
    if known["version"] != str(version):
        raise ConfigError([Problem("", f"is of version {known['version']}; this program reads {version}", str(path))])
    if known["fleet"] != fleet:
        raise ConfigError([Problem("", f"belongs to the fleet {known['fleet']}, not to {fleet}", str(path))])


async def answered(thread: concurrent.futures.Executor, path: Path, work: Callable[[], _T]) -> _T:
    """What `work` gives in `thread`. PeerError where the disk does not answer; `work` may have its effect all the same."""
    future = asyncio.get_running_loop().run_in_executor(thread, work)
    try:
        async with asyncio.timeout(DISK_LIMIT_S):
            return await asyncio.shield(future)
    except TimeoutError as exc:
        future.add_done_callback(lambda done: done.exception())
        raise PeerError(str(path), f"the disk has not answered for {DISK_LIMIT_S:.0f} s") from exc
