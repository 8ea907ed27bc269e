"""Do tasks wait for a CPU?

Load, not a fact: a flood is work for the CPU. An overloaded machine explains time-outs elsewhere, so what this check says is
also what keeps a time-out from being believed.

The kernel's pressure stall information says it directly, and cheaply. Where it is compiled out or off (`psi=0`; some
distributions' default), the run queue is read and our own lateness is measured: how late a timer of a few milliseconds
comes back is what the lease's timer suffers too.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence

from anycast.errors import KernelError
from anycast.model import EvidenceClass
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.checks.base import Finding, Timing, failing, passing
from site_agent.proc_counters import parse_pressure, parse_run_queue
from site_agent.procfs import read_file

NAME = "cpu_pressure"
PRESSURE = "/proc/pressure/cpu"
LOADAVG = "/proc/loadavg"

STALLED_LIMIT_PERCENT = 80.0
"""`some avg10`: for four fifths of the last 10 s somebody waited. A gateway that is merely busy stays below."""
QUEUE_LIMIT_PER_CPU = 4.0
LATE_LIMIT_S = 0.1
"""A third of the tick in which a 1 s lease is renewed."""
TIMER_S = 0.005


class PressureCheck:
    """Reports `cpu_pressure`."""

    reports: Mapping[str, EvidenceClass] = {NAME: EvidenceClass.LOAD}
    timing = Timing(interval_s=2.0, timeout_s=2.0)

    def __init__(self, read: Callable[[str], bytes] = read_file, clock: Callable[[], float] = boottime) -> None:
        self._read, self._clock = read, clock
        self._cpus = len(os.sched_getaffinity(0))

    async def look(self) -> Sequence[Finding]:
        try:
            seen = judge_stalled(parse_pressure(self._read(PRESSURE)))
        except KernelError:  # no such file, or EOPNOTSUPP with psi=0
            began = self._clock()
            await asyncio.sleep(TIMER_S)
            late_s = max(0.0, self._clock() - began - TIMER_S)
            waiting = max(0, parse_run_queue(self._read(LOADAVG)) - 1)  # without the one that reads
            seen = judge_queue(waiting / self._cpus, late_s)
        return [seen]


def judge_stalled(percent: float) -> Finding:
    """By pressure stall information."""
    detail = f"tasks waited for a CPU in {percent:.0f} % of the last 10 s"
    return failing(NAME, Reason.CPU_PRESSURE, detail) if percent >= STALLED_LIMIT_PERCENT else passing(NAME, detail)


def judge_queue(per_cpu: float, late_s: float) -> Finding:
    """By the run queue's length and the lateness of our own timer."""
    detail = f"{per_cpu:.1f} runnable tasks per CPU, own timer {late_s * 1000:.0f} ms late"
    high = per_cpu >= QUEUE_LIMIT_PER_CPU or late_s >= LATE_LIMIT_S
    return failing(NAME, Reason.CPU_PRESSURE, detail) if high else passing(NAME, detail)
