"""Keeps charon's door as the role wants it: says it again each second, and often to a charon that has no sockets yet.

    Backup, or Active without addresses to hand out ──▶ closed
    Active whose charon hands out addresses         ──▶ open
    Active that is about to hand over               ──▶ hushed, for a moment

What cannot be done is an alarm and is tried again; nothing waits for it. So with a kernel or a Yama that permits nothing all
is as without a door.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from anycast.errors import PeerError
from anycast.events import AlarmCleared, AlarmRaised, Event
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.ike.door import Door

LOOK_PERIOD_S = 1.0
EAGER_PERIOD_S = 0.02
"""While charon starts: what comes between its sockets and the next look is answered by it."""
EAGER_S = 5.0
"""A charon has its sockets 0.1 s after its start, 1.3 s in User Mode Linux."""


class Doorkeeper:
    """Use from the event loop's thread. Run `run` as a task."""

    def __init__(self, door: Door, *, happened: Callable[[Event], None]) -> None:
        """Closed until something is said, in every role: the process before this one may have left it hushed."""
        self._door, self._happened = door, happened
        self._closed = True
        self._alarm: Reason | None = None
        self._count = 0
        """Of sockets, when last looked at."""
        self._eager_until = 0.0
        self._wake = asyncio.Event()
        self._letting_in: asyncio.Task[None] | None = None

    def close(self) -> None:
        """At once, and from now on. Nothing that is waited for opens it any more."""
        self._give_up_waiting()
        if not self._closed:
            self._want(True)

    def open(self) -> None:
        """At once, and from now on."""
        self._want(False)

    def hush(self) -> None:
        """At once, until `unhush` or another role. Where it cannot be done all is as without it."""
        try:
            self._door.hush()
        except PeerError:
            self._look()  # one socket may be hushed and the next one not

    def unhush(self) -> None:
        """As it was wanted before, and since."""
        self._look()

    def open_when(self, hands_out: Callable[[], Awaitable[None]]) -> None:
        """Open when `hands_out` has returned, which is waited for beside, until `close`."""
        self._give_up_waiting()
        self._letting_in = asyncio.get_running_loop().create_task(self._let_in(hands_out))

    def charon_is_new(self) -> None:
        """Its sockets are open, or not there yet."""
        self._count, self._eager_until = 0, boottime() + EAGER_S
        self._look()
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wake.clear()
            before = self._count
            self._look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause(before)):
                    await self._wake.wait()

    async def _let_in(self, hands_out: Callable[[], Awaitable[None]]) -> None:
        await hands_out()
        self.open()

    def _give_up_waiting(self) -> None:
        if self._letting_in is not None:
            self._letting_in.cancel()
            self._letting_in = None

    def _pause(self, before: int) -> float | None:
        if self._alarm is None and not self._closed:
            return None
        starts = self._count == 0 or self._count != before
        return EAGER_PERIOD_S if starts and self._alarm is None and boottime() < self._eager_until else LOOK_PERIOD_S

    def _want(self, closed: bool) -> None:
        self._closed = closed
        self._look()
        self._wake.set()

    def _look(self) -> None:
        alarm, detail = None, ""
        try:
            self._count = self._door.close() if self._closed else self._door.open()
        except PeerError as exc:
            alarm, detail = Reason.DOOR_OPEN if self._closed else Reason.DOOR_CLOSED, str(exc)
        if self._alarm not in (None, alarm):
            self._happened(AlarmCleared(reason=self._alarm))
        if alarm is not None and alarm is not self._alarm:
            self._happened(AlarmRaised(reason=alarm, detail=detail))
        self._alarm = alarm
