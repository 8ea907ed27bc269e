"""A charon that somebody else runs: its end is a kernel event, its successor is looked for; nothing is started or sent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from site_agent.observe.discovery import find_charon

LOOK_FOR_S = 0.5
"""Between two looks for a charon while there is none: a walk over /proc, a few milliseconds."""


class WatchedCharon:
    """`run` it as a task; `pid` is what the check reads."""

    ready = True
    """Somebody else loaded it: it serves with what it has."""

    def __init__(self, on_exit: Callable[[int], None], on_found: Callable[[], None]) -> None:
        self.pid: int | None = None
        self._on_exit, self._on_found = on_exit, on_found

    async def run(self) -> None:
        """Watch one charon after the other until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            pid = find_charon()
            try:
                pidfd = None if pid is None else os.pidfd_open(pid)
            except ProcessLookupError:
                pidfd = None
            if pid is None or pidfd is None:
                await asyncio.sleep(LOOK_FOR_S)
                continue
            self.pid = pid
            self._on_found()
            ended = asyncio.Event()
            try:
                loop.add_reader(pidfd, ended.set)
                await ended.wait()
            finally:
                loop.remove_reader(pidfd)
                os.close(pidfd)
            self.pid = None
            self._on_exit(pid)
