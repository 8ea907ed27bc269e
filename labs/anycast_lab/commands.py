"""Commands and files of nodes, the same for each runner: what is left to it is how a process starts in a node."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from anycast_lab.embedded.channel import OutputPipe, input_file, pid_namespace
from anycast_lab.runner import Completed, LabError, Process


class SessionProcess(Process, Protocol):
    """A process whose whole session can be ended."""

    def kill_session(self) -> None:
        """The process and what it started, unless that made a session of its own (a daemon does)."""


class NodeCommands(abc.ABC):
    """The half of `anycast_lab.runner.Runner` that runs commands and moves files."""

    @abc.abstractmethod
    def pid(self, node: str) -> int: ...

    @abc.abstractmethod
    async def _start(
        self, node: str, argv: Sequence[str], env: Mapping[str, str], fds: tuple[int, int, int]
    ) -> SessionProcess:
        """Start `argv` in the node with `fds` as its standard streams; the caller keeps and closes its own copies."""

    async def exec(
        self,
        node: str,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        streams = {1: bytearray(), 2: bytearray()}
        rc = await self.stream(node, argv, lambda fd, data: streams[fd].extend(data), stdin=stdin, timeout=timeout, env=env)
        return Completed(tuple(argv), rc, bytes(streams[1]), bytes(streams[2]))

    async def stream(
        self,
        node: str,
        argv: Sequence[str],
        output: Callable[[int, bytes], None],
        *,
        stdin: bytes = b"",
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Like `exec`, handing on output as it comes: `output(1, …)` for stdout, `output(2, …)` for stderr."""
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(input_file(stdin))
            pipes = {fd: stack.enter_context(OutputPipe(fd, output)) for fd in (1, 2)}
            process = await self._start(node, argv, env or {}, (source, pipes[1].write_end, pipes[2].write_end))
            for pipe in pipes.values():
                pipe.listen()
            try:
                async with asyncio.timeout(timeout):
                    rc = await process.wait()
            except TimeoutError:
                process.kill_session()
                rc = await process.wait()
            except asyncio.CancelledError:
                process.kill_session()
                raise
            for pipe in pipes.values():
                pipe.drain()
            return rc

    async def spawn(
        self,
        node: str,
        argv: Sequence[str],
        *,
        stdout: Path | None = None,
        stderr: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Process:
        with contextlib.ExitStack() as stack:
            fds = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)]
            for path in (stdout, stderr):
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                fds.append(os.open(path or os.devnull, flags, 0o644))
            for fd in fds:
                stack.callback(os.close, fd)
            return await self._start(node, argv, env or {}, (fds[0], fds[1], fds[2]))

    async def put(self, node: str, path: str, data: bytes, mode: int = 0o644) -> None:
        target = self._file(node, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.new")
        temporary.write_bytes(data)
        temporary.chmod(mode)
        temporary.replace(target)

    async def get(self, node: str, path: str) -> bytes:
        try:
            return self._file(node, path).read_bytes()
        except OSError as exc:
            raise LabError(f"{node}: {path}: {exc.strerror}") from exc

    def _file(self, node: str, path: str) -> Path:
        if not path.startswith("/"):
            raise LabError(f"{path} is not an absolute path")
        return Path(f"/proc/{self.pid(node)}/root{path}")

    def pids(self, node: str) -> list[int]:
        init = self.pid(node)
        namespace = pid_namespace(init)
        pids = (int(entry) for entry in os.listdir("/proc") if entry.isdecimal())
        return [pid for pid in pids if pid != init and pid_namespace(pid) == namespace]
