"""A planned handover waits for tunnels whose sequence numbers run out, and refuses to lose one.

Whom it asks is made up here; with real gateways it is drill `mirror-thirty-failovers`.
"""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from site_agent import handover


class Sync:
    """Has spent tunnels for so many looks; then they are rekeyed, or the next takeover would lose them still."""

    def __init__(self, spent: int, *, lost: bool = False) -> None:
        self.looks, self._spent, self._lost = 0, spent, lost
        self.finished = False

    @property
    def spent(self) -> int:
        self.looks += 1
        return int(self.looks <= self._spent)

    @property
    def mismatches(self) -> list[str]:
        return ["1 tunnels have changed gateways"] if self._lost else []

    async def finish(self) -> Any:
        self.finished = True
        return SimpleNamespace(open=0)

    def handover_over(self) -> None:
        pass


def site() -> Any:
    active = SimpleNamespace(role="active", handover="")
    supervisor = SimpleNamespace(status=active, describe=lambda: {"router": True, "peer_gateway": "gw2"})
    backup = SimpleNamespace(role="backup", handover="", cause="handed_over")
    supervisor.hand_over = lambda: setattr(supervisor, "status", backup)
    return SimpleNamespace(supervisor=supervisor)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "SPENT_LIMIT_S", 0.2)


def test_it_waits_until_they_are_rekeyed() -> None:
    sync = Sync(5)
    answer = asyncio.run(handover.hand_over(site(), sync))  # type: ignore[arg-type]
    assert (answer["peer"], answer["open_exchanges"], sync.looks) == ("gw2", 0, 6)


def test_it_waits_for_none_too_long() -> None:
    began = time.monotonic()
    assert "peer" in asyncio.run(handover.hand_over(site(), Sync(10**9)))  # type: ignore[arg-type]
    assert 0.2 <= time.monotonic() - began < 2.0


def test_it_is_refused_where_the_next_takeover_would_lose_one() -> None:
    sync = Sync(10**9, lost=True)
    answer = asyncio.run(handover.hand_over(site(), sync))  # type: ignore[arg-type]
    assert answer["error"].startswith("not handed over, tunnels would be lost: 1 tunnels have changed") and not sync.finished
