"""Reaping, as PID 1 must: everything that has ended is taken note of, and whoever waits for it is told."""

from __future__ import annotations

import asyncio
import contextlib
import os


class Children:
    """`reap` is the handler of SIGCHLD. Register a child before the event loop runs again after its start."""

    def __init__(self) -> None:
        self._awaited = dict[int, asyncio.Future[int]]()

    def status(self, pid: int) -> asyncio.Future[int]:
        """Will hold the exit status of the child `pid`; negative: the signal that ended it."""
        return self._awaited.setdefault(pid, asyncio.get_running_loop().create_future())

    def reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                future = self._awaited.pop(ended[0], None)
                if future is not None and not future.done():
                    future.set_result(os.waitstatus_to_exitcode(ended[1]))
