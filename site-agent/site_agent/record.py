"""The event log: one JSON object a line, bounded, written by a thread, so that a slow disk never delays a withdrawal.

`write` stamps the event and queues it; it never waits. When the disk cannot follow, or is full, records are dropped and
counted, and a `RecordsDropped` says how many as soon as there is room again: a gap is itself recorded. At `max_bytes` the
file becomes ``.1`` (replacing the one before), so the log takes at most twice that.

Where the log has a `stream`, its records are numbered (`anycast/event_wire.py`): by `write`, so that one which is dropped
leaves a hole, and from where the log on the disk ends.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from anycast.event_wire import position_of
from anycast.events import Event, RecordsDropped, to_record
from anycast.runtime import boottime_ns

QUEUED_RECORDS = 4096
"""What may wait for the disk: a minute of the worst we emit, about 2 MB."""
BATCH_RECORDS = 256
TAIL_BYTES = 256 * 1024
"""Where the last numbered line of a log is: no record is longer."""
Made = Sequence[tuple[int, bytes]]
"""Records with their numbers, oldest first."""


class _Stamped(NamedTuple):
    event: Event
    wall: float
    boot_ns: int
    number: int
    """How many this process had written with it."""


class EventLog:
    """Appends to one file. `write` may be called from any thread."""

    def __init__(
        self, path: Path, *, max_bytes: int, gateway: str, stream: str = "", made: Callable[[Made], None] | None = None
    ) -> None:
        """`stream`: of this process, where the records are numbered; `made` is then told of each, in the log's thread,
        whether the disk takes it or not."""
        self._path, self._max_bytes, self._gateway = path, max_bytes, gateway
        self._stream, self._made = stream, made
        self._queue: queue.Queue[_Stamped | None] = queue.Queue(QUEUED_RECORDS)
        self._lock = threading.Lock()
        self._count = 0
        self._dropped_unsaid = 0
        self.dropped = 0
        """Records lost since the start."""
        self._thread = threading.Thread(target=self._append_until_closed, name="event-log", daemon=True)
        self._thread.start()

    def write(self, event: Event) -> None:
        """Queue one event, stamped with now. Making text of it is left to the thread."""
        stamped = _Stamped(event, time.time(), boottime_ns(), 0)
        with self._lock:
            unsaid = self._dropped_unsaid
            try:
                if unsaid:
                    self._put(stamped._replace(event=RecordsDropped(count=unsaid)))
                    self._dropped_unsaid = 0
                self._put(stamped)
            except queue.Full:
                self._dropped_unsaid += 1
                self.dropped += 1

    def _put(self, stamped: _Stamped) -> None:
        """Raises queue.Full, and the number is used up all the same."""
        self._count += 1
        self._queue.put_nowait(stamped._replace(number=self._count))

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is queued and end; give up after `timeout_s`."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=timeout_s)
        self._thread.join(timeout_s)

    def _line(self, stamped: _Stamped, seq: int) -> bytes:
        record = to_record(
            stamped.event,
            wall=stamped.wall,
            boot_ns=stamped.boot_ns,
            gateway=self._gateway,
            stream=self._stream,
            seq=seq,
        )
        return json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"

    def _append_until_closed(self) -> None:
        before = _last_seq(self._path) if self._stream else 0
        while True:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < BATCH_RECORDS:
                    batch.append(self._queue.get_nowait())
            numbers = [(stamped, before + stamped.number) for stamped in batch if stamped is not None]
            made = [(seq, self._line(stamped, seq)) for stamped, seq in numbers]
            if self._made is not None:
                self._made(made)
            try:
                self._append(b"".join(line for _, line in made))
            except OSError:
                with self._lock:
                    self._dropped_unsaid += len(made)
                    self.dropped += len(made)
            if len(made) != len(batch):
                return

    def _append(self, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        with open(os.open(self._path, flags, 0o640), "ab", buffering=0) as file:
            size = file.tell()
            if size == 0 or size + len(data) <= self._max_bytes:
                _write_whole(file.fileno(), data)
                return
        self._path.replace(self._path.with_name(self._path.name + ".1"))
        self._append(data)


def _write_whole(fd: int, data: bytes) -> None:
    """A full disk takes a part of a write. The next line must not continue a torn one, so the part is taken back."""
    before = os.fstat(fd).st_size
    if os.write(fd, data) != len(data):
        os.ftruncate(fd, before)
        raise OSError(errno.ENOSPC, "no space left on device")


def _last_seq(path: Path) -> int:
    """Of the log as it is on the disk; 0 where it has no number, or cannot be read."""
    for each in (path, path.with_name(path.name + ".1")):
        with contextlib.suppress(OSError), each.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            for line in reversed(file.read(TAIL_BYTES).splitlines()):
                if (position := position_of(line)) is not None:
                    return position.seq
    return 0
