"""A bulkhead tells each mistake once, begins again what it holds, and never loops through its own telling."""

from __future__ import annotations

import asyncio

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
