"""The drain in the running agent: what lies on the disk before it acts, the door over a restart, words and alarms."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from anycast.errors import PeerError
from anycast.events import AlarmCleared, AlarmRaised, DrainStepTaken, Event, TunnelsMoved
from anycast.policy.drain import Drain, Plan, RouteWord, Step, Tunnel
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent import drain_store, drainer
from site_agent.drainer import Around, Drainer
from site_agent.paths import Paths

PLAN = Plan(id="d1", by="alice", why="optics", to=("198.51.100.22",), settle_s=0.0)


class Gateway:
    """Everything around it, in memory; `order` is what it did, with the step that the disk had then."""

    def __init__(self, base: Path) -> None:
        self.paths = Paths(run_dir=base, state_dir=base, etc_dir=base)
        self.tunnels_left: list[str] | None = []
        self.route, self.active, self.kept, self.closed, self.refuses = RouteWord.NORMAL, True, False, False, False
        self.events: list[Event] = []
        self.order: list[tuple[str, str]] = []
        self.looks = 0
        self.new()

    def new(self) -> None:
        """Another agent."""
        around = Around(
            redirector=self, door=self, route=lambda _: self.route, serving=lambda: True,  # type: ignore[arg-type]
            active=lambda: self.active, kept_closed=lambda: self.kept, changed=self._changed,
        )  # fmt: skip
        self.drainer = Drainer(self.paths, around, self.events.append)

    def _changed(self) -> None:
        wants = self.drainer.wants
        self.route = RouteWord.NONE if wants.withdrawn else RouteWord.WORSE if wants.worse else RouteWord.NORMAL
        self._did(f"route {self.route}")

    def _did(self, what: str) -> None:
        stored = drain_store.load(self.paths)
        self.order.append((what, "nothing" if stored is None else stored.step.value))

    async def tunnels(self, to: Iterable[str]) -> tuple[Tunnel, ...]:
        self.looks += 1
        if self.tunnels_left is None:
            raise PeerError("charon", "says nothing")
        return tuple(map(Tunnel, self.tunnels_left))

    async def redirect(self, ids: Iterable[str], to: Iterable[str], *, stop: Any) -> int:
        assert self.tunnels_left is not None
        self.tunnels_left = [name for name in self.tunnels_left if name not in set(ids)]
        return 1

    def close(self) -> int:
        if self.refuses:
            raise PeerError("charon", "ptrace")
        self.closed = True
        self._did("closed")
        return 4

    def open(self) -> int:
        self.closed = False
        self._did("opened")
        return 4

    def store(self, step: Step = Step.MOVING, plan: Plan = PLAN) -> None:
        drain_store.store(self.paths, Drain(plan=plan, step=step, since=boottime()))

    async def runs(self, until: str = "", *, looks: int = 5) -> None:
        """Until it has come to a step, and then for some looks more."""
        task = asyncio.create_task(self.drainer.run())
        async with asyncio.timeout(20):
            while until not in ("", *self.steps[-1:]):
                await asyncio.sleep(0.01)
            done = self.looks + looks
            while self.drainer.drain is not None and self.looks < done:
                await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    @property
    def steps(self) -> list[str]:
        return [event.step for event in self.events if isinstance(event, DrainStepTaken)]


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    async def answered(address: str, timeout_s: float) -> bool:
        return True

    monkeypatch.setattr(drainer, "LOOK_S", 0.01)
    monkeypatch.setattr(drainer, "answers", answered)
    return Gateway(tmp_path)


def test_each_step_is_on_the_disk_before_it_is_acted_on(gateway: Gateway) -> None:
    async def scene() -> None:
        gateway.store()
        gateway.tunnels_left = ["a", "b"]
        assert (await gateway.drainer.begin())["drain"]["step"] == "moving"
        assert "goes on already" in (await gateway.drainer.begin())["error"]
        await gateway.runs("done")

    asyncio.run(scene())
    acted = list(dict.fromkeys(gateway.order))
    assert acted == [
        ("route worse", "degrading"), ("route none", "withdrawing"), ("route none", "refusing"), ("closed", "refusing"),
        ("route none", "done"), ("closed", "done"),
    ]  # fmt: skip
    assert gateway.steps == ["moving", "degrading", "withdrawing", "refusing", "done"]
    assert TunnelsMoved(count=1, to=PLAN.to) in gateway.events
    assert gateway.drainer.says == "drain by alice: optics"


def test_a_new_agent_keeps_the_door_until_it_knows_of_the_route(gateway: Gateway) -> None:
    async def scene() -> None:
        gateway.store(Step.DONE)
        gateway.closed, gateway.route = True, RouteWord.UNKNOWN
        gateway.drainer.start()
        assert gateway.drainer.wants.withdrawn, "before anything is announced"
        await gateway.runs()
        assert gateway.closed and gateway.order == []
        gateway.new()
        gateway.route = RouteWord.NONE  # the bridge was heard before the first look
        gateway.drainer.start()
        await gateway.runs()
        assert {what for what, _ in gateway.order} == {"closed"}, "not opened for a moment either"
        gateway.route = RouteWord.NORMAL  # hold announce
        await gateway.runs()
        assert not gateway.closed

    asyncio.run(scene())


def test_an_abort_opens_before_it_announces_and_leaves_nothing(gateway: Gateway) -> None:
    async def scene() -> None:
        gateway.store(Step.DONE)
        gateway.drainer.start()
        gateway.route = RouteWord.NONE
        await gateway.runs()
        assert gateway.closed
        gateway.order.clear()
        assert (await gateway.drainer.abort())["drain"]["step"] == "reopening"
        await gateway.runs("ended")
        assert (await gateway.drainer.abort()) == drainer.NO_DRAIN

    asyncio.run(scene())
    assert [what for what, _ in gateway.order] == ["route none", "opened", "route normal", "route normal"]
    assert not gateway.paths.drain.exists()
    assert (gateway.drainer.drain, gateway.drainer.says, gateway.drainer.worse) == (None, "", None)


def test_at_a_backup_the_door_is_somebody_elses(gateway: Gateway) -> None:
    async def scene() -> None:
        gateway.active, gateway.kept = False, True
        gateway.store()
        gateway.drainer.start()
        await gateway.runs("done")
        await gateway.drainer.abort()
        await gateway.runs("ended")

    asyncio.run(scene())
    assert not {"closed", "opened"} & {what for what, _ in gateway.order}
    assert gateway.steps[-1] == "ended"


def test_a_charon_that_says_nothing_moves_nothing(gateway: Gateway) -> None:
    async def scene() -> None:
        gateway.tunnels_left = None
        gateway.store()
        gateway.drainer.start()
        await gateway.runs()

    asyncio.run(scene())
    assert (gateway.steps, gateway.order) == (["moving"], [])
    described = gateway.drainer.describe()
    assert described is not None
    assert (described["left"], described["waits_for"]) == (None, "charon does not list its tunnels")


def test_a_door_that_cannot_be_closed_is_an_alarm_and_not_the_end(gateway: Gateway) -> None:
    async def scene() -> None:
        gateway.refuses = True
        gateway.store()
        gateway.drainer.start()
        await gateway.runs("refusing")
        assert gateway.steps[-1] == "refusing"
        gateway.refuses = False
        await gateway.runs("done")

    asyncio.run(scene())
    told = [event for event in gateway.events if isinstance(event, AlarmRaised | AlarmCleared)]
    assert [(type(event), event.reason) for event in told] == [
        (AlarmRaised, Reason.DOOR_OPEN), (AlarmCleared, Reason.DOOR_OPEN),
    ]  # fmt: skip


def test_a_file_that_means_nothing_is_no_drain_and_an_alarm(gateway: Gateway) -> None:
    gateway.paths.drain.write_text("{")
    gateway.paths.drain.chmod(0o644)
    asyncio.run(_started(gateway))
    assert gateway.drainer.drain is None
    assert [event.reason for event in gateway.events if isinstance(event, AlarmRaised)] == [Reason.DRAIN_UNREADABLE]


async def _started(gateway: Gateway) -> None:
    gateway.drainer.start()


def test_overdue_is_told_and_cleared_by_the_next_step(gateway: Gateway) -> None:
    async def scene() -> None:
        gateway.tunnels_left = ["x"]
        gateway.store(plan=dataclasses.replace(PLAN, to=(), move_limit_s=0.0))
        gateway.drainer.start()
        await gateway.runs()
        assert gateway.steps == ["moving"]
        gateway.tunnels_left = []
        await gateway.runs("done")

    asyncio.run(scene())
    told = [event for event in gateway.events if isinstance(event, AlarmRaised | AlarmCleared)]
    assert told[0] == AlarmRaised(reason=Reason.DRAIN_WAITS, detail="moving: 1 tunnels, of which 1 cannot follow")
    assert told[1] == AlarmCleared(reason=Reason.DRAIN_WAITS)
