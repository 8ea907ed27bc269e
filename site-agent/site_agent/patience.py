"""Work that may hang (a disk, a mount that has gone), in a thread that nobody has to wait for.

`asyncio.to_thread` would do, were it not that its threads are joined at the end: one that a dead disk holds would keep
the agent from ending, and a few of them would take the pool from everybody else. Here a thread that does not come back is
left behind, and only one at a time: while it hangs, the next request waits for it, and is refused when its time is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")
LONGEST_FILE = 512 * 1024
"""Of what an operator gives charon: VICI takes no longer packet. A certificate has 1 or 2 KiB."""


def read_file(path: Path, most_bytes: int = LONGEST_FILE) -> bytes:
    """A whole file. May wait for a disk. Raises OSError, EFBIG where it is longer (a link to /dev/zero is, too)."""
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC), "rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"longer than {most_bytes} bytes", str(path))
    return data


class OneAtATime:
    """Use from one event loop's thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self, work: Callable[[], _T], *, limit_s: float) -> _T:
        """The result of `work`, or what it raises. Raises TimeoutError after `limit_s`, whoever it was that hung."""
        async with asyncio.timeout(limit_s):
            while not self._idle.is_set():
                await self._idle.wait()
            self._idle.clear()
            return await self._start(work)

    def _start(self, work: Callable[[], _T]) -> asyncio.Future[_T]:
        loop = asyncio.get_running_loop()
        result: asyncio.Future[_T] = loop.create_future()

        def settle(value: _T | None, error: Exception | None) -> None:
            self._idle.set()
            if result.done():  # given up on meanwhile
                return
            if error is not None:
                result.set_exception(error)
            else:
                result.set_result(value)  # type: ignore[arg-type]  # `work` said so

        def in_thread() -> None:
            value: _T | None = None
            error: Exception | None = None
            try:
                value = work()
            except Exception as exc:  # handed on to whoever waits, whatever it is
                error = exc
            with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(settle, value, error)

        threading.Thread(target=in_thread, name=self._name, daemon=True).start()
        return result
