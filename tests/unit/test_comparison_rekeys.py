"""Every rekey that the core asks for reaches charon, whatever else charon is asked at that time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from site_agent.sync import comparison
from site_agent.sync.comparison import Comparison
from site_agent.sync.digest_compare import Cause
from site_agent.sync.numbers_words import Role
from site_agent.sync.repairs import Repair

LIMIT_S = 0.05


class Vici:
    """A `ViciClient` whose charon takes its time; calls queue behind each other, as they do there."""

    def __init__(self, took_s: float = 0.0) -> None:
        self.asked: list[Any] = []
        self._took_s, self._lock = took_s, asyncio.Lock()

    async def request(self, command: str, message: Any = None, *, timeout_s: float) -> dict[str, Any]:
        async with asyncio.timeout(timeout_s), self._lock:
            await asyncio.sleep(self._took_s)
            self.asked.append((command, message))
        return {}

    async def stream(self, *_: Any, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s), self._lock:
            await asyncio.sleep(10 * LIMIT_S)

    def close(self) -> None:
        pass


def repair(number: int) -> Repair:
    return Repair(ike_id=str(number), child_id="" if number % 2 else f"c{number}", name="x", cause=Cause.MISSING_IN_KERNEL)


def run(lists: Vici, rekeys: Vici, scene: Callable[[Comparison], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "REKEY_LIMIT_S", LIMIT_S)

    async def dumped(*_: Any) -> None:
        pass

    monkeypatch.setattr(comparison, "dump", dumped)

    async def main() -> None:
        nobody: Any = lambda *_: None  # noqa: E731
        mirror = Comparison(
            Role.BACKUP, vips=["203.0.113.1"], pools=[], vici=lists, rekeys=rekeys,  # type: ignore[arg-type]
            requests=nobody, hand_over=nobody, submit=nobody, gave_up=nobody,
        )  # fmt: skip
        try:
            await scene(mirror)
        finally:
            mirror.close()

    asyncio.run(main())


def test_a_list_that_takes_long_keeps_no_rekey_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    lists, rekeys = Vici(), Vici()

    async def scene(mirror: Comparison) -> None:
        mirror._perform(comparison.Look())
        await asyncio.sleep(0.01)
        for number in range(4):
            mirror._perform(repair(number))
        await asyncio.sleep(4 * LIMIT_S)

    run(lists, rekeys, scene, monkeypatch)
    assert [message for _, message in rekeys.asked] == [
        {"child-id": "c0"}, {"ike-id": "1"}, {"child-id": "c2"}, {"ike-id": "3"}
    ]  # fmt: skip


def test_a_slow_charon_gets_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rekeys = Vici(took_s=0.6 * LIMIT_S)

    async def scene(mirror: Comparison) -> None:
        for number in range(6):
            mirror._perform(repair(number))
        await asyncio.sleep(8 * LIMIT_S)

    run(Vici(), rekeys, scene, monkeypatch)
    assert len(rekeys.asked) == 6


@pytest.mark.parametrize("end", [lambda mirror: mirror.lost(), lambda mirror: mirror.role(Role.ACTIVE)])
def test_who_has_nobody_to_feed_rekeys_no_more(end: Callable[[Comparison], None], monkeypatch: pytest.MonkeyPatch) -> None:
    rekeys = Vici(took_s=0.6 * LIMIT_S)

    async def scene(mirror: Comparison) -> None:
        for number in range(6):
            mirror._perform(repair(number))
        await asyncio.sleep(0)
        end(mirror)
        await asyncio.sleep(8 * LIMIT_S)

    run(Vici(), rekeys, scene, monkeypatch)
    assert len(rekeys.asked) == 1, "the one that charon was being asked"
