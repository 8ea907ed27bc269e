"""An operator's programs that pass, fail, hang, flood, hide, or are not there: whatever they do stays with them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from anycast.document import ExecCheck as Definition
from anycast.document import Timing
from anycast.events import Event
from anycast.model import Evidence, Status
from anycast.reasons import Reason
from site_agent import priority
from site_agent.checks.base import Finding
from site_agent.checks.exec import ExecCheck
from site_agent.checks.runner import CheckRunner
from tests.support.gateway import ENVIRONMENT
from tests.support.namespace import in_namespace
from tests.support.upstream import until

NOBODY = 65534


def check(*command: str, timeout_ms: int = 5000, run_as: str = "nobody") -> ExecCheck:
    timing = Timing(interval_ms=100, timeout_ms=timeout_ms, rise=1, fall=1)
    return ExecCheck(Definition(name="own-one", command=command, run_as=run_as, timing=timing))


def look(one: ExecCheck) -> Finding:
    """Once, as the runner looks. Nothing of it may be our bug."""
    faults: list[Event] = []

    async def run() -> Sequence[Finding]:
        return await CheckRunner([one], lambda evidence: None, faults.append)._look(one)

    (finding,) = asyncio.run(run())
    assert not faults and finding.name == "exec_own-one"
    return finding


def sh(script: str, **more: object) -> Finding:
    return look(check("/bin/sh", "-c", script, **more))


def running(marker: str) -> list[int]:
    """Processes of this namespace with `marker` in their command line; zombies have none."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in words:
                found.append(int(entry.name))
    return found


@in_namespace
def test_exit_status_and_first_line() -> None:
    good = sh("echo; echo all well; echo more")
    assert (good.status, good.reason, good.detail, good.value) == (Status.PASSING, Reason.HEALTHY, "all well", 0.0)
    bad = sh("echo to nobody >&2; exit 3")
    assert (bad.status, bad.reason, bad.value) == (Status.FAILING, Reason.EXEC_FAILED, 3.0)
    assert bad.detail == "exited with 3: to nobody"
    killed = sh("kill -TERM $$")
    assert (killed.status, killed.reason, killed.detail) == (Status.FAILING, Reason.EXEC_FAILED, "killed by SIGTERM")


@in_namespace
def test_it_gets_nothing_of_ours() -> None:
    os.environ["SECRET"] = "of the agent"
    leak = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leak, True)
    reader, writer = os.pipe()
    os.write(writer, b"of the agent")
    os.close(writer)
    os.dup2(reader, 0)
    assert sh("id -u; id -g").detail == str(NOBODY)
    assert sh('echo "$(id -g) $(id -G)"').detail == f"{NOBODY} {NOBODY}"
    seen = sh(r"tr '\0' ' ' < /proc/self/environ").detail.split()
    assert sorted(word.partition("=")[0] for word in seen) == ["LANG", "PATH"]
    assert sh("pwd").detail == "/"
    assert sh("wc -c").detail == "0", "nothing to read"
    assert sh("echo /proc/self/fd/*").detail in ("/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3",)
    assert sh("grep NoNewPrivs /proc/self/status").detail.split() == ["NoNewPrivs:", "1"]
    assert int(sh("grep CapEff /proc/self/status").detail.split()[1], 16) == 0
    assert look(check("/usr/bin/id", "-u", run_as="0")).detail == "0", "who needs it says so"
    os.close(leak)


@in_namespace
def test_it_is_an_ordinary_process_whatever_the_agent_is() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, priority.HOLDS_THE_LEASE)
    assert sh("nice").detail == "0"
    assert look(check("/usr/bin/nice", run_as="0")).detail == "0"
    os.setpriority(os.PRIO_PROCESS, 0, 5)
    assert sh("nice").detail == "5", "never more than the agent itself has"


@in_namespace
def test_no_shell_reads_the_arguments() -> None:
    assert look(check("/bin/echo", "$HOME; exit 1", "`id`")).detail == "$HOME; exit 1 `id`"


@in_namespace
def test_what_cannot_be_executed_is_the_configurations_fault() -> None:
    plain = Path("/run/plain")
    plain.write_text("no program\n")
    for command, told in (
        (("/run/absent",), "No such file or directory"),
        ((str(plain),), "Permission denied"),
        (("/run",), "Permission denied"),
        (("/bin/sh", "-c", "absent-command"), "not found"),
    ):
        finding = look(check(*command))
        assert (finding.status, finding.reason) == (Status.UNKNOWN, Reason.EXEC_UNUSABLE), finding
        assert told in finding.detail and finding.detail.startswith(f"{command[0]}: ")
    stranger = look(check("/bin/true", run_as="no-such-user"))
    assert (stranger.status, stranger.reason) == (Status.UNKNOWN, Reason.EXEC_UNUSABLE)
    assert stranger.detail == "/bin/true: there is no user no-such-user"


@in_namespace
def test_a_hanging_program_is_a_time_out_and_its_whole_group_is_killed() -> None:
    began = time.monotonic()
    finding = sh("trap '' TERM; sleep 4711 & sleep 4712", timeout_ms=500)
    assert (finding.status, finding.reason) == (Status.UNKNOWN, Reason.CHECK_TIMED_OUT)
    assert time.monotonic() - began < 3
    until(lambda: not running("471"), "nothing is left of it", within_s=5)


@in_namespace
def test_what_a_program_leaves_behind_is_killed_and_does_not_hold_us_up() -> None:
    began = time.monotonic()
    finding = sh("sleep 4713 & echo gone")
    assert (finding.status, finding.detail) == (Status.PASSING, "gone")
    assert time.monotonic() - began < 3, "the child holds the output open; nobody waits for it"
    until(lambda: not running("4713"), "the child is gone", within_s=5)


@in_namespace
def test_a_flood_of_output_is_cut_off() -> None:
    began = time.monotonic()
    finding = look(check("/usr/bin/yes", "x" * 100))
    assert (finding.status, finding.reason) == (Status.UNKNOWN, Reason.EXEC_UNUSABLE)
    assert finding.detail.startswith(f"/usr/bin/yes: wrote more than 64 KiB: {'x' * 100}")
    assert time.monotonic() - began < 3
    until(lambda: not running("/usr/bin/yes"), "it is gone", within_s=5)
    assert sh("head -c 60000 /dev/zero | tr '\\0' x").status is Status.PASSING, "a full pipe is emptied"


@in_namespace
def test_it_dies_with_an_agent_that_is_killed() -> None:
    script = (
        "import asyncio\n"
        "from anycast.document import ExecCheck as D\n"
        "from site_agent.checks.exec import ExecCheck\n"
        "asyncio.run(ExecCheck(D(name='a', command=('/bin/sleep', '4714'))).look())\n"
    )
    agent = subprocess.Popen([sys.executable, "-c", script], env=ENVIRONMENT)
    until(lambda: any(Path(f"/proc/{p}/comm").read_text() == "sleep\n" for p in running("4714")), "it runs", within_s=20)
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    until(lambda: not running("4714"), "it ended with its agent", within_s=5)


@in_namespace
def test_no_second_run_beside_one_that_cannot_be_killed() -> None:
    one = check("/bin/echo", "again")

    class Unkillable:
        reaped = False

    one._last = Unkillable()  # type: ignore[assignment]  # a process in state D, which no test can make
    finding = look(one)
    assert (finding.status, finding.reason) == (Status.UNKNOWN, Reason.CHECK_TIMED_OUT)
    Unkillable.reaped = True
    assert look(one).detail == "again"


@pytest.mark.long
@in_namespace
def test_a_hanging_program_delays_no_other_check_and_leaves_no_descriptor() -> None:
    seen: list[Evidence] = []
    faults: list[Event] = []

    def timed_out() -> int:
        return [evidence.reason for evidence in seen].count(Reason.CHECK_TIMED_OUT)

    async def run() -> None:
        before = len(os.listdir("/proc/self/fd"))
        checks = [check("/bin/sleep", "4715", timeout_ms=200), check("/bin/true")]
        task = asyncio.create_task(CheckRunner(checks, seen.append, faults.append).run())
        await reach(lambda: timed_out() == 2)
        task.cancel()
        await asyncio.wait([task])
        await reach(lambda: len(os.listdir("/proc/self/fd")) == before)
        assert len(seen) > 8, "the other one looked on"

    async def reach(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.01)

    asyncio.run(run())
    assert not faults
    assert {evidence.status for evidence in seen} == {Status.PASSING, Status.UNKNOWN}
    until(lambda: not running("4715"), "nothing is left", within_s=5)
