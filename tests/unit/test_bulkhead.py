"""A bulkhead tells each mistake once, begins again what it holds, and never loops through its own telling."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from anycast.events import AlarmRaised, Event, PartFaulted
from site_agent import bulkhead
from site_agent.bulkhead import Bulkhead


def test_each_place_is_told_once_and_the_innermost_of_a_group() -> None:
    events: list[Event] = []
    wall = Bulkhead("part", events.append)

    def divide(by: int) -> float:
        if by < 0:
            raise ExceptionGroup("a task group's", [KeyError(f"number {by}")])
        return 1 / by

    assert [wall.call(divide, by) for by in (0, 2, 0, -1, -2)] == [None, 0.5, None, None, None]
    told = [event for event in events if isinstance(event, PartFaulted)]
    assert ["ZeroDivisionError" in told[0].error, "KeyError" in told[1].error] == [True, True]
    assert len(told) == 2
    assert next(event.detail for event in events if isinstance(event, AlarmRaised)).startswith("part: ZeroDivisionError")


def test_telling_that_raises_the_same_ends() -> None:
    depth = 0

    def happened(event: Event) -> None:
        nonlocal depth
        depth += 1
        wall.call(crash)

    def crash() -> None:
        raise ZeroDivisionError

    wall = Bulkhead("metrics", happened)
    wall.call(crash)
    assert depth == 2, "the fault and its alarm"


def test_what_ends_is_begun_again_and_a_cancellation_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulkhead, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(bulkhead, "LONGEST_WAIT_S", 0.001)
    begun = 0

    async def run() -> None:
        third = asyncio.Event()

        async def work() -> None:
            nonlocal begun
            begun += 1
            if begun == 3:
                third.set()
                await asyncio.Event().wait()
            raise RuntimeError

        task = asyncio.create_task(Bulkhead("part", lambda _: None).keep(work))
        await third.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(run(), 5))
    assert begun == 3


def test_a_part_that_fails_while_it_is_ended_ends() -> None:
    """A TaskGroup raises the failure of one of its tasks instead of the cancellation."""

    async def fails_when_cancelled() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise OSError("the connection was reset meanwhile") from None

    async def part() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails_when_cancelled())

    async def test() -> None:
        told: list[Event] = []
        task = asyncio.create_task(Bulkhead("part", told.append).keep(part))
        await asyncio.sleep(0.01)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        assert done and task.cancelled()

    asyncio.run(test())


def test_a_part_whose_task_group_failed_is_begun_again_and_its_time_limits_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulkhead, "FIRST_WAIT_S", 0.001)
    runs = 0

    async def fails() -> None:
        raise OSError

    async def part() -> None:
        nonlocal runs
        runs += 1
        for _ in range(2):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    await asyncio.sleep(1)
        if runs < 3:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())

    asyncio.run(asyncio.wait_for(Bulkhead("part", lambda event: None).keep(part), 5))
    assert runs == 3
