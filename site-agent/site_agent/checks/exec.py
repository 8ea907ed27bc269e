"""An operator's own check: a program whose exit status 0 passes.

Shared, whatever it looks at: we cannot know what a stranger's program can fail of, and the same program runs at every
site, so a bug in it, or the one thing that it asks, fails everywhere at once. A class that is written down somewhere else
than in the code would let a line of configuration darken the fleet.

What may go wrong with a program must not become the agent's trouble:

    it hangs, or its children do        own process group; the time limit kills the group: UNKNOWN, CHECK_TIMED_OUT
    it cannot even be killed (a dead    nobody waits for it; no second one is started beside it
    file system holds it)
    it cannot be executed               UNKNOWN, EXEC_UNUSABLE: the configuration is wrong, the gateway is not
    it floods its output                the same beyond `OUTPUT_LIMIT`; the group is killed
    it leaves children behind           the group is killed when the program ends
    it outlives a killed agent          parent-death signal
    it reads, or inherits something     /dev/null, three descriptors, `ENVIRONMENT`, the root directory
    it takes the processor          an ordinary nice value, whatever the agent's own (`priority`)
    somebody has replaced it            it runs as `run_as` (nobody, unless the file says otherwise), gains nothing

setpriv(1) changes the account in the child, after which it executes the program: so our own process never forks a copy
of itself (it would, if Python changed the account), and never waits for an execve on a file system that hangs. Like a
shell, it ends with 126 or 127 where the program could not be executed; those two mean the same from the program itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from anycast.document import ExecCheck as Definition
from anycast.model import EvidenceClass
from anycast.reasons import Reason
from site_agent import priority
from site_agent.checks.base import Finding, Timing, failing, passing, unknown
from site_agent.checks.charon import describe_exit
from site_agent.daemon_process import credentials

PREFIX = "exec_"
SETPRIV = "/usr/bin/setpriv"
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
OUTPUT_LIMIT = 64 * 1024
"""Bytes of stdout and stderr together. A check says a line; who says more than this is reading the wrong file."""
DETAIL_LIMIT = 200
"""Characters of the first line, which goes into the event log."""
READ_BYTES = 16 * 1024
NOT_EXECUTED = (126, 127)
"""Exit statuses of setpriv, env and every shell: cannot be executed, was not found."""


class ExecCheck:
    """Reports `exec_NAME`."""

    def __init__(self, definition: Definition) -> None:
        """The account is looked up here, once: a directory service that hangs must not do it between two verdicts."""
        self._name = PREFIX + definition.name
        self._command, self._run_as = definition.command, definition.run_as
        self._account: tuple[int, int] | None = None
        with contextlib.suppress(KeyError):
            self._account = credentials(definition.run_as)
        self._last: _Run | None = None
        self.reports: Mapping[str, EvidenceClass] = {self._name: EvidenceClass.SHARED}
        own = definition.timing
        self.timing = Timing(
            interval_s=30.0 if own.interval_ms is None else own.interval_ms / 1000,
            timeout_s=10.0 if own.timeout_ms is None else own.timeout_ms / 1000,
            rise=own.rise or 2,
            fall=own.fall or 2,
        )

    async def look(self) -> Sequence[Finding]:
        if self._account is None:
            return [self._unusable(f"there is no user {self._run_as}")]
        if self._last is not None and not self._last.reaped:
            return [unknown(self._name, Reason.CHECK_TIMED_OUT, "the run before was killed and has not ended")]
        uid, gid = self._account
        account = (f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs", "--inh-caps=-all")
        try:
            run = self._last = _Run(
                (*priority.ordinary_prefix(), SETPRIV, "--pdeathsig=KILL", *account, "--", *self._command)
            )
        except OSError as exc:
            return [self._unusable(f"{SETPRIV}: {exc.strerror}")]
        with contextlib.closing(run):
            status = await run.ended()
        return [self._judge(status, run.output)]

    def _judge(self, status: int | None, output: bytes) -> Finding:
        """`status` as of Popen; None where the output was too much. The value is the status."""
        line = first_line(output)
        if status is None:
            return self._unusable(f"wrote more than {OUTPUT_LIMIT // 1024} KiB: {line}")
        if status in NOT_EXECUTED:
            return self._unusable(f"{describe_exit(status)}: {line}")
        if status == 0:
            return passing(self._name, line, 0.0)
        how = describe_exit(status)
        return failing(self._name, Reason.EXEC_FAILED, f"{how}: {line}" if line else how, float(status))

    def _unusable(self, why: str) -> Finding:
        return unknown(self._name, Reason.EXEC_UNUSABLE, f"{self._command[0]}: {why}")


class _Run:
    """One run of a program. `close` kills what is left of its group, whenever it is called."""

    def __init__(self, argv: Sequence[str]) -> None:
        """Raises OSError."""
        self.output = b""
        self._seen = 0
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[bool] = self._loop.create_future()
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=ENVIRONMENT,
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout
        os.set_blocking(self._pipe.fileno(), False)
        # A zombie keeps its id until it is waited for: the group cannot be another's when it is killed.
        self._pidfd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._pipe, self._readable)
        self._loop.add_reader(self._pidfd, lambda: self._settle(exited=True))

    @property
    def reaped(self) -> bool:
        return self._process.returncode is not None

    async def ended(self) -> int | None:
        """The exit status, negative for a signal; None where the output went beyond its limit. Cancel freely."""
        if not await self._over:
            return None
        self._kill()
        with contextlib.suppress(BlockingIOError):
            while self._take():
                pass
        return self._process.wait()

    def close(self) -> None:
        """Kill what is left. Does not wait: what the kernel cannot end now is reaped when it ends."""
        self._loop.remove_reader(self._pipe)
        self._pipe.close()
        self._loop.remove_reader(self._pidfd)
        if self.reaped:
            os.close(self._pidfd)
            return
        self._kill()
        self._loop.add_reader(self._pidfd, self._reap)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._process.wait()

    def _readable(self) -> None:
        try:
            if not self._take():
                self._loop.remove_reader(self._pipe)  # closed at the other end; the program may go on
        except BlockingIOError:
            return

    def _take(self) -> bool:
        """Read once. False at the end of the output, or of our patience. Raises BlockingIOError where nothing waits."""
        data = os.read(self._pipe.fileno(), READ_BYTES)
        self._seen += len(data)
        self.output = (self.output + data)[:READ_BYTES]
        if self._seen > OUTPUT_LIMIT:
            self._settle(exited=False)
            return False
        return bool(data)

    def _settle(self, *, exited: bool) -> None:
        self._loop.remove_reader(self._pidfd)
        if not self._over.done():
            self._over.set_result(exited)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def first_line(output: bytes) -> str:
    """What people may read of a program's output: one line, short, printable."""
    for line in output.decode("utf-8", "replace").splitlines():
        if text := "".join(c if c.isprintable() else "?" for c in " ".join(line.split())):
            return text if len(text) <= DETAIL_LIMIT else f"{text[:DETAIL_LIMIT]}…"
    return ""
