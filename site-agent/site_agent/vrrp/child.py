"""One vrrp process as its agent has it: started with a plan, spoken to over a socketpair, watched by a pidfd."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import anycast
import site_agent
from anycast.errors import DecodeError, PeerError
from site_agent import priority
from site_agent.procfs import read_stat
from site_agent.vrrp import plan as plans
from site_agent.vrrp import wire

_ROOTS = os.pathsep.join(dict.fromkeys(str(Path(package.__path__[0]).parent) for package in (anycast, site_agent)))


class Child:
    """Starts at once. Raises PeerError where it cannot. Use from the event loop's thread only."""

    def __init__(
        self,
        plan: plans.Plan,
        *,
        log: IO[bytes] | int,
        heard: Callable[[Child, wire.Message], None],
        ended: Callable[[Child, int], None],
    ) -> None:
        self.plan, self._heard, self._ended = plan, heard, ended
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        with other:
            # -S: nothing of what is installed beside us is looked at, which would be memory to lock.
            command = [sys.executable, "-S", "-m", "site_agent.vrrp", str(other.fileno())]
            environment = {"PYTHONPATH": _ROOTS, "LANG": "C.UTF-8"}
            try:
                self._child = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, cwd="/",
                    pass_fds=[other.fileno()], start_new_session=True,
                )  # fmt: skip
            except OSError as exc:
                self._socket.close()
                raise PeerError("vrrp", f"cannot be started: {exc.strerror}: {exc.filename}") from exc
        self.pid = self._child.pid
        priority.prefer(self.pid, priority.HOLDS_THE_LEASE)  # until it has asked for more
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._child.stdin as pipe:
            pipe.write(plans.encode(plan))  # fits into the pipe
        self._pidfd = os.pidfd_open(self.pid)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket.fileno(), self._readable)
        loop.add_reader(self._pidfd, self._exited)
        self._listening = True

    @property
    def start_ticks(self) -> int:
        stat = read_stat(self.pid)
        return 0 if stat is None else stat.start_ticks

    def tell(self, message: wire.Message) -> None:
        """What it does not take any more is lost: it does not answer then, and that is noticed."""
        with contextlib.suppress(OSError):
            self._socket.send(wire.encode(message))

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
            data = self._socket.recv(wire.LONGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())  # its end is the pidfd's to tell
            return
        with contextlib.suppress(DecodeError):
            self._heard(self, wire.decode(data))

    def _exited(self) -> None:
        while self._listening:
            with contextlib.suppress(DecodeError, OSError):
                if data := self._socket.recv(wire.LONGEST):
                    self._heard(self, wire.decode(data))
                    continue
            break
        self.release()
        self._ended(self, self._child.wait())
