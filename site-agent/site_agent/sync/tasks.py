"""Work that is begun and not waited for, and what has not ended of it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine


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
