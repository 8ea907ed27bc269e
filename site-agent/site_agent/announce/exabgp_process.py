"""ExaBGP as a daemon of ours: how it is started, and how it is ended together with its bridge.

It runs as an unprivileged user and is told everything by its command line and environment, so that an
``/etc/exabgp/exabgp.env`` of the operator's own ExaBGP changes nothing. ExaBGP puts its helper in a process group
of its own and a stopped helper does not see that its pipe was closed, so ending ExaBGP alone may leave one behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from anycast.errors import PeerError
from site_agent import priority
from site_agent.daemon_process import DetachedProcess, ProcessSpec, recorded_pid, settings_digest
from site_agent.procfs import read_stat, same_namespace

REACTOR_SPEED = "10.0"
"""ExaBGP's main loop sleeps this many hundredths of a second unless a pipe or socket wakes it. Commands and BGP messages
do wake it, so its default (1.0) buys nothing: measured at rest 1.8 % of a core with 1.0, 0.2 % with 10.0, and the same 2 ms
from a lost verdict to the upstream. Only ExaBGP's own timers (keepalive, connect) are coarser."""
BRIDGE_END_LIMIT_S = 5.0
_INHERITED = ("PATH", "PYTHONPATH", "LANG", "TZ")


def record_in(run_dir: Path) -> Path:
    """Where the pid and the start time of an ExaBGP of ours stand."""
    return run_dir / "exabgp.pid"


def exabgp_spec(*, config: Path, run_dir: Path, run_as: str) -> ProcessSpec:
    """How ExaBGP is started with `config`. `run_dir` takes its log and the record by which it is adopted."""
    settings = {
        "api.ack": "true",
        "api.cli": "false",
        "api.encoder": "json",
        "api.respawn": "true",
        "bgp.openwait": "10",
        "daemon.daemonize": "false",
        "daemon.drop": "false",
        "daemon.user": "nobody",  # must have a name; unused, because the child has dropped to `run_as` before
        "log.destination": "stderr",
        "log.level": "INFO",  # what comes of a reload is said at this level only (exabgp_reload.py)
        "log.statistics": "false",
        "reactor.speed": REACTOR_SPEED,
        "tcp.bind": "",
    }
    env = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    env |= {f"exabgp_{name.replace('.', '_')}": value for name, value in settings.items()}
    env["EXABGP_ENVFILE"] = os.devnull
    # Before its first connection ExaBGP asks for the machine's own full name. Where /etc/hosts does not have it and no
    # resolver answers, glibc's defaults hold every session back for 10 s a resolver (measured).
    env["RES_OPTIONS"] = "timeout:1 attempts:1"
    return ProcessSpec(
        name="exabgp",
        argv=(sys.executable, "-m", "exabgp", "server", str(config)),
        env=env,
        record=record_in(run_dir),
        log=run_dir / "exabgp.log",
        run_as=run_as,
        settings=settings_digest(config),
        nice=priority.HOLDS_THE_LEASE,
    )


async def end_with_children(process: DetachedProcess) -> None:
    """SIGKILL ExaBGP and then its bridges, and wait until all are gone. Raises PeerError where one cannot be ended."""
    if process.pid is None:
        return
    with contextlib.ExitStack() as stack:
        bridges = [pidfd for pid in children(process.pid) if (pidfd := _open(pid, process.pid)) is not None]
        for pidfd in bridges:
            stack.callback(os.close, pidfd)
        process.kill()  # first: its TCP close is the withdrawal
        for pidfd in bridges:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        await process.stop()
        async with asyncio.timeout(BRIDGE_END_LIMIT_S):
            for pidfd in bridges:
                await _readable(pidfd)


def end_recorded(run_dir: Path) -> int | None:
    """SIGKILL the ExaBGP that an agent recorded in `run_dir`, and its bridges, without any agent; return when they are gone.

    Returns its pid, None where none runs. Raises PeerError where it does not end. Blocks.
    """
    recorded = recorded_pid(record_in(run_dir))
    pid = recorded if recorded is not None and same_namespace(recorded, "net") else None
    if pid is None:
        return None
    with contextlib.ExitStack() as stack:
        bridges = [pidfd for child in children(pid) if (pidfd := _open(child, pid)) is not None]
        try:
            pidfds = [os.pidfd_open(pid), *bridges]
        except ProcessLookupError:
            pidfds = bridges
        for pidfd in pidfds:
            stack.callback(os.close, pidfd)
        if recorded_pid(record_in(run_dir)) != pid:  # it ended, and its number was taken, between the look and the open
            return None
        for pidfd in pidfds:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        for pidfd in pidfds:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            if not poller.poll(BRIDGE_END_LIMIT_S * 1000):
                raise PeerError("exabgp", f"pid {pid} or its bridge did not end within {BRIDGE_END_LIMIT_S:g} s of SIGKILL")
    return pid


def children(parent: int) -> Iterator[int]:
    """The processes whose parent is `parent`. By a look at all: not every kernel has ``/proc/PID/task/TID/children``."""
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and (stat := read_stat(int(entry))) is not None and stat.parent == parent:
            yield int(entry)


def _open(pid: int, parent: int) -> int | None:
    """A pidfd of `pid`, looked at again after the open: its number may have been taken by another process."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    stat = read_stat(pid)
    if stat is None or stat.parent != parent:
        os.close(pidfd)
        return None
    return pidfd


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(fd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(fd)
