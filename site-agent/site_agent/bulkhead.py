"""A wall between what the lease needs and what it does not: a mistake of ours behind it is told, and sinks nothing else.

The verdict, the lease and the two daemons must not go on after a mistake of theirs: what they would renew is no longer
known to be true, so the agent ends and the lease takes the route away. A canary, a hook, a counter or a repair is different:
without it the gateway serves as well as before, and all sites run the same code. So whatever it raises is told, once for
each place that raises it (a mistake may come back ten times a second), and what was running is begun again, ever later.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from anycast.errors import first_failure
from anycast.events import AlarmRaised, Event, PartFaulted
from anycast.reasons import Reason
from anycast.runtime import boottime, heed_cancellation
from site_agent.daemon_process import Backoff

_P = ParamSpec("_P")
_T = TypeVar("_T")
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0


class Bulkhead:
    """Around one part of the agent. Use from the event loop's thread."""

    def __init__(self, part: str, happened: Callable[[Event], None]) -> None:
        """`happened` may itself lead back here: what was told once is not told again."""
        self._part, self._happened = part, happened
        self._told: set[tuple[type[BaseException], str, int]] = set()

    def call(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | None:
        """What `work` returns; None where it raised."""
        try:
            return work(*args, **kwargs)
        except Exception as exc:
            self._faulted(exc)
        return None

    async def once(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Run `work` to its end, or until it raises; False then."""
        try:
            await work()
        except Exception as exc:
            self._faulted(exc)
            return False
        return True

    async def keep(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` to its end, and begin it again whenever it raises."""
        backoff = Backoff(first_s=FIRST_WAIT_S, cap_s=LONGEST_WAIT_S)
        began = boottime()
        # A task for each run: one whose TaskGroup has failed counts a cancellation that nobody takes back (Python 3.11), and
        # the next timeout in it would end it without a word.
        while not await asyncio.create_task(self.once(work)):
            heed_cancellation()
            await asyncio.sleep(backoff.after(boottime() - began))
            began = boottime()

    def _faulted(self, exc: Exception) -> None:
        cause = first_failure(exc)
        place = traceback.extract_tb(cause.__traceback__, limit=-1)
        key = (type(cause), place[0].filename, place[0].lineno or 0) if place else (type(cause), "", 0)
        if key in self._told:
            return
        self._told.add(key)  # first: telling may raise the same again
        error = "".join(traceback.format_exception(cause, limit=-3, chain=False))
        self._happened(PartFaulted(part=self._part, error=error))
        self._happened(AlarmRaised(reason=Reason.PART_FAULTED, detail=f"{self._part}: {cause!r}"))
