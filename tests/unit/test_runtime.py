"""The loop around a core: an overdue timer first, and a core that does not move it is told of instead of spun around."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from anycast.cli import main
from anycast.errors import BugError
from anycast.runtime import TimerExpired, boottime, drive


class Ticking:
    """Moves its deadline by `step_s` at each expiry, and stops the test after ten."""

    def __init__(self, step_s: float) -> None:
        self.deadline: float | None = boottime() - 1.0
        self._step_s = step_s
        self.seen: list[Any] = []

    def handle(self, event: Any, now: float) -> list[str]:
        self.seen.append(event)
        if isinstance(event, TimerExpired) and self.deadline is not None and now >= self.deadline:
            self.deadline += self._step_s
        if len(self.seen) == 10:
            self.deadline = None
        return []


def test_a_deadline_that_does_not_move_is_a_bug_and_no_endless_loop() -> None:
    core = Ticking(0.0)
    with pytest.raises(BugError, match=r"Ticking did not move a deadline that is 1\.\d+ s overdue"):
        asyncio.run(drive(core, asyncio.Queue(), lambda action: None))
    assert len(core.seen) == 1


def test_one_that_moves_may_still_be_overdue() -> None:
    async def play() -> Ticking:
        core, inbox = Ticking(0.001), asyncio.Queue[str]()
        inbox.put_nowait("news")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await drive(core, inbox, lambda action: None)
        return core

    core = asyncio.run(play())
    assert len(core.seen) == 11
    assert core.seen[-1] == "news", "an overdue timer comes before what waits"


def test_a_mistake_of_ours_reaches_the_user_as_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(**how: str) -> None:
        raise BugError("something that cannot be")

    monkeypatch.setattr(main, "get_command", lambda app: broken)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        "anycast: a mistake of this program, please report it: something that cannot be\n"
    )  # fmt: skip
