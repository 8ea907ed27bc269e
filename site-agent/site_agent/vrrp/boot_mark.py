"""The high-water mark of `boot`, which orders a gateway's seals over its restarts: a file that survives a reboot.

The other gateway takes only what is later than the last it took, so a process that began earlier than the one before it
would be discarded as `replay` for as long as the other one remembers: two Actives. The wall clock alone does not order them
(a machine begins before its clock is right, or had a future one once). So whoever seals marks its `boot` first, on the disk,
and begins later than the mark. It is done before anything is sent: a process has nobody to serve then, and may wait.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from anycast.whole_file import settle


def begin(path: str, *, after: int) -> tuple[int, list[str]]:
    """A `boot` (nanoseconds) later than `after` and than every one that was marked, and what stands against the mark.

    Without a path nothing is marked. Never raises: a gateway without a disk can serve, and is less sure of its next start.
    """
    if not path:
        return max(time.time_ns(), after + 1), []
    marked, faults = _read(Path(path))
    boot = max(time.time_ns(), after + 1, marked + 1)
    try:
        _write(Path(path), boot)
    except OSError as exc:
        faults.append(f"{path}: {exc.strerror}: after a reboot with an earlier clock the other gateway discards this one")
    return boot, faults


def _read(path: Path) -> tuple[int, list[str]]:
    try:
        return max(0, int(path.read_text())), []
    except FileNotFoundError:
        return 0, []
    except (OSError, ValueError):
        return 0, [f"{path}: cannot be read; written anew from the wall clock"]


def _write(path: Path, boot: int) -> None:
    scratch = path.with_suffix(".new")
    number = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(number, f"{boot}\n".encode())
        os.fsync(number)
    finally:
        os.close(number)
    scratch.replace(path)
    settle(path)
