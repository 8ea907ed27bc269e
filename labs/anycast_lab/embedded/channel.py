"""The lab server's end of a node: the channel to its init, the processes started through it, their output.

`node.py` has the other end and the protocol. The pid of a process comes from the kernel (SCM_CREDENTIALS, translated into
the server's PID namespace); its exit status from the node's init, which is its parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType

from anycast_lab.embedded import node
from anycast_lab.runner import LabError

_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
_CHUNK = 64 * 1024


class NodeProcess:
    """Implements `anycast_lab.runner.Process`."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[int] = loop.create_future()
        self._status: asyncio.Future[int] = loop.create_future()

    @property
    def pid(self) -> int:
        return self.started.result()

    @property
    def returncode(self) -> int | None:
        return self._status.result() if self._status.done() else None

    async def wait(self) -> int:
        return await asyncio.shield(self._status)

    def send_signal(self, signal: int) -> None:
        if not self._status.done():
            send_signal(self.pid, signal)

    def kill_session(self) -> None:
        """The process and what it started, unless that made a session of its own (a daemon does)."""
        for entry in os.listdir("/proc"):
            if entry.isdecimal() and not self._status.done():
                with contextlib.suppress(ProcessLookupError):
                    if os.getsid(int(entry)) == self.pid:
                        os.kill(int(entry), signal.SIGKILL)

    def has_started(self, pid: int) -> None:
        self.started.set_result(pid)

    def has_ended(self, rc: int) -> None:
        if not self.started.done():
            self.started.set_exception(LabError("the process ended before it began"))
        if not self._status.done():
            self._status.set_result(rc)


class NodeChannel:
    """A running node."""

    def __init__(self, name: str, sock: socket.socket) -> None:
        self.name, self.pid, self.failure = name, 0, "did not boot (the lab's log says why)"
        self.ready, self.ended = asyncio.Event(), asyncio.Event()
        self._sock, self._next = sock, 0
        self._processes = dict[int, NodeProcess]()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        sock.setblocking(False)
        asyncio.get_running_loop().add_reader(sock, self._receive)

    @classmethod
    async def boot(cls, machine: node.Machine, timeout: float) -> NodeChannel:
        """Returns when the node's init has mounted everything and waits for work."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel = cls(machine.name, ours)
        with theirs:
            node.boot(machine, theirs)
        ended = asyncio.create_task(channel.ended.wait())
        ready = asyncio.create_task(channel.ready.wait())
        await asyncio.wait((ended, ready), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        ready.cancel()
        if not channel.ready.is_set():
            raise LabError(f"{machine.name}: {channel.failure}")
        return channel

    async def start(self, argv: Sequence[str], env: Mapping[str, str], fds: tuple[int, int, int]) -> NodeProcess:
        """Start `argv` with `fds` as its standard streams; the caller keeps and closes its own copies."""
        if self.ended.is_set():
            raise LabError(f"{self.name} is powered off")
        packet = json.dumps({"start": self._next, "argv": list(argv), "env": dict(env)}).encode()
        if len(packet) > node.PACKET:
            raise LabError(f"{self.name}: a command line of {len(packet)} bytes is longer than {node.PACKET}")
        process = self._processes[self._next] = NodeProcess()
        self._next += 1
        try:
            socket.send_fds(self._sock, [packet], fds)
        except BlockingIOError as exc:  # a frozen init reads nothing
            raise LabError(f"{self.name} takes no commands") from exc
        await process.started
        return process

    def kill(self) -> None:
        send_signal(self.pid, signal.SIGKILL)

    def _receive(self) -> None:
        while True:
            try:
                packet, ancillary, _, _ = self._sock.recvmsg(node.PACKET, socket.CMSG_SPACE(_CREDENTIALS.size))
            except BlockingIOError:
                return
            except ConnectionResetError:
                packet = b""
            if not packet:
                self._end()
                return
            pid = _CREDENTIALS.unpack(ancillary[0][2][: _CREDENTIALS.size])[0]
            match json.loads(packet):
                case {"ready": True}:
                    self.pid = pid
                    self.ready.set()
                case {"failed": why}:
                    self.failure = why
                case {"started": request}:
                    self._processes[request].has_started(pid)
                case {"exited": request, "status": status}:
                    self._processes.pop(request).has_ended(os.waitstatus_to_exitcode(status))

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()
        for process in self._processes.values():  # the kernel killed them with their init
            process.has_ended(-signal.SIGKILL)
        self._processes.clear()
        self.ended.set()


class OutputPipe:
    """A pipe whose read end belongs to the event loop. A daemon may keep its write end open: nobody waits for its end."""

    def __init__(self, fd: int, output: Callable[[int, bytes], None]) -> None:
        self.fd, self._output = fd, output
        self._read_end, self.write_end = os.pipe2(os.O_CLOEXEC)

    def __enter__(self) -> OutputPipe:
        os.set_blocking(self._read_end, False)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        asyncio.get_running_loop().remove_reader(self._read_end)
        os.close(self._read_end)
        if self.write_end >= 0:
            os.close(self.write_end)

    def listen(self) -> None:
        """The process has its copy of the write end."""
        os.close(self.write_end)
        self.write_end = -1
        asyncio.get_running_loop().add_reader(self._read_end, self.drain)

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._read_end, _CHUNK):
                self._output(self.fd, data)
            asyncio.get_running_loop().remove_reader(self._read_end)  # end of file


@contextlib.contextmanager
def input_file(data: bytes) -> Iterator[int]:
    """`data` as a descriptor to read from; nobody has to feed it."""
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def send_signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def pid_namespace(pid: int) -> str:
    """Identity of the PID namespace of `pid`; empty when it is gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""
