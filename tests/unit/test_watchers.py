"""However many watch, what they see is made once for each change."""

from __future__ import annotations

import asyncio
import types
from typing import Any

import pytest

from anycast.coordinator import service as under_test
from anycast.coordinator.service import Service


def test_a_status_is_made_once_for_all_that_watch_and_anew_for_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "boottime", lambda: 1000.0)
    made: list[int] = []

    def status(self: Service) -> Any:
        made.append(len(made))
        return types.SimpleNamespace(model_dump_json=lambda: str(made[-1]))

    monkeypatch.setattr(Service, "status", status)

    async def test() -> None:
        service = Service.__new__(Service)
        service._news, service._shown = asyncio.Event(), None
        watchers = [service.watch(60.0) for _ in range(20)]
        assert {await anext(each) for each in watchers} == {b"0"}
        following = [asyncio.create_task(anext(each)) for each in watchers]
        await asyncio.sleep(2 * under_test.WATCH_PACE_S)
        assert not any(each.done() for each in following), "nothing is new"
        service._changed()
        assert set(await asyncio.wait_for(asyncio.gather(*following), 5)) == {b"1"}
        assert made == [0, 1]

    asyncio.run(test())
