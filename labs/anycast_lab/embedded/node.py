"""One machine of the lab: a process that is PID 1 in namespaces of its own, and nothing else.

It is forked from the lab server, so it has the product's libraries in memory already; a command of the product is then a
fork away instead of an interpreter start (in User Mode Linux: 0.1 s instead of 4 s). It mounts what is private to the
machine, reports itself, then does three things for ever: start what the server asks for, reap, report exits. When the
server's end of the channel closes, it ends, and with it everything in its PID namespace.

Channel: AF_UNIX SOCK_SEQPACKET, one JSON object a packet. Server → node: ``Start`` with three descriptors (stdin, stdout,
stderr). Node → server: ``{"ready": true}``, or ``{"failed": why}`` and it ends; ``{"started": id}`` sent by the new process
itself, so that the kernel's SCM_CREDENTIALS give the server its pid in the server's own PID namespace; ``{"exited": id,
"status": wait status}``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from anycast_lab.embedded import forked, syscalls
from anycast_lab.embedded.root import COMMANDS, PRODUCT
from anycast_lab.topology import Bind

PACKET = 192 * 1024
"""Largest packet; below the default socket send buffer (net.core.wmem_default, 208 KiB)."""
PATH = f"{COMMANDS}:{PRODUCT}/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DISKS = ("/var/lib", "/var/log")
"""Empty at the first boot and kept across a power cycle, like a disk."""
_OWN_ETC = "/etc"
"""Starts as the host's and is the machine's own from then on: two gateways write different files of the same name."""


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    """What a node is booted with."""

    name: str
    hostname: str
    netns: int
    """Descriptor of the network namespace; the server made it and wired its links."""
    disk: Path
    """Folder of the server that holds what survives a power cycle."""
    binds: tuple[Bind, ...]
    env: Mapping[str, str]
    sysctls: Mapping[str, str]


def main_log(machine: Machine) -> Path:
    """Where the node's /var/log/main.log lies, seen from the server."""
    return _disk(machine, "/var/log") / "main.log"


def _disk(machine: Machine, path: str) -> Path:
    return machine.disk / path.replace("/", "-")[1:]


def boot(machine: Machine, channel: socket.socket) -> None:
    """Fork the node's init; it answers `ready` on the other end of `channel`."""
    home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.unshare(syscalls.CLONE_NEWPID)  # concerns children only: the next one is PID 1 of a new namespace
        if os.fork() == 0:
            _never_return(lambda: _become_init(machine, channel))
    finally:
        syscalls.setns(home, syscalls.CLONE_NEWPID)
        os.close(home)


def _never_return(work: Callable[[], None]) -> NoReturn:
    """Run `work` in a forked child: whatever happens, the parent's stack below us must never continue here."""
    try:
        work()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(70)  # EX_SOFTWARE
    os._exit(0)


def _become_init(machine: Machine, channel: socket.socket) -> None:
    forked.forget_parent(keep=(channel.fileno(), machine.netns))
    syscalls.setns(machine.netns, syscalls.CLONE_NEWNET)
    os.close(machine.netns)
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC)
    _mount_private(machine)
    socket.sethostname(machine.hostname)
    for setting, value in machine.sysctls.items():
        try:
            Path("/proc/sys", *setting.split(".")).write_text(value)
        except OSError as exc:
            channel.send(json.dumps({"failed": f"sysctl {setting} = {value}: {exc.strerror}"}).encode())
            return
    _Init(machine, channel).run()


def _mount_private(machine: Machine) -> None:
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    upper, work = machine.disk / "etc", machine.disk / "etc-work"
    for folder in (upper, work):
        folder.mkdir(parents=True, exist_ok=True)
    syscalls.mount("overlay", _OWN_ETC, "overlay", data=f"lowerdir={_OWN_ETC},upperdir={upper},workdir={work}")
    # Sources first: a bind may come from below /run, which is about to be covered.
    binds = [(str(b.source), b.destination, b.read_only) for b in machine.binds]
    taken = {destination for _, destination, _ in binds}
    binds += [(str(_disk(machine, path)), path, False) for path in _DISKS if path not in taken]
    for source, destination, read_only in binds:
        if not os.path.exists(source):
            os.makedirs(source)
        if os.path.isdir(source):
            os.makedirs(destination, exist_ok=True)
        elif not os.path.exists(destination):
            os.makedirs(os.path.dirname(destination), exist_ok=True)
            Path(destination).touch()
        syscalls.bind(source, destination, read_only=read_only)
    # As a container has it; a name that only a resolver could answer makes programs wait for one.
    Path("/etc/hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {machine.hostname}\n")
    for target, options in (("/run", "mode=0755"), ("/tmp", "mode=1777")):
        syscalls.mount("tmpfs", target, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, options)
    os.mkdir("/run/lock", 0o1777)
    if not os.path.islink("/var/run"):
        syscalls.bind("/run", "/var/run")
    syscalls.mount("proc", "/proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
    # Settings outside /proc/sys/net are the whole machine's: the host's, on the native kernel.
    syscalls.bind("/proc/sys/net", "/run/lock")
    syscalls.bind("/proc/sys", "/proc/sys", read_only=True)
    syscalls.bind("/run/lock", "/proc/sys/net")
    syscalls.unmount("/run/lock")
    if os.path.exists("/proc/sysrq-trigger"):
        syscalls.bind("/proc/sysrq-trigger", "/proc/sysrq-trigger", read_only=True)
    syscalls.mount("sysfs", "/sys", "sysfs", syscalls.MS_RDONLY)


class _Init:
    """PID 1 of the node."""

    def __init__(self, machine: Machine, channel: socket.socket) -> None:
        self.machine, self.channel = machine, channel
        self.running = dict[int, int]()
        """pid → the server's id of the request."""

    def run(self) -> None:
        gc.freeze()  # the server's objects are not ours to collect: they own descriptors by number
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.channel.send(b'{"ready": true}')
        poll = select.poll()
        poll.register(self.channel, select.POLLIN)
        poll.register(wake_read, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == wake_read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake_read, 4096)
                    self.reap()
                elif not self.serve():
                    return

    def serve(self) -> bool:
        packet, fds, _, _ = socket.recv_fds(self.channel, PACKET, 3)
        if not packet:
            return False
        request = json.loads(packet)
        pid = os.fork()
        if pid == 0:
            _never_return(lambda: self.become(request, fds))
        for fd in fds:
            os.close(fd)
        self.running[pid] = request["start"]
        return True

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            request = self.running.pop(pid, None)
            if request is not None:
                self.channel.send(json.dumps({"exited": request, "status": status}).encode())

    def become(self, request: dict[str, Any], fds: list[int]) -> None:
        os.setsid()
        self.channel.send(json.dumps({"started": request["start"]}).encode())
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
        environment = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "TERM": "dumb", **self.machine.env}
        environment |= request["env"]
        argv: list[str] = request["argv"]
        os.chdir("/")
        os.umask(0o022)
        if (command := forked.python_target(argv)) is not None:
            forked.run(command, argv, environment)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        forked.default_signals()
        try:
            os.execvpe(argv[0], argv, environment)
        except OSError as exc:
            os.write(2, f"{argv[0]}: {exc.strerror}\n".encode())
            os._exit(127 if isinstance(exc, FileNotFoundError) else 126)
