"""What /proc says about one process: enough to tell it from a later process with the same number.

Process ids are reused; (pid, start time) is not, within one boot. `read_stat` opens one file and parses nothing it does
not need, because the charon check calls it every 100 ms.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import time
from pathlib import Path

from anycast.errors import KernelError

PF_EXITING = 0x4
"""linux/sched.h; field 9 of ``/proc/PID/stat``."""
LONGEST_FILE = 256 * 1024
"""A row of conntrack's statistics is 150 bytes: enough for 1,700 CPUs."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStat:
    """The part of proc(5) ``/proc/PID/stat`` that identifies a process and tells whether it runs."""

    state: str
    """``R``, ``S``, ``D``, ``T`` (stopped by a signal), ``t`` (by a tracer), ``Z`` (dead, not yet reaped)."""
    parent: int
    start_ticks: int
    """Start time in clock ticks since boot (field 22)."""
    exiting: bool
    """It is being taken down (PF_EXITING): nothing of it runs any more, though its sockets may take 40 ms to close."""
    cpu_ticks: int
    """Processor time of all its threads, user and system, in clock ticks (fields 14 and 15)."""
    exit_status: int
    """While exiting: as `HolderExited.status` has it."""


def parse_stat(text: bytes) -> ProcessStat:
    """Parse the content of ``/proc/PID/stat``. The name in parentheses may itself hold spaces and parentheses."""
    fields = text[text.rindex(b")") + 2 :].split()
    return ProcessStat(
        state=fields[0].decode(),
        parent=int(fields[1]),
        start_ticks=int(fields[19]),
        cpu_ticks=int(fields[11]) + int(fields[12]),
        exiting=bool(int(fields[6]) & PF_EXITING),
        exit_status=os.waitstatus_to_exitcode(int(fields[49])),
    )


def read_stat(pid: int) -> ProcessStat | None:
    """Look at `pid`; None where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return parse_stat(file.read(1024))
    except (FileNotFoundError, ProcessLookupError):
        return None


def read_file(path: str) -> bytes:
    """A small file that the kernel writes. Raises KernelError; the rest of one that is longer than the limit is left."""
    parts: list[bytes] = []
    left = LONGEST_FILE
    try:
        with open(path, "rb", buffering=0) as file:
            # The kernel hands out such files a page at a time, whatever is asked for.
            while left > 0 and (part := file.read(left)):
                parts.append(part)
                left -= len(part)
    except OSError as exc:
        raise KernelError(exc.errno or errno.EIO, path) from exc
    return b"".join(parts)


def executable(pid: int) -> Path | None:
    """The program file that `pid` runs; None where it has gone or may not be looked at."""
    try:
        return Path(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return None


def same_namespace(pid: int, kind: str) -> bool:
    """Whether `pid` lives in our own namespace of `kind` (``net``, ``mnt``); False where it has gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")
    except OSError:
        return False


def started_at(pid: int) -> float | None:
    """When `pid` was started, in seconds of the wall clock, right within a clock tick; None where it has gone."""
    stat = read_stat(pid)
    if stat is None:
        return None
    since_start = time.clock_gettime(time.CLOCK_BOOTTIME) - stat.start_ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - since_start
