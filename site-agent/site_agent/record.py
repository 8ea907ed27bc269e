"""The event log: one JSON object a line, bounded, written by a thread, so that a slow disk never delays a withdrawal.

`write` stamps the event and queues it; it never waits. When the disk cannot follow, or is full, records are dropped and
counted, and a `RecordsDropped` says how many as soon as there is room again: a gap is itself recorded. At `max_bytes` the
file becomes ``.1`` (replacing the one before), so the log takes at most twice that.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import queue
import threading
import time
from pathlib import Path
from typing import NamedTuple

from anycast.events import Event, RecordsDropped, to_record
from anycast.runtime import boottime_ns

QUEUED_RECORDS = 4096
"""What may wait for the disk: a minute of the worst we emit, about 2 MB."""
BATCH_RECORDS = 256


class _Stamped(NamedTuple):
    event: Event
    wall: float
    boot_ns: int


class EventLog:
    """Appends to one file. `write` may be called from any thread."""

    def __init__(self, path: Path, *, max_bytes: int, gateway: str) -> None:
        self._path, self._max_bytes, self._gateway = path, max_bytes, gateway
        self._queue: queue.Queue[_Stamped | None] = queue.Queue(QUEUED_RECORDS)
        self._lock = threading.Lock()
        self._dropped_unsaid = 0
        self.dropped = 0
        """Records lost since the start."""
        self._thread = threading.Thread(target=self._append_until_closed, name="event-log", daemon=True)
        self._thread.start()

    def write(self, event: Event) -> None:
        """Queue one event, stamped with now. Making text of it is left to the thread."""
        stamped = _Stamped(event, time.time(), boottime_ns())
        with self._lock:
            unsaid = self._dropped_unsaid
            try:
                if unsaid:
                    self._queue.put_nowait(stamped._replace(event=RecordsDropped(count=unsaid)))
                    self._dropped_unsaid = 0
                self._queue.put_nowait(stamped)
            except queue.Full:
                self._dropped_unsaid += 1
                self.dropped += 1

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is queued and end; give up after `timeout_s`."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=timeout_s)
        self._thread.join(timeout_s)

    def _line(self, stamped: _Stamped) -> bytes:
        record = to_record(stamped.event, wall=stamped.wall, boot_ns=stamped.boot_ns, gateway=self._gateway)
        return json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"

    def _append_until_closed(self) -> None:
        while True:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < BATCH_RECORDS:
                    batch.append(self._queue.get_nowait())
            lines = [self._line(stamped) for stamped in batch if stamped is not None]
            try:
                self._append(b"".join(lines))
            except OSError:
                with self._lock:
                    self._dropped_unsaid += len(lines)
                    self.dropped += len(lines)
            if len(lines) != len(batch):
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
