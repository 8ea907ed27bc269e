"""Somebody is called: the operator's own program, once for each thing at the coordinator that somebody must look at.

It gets one JSON object on its standard input, and says by exit status 0 that it took it. What it did not take is tried
again; meanwhile `status` says so. Nothing waits for it. A coordinator that is started anew calls again for what stands
still: better twice than never.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from anycast.errors import ConfigError, Problem

LOOK_S = 1.0
RETRY_S = 30.0
LIMIT_S = 10.0
"""For the program; then its process group is killed."""
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_log = logging.getLogger(__name__)


class Pager:
    """Use from the event loop's thread: `run` until cancelled."""

    def __init__(self, program: Path, fleet: str, standing: Callable[[], Mapping[str, str]]) -> None:
        """`standing`: a sentence for each thing that stands, by a key that stays the same for as long as it does.
        Raises ConfigError where that is no program."""
        if not program.is_absolute() or not program.is_file() or not os.access(program, os.X_OK):
            raise ConfigError([Problem("page", f"{program} is no absolute path of a program that can be run")])
        self._program, self._fleet, self._standing = program, fleet, standing
        self.problem = ""
        """Why somebody has not been called."""

    async def run(self) -> None:
        told: set[str] = set()
        while True:
            standing = dict(self._standing())
            told &= standing.keys()
            for key, text in standing.items():
                if key not in told:
                    self.problem = await self._call(key, text)
                    if self.problem:
                        _log.error("%s", self.problem)
                        break
                    told.add(key)
            await asyncio.sleep(RETRY_S if self.problem else LOOK_S)

    async def _call(self, key: str, text: str) -> str:
        """Why it was not taken; empty: it was."""
        told = {"v": 1, "at": time.time(), "fleet": self._fleet, "reason": key.partition(" ")[0], "text": text}
        try:
            child = await asyncio.create_subprocess_exec(
                self._program, env=_ENVIRONMENT, cwd="/", start_new_session=True, stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as exc:
            return f"nobody was called: {self._program} cannot be run: {(exc.strerror or str(exc)).lower()}"
        try:
            async with asyncio.timeout(LIMIT_S):
                await child.communicate(json.dumps(told).encode() + b"\n")
        except TimeoutError:
            return f"nobody was called: {self._program} took longer than {LIMIT_S:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        return "" if child.returncode == 0 else f"nobody was called: {self._program} ended with {child.returncode}"
