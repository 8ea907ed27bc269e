"""A process that the agent starts, watches and ends, and that outlives the agent.

charon carries clients' tunnels and ExaBGP carries the route: neither may end because the agent was restarted. So both
run in a session of their own, and the agent leaves a record of (pid, start time, settings) in its run directory; the
next agent adopts by that record, or by the daemon's own pid file when nothing of ours started it. Adoption checks the
start time (ids are reused), the program file and the network namespace (a stale pid file must not adopt another
gateway's daemon).

The exit is a kernel event: a pidfd becomes readable and `on_exit` runs in the same loop iteration, for adopted
processes too, which are not our children. What the exit *means* and when to start again is the caller's; `keep_running`
is the loop that charon and ExaBGP share, with `Backoff` as its data.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import pwd
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import IO

from anycast.errors import PeerError
from anycast.events import AlarmCleared, AlarmRaised, Event, HolderStarted
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent import priority
from site_agent.procfs import executable, read_stat, same_namespace

LOG_KEPT_BYTES = 4 << 20
"""A daemon's log beyond this is copied to ``.1`` and emptied. /run is memory, and whoever sends charon a packet writes a
line of its log."""
LOG_LOOK_S = 1.0
"""A stranger's flood is a few MB of charon's log a second."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """What to start, and how to know it again."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    """The whole environment; nothing is inherited."""
    record: Path
    """Where the pid and the start time are kept for the next agent. On tmpfs: it must not survive a boot."""
    log: Path
    """Appended with the daemon's stdout and stderr."""
    own_log: Path | None = None
    """A file that the daemon itself appends to (O_APPEND); kept as short as `log`."""
    run_as: str | None = None
    """User name or numeric uid; None stays what the agent is. Dropped in the child, before exec."""
    pid_file: Path | None = None
    """The daemon's own pid file: a second way to adopt, removed before a start when it is stale."""
    nice: int = priority.ORDINARY
    """Set after the start: a daemon that the agent starts would have the agent's own."""
    program: Path | None = None
    """What ``/proc/PID/exe`` must be for an adoption by `pid_file`."""
    settings: str = ""
    """Digest of the configuration that a start would read (`settings_digest`)."""


@dataclasses.dataclass(slots=True)
class Backoff:
    """How long to wait before the next start. Doubles from `first_s` to `cap_s`; forgotten after `stable_s` of life."""

    first_s: float = 0.1
    cap_s: float = 10.0
    stable_s: float = 30.0
    _next_s: float = 0.0

    def after(self, lived_s: float) -> float:
        """Seconds to wait now that the process has ended after `lived_s`."""
        if lived_s >= self.stable_s or self._next_s == 0.0:
            self._next_s = self.first_s
        delay, self._next_s = self._next_s, min(self._next_s * 2, self.cap_s)
        return delay


def credentials(run_as: str) -> tuple[int, int]:
    """The uid and gid of a user name or a numeric uid (whose gid is the same number where it has no entry).

    Raises KeyError for a name that does not exist.
    """
    if not run_as.isdecimal():
        entry = pwd.getpwnam(run_as)
        return entry.pw_uid, entry.pw_gid
    with contextlib.suppress(KeyError):
        entry = pwd.getpwuid(int(run_as))
        return entry.pw_uid, entry.pw_gid
    return int(run_as), int(run_as)


def recorded_pid(record: Path) -> int | None:
    """The process that a record names, if it is that very process and lives."""
    try:
        pid, start_ticks = map(int, record.read_text().split()[:2])
    except (OSError, ValueError):
        return None
    stat = read_stat(pid)
    return pid if stat is not None and stat.start_ticks == start_ticks and stat.state != "Z" else None


def recorded_settings(record: Path) -> str:
    """The digest of the configuration that the recorded process last read; empty in a record of an earlier version."""
    try:
        return "".join(record.read_text().split()[2:3])
    except OSError:
        return ""


class DetachedProcess:
    """One daemon. Use from the event loop's thread only."""

    def __init__(self, spec: ProcessSpec, on_exit: Callable[[int, int | None], None]) -> None:
        """`on_exit(pid, status)` runs at once when the process ends, before anybody who awaits `exited` resumes;
        status is as in `HolderExited`."""
        self.spec = spec
        self._on_exit = on_exit
        self._pidfd: int | None = None
        self._settings: str | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._exited = asyncio.Event()
        self.pid: int | None = None
        """None while nothing runs."""
        self.adopted = False
        self.ours = False
        """An agent of ours started it: this one, or the one whose record it was adopted by."""
        self.since = 0.0
        """CLOCK_BOOTTIME at which we started or adopted it."""

    @property
    def running(self) -> bool:
        return self.pid is not None

    @property
    def outdated(self) -> bool:
        """An agent of ours started it, and with another configuration than the installed one."""
        return self.running and self.ours and self._settings != self.spec.settings

    def took_settings(self) -> None:
        """It has read its configuration again. Raises PeerError where that cannot be recorded."""
        try:
            record = self.spec.record.read_text().split()[:2]
            _write_record(self.spec.record, " ".join([*record, self.spec.settings]) + "\n")
        except OSError as exc:
            raise PeerError(self.spec.name, f"cannot be recorded: {exc.strerror}: {self.spec.record}") from exc
        self._settings = self.spec.settings

    def adopt(self) -> bool:
        """Begin to watch the process that an earlier agent (or the operator) started. False where there is none."""
        pid = self._find()
        if pid is None:
            return False
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        if self._find() != pid:  # it ended, and its number was taken, between the look and the open
            os.close(pidfd)
            return False
        self._watch(pid, pidfd, child=None)
        return True

    def start(self) -> None:
        """Start it. Raises PeerError where the program cannot be executed."""
        spec = self.spec
        if spec.pid_file is not None:
            spec.pid_file.unlink(missing_ok=True)  # nothing was adopted, so it is stale
        uid, gid = (None, None) if spec.run_as is None else credentials(spec.run_as)
        try:
            if spec.own_log is not None:
                open_log(spec.own_log).close()  # made here, for its mode: it names clients
            with open_log(spec.log) as log:
                child = subprocess.Popen(
                    spec.argv, env=dict(spec.env), cwd="/", start_new_session=True, stdin=subprocess.DEVNULL,
                    stdout=log, stderr=log, user=uid, group=gid, extra_groups=None if uid is None else [],
                )  # fmt: skip
        except OSError as exc:
            raise PeerError(spec.name, f"cannot be started: {exc.strerror}: {exc.filename}") from exc
        # A child that has not been waited for keeps its number, so none of this can meet somebody else.
        priority.prefer(child.pid, spec.nice)
        stat = read_stat(child.pid)
        try:
            if stat is not None:
                _write_record(spec.record, f"{child.pid} {stat.start_ticks} {spec.settings}\n")
        except OSError as exc:  # /run is full. Without a record no later agent could adopt or end it
            child.kill()
            child.wait()
            raise PeerError(spec.name, f"cannot be recorded: {exc.strerror}: {spec.record}") from exc
        self._watch(child.pid, os.pidfd_open(child.pid), child=child)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> bool:
        """Send a signal to exactly this process. False where it has ended."""
        if self._pidfd is None:
            return False
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return False
        return True

    async def stop(self, number: signal.Signals = signal.SIGKILL, *, timeout_s: float = 5.0) -> None:
        """Signal it and wait until it is gone. Raises PeerError after `timeout_s` (a process in state D)."""
        if not self.kill(number):
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._exited.wait()
        except TimeoutError:
            raise PeerError(self.spec.name, f"pid {self.pid} did not end within {timeout_s:g} s of {number.name}") from None

    async def exited(self) -> None:
        """Wait until it has ended."""
        await self._exited.wait()

    def release(self) -> None:
        """Stop watching and leave it running: what a clean stop of the agent does."""
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
        self._pidfd, self.pid = None, None

    def _watch(self, pid: int, pidfd: int, *, child: subprocess.Popen[bytes] | None) -> None:
        self.pid, self._pidfd, self._child = pid, pidfd, child
        self.adopted, self.since = child is None, boottime()
        self.ours = child is not None or pid == recorded_pid(self.spec.record)
        self._settings = recorded_settings(self.spec.record) if self.ours else None
        self._exited.clear()
        asyncio.get_running_loop().add_reader(pidfd, self._ended)

    def _ended(self) -> None:
        pid = self.pid
        assert pid is not None
        self.release()
        # The pidfd is readable, so this wait returns at once. It must happen, or the number stays taken.
        status = None if self._child is None else self._child.wait()
        self._child = None
        self._on_exit(pid, status)
        self._exited.set()

    def _find(self) -> int | None:
        for pid in (recorded_pid(self.spec.record), self._pid_of_pid_file()):
            if pid is not None and same_namespace(pid, "net"):
                return pid
        return None

    def _pid_of_pid_file(self) -> int | None:
        if self.spec.pid_file is None:
            return None
        try:
            pid = int(self.spec.pid_file.read_text())
        except (OSError, ValueError):
            return None
        return pid if executable(pid) == self.spec.program else None

    def shorten_logs(self) -> None:
        """Copy a log that is too long to ``.1`` and empty it. The daemon goes on appending to the same file."""
        for log in (self.spec.log, self.spec.own_log):
            with contextlib.suppress(OSError):  # a full /run: emptying it is what helps
                if log is not None and log.stat().st_size > LOG_KEPT_BYTES:
                    _move_content(log, log.with_name(log.name + ".1"))


def settings_digest(*paths: Path) -> str:
    """What tells two configurations apart. Of secrets too: it belongs into files that only root reads."""
    digest = hashlib.sha256()
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _write_record(path: Path, text: str) -> None:
    scratch = path.with_suffix(".new")
    scratch.unlink(missing_ok=True)
    with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(text)
    scratch.replace(path)


def open_log(path: Path) -> IO[bytes]:
    """For appending; made where it is not there."""
    return open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640), "ab")


def _move_content(log: Path, old: Path) -> None:
    try:
        old.unlink(missing_ok=True)
        with open(log, "rb") as source, open_log(old) as target:
            source.seek(-LOG_KEPT_BYTES, os.SEEK_END)
            target.write(source.read(LOG_KEPT_BYTES))  # not to the end: the daemon may write faster than we read
    finally:
        os.truncate(log, 0)


async def _keep_logs_short(process: DetachedProcess) -> None:
    while True:
        process.shorten_logs()
        await asyncio.sleep(LOG_LOOK_S)


async def keep_running(
    process: DetachedProcess,
    *,
    happened: Callable[[Event], None],
    prepare: Callable[[], Awaitable[None]] | None = None,
    started: Callable[[], Awaitable[None]] | None = None,
    backoff: Backoff | None = None,
) -> None:
    """Adopt or start `process` and start it again whenever it ends, until cancelled.

    `prepare` runs before each start (not before an adoption). `started` runs beside the process from each start and
    adoption on, and is cancelled when the process ends. A start that fails is an alarm and a life of 0 s.
    """
    backoff = backoff or Backoff()
    name, failed = process.spec.name, False
    while True:
        if not process.running and not process.adopt():
            if prepare is not None:
                await prepare()
            try:
                process.start()
            except PeerError as exc:
                happened(AlarmRaised(reason=Reason.DAEMON_NOT_STARTED, detail=str(exc)))
                failed = True
                await asyncio.sleep(backoff.after(0.0))
                continue
        if failed:
            happened(AlarmCleared(reason=Reason.DAEMON_NOT_STARTED))
            failed = False
        pid, since = process.pid, process.since
        if pid is not None:
            happened(HolderStarted(name=name, pid=pid, adopted=process.adopted))
        beside = [asyncio.ensure_future(_keep_logs_short(process))]
        if started is not None:
            beside.append(asyncio.ensure_future(started()))
        try:
            await process.exited()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)  # not `await task`: its cancellation could not be told from our own
        for task in beside:
            if not task.cancelled():
                task.result()
        await asyncio.sleep(backoff.after(boottime() - since))
