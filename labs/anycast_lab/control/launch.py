"""Start and end a lab from the host's side.

The launcher forks a process that becomes PID 1 of new PID, mount, network, UTS and IPC namespaces, listens on the lab's
socket and turns into the lab server (natively) or into the relay that has User Mode Linux as its child. That process is
the lab: there is no pid file, because the kernel tells who listens on the socket (SO_PEERCRED), and nothing to undo, because
the kernel ends everything in a PID namespace with its PID 1. What stays behind is ``/run/anycast-lab/NAME`` with the socket
and the log; `stop` removes it, and the next `start` does if nobody lives there.
"""

from __future__ import annotations

import compileall
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from anycast_lab.containerlab import prepared
from anycast_lab.embedded import root, syscalls, uml
from anycast_lab.embedded.kernel import Kernel
from anycast_lab.runner import LabError
from anycast_lab.topology import Topology

RUN = Path("/run/anycast-lab")
CHECKOUT = root.CHECKOUT
END_TIMEOUT = 20.0
"""Seconds until the kernel has taken down a killed lab; ten nodes take under one."""
_NAMESPACES = (
    syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC
)


def run_dir(name: str) -> Path:
    return RUN / name


def connect(name: str) -> socket.socket | None:
    """A connection to the running lab `name`; None when there is none."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(str(run_dir(name) / "control.sock"))
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except PermissionError as exc:
        sock.close()
        raise LabError("labs are root's: run this with sudo") from exc
    return sock


def start(name: str, topology: Topology, kernel: Kernel, *, esp: bool, runner: str = "embedded") -> socket.socket:
    """Start the PID 1 of a lab and return a connection to it; the lab itself comes up by the `up` verb.

    `name` is unique on this machine; the same topology may be up under several names.

    Raises:
        LabError: it is running already, or could not be started.
    """
    if os.geteuid() != 0:
        raise LabError("labs need root: run this with sudo")
    disk = prepared.disk() if runner == "containerlab" else None
    directory = run_dir(name)
    with _one_start_at_a_time():
        if (other := connect(name)) is not None:
            other.close()
            raise LabError(f"lab {name} is up already; `anycast lab down -n {name}` ends it")
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
        _compile()
        variables = directory / uml.VARIABLES_FILE
        variables.touch(mode=0o600)
        variables.write_text(json.dumps(topology.variables))
        server = ["--topology", str(topology.path), "--kernel", kernel, *(["--esp"] if esp or kernel == "uml" else [])]
        server += ["--runner", runner]
        if kernel == "uml":
            _spawn_init(directory, lambda listener: _uml(directory, listener, disk, server))
        else:
            _spawn_init(directory, lambda listener: _native(directory, listener, server))
        connection = connect(name)
    if connection is None:
        raise LabError(f"lab {name} ended while it started: {tail(name)}")
    return connection


def stop(name: str) -> bool:
    """End the lab at once and remove its run directory. False when there was none running."""
    sock = connect(name)
    try:
        if sock is None:
            return False
        with sock:
            pid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(END_TIMEOUT * 1000):
                raise LabError(f"lab {name} (pid {pid}) does not end within {END_TIMEOUT:.0f} s")
        finally:
            os.close(pidfd)
        return True
    finally:
        shutil.rmtree(run_dir(name), ignore_errors=True)
        with contextlib.suppress(OSError):  # other labs may live there
            RUN.rmdir()


def tail(name: str, lines: int = 12) -> str:
    """The end of the lab's log, for an error message."""
    with contextlib.suppress(OSError):
        return "\n".join((run_dir(name) / "log").read_text(errors="replace").splitlines()[-lines:])
    return "it left no log"


@contextlib.contextmanager
def _one_start_at_a_time() -> Iterator[None]:
    """Two `up` at the same moment: the second waits and then finds the first one's lab."""
    RUN.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(RUN, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _spawn_init(directory: Path, become: Callable[[socket.socket], NoReturn]) -> None:
    """Returns when the new PID 1 listens, or has ended."""
    listening, said = os.pipe2(os.O_CLOEXEC)
    middle = os.fork()
    if middle == 0:
        try:
            os.close(listening)
            os.setsid()
            log = os.open(directory / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            null = os.open(os.devnull, os.O_RDONLY)
            for target, fd in ((0, null), (1, log), (2, log)):
                os.dup2(fd, target)
            syscalls.unshare(_NAMESPACES)
            if os.fork() == 0:
                listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                listener.bind(str(directory / "control.sock"))
                os.chmod(directory / "control.sock", 0o600)
                listener.listen(64)
                listener.set_inheritable(True)
                os.close(said)
                become(listener)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(70)  # EX_SOFTWARE
    os.close(said)
    os.read(listening, 1)  # ends when the last copy of `said` does
    os.close(listening)
    os.waitpid(middle, 0)


def _compile() -> None:
    """Inside, the checkout is read-only: what is not compiled now would be compiled again by every process."""
    for package in ("anycast", "site-agent", "exabgp", "labs"):
        compileall.compile_dir(CHECKOUT / package, quiet=1)


def _native(directory: Path, listener: socket.socket, server: list[str]) -> NoReturn:
    told = {root.VARIABLES: (directory / uml.VARIABLES_FILE).read_text()}
    root.enter(CHECKOUT)
    argv = [str(root.PYTHON), "-m", "anycast_lab.control.server", "--listen-fd", str(listener.fileno()), *server]
    os.execve(argv[0], argv, environment() | told)


def _uml(directory: Path, listener: socket.socket, disk: Path | None, server: list[str]) -> NoReturn:
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("proc", "/proc", "proc")
    modules = uml.module_tree(CHECKOUT)
    argv = [
        sys.executable,
        "-m",
        "anycast_lab.embedded.relay",
        str(listener.fileno()),
        str(directory),
        str(modules),
        str(disk or ""),
        *server,
    ]
    os.execve(argv[0], argv, environment())


def environment() -> dict[str, str]:
    """For the lab's own processes: nothing of the operator's shell reaches a lab."""
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root", "PYTHONUNBUFFERED": "1"}
