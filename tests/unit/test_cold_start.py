"""Which boots wait for somebody's word, for whose, and what they leave for the next one."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from anycast.document import Coordinator, Document
from anycast.events import AlarmCleared, AlarmRaised, Event
from anycast.model import Cause
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason
from site_agent import cold_start
from site_agent.cold_start import ColdStart, judge
from site_agent.paths import Paths
from tests.support.documents import document

HOUR = 3600.0
SERVES = VerdictReached(serving=True, causes=(Cause(reason=Reason.HEALTHY),), at=1.0)
FAILS = VerdictReached(serving=False, causes=(Cause(reason=Reason.CHARON_EXITED),), at=1.0)


class World:
    def __init__(self, base: Path, *, age_s: float | None, generation: int = 5) -> None:
        self.paths = Paths(run_dir=base / "run", state_dir=base / "state")
        for folder in (self.paths.run_dir, self.paths.state_dir):
            folder.mkdir(exist_ok=True)
        if age_s is not None:
            self.paths.contents.write_text("{}")
            then = time.time() - age_s
            os.utime(self.paths.contents, (then, then))
        self.events: list[Event] = []
        self.heard = self.agrees = False
        self.cold = ColdStart(
            self.document(generation), self.paths, heard=lambda: self.heard, peer_agrees=lambda: self.agrees,
            happened=self.events.append,
        )  # fmt: skip

    @staticmethod
    def document(generation: int) -> Document:
        known = Coordinator(name="coord", addresses=("192.0.2.99",), port=4518)
        return document().model_copy(update={"generation": generation, "coordinator": known})

    @property
    def waits(self) -> bool:
        return not self.cold.passed(SERVES).serving

    async def run(self, seconds: float = 0.05) -> None:
        task = asyncio.create_task(self.cold.run())
        await asyncio.sleep(seconds)
        task.cancel()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_start, "LOOK_S", 0.005)


@pytest.mark.parametrize(
    ("age_s", "generation", "waits"),
    [
        (0.0, 5, False),
        (167 * HOUR, 5, False),
        (169 * HOUR, 5, True),
        (-1000 * HOUR, 5, False),  # the clock stands before that time: it darkens nothing
        (169 * HOUR, 0, False),  # standalone: fleet.yaml is here
        (None, 5, False),  # nothing was taken
    ],
)
def test_an_old_document_waits(age_s: float | None, generation: int, waits: bool, tmp_path: Path) -> None:
    world = World(tmp_path, age_s=age_s, generation=generation)
    world.cold.start()
    assert world.waits is waits
    assert [type(event) for event in world.events] == ([AlarmRaised] if waits else [])
    assert world.cold.passed(FAILS) is FAILS, "a fact passes as it is"


@pytest.mark.parametrize("mark", ["announced", "charon.heard"])
def test_a_start_in_the_same_boot_never_waits(mark: str, tmp_path: Path) -> None:
    """The second one is what agents of before this rule leave: an upgrade while nobody answers withdraws nothing."""
    world = World(tmp_path, age_s=9999 * HOUR)
    (world.paths.run_dir / mark).touch()
    world.cold.start()
    assert not world.waits


@pytest.mark.parametrize("who", ["heard", "agrees"])
def test_the_coordinators_word_or_the_other_gateways_ends_it(who: str, tmp_path: Path) -> None:
    world = World(tmp_path, age_s=169 * HOUR)
    world.cold.start()
    asyncio.run(world.run())
    assert world.waits and not world.paths.announced_mark.exists()
    setattr(world, who, True)
    asyncio.run(world.run())
    assert not world.waits
    assert world.events[1:] == [AlarmCleared(reason=Reason.DOCUMENT_OLD)]
    assert world.paths.announced_mark.stat().st_mode & 0o777 == 0o600
    current = time.time() - world.paths.contents.stat().st_mtime < HOUR
    assert current is (who == "heard"), "only the coordinator knows whether it is current"
    again = World(tmp_path, age_s=None)
    again.cold.start()
    assert not again.waits


def test_it_says_how_old_and_for_whom_it_waits() -> None:
    cause = judge(5, 20 * 24 * HOUR, 168 * HOUR, "coord")
    assert cause is not None and cause.reason is Reason.DOCUMENT_OLD
    assert cause.detail.startswith("generation 5 was current 20 d ago, which is longer than 168 h (cold_start_max_age)")
    assert cause.detail.endswith("waiting for coord or the other gateway")
