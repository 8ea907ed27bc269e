"""What a topology's `entrypoint` and `cmd` start in a node: there as long as the node is.

containerlab's restart policy for `linux` nodes is `always`: what ends is started again, after 0.1 s, twice that the next
time and so on, until it has run for 10 s (Docker's rule). Its standard input is open and silent, so that a shell waits there
for ever. Output: the node's /var/log/main.log.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from anycast_lab.embedded.channel import NodeChannel, NodeProcess
from anycast_lab.runner import LabError

FIRST_PAUSE, LONGEST_PAUSE, LONG_ENOUGH = 0.1, 60.0, 10.0
"""Seconds."""


class MainProcess:
    def __init__(self, channel: NodeChannel, argv: Sequence[str], log: Path) -> None:
        self._channel, self._argv, self._log = channel, argv, log
        self._input = os.pipe2(os.O_CLOEXEC)
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._keeper = asyncio.create_task(self._keep(await self._run()))

    async def stop(self) -> None:
        """No more starts; the process itself ends with the node."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        for fd in self._input:
            os.close(fd)

    async def _run(self) -> NodeProcess:
        with self._log.open("ab") as output:
            return await self._channel.start(self._argv, {}, (self._input[0], output.fileno(), output.fileno()))

    async def _keep(self, process: NodeProcess) -> None:
        loop, pause = asyncio.get_running_loop(), FIRST_PAUSE
        with contextlib.suppress(LabError):  # the node is off: there is nothing to keep
            while True:
                began = loop.time()
                await process.wait()
                pause = FIRST_PAUSE if loop.time() - began >= LONG_ENOUGH else min(pause * 2, LONGEST_PAUSE)
                await asyncio.sleep(pause)
                process = await self._run()
