"""The events that the coordinator has not: the newest in memory, older ones as the event log has them on the disk.

The log is the spool: bounded, there after a kill, and written anyhow. Memory spares the disk while somebody listens, and has
what a disk that is full does not take. What neither has is a hole in the numbers, which the coordinator sees and keeps.
"""

from __future__ import annotations

import collections
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from anycast import event_wire
from anycast.errors import DecodeError
from anycast.event_wire import Position, position_of
from site_agent.patience import OneAtATime
from site_agent.record import Made

MEMORY_BYTES = 1 << 20
DISK_LIMIT_S = 5.0
READ_BYTES = 256 * 1024
"""Of the log at once: a few batches."""


class EventSpool:
    """`take` from the log's thread, everything else from the event loop's."""

    def __init__(self, path: Path, gateway: str, stream: str, news: Callable[[], None]) -> None:
        """`path`: of the event log that this process writes as `stream`. `news` is called in the log's thread."""
        self._stream, self._news = stream, news
        self._lock = threading.Lock()
        self._newest: collections.deque[tuple[int, bytes]] = collections.deque()
        self._bytes = 0
        self._reader = _LogReader(path, gateway)
        self._disk = OneAtATime("event-spool")
        self.last_seq = 0
        """Of the newest event."""

    def take(self, made: Made) -> None:
        """What the log is about to write."""
        with self._lock:
            for seq, line in made:
                self._newest.append((seq, line))
                self._bytes += len(line)
                self.last_seq = seq
            while self._bytes > MEMORY_BYTES and len(self._newest) > 1:
                self._bytes -= len(self._newest.popleft()[1])
        self._news()

    async def batch(self, after: Position) -> tuple[str, ...]:
        """The records that follow `after`, as many as one message has room for; none where there are none yet."""
        with self._lock:
            newest = list(self._newest)
        mine = after.stream == self._stream
        later = [line for seq, line in newest if not mine or seq > after.seq]
        if mine and newest and after.seq >= newest[0][0] - 1:
            return event_wire.batch(later)
        # What left the memory before this look has been offered to the disk by now; what has come since is for the next.
        with contextlib.suppress(OSError, TimeoutError):
            if lines := await self._disk.run(lambda: self._reader.behind(after), limit_s=DISK_LIMIT_S):
                return event_wire.batch(lines)
        return event_wire.batch(later)


class _LogReader:
    """Reads the log's two files one after the other, from wherever somebody wants to go on. Used by one thread at a time."""

    def __init__(self, path: Path, gateway: str) -> None:
        self._path, self._older, self._gateway = path, path.with_name(path.name + ".1"), gateway
        self._file: BinaryIO | None = None
        self._at: Position | None = None
        """Behind which record the next line is."""
        self._ahead: collections.deque[bytes] = collections.deque()
        """Read, and not yet known to be stored."""

    def behind(self, after: Position) -> list[bytes]:
        """Some numbered lines behind `after`; none: the log has no more. Raises OSError."""
        if after != self._at:
            self._go_behind(after)
        if not self._ahead:
            self._ahead.extend(self._more())
        return list(self._ahead)

    def _go_behind(self, after: Position) -> None:
        """Most often `after` is one of the lines that were handed out last."""
        while self._ahead:
            if position_of(self._ahead.popleft()) == after:
                self._at = after
                return
        skip = event_wire.passed_over(self._lines_of_both(), after)
        self._open(self._older if self._older.exists() else self._path)
        self._at = after
        while skip > 0:
            lines_now = self._chunk()
            if not lines_now:
                return  # rotated away meanwhile: what is missing then is a hole
            self._ahead.extend(filter(self._is_sound, lines_now[skip:]))
            skip -= len(lines_now)

    def _more(self) -> list[bytes]:
        while lines := self._chunk():
            if sound := list(filter(self._is_sound, lines)):
                return sound
        return []

    def _is_sound(self, line: bytes) -> bool:
        """What a disk has garbled, or was written under another name, would be refused with everything beside it: it is a
        hole instead."""
        if position_of(line) is None:
            return False
        with contextlib.suppress(DecodeError):
            event_wire.read(line.decode(errors="replace"), self._gateway)
            return True
        return False

    def _chunk(self) -> list[bytes]:
        """Whole lines, from the next file where this one has no more; none at the end of the log."""
        if self._file is None and not self._open(self._path):
            return []
        while True:
            assert self._file is not None
            place = self._file.tell()
            data = self._file.read(READ_BYTES)
            if b"\n" not in data:
                data += self._file.readline()
            if whole := data.rfind(b"\n") + 1:
                self._file.seek(place + whole)
                return data[: whole - 1].split(b"\n")
            self._file.seek(place)
            if not self._next():
                return []

    def _next(self) -> bool:
        """Go on to the file that was begun after this one; whether there is one."""
        assert self._file is not None
        own = _identity(self._file.fileno())
        if _identity(self._path) in (own, None):
            return False
        return self._open(self._path if _identity(self._older) == own else self._older)

    def _open(self, path: Path) -> bool:
        if self._file is not None:
            self._file.close()
            self._file = None
        with contextlib.suppress(FileNotFoundError):
            self._file = path.open("rb")
        return self._file is not None

    def _lines_of_both(self) -> Iterator[bytes]:
        for path in (self._older, self._path):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                yield from (line for line in file if line.endswith(b"\n"))


def _identity(of: Path | int) -> tuple[int, int] | None:
    try:
        status = os.stat(of)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
