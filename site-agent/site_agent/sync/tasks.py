"""Work that is begun and not waited for, and what has not ended of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from anycast.runtime import boottime


class Tasks:
    """Use from the loop that runs them."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def cancel(self) -> None:
        for task in self._running:
            task.cancel()


def armed(old: asyncio.TimerHandle | None, at: float | None, call: Callable[[], None]) -> asyncio.TimerHandle | None:
    """A timer in the place of `old` that calls at `at` (CLOCK_BOOTTIME); None: none."""
    if old is not None:
        old.cancel()
    if at is None:
        return None
    return asyncio.get_running_loop().call_later(max(at - boottime(), 0), call)
