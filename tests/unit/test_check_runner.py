"""A check with a bug is asked again and again, and reported once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from anycast.events import CheckFaulted, Event
from anycast.model import Evidence, EvidenceClass, Status
from site_agent.checks.base import Finding, Timing
from site_agent.checks.runner import CheckRunner


class Broken:
    reports: Mapping[str, EvidenceClass] = {"broken": EvidenceClass.FACT}
    timing = Timing(interval_s=0.001, timeout_s=1.0, rise=1, fall=1)

    async def look(self) -> Sequence[Finding]:
        raise ZeroDivisionError("always the same")


def test_a_check_that_always_faults_does_not_fill_the_log() -> None:
    seen: list[Evidence] = []
    events: list[Event] = []

    async def run() -> None:
        task = asyncio.create_task(CheckRunner([Broken()], seen.append, events.append).run())
        while len(seen) < 5:
            await asyncio.sleep(0.001)
        task.cancel()

    asyncio.run(run())
    assert {evidence.status for evidence in seen} == {Status.UNKNOWN}
    assert [type(event) for event in events] == [CheckFaulted]
