"""A process of ours beside the agent: started with a plan on its standard input, spoken to over a socketpair, watched by a
pidfd. Its module is told the number of its end of the socket, and nothing else stands in its arguments or environment."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import anycast
import site_agent
from anycast.errors import PeerError
from site_agent import priority
from site_agent.procfs import read_stat

ROOTS = os.pathsep.join(dict.fromkeys(str(Path(package.__path__[0]).parent) for package in (anycast, site_agent)))
"""Where a child finds our modules: its PYTHONPATH."""
LONGEST = 32768
"""Bytes of a packet."""


class SocketChild:
    """Starts at once. Raises PeerError where it cannot. Use from the event loop's thread only."""

    def __init__(
        self,
        name: str,
        plan: bytes,
        *,
        options: Sequence[str] = (),
        nice: int,
        log: IO[bytes] | int,
        said: Callable[[bytes], None],
        ended: Callable[[int], None],
    ) -> None:
        """`name` is the module below `site_agent`; `plan` fits into a pipe; `options` are the interpreter's.

        `said(packet)` for each one; `ended(status)` when all that it said was handed on.
        """
        self._said, self._ended = said, ended
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        with other:
            command = [sys.executable, *options, "-m", f"site_agent.{name}", str(other.fileno())]
            environment = {"PYTHONPATH": ROOTS, "LANG": "C.UTF-8"}
            try:
                self._child = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, cwd="/",
                    pass_fds=[other.fileno()], start_new_session=True,
                )  # fmt: skip
            except OSError as exc:
                self._socket.close()
                raise PeerError(name, f"cannot be started: {exc.strerror}: {exc.filename}") from exc
        self.pid = self._child.pid
        priority.prefer(self.pid, nice)
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._child.stdin as pipe:
            pipe.write(plan)
        self._pidfd = os.pidfd_open(self.pid)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket.fileno(), self._readable)
        loop.add_reader(self._pidfd, self._exited)
        self._listening = True

    @property
    def start_ticks(self) -> int:
        stat = read_stat(self.pid)
        return 0 if stat is None else stat.start_ticks

    def send(self, packet: bytes) -> None:
        """What it does not take any more is lost: it does not answer then, and that is noticed."""
        with contextlib.suppress(OSError):
            self._socket.send(packet)

    def kill(self) -> None:
        """More than once, or after its end, is harmless."""
        if not self._listening:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def release(self) -> None:
        """Stop watching and close the socket; what the process makes of that is its last message's."""
        if not self._listening:
            return
        self._listening = False
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket.fileno())
        loop.remove_reader(self._pidfd)
        self._socket.close()
        os.close(self._pidfd)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(LONGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())  # its end is the pidfd's to tell
            return
        self._said(data)

    def _exited(self) -> None:
        while self._listening:
            with contextlib.suppress(OSError):
                if data := self._socket.recv(LONGEST):
                    self._said(data)
                    continue
            break
        self.release()
        self._ended(self._child.wait())
