"""What lets a tick come on time: real-time priority, locked memory, and no garbage collection in between.

Each is asked for, none is required at 50 ms and more: what was refused is said. Below that a tick that is late is a failover
that nobody asked for, so `fault_of` wants them all, and a self-test: 200 ticks of a millisecond, of which no more than two
may come later than a millisecond. It is tried three times at most, so it takes 0.2 s on a machine that passes and 0.6 s on
one that does not. A machine that was busy then, as one that boots is, is tested `Again` while it serves nobody. Beside four
busy processes on two cores, ticks of 10 ms came 3 ms late at the 99th percentile without real-time priority and 0.06 ms with
it (measured).
"""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable

from anycast.errors import KernelError

PRIORITY = 20
"""Above whatever else asks for real time without a number of its own, below the kernel's interrupt threads (50)."""
UNPROVEN_FROM_CS = 5
"""The shortest interval, in centiseconds, that is kept without proof; ten times what the scheduler's own slices cost."""
TEST_TICKS, TEST_TICK_S, TEST_TRIES = 200, 0.001, 3
MOST_LATE_MS = 1.0
"""At the 99th percentile; a tenth of the shortest interval."""
AGAIN_AFTER_S = 5.0
_MCL_CURRENT, _MCL_FUTURE = 1, 2


def prepare() -> list[str]:
    """Ask for everything. Returns what was refused, in words; empty where all is well."""
    refused = []
    for ask in (_be_real_time, _lock_memory):
        try:
            ask()
        except KernelError as exc:
            refused.append(str(exc))
    gc.collect()
    gc.freeze()
    gc.disable()  # the loop makes no cycles; what it would find was frozen
    return refused


def late_ticks_ms(count: int, interval_s: float) -> list[float]:
    """How late `count` ticks come, in milliseconds, in order of lateness. Blocks for `count` × `interval_s`, and what they
    are late: the next tick is due an interval after a late one, so one stall is one late tick."""
    late = []
    due = time.clock_gettime(time.CLOCK_BOOTTIME)
    for _ in range(count):
        due += interval_s
        time.sleep(max(0.0, due - time.clock_gettime(time.CLOCK_BOOTTIME)))
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        late.append((now - due) * 1000)
        due = max(due, now)
    return sorted(late)


def fault_of(interval_cs: int, refused: list[str], measure: Callable[[int, float], list[float]] = late_ticks_ms) -> str:
    """Why advertisements cannot be sent this often, as one sentence; empty where they can. `refused`: `prepare`'s answer."""
    if interval_cs >= UNPROVEN_FROM_CS:
        return ""
    remedy = f"set the interval to {UNPROVEN_FROM_CS * 10} ms or more"
    if refused:
        return f"an interval of {interval_cs * 10} ms is not kept: {'; '.join(refused)}; allow it, or {remedy}"
    worst = float("inf")
    for _ in range(TEST_TRIES):
        late = measure(TEST_TICKS, TEST_TICK_S)
        worst = min(worst, _percentile(late))
        if worst <= MOST_LATE_MS:
            return ""
    return (
        f"an interval of {interval_cs * 10} ms is not kept: one tick of a hundred in the self-test is {worst:.1f} ms late, "
        f"not {MOST_LATE_MS:g} at most, so this machine holds up real-time processes; {remedy}"
    )


class Again:
    """The self-test once more, beside what else a process does that failed it: one try every `AGAIN_AFTER_S`. Pure.

    Give it a turn at `deadline`. Two gateways that come back together after a power cut are both busy; without another try
    neither would ever serve.
    """

    def __init__(self, *, now: float) -> None:
        self.deadline = now + AGAIN_AFTER_S
        """CLOCK_BOOTTIME, seconds."""
        self._late: list[float] = []

    def tick(self, now: float) -> bool:
        """A turn, at `deadline` or later. True once the machine has passed."""
        self._late.append((now - self.deadline) * 1000)
        if len(self._late) <= TEST_TICKS:  # the first one came out of the pause and says nothing
            self.deadline = now + TEST_TICK_S
            return False
        passed = _percentile(sorted(self._late[1:])) <= MOST_LATE_MS
        self._late.clear()
        self.deadline = now + AGAIN_AFTER_S
        return passed


def _percentile(late: list[float]) -> float:
    return late[int(0.99 * len(late)) - 1]


def _be_real_time() -> None:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except OSError as exc:
        raise KernelError(exc.errno or 0, "real-time priority (CAP_SYS_NICE, RLIMIT_RTPRIO)") from exc


def _lock_memory() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE):
        raise KernelError(ctypes.get_errno(), "locked memory (CAP_IPC_LOCK, RLIMIT_MEMLOCK)")
