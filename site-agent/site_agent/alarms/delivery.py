"""The queue in front of one hook: bounded, one notice on its way at a time, retried with back-off. A pure core.

Theory of operation
-------------------
A hook is somebody else's program or server. It may hang, refuse, or be gone for a day, and alarms come fastest when
everything is broken. So at most `QUEUED` notices wait; the oldest gives way and is counted, because what is true now matters
more than what was. Whoever makes one alarm come and go must not push another out: of each alarm at most two notices wait (it
began, it ended), and a third takes the place of both: how it ended up arrives, and others are not lost.

A notice is tried `MOST_ATTEMPTS` times: one that the hook cannot digest must not keep the others.

The back-off belongs to the hook, not to the notice: while nothing gets through, the next notice waits as long as the last
one would have. `Failing` is said once, at the first failure after a success (or the start), `Recovered` at the next success.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Hashable
from typing import Generic, TypeVar

from anycast.errors import BugError
from anycast.runtime import TimerExpired

QUEUED = 256
MOST_OF_ONE = 2
MOST_ATTEMPTS = 8
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
"""1, 2, 4 … 60 s: the eighth attempt comes two minutes after the first."""

_N = TypeVar("_N")


@dataclasses.dataclass(frozen=True, slots=True)
class Queued(Generic[_N]):
    """Input: something to deliver."""

    notice: _N
    about: Hashable = None
    """Whose beginnings and ends this is one of; None for what is told each time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Delivered:
    """Input: the hook took what it was given."""


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """Input: it did not."""

    detail: str


@dataclasses.dataclass(frozen=True, slots=True)
class Deliver(Generic[_N]):
    """Action: give this to the hook; answer with `Delivered` or `Failed`."""

    notice: _N
    lost: int
    """Notices lost since the last one that was delivered."""


@dataclasses.dataclass(frozen=True, slots=True)
class Failing:
    """Action: tell the operator by other ways."""

    detail: str


@dataclasses.dataclass(frozen=True, slots=True)
class Recovered:
    """Action: what `Failing` said is over."""


Input = Queued[_N] | Delivered | Failed | TimerExpired
Action = Deliver[_N] | Failing | Recovered


class Delivery(Generic[_N]):
    """Driven by four things: a new notice, the hook's success or failure, and its own timer."""

    def __init__(self) -> None:
        self._waiting: collections.deque[Queued[_N]] = collections.deque()
        self._current: _N | None = None
        self._on_its_way = False
        self._attempts = 0
        self._failures = 0
        self._retry_at: float | None = None
        self._unsaid = self._said = 0
        self.delivered = 0
        self.lost = 0
        """Since the start."""
        self.merged = 0
        """Since the start: notices in whose place a younger one about the same was told."""

    @property
    def deadline(self) -> float | None:
        """When the next attempt is due. Set by a failure only: a notice never moves it."""
        return self._retry_at

    @property
    def failing(self) -> bool:
        return self._failures > 0

    @property
    def on_its_way(self) -> bool:
        return self._on_its_way

    @property
    def queued(self) -> int:
        """What has not been delivered yet, the one on its way included."""
        return len(self._waiting) + (self._current is not None)

    def handle(self, event: Input[_N], now: float) -> list[Action[_N]]:
        """Take one input. Raises BugError for an answer to nothing."""
        actions: list[Action[_N]] = []
        match event:
            case Queued():
                self._merge(event.about)
                self._waiting.append(event)
                if len(self._waiting) > QUEUED:
                    self._waiting.popleft()
                    self._lose()
            case Delivered() | Failed():
                if not self._on_its_way:
                    raise BugError("a hook answered to nothing")
                self._on_its_way = False
                actions += self._on_failure(event.detail, now) if isinstance(event, Failed) else self._on_success()
            case TimerExpired():
                if self._retry_at is not None and now >= self._retry_at:
                    self._retry_at = None
        return actions + self._next()

    def _merge(self, about: Hashable) -> None:
        same = [waiting for waiting in self._waiting if about is not None and waiting.about == about]
        if len(same) >= MOST_OF_ONE:
            for older in same:
                self._waiting.remove(older)
            self.merged += len(same)

    def _on_success(self) -> list[Action[_N]]:
        recovered: list[Action[_N]] = [Recovered()] if self._failures else []
        self._current, self._attempts, self._failures = None, 0, 0
        self._unsaid -= self._said
        self.delivered += 1
        return recovered

    def _on_failure(self, detail: str, now: float) -> list[Action[_N]]:
        self._attempts += 1
        self._failures += 1
        # The exponent is capped as well: a hook that is gone for a year must not overflow a float.
        self._retry_at = now + min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(self._failures - 1, 16))
        if self._attempts >= MOST_ATTEMPTS:
            self._current, self._attempts = None, 0
            self._lose()
        return [Failing(detail)] if self._failures == 1 else []

    def _next(self) -> list[Action[_N]]:
        if self._on_its_way or self._retry_at is not None:
            return []
        if self._current is None and self._waiting:
            self._current = self._waiting.popleft().notice
        if self._current is None:
            return []
        self._on_its_way, self._said = True, self._unsaid
        return [Deliver(self._current, self._unsaid)]

    def _lose(self) -> None:
        self.lost += 1
        self._unsaid += 1
