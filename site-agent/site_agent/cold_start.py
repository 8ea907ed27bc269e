"""A gateway that boots while no coordinator answers: does it announce by the document that it has?

It does where the coordinator knew of that document not longer than `cold_start_max_age` ago, or where the site's other
gateway holds the same generation (architecture, rule 3). Otherwise it waits for either, and says so: what operators decided
while the machine was off may be that nobody announces there any more. `hold announce` overrides it, as it is no fact.

How old the document is, the file of contents tells by its time of modification: it is written when something is taken, and
touched while the coordinator acknowledges what this gateway reports. A clock that stands before that time tells nothing;
then the document counts as young, because a wrong clock must darken nothing.

Cold is a boot, not a start: whoever announced in this boot left a mark in the run directory, which ends with the boot, and
so did every agent of before this rule.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable

from anycast.document import Document
from anycast.events import AlarmCleared, AlarmRaised, Event
from anycast.model import Cause
from anycast.policy.token_holder import darkened
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.paths import Paths

LOOK_S = 1.0
TOUCH_EVERY_S = 60.0
_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))


class ColdStart:
    """Use from the event loop's thread: `start` before anything is announced, then `run` until cancelled."""

    def __init__(
        self,
        document: Document,
        paths: Paths,
        *,
        heard: Callable[[], bool],
        peer_agrees: Callable[[], bool],
        happened: Callable[[Event], None],
    ) -> None:
        """`document.coordinator` is there. `heard`: the coordinator has acknowledged a report of this agent's, and is
        connected; `peer_agrees`: the site's other gateway says that it runs by the same generation."""
        assert document.coordinator is not None
        self._generation, self._coordinator = document.generation, document.coordinator
        self._paths, self._heard, self._peer_agrees, self._happened = paths, heard, peer_agrees, happened
        self._waits: Cause | None = None
        self._marked = False
        self._touched_at = -TOUCH_EVERY_S

    def start(self) -> None:
        """Decide, before the first verdict; a disk is waited for."""
        if self._generation == 0 or any(mark.exists() for mark in (self._paths.announced_mark, self._paths.charon_heard)):
            return
        with contextlib.suppress(OSError):  # nothing that was taken: nothing that could be old
            age_s = time.time() - self._paths.contents.stat().st_mtime
            self._waits = judge(self._generation, age_s, self._coordinator.cold_start_max_age_s, self._coordinator.name)
        if self._waits is not None:
            self._happened(AlarmRaised(reason=self._waits.reason, detail=self._waits.detail))

    def passed(self, verdict: VerdictReached) -> VerdictReached:
        """The site verdict as this leaves it."""
        return darkened(verdict, self._waits)

    async def run(self) -> None:
        while True:
            heard = self._heard()
            if self._waits is not None and (heard or self._peer_agrees()):
                self._waits = None
                self._happened(AlarmCleared(reason=Reason.DOCUMENT_OLD))
            current = heard and self._generation > 0 and boottime() - self._touched_at >= TOUCH_EVERY_S
            if self._waits is None and (current or not self._marked):
                await asyncio.to_thread(self._note, current)
            await asyncio.sleep(LOOK_S)

    def _note(self, current: bool) -> None:
        with contextlib.suppress(OSError):  # a full or dying disk has alarms of its own
            if not self._marked:
                self._paths.announced_mark.touch(mode=0o600)
                self._marked = True
            if current:
                os.utime(self._paths.contents)
                self._touched_at = boottime()


def judge(generation: int, age_s: float, max_age_s: float, coordinator: str) -> Cause | None:
    """Why nothing is announced by a document that the coordinator knew of so long ago; None: it is announced."""
    if age_s <= max_age_s:
        return None
    detail = (
        f"generation {generation} was current {_span(age_s)} ago, which is longer than {_span(max_age_s)} "
        f"(cold_start_max_age); waiting for {coordinator} or the other gateway"
    )
    return Cause(reason=Reason.DOCUMENT_OLD, detail=detail)


def _span(seconds: float) -> str:
    unit_s, unit = next(((size, name) for size, name in _UNITS if seconds >= 10 * size), _UNITS[-1])
    return f"{seconds / unit_s:.0f} {unit}"
