"""Is there a charon that runs? The process table says so, and no outsider can cause it: a fact.

The exit is an event (pidfd) and reported by whoever owns the process, through `exited`. Being stopped (SIGSTOP, a
debugger, the freezer's signal) has no event, so the state is read every 100 ms; a stop shorter than the limit is what an
operator's `gdb` or core dump does, and counts as nothing.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from anycast.model import EvidenceClass
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.checks.base import Finding, Timing, failing, passing, unknown
from site_agent.procfs import read_stat

NAME = "charon_process"
STOPPED_STATES = frozenset("Tt")


class Watched(Protocol):
    """Whoever owns the process: the agent that runs it, or an observer of somebody else's."""

    @property
    def pid(self) -> int | None:
        """None while none runs."""
        ...

    @property
    def ready(self) -> bool:
        """It has had its connections loaded."""
        ...


class CharonCheck:
    """Reports `charon_process`."""

    reports: Mapping[str, EvidenceClass] = {NAME: EvidenceClass.FACT}
    timing = Timing(interval_s=0.1, timeout_s=1.0, rise=1, fall=1)

    def __init__(self, charon: Watched, *, stop_limit_s: float, clock: Callable[[], float] = boottime) -> None:
        self._charon, self._stop_limit_s, self._clock = charon, stop_limit_s, clock
        self._stopped_since: float | None = None
        self._last_exit: Finding | None = None

    def exited(self, pid: int, status: int | None) -> Finding:
        """What the end of the process means. Stands until another one is ready."""
        self._stopped_since = None
        self._last_exit = failing(NAME, Reason.CHARON_EXITED, f"pid {pid} {describe_exit(status)}")
        return self._last_exit

    async def look(self) -> Sequence[Finding]:
        pid = self._charon.pid
        stat = None if pid is None else read_stat(pid)
        if pid is None or stat is None:
            return [self._last_exit or failing(NAME, Reason.CHARON_ABSENT, "no charon to watch")]
        if stat.exiting:
            return [self.exited(pid, stat.exit_status)]
        if stat.state in STOPPED_STATES:
            now = self._clock()
            self._stopped_since = self._stopped_since or now
            stopped_s = now - self._stopped_since
            if stopped_s > self._stop_limit_s:
                return [failing(NAME, Reason.CHARON_STOPPED, f"pid {pid} in state {stat.state} for {stopped_s:.1f} s")]
            return [unknown(NAME, Reason.CHARON_STOPPED, f"pid {pid} in state {stat.state}")]
        self._stopped_since = None
        if not self._charon.ready:
            return [unknown(NAME, Reason.CONNECTIONS_NOT_LOADED, f"pid {pid} has no connections yet")]
        self._last_exit = None
        return [passing(NAME, f"pid {pid}")]


def describe_exit(status: int | None) -> str:
    """`killed by SIGKILL`, `exited with 2`, or `exited` for a process that was not our child."""
    if status is None:
        return "exited"
    if status >= 0:
        return f"exited with {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
