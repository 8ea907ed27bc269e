"""How an agent finds the vrrp process of the agent before it: a record in the run directory, kept while a process runs.

The record is single-use: whoever reads it removes it. What it tells of `boot` and of what was heard is the successor's in
any case, also where the process has ended. Only a clean stop writes a grace into it, which ends with its time; a process
without one is killed at once, because a stopped one that woke later would remove addresses that its successor holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
from pathlib import Path

from site_agent.procfs import read_stat, same_namespace
from site_agent.vrrp import wire


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Of a running process. Times are CLOCK_BOOTTIME in nanoseconds."""

    pid: int
    start_ticks: int
    role: str = ""
    boot: int = 0
    taken: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    bfd: dict[str, dict[str, int | str]] = dataclasses.field(default_factory=dict)
    grace_until_ns: int = 0
    """0: its agent has not stopped cleanly."""


class Orphan:
    """What was left: a record, and the process where it lives, by a pidfd: its number cannot become another's."""

    def __init__(self, record: Record, pidfd: int | None) -> None:
        self.record, self._pidfd = record, pidfd

    @property
    def lives(self) -> bool:
        """It did when the record was taken, and has not been killed by us."""
        return self._pidfd is not None

    def leave(self) -> None:
        """Have it let go of addresses that it holds, and of BFD without a word: that is its successor's."""
        self._signal(wire.LEAVE)

    def kill(self) -> None:
        """End it at once; nothing is removed. More than once is harmless."""
        self._signal(signal.SIGKILL)
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def _signal(self, number: signal.Signals) -> None:
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)


def write(path: Path, record: Record) -> None:
    """A full /run costs the next agent its mastership, and nothing else."""
    scratch = path.with_suffix(".new")
    with contextlib.suppress(OSError):
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            json.dump(dataclasses.asdict(record), file)
        scratch.replace(path)


def take(path: Path) -> Orphan | None:
    """What the record says, with the process where that very one lives. The record is gone afterwards."""
    try:
        fields = json.loads(path.read_text())
        known = {field.name for field in dataclasses.fields(Record)}
        record = Record(**{name: value for name, value in fields.items() if name in known})
        return Orphan(record, _open(record))
    except (OSError, ValueError, TypeError, AttributeError, OverflowError):
        return None
    finally:
        path.unlink(missing_ok=True)


def _open(record: Record) -> int | None:
    try:
        pidfd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return None
    stat = read_stat(record.pid)
    if stat is None or stat.state == "Z" or stat.start_ticks != record.start_ticks or not same_namespace(record.pid, "net"):
        os.close(pidfd)
        return None
    return pidfd
