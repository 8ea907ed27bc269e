"""From the command line to a running agent: one at a time, in the foreground or detached."""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import gc
import os
import sys
import threading
from pathlib import Path
from typing import IO, NoReturn

from anycast.errors import PeerError
from site_agent import core_dumps
from site_agent.agent import Agent
from site_agent.checks.vip import place_vips
from site_agent.document_source import Choice, choose, put_in_place
from site_agent.installation import make_directories
from site_agent.paths import Paths


def run_agent(paths: Paths, *, fleet: Path | None, gateway: str | None, document: Path | None, detach: bool) -> None:
    """Install the configuration, place the addresses and run until SIGTERM; with `detach`, return once that is done.

    Raises ConfigError (nothing was changed), KernelError, or PeerError where an agent is running already.
    """
    core_dumps.leave_none()
    choice = choose(paths, fleet=fleet, document=document, gateway=gateway)
    make_directories(paths)
    lock = _only_one(paths)
    choice = _install(choice, paths)
    if detach:
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fork() != 0:
            return  # the lock is the child's as well, and stays with it
        _become_daemon(paths, keep=lock.fileno())
    lock.seek(0)
    lock.truncate()
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    while asyncio.run(_run(choice, paths)):
        if not _nothing_left(lock.fileno()):
            _begin_anew(paths)
        choice = choose(paths, fleet=None, document=None, gateway=None)
        make_directories(paths)
        choice = _install(choice, paths)
    if detach:
        os._exit(0)  # the rest of this stack is the parent's to return through


def _install(choice: Choice, paths: Paths) -> Choice:
    """What is run by, in place of what was before it."""
    choice = put_in_place(choice, paths)
    for alarm in choice.alarms:
        print(f"site-agent: running by the kept document: {alarm.detail}", file=sys.stderr)
    service = choice.document.service
    # What moves is placed by the virtual router, at the Active only.
    place_vips(service.service_addresses if choice.document.vip_moves else service.ends)
    return choice


async def _run(choice: Choice, paths: Paths) -> bool:
    """Whether another document is to be run by."""
    agent = Agent(choice.document, paths, alarms=choice.alarms)
    await agent.run()
    return agent.again


def _nothing_left(lock: int) -> bool:
    """Whether the agent that has ended left no thread and no descriptor. Then the next one, which runs by the content that
    was activated, needs no new interpreter: its imports take a second of the restart grace that keeps the route."""
    gc.collect()
    opened = {int(name) for name in os.listdir("/proc/self/fd")}
    return threading.active_count() == 1 and len(opened - {0, 1, 2, lock}) <= 1  # the folder's own


def _begin_anew(paths: Paths) -> NoReturn:
    """Become an agent of the content that was activated, in the same process: systemd's main pid stays, and the restart
    grace that a clean stop leaves keeps the route."""
    folders = [f"--{name.replace('_', '-')}={value}" for name, value in dataclasses.asdict(paths).items()]
    os.execv(sys.executable, [sys.executable, "-m", "site_agent.cli", "run", *folders])


def _only_one(paths: Paths) -> IO[str]:
    """Lock the pid file for as long as this process lives. Raises PeerError."""
    file = open(os.open(paths.pid_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PeerError("site-agent", f"is already running as pid {file.read().strip()}") from None
    return file


def _become_daemon(paths: Paths, *, keep: int) -> None:
    """A session of our own, no terminal, nothing inherited but `keep`, and a file for what Python says of its own
    end."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(paths.run_dir / "agent.out", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.closerange(3, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
