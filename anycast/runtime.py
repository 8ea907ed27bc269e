"""The one loop that turns a pure core into a daemon, and the one clock that leases are told by.

A core has ``deadline`` (seconds of CLOCK_BOOTTIME, or None) and ``handle(event, now) -> actions``. It never sleeps, never
reads a clock and never touches a socket, so the same core runs under a virtual clock in a simulation and from a recorded
``.jsonl`` in a test.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from anycast.errors import BugError
from anycast.timer import TimerExpired

__all__ = ["Core", "TimerExpired", "boottime", "boottime_ns", "drive", "heed_cancellation"]

_E = TypeVar("_E", contravariant=True)
_A = TypeVar("_A", covariant=True)


class Core(Protocol[_E, _A]):
    @property
    def deadline(self) -> float | None: ...

    def handle(self, event: _E | TimerExpired, now: float) -> Sequence[_A]: ...


def heed_cancellation() -> None:
    """Raise CancelledError where this task was asked to end, for whoever has caught another exception in its place.

    A TaskGroup one of whose tasks fails while it is cancelled raises that failure, and the cancellation is forgotten
    (Python 3.11, asyncio/taskgroups.py); a loop that then begins again would never end.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def boottime() -> float:
    """Seconds of CLOCK_BOOTTIME: goes on while the machine sleeps, so a lease cannot outlive a suspend."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boottime_ns() -> int:
    """CLOCK_BOOTTIME in nanoseconds: what crosses process borders."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


async def drive(
    core: Core[Any, Any],
    inbox: asyncio.Queue[Any],
    perform: Callable[[Any], Awaitable[None] | None],
    *,
    record: Callable[[float, Any], None] | None = None,
    clock: Callable[[], float] = boottime,
) -> None:
    """Run `core` until cancelled. `perform` must be quick: a slow action is a task whose result becomes an input.

    Raises BugError where an overdue timer did not move the core's deadline: the loop would turn for ever.
    """
    while True:
        event: Any = TimerExpired()
        deadline = core.deadline
        # An overdue timer comes before any queued input: a flood must not starve it.
        if deadline is None or deadline > clock():
            delay = None if deadline is None else deadline - clock()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    event = await inbox.get()
        now = clock()
        if record is not None:
            record(now, event)
        actions = core.handle(event, now)
        if isinstance(event, TimerExpired) and deadline is not None and now >= deadline == core.deadline:
            raise BugError(f"{type(core).__name__} did not move a deadline that is {now - deadline:.3f} s overdue")
        for action in actions:
            result = perform(action)
            if result is not None:
                await result
