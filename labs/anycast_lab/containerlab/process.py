"""Processes that the lab's server starts: in its own namespaces (containerlab, docker, dockerd) and in a container's.

A command enters its container by util-linux's nsenter, which costs a tenth of what `docker exec` costs in User Mode Linux
and leaves the process in the server's sight: nsenter is the server's child, waits for the command, and ends as it ended.
It also stops itself when its command is stopped, as a shell's job would, and has to be continued after it.
All are started by posix_spawn: the server is too large to be forked for each (0.1 s in User Mode Linux).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from anycast_lab.control.children import Children
from anycast_lab.embedded.channel import send_signal
from anycast_lab.runner import LabError, Progress

_ENTER = ("nsenter", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
_LOOK_S = 0.005
_STOPPED_LOOK_S = 0.5
_DEFAULTED = (signal.SIGPIPE, signal.SIGXFSZ)
"""Ignored by Python, and inherited where nobody says otherwise."""


def spawn(argv: Sequence[str], env: Mapping[str, str], fds: tuple[int, int, int]) -> int:
    """Start `argv` in a session of its own; its pid."""
    program = shutil.which(argv[0], path=env["PATH"])  # posix_spawnp looks in our own PATH
    if program is None:
        raise LabError(f"{argv[0]} was not found in {env['PATH']}")
    actions = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(fds)]
    return os.posix_spawn(program, list(argv), env, file_actions=actions, setsid=True, setsigdef=_DEFAULTED, setsigmask=())


class ContainerProcess:
    """Implements `anycast_lab.commands.SessionProcess`."""

    def __init__(self, helper: int, status: asyncio.Future[int]) -> None:
        self._helper, self._status = helper, status
        self.pid = 0
        self._following = asyncio.create_task(self._follow())

    @classmethod
    async def start(
        cls, children: Children, init: int, argv: Sequence[str], env: Mapping[str, str], fds: tuple[int, int, int]
    ) -> ContainerProcess:
        """`init`: the container's first process."""
        helper = spawn([*_ENTER, f"--target={init}", "--wdns=/", "--", *argv], env, fds)
        process = cls(helper, children.status(helper))
        while not process._status.done() and not process._found():
            await asyncio.sleep(_LOOK_S)
        return process

    @property
    def returncode(self) -> int | None:
        return self._status.result() if self._status.done() else None

    async def wait(self) -> int:
        return await asyncio.shield(self._status)

    def send_signal(self, signal: int) -> None:
        if not self._status.done() and self.pid:
            send_signal(self.pid, signal)

    def kill_session(self) -> None:
        for entry in os.listdir("/proc"):
            if entry.isdecimal() and not self._status.done():
                with contextlib.suppress(ProcessLookupError):
                    if os.getsid(int(entry)) == self._helper and int(entry) != self._helper:
                        os.kill(int(entry), signal.SIGKILL)
        if not self.pid:
            send_signal(self._helper, signal.SIGKILL)

    async def _follow(self) -> None:
        """Whoever was stopped, by a drill or with its whole machine, and runs again or was killed, is waited for again."""
        while not self._status.done():
            await asyncio.wait([self._status], timeout=_STOPPED_LOOK_S)
            if _state(self._helper) == "T" and _state(self.pid) != "T":
                send_signal(self._helper, signal.SIGCONT)

    def _found(self) -> bool:
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{self._helper}/task/{self._helper}/children").read_text().split()
            if children:
                self.pid = int(children[0])
        return bool(self.pid)


def _state(pid: int) -> str:
    """As in proc(5): T is stopped, Z has ended; empty where there is no such process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


async def run(
    children: Children, argv: Sequence[str], env: Mapping[str, str], *, limit_s: float, progress: Progress = lambda _: None
) -> tuple[int, str]:
    """Run a command of the lab's own to its end: exit status, and what it said on both streams. Raises LabError when late.

    `progress` hears each line as it comes.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pid = spawn(argv, env, (null, write_end, write_end))
    finally:
        os.close(null)
        os.close(write_end)
    status = children.status(pid)
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", buffering=0)
    )
    try:
        async with asyncio.timeout(limit_s):
            said = list[str]()
            while line := await reader.readline():
                said.append(line.decode(errors="replace"))
                progress(said[-1].rstrip())
            return await asyncio.shield(status), "".join(said)
    except TimeoutError as exc:
        raise LabError(f"`{' '.join(argv[:3])}` did not end within {limit_s:.0f} s") from exc
    finally:
        transport.close()
        if not status.done():  # late, or nobody wants it any more
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
