"""The supervisor's part in a restart, without a process: what it finds, and what it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from anycast.document import Bfd, Document
from anycast.fleet.compile import compile_gateway
from anycast.fleet.loading import load
from anycast.model import Cause
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.paths import Paths
from site_agent.procfs import read_stat
from site_agent.vrrp import orphan, supervisor, wire
from site_agent.vrrp import plan as plans
from site_agent.vrrp.supervisor import Supervisor
from tests.support.documents import TREE, document


def with_bfd() -> Document:
    made = document()
    neighbors = tuple(n.model_copy(update={"bfd": Bfd(interval_ms=100, multiplier=3)}) for n in made.bgp.neighbors)
    return made.model_copy(update={"bgp": made.bgp.model_copy(update={"neighbors": neighbors})})


def supervise(run_dir: Path, grace_s: float, *, stop: bool) -> tuple[bool, bool]:
    """A supervisor beside a process that another one left with `grace_s`. Returns whether that was Active's successor, and
    whether the process lives on."""
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        stat = read_stat(child.pid)
        assert stat is not None
        until_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + round(grace_s * 1e9)
        left = orphan.Record(pid=child.pid, start_ticks=stat.start_ticks, role="active", grace_until_ns=until_ns)
        orphan.write(run_dir / "vrrp.json", left)

        async def run() -> bool:
            made = Supervisor(with_bfd(), Paths(run_dir=run_dir), happened=lambda event: None, heard=lambda heard: None)
            if stop:
                made.stop(15.0)
            return made.active

        active = asyncio.run(run())
        try:
            child.wait(5 if grace_s < 0 else 0.1)
        except subprocess.TimeoutExpired:
            return active, True
        return active, False
    finally:
        child.kill()
        child.wait()


def test_a_process_with_a_grace_goes_on_and_its_successor_is_active(tmp_path: Path) -> None:
    assert supervise(tmp_path, 10.0, stop=False) == (True, True)
    assert not (tmp_path / "vrrp.json").exists(), "single use"


def test_one_whose_agent_crashed_or_whose_grace_is_over_is_ended(tmp_path: Path) -> None:
    assert supervise(tmp_path, -1.0, stop=False) == (False, False)


def test_an_agent_that_stops_before_it_has_succeeded_leaves_the_process_to_the_next(tmp_path: Path) -> None:
    assert supervise(tmp_path, 10.0, stop=True) == (True, True)
    record = json.loads((tmp_path / "vrrp.json").read_text())
    assert record["role"] == "active" and record["grace_until_ns"] > time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class FakeChild:
    """A process that says what the test has it say, and knows what it was told."""

    made: ClassVar[list[FakeChild]] = []

    def __init__(self, plan: plans.Plan, *, log: object, heard: Callable[[Any, wire.Message], None], ended: object) -> None:
        self.plan, self._heard = plan, heard
        self.told: list[wire.Message] = []
        self.killed = False
        self.pid, self.start_ticks = 1 << 23 | len(self.made), 1
        self.made.append(self)

    def tell(self, message: wire.Message) -> None:
        self.told.append(message)

    def kill(self) -> None:
        self.killed = True

    def release(self) -> None:
        pass

    def say(self, role: str = "active") -> None:
        self._heard(
            self,
            wire.Status(
                role=role, cause="started", since_ns=1, heard=0, peer="fit", peer_active=False, discarded={}, late={},
                faults=[], boot=7, taken={}, installed_us=0,
            ),
        )  # fmt: skip

    def answer(self, role: str = "active") -> None:
        grant = next(message for message in reversed(self.told) if isinstance(message, wire.Grant))
        at_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._heard(self, wire.Answer(at_ns=at_ns, until_ns=grant.until_ns, role=role, peer="fit", peer_active=False))


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[FakeChild]:
    monkeypatch.setattr(supervisor, "Child", FakeChild)
    monkeypatch.setattr(supervisor, "load_keys", lambda path: ({1: b"k" * 32}, 1))
    monkeypatch.setattr(FakeChild, "made", [])
    return FakeChild.made


@contextlib.asynccontextmanager
async def running(run_dir: Path) -> AsyncIterator[Supervisor]:
    paired = compile_gateway(load(TREE / "labs/topologies/two-site-pairs.fleet.yaml"), "fra-gw1")
    paths = Paths(run_dir=run_dir, state_dir=run_dir)
    made = Supervisor(paired, paths, happened=lambda event: None, heard=lambda heard: None)
    task = asyncio.create_task(made.run())
    await turns()
    yield made
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def turns() -> None:
    """Long enough for everything that waits in the inbox."""
    for _ in range(20):
        await asyncio.sleep(0)


async def see(made: Supervisor, *, serving: bool = True) -> None:
    causes = (Cause(reason=Reason.HEALTHY if serving else Reason.LINK_DOWN),)
    made.verdict(VerdictReached(serving=serving, causes=causes, at=boottime()))
    await turns()


async def active(made: Supervisor, child: FakeChild) -> None:
    child.say()
    await see(made)
    child.answer()
    await turns()


def test_after_a_crash_what_was_heard_is_known_and_mastership_is_not(tmp_path: Path, children: list[FakeChild]) -> None:
    until_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 10**10
    left = orphan.Record(
        pid=1 << 23, start_ticks=1, role="active", boot=5, taken={"outside:4:2": [3, 4]}, grace_until_ns=until_ns
    )
    orphan.write(tmp_path / "vrrp.json", left)

    async def run() -> None:
        async with running(tmp_path) as made:
            assert not made.active

    asyncio.run(run())
    (child,) = children
    assert (child.plan.boot_after, child.plan.taken) == (5, {"outside:4:2": [3, 4]})
    assert child.plan.resume_until_ns == 0
    assert child.plan.boot_mark == str(tmp_path / "vrrp.boot"), (
        "survives a reboot"
    )


@pytest.mark.parametrize("role", ["active", "backup"])
def test_a_forerunner_is_granted_until_its_successor_has_acted(role: str, tmp_path: Path, children: list[FakeChild]) -> None:
    async def run() -> None:
        async with running(tmp_path) as made:
            await active(made, before := children[0])
            made.restart()
            after, before.told[:] = children[1], []
            await turns()
            await see(made)
            await see(made, serving=False)
            words = [message for message in before.told if isinstance(message, wire.Grant)]
            assert [word.priority for word in words] == [made.describe()["configured_priority"], 0]
            assert not after.told, "it has not spoken yet"
            after.say(role)
            await see(made)
            assert made.being_replaced and not before.killed
            after.answer(role)
            assert not made.being_replaced
            assert before.killed == (role == "active"), "it shall not remove what is its successor's"
            assert (before.told[-1] == wire.Stop(keep_bfd=True)) == (role == "backup")

    asyncio.run(run())


def test_a_stop_during_a_replacement_leaves_the_grace_to_the_one_that_serves(
    tmp_path: Path, children: list[FakeChild]
) -> None:
    async def run() -> None:
        async with running(tmp_path) as made:
            await active(made, children[0])
            made.restart()
            await turns()
            made.stop(15.0)

    asyncio.run(run())
    before, after = children
    assert isinstance(before.told[-1], wire.Grace) and not before.killed
    assert after.told == [wire.Stop(keep_bfd=True)]
    record = json.loads((tmp_path / "vrrp.json").read_text())
    assert (record["pid"], record["role"]) == (before.pid, "active")
    assert record["grace_until_ns"] == before.told[-1].until_ns


def test_a_successor_that_was_granted_already_is_the_heir(tmp_path: Path, children: list[FakeChild]) -> None:
    async def run() -> None:
        async with running(tmp_path) as made:
            await active(made, children[0])
            made.restart()
            await turns()
            children[1].say()
            await see(made)
            made.stop(15.0)
            assert children[0].killed

    asyncio.run(run())
    after = children[1]
    assert isinstance(after.told[-1], wire.Grace)
    assert json.loads((tmp_path / "vrrp.json").read_text())["pid"] == after.pid


def test_one_that_is_told_to_leave_and_does_not_is_killed(tmp_path: Path, children: list[FakeChild]) -> None:
    async def run() -> None:
        async with running(tmp_path) as made:
            await active(made, children[0])
            made.restart()
            await turns()
            children[1].say("backup")
            await see(made)
            children[1].answer("backup")
            assert not children[0].killed

    asyncio.run(run())
    assert children[0].killed, "at the latest when its agent ends"
