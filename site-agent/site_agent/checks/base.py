"""What a check is: a thing that looks, and says what it found. Time stamps, time limits, rise and fall are the runner's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from anycast.model import EvidenceClass, Status
from anycast.reasons import Reason

REST_PER_LOOK = 20.0
"""So the looks of one check together take at most 5 % of the time, most of it spent in waiting."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How often and how patiently a check looks."""

    interval_s: float
    """From the end of one look to the start of the next."""
    timeout_s: float
    """A look that takes longer could not see."""
    rise: int = 2
    """Passing looks in a row that end a failure."""
    fall: int = 2
    """Failing looks in a row that make one. A fact's is 1: it acts at once."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """What one look found about one thing. The runner makes `Evidence` of it."""

    name: str
    """One of the names in the check's `reports`."""
    status: Status
    reason: Reason
    detail: str = ""
    value: float | None = None
    """The figure that the status was judged by; its unit stands in the check's module."""


class Check(Protocol):
    @property
    def reports(self) -> Mapping[str, EvidenceClass]:
        """What it reports about, and the class of each: part of the code, with its reason, never of the configuration."""
        ...

    @property
    def timing(self) -> Timing:
        """Its own; a fleet may set another for `load` and `shared` checks, by the first name in `reports`."""
        ...

    async def look(self) -> Sequence[Finding]:
        """Look once. May be cancelled at any point; may raise PeerError or KernelError where it could not see.

        Runs in the event loop that renews the lease, so it must never block: what may wait (a disk, a resolver, an account
        database) belongs behind `patience.OneAtATime`, a program into a process, and what computes for longer than some
        milliseconds awaits in between. A look that kept the loop for a lease would take the route away.
        """
        ...


def passing(name: str, detail: str = "", value: float | None = None) -> Finding:
    return Finding(name, Status.PASSING, Reason.HEALTHY, detail, value)


def failing(name: str, reason: Reason, detail: str = "", value: float | None = None) -> Finding:
    return Finding(name, Status.FAILING, reason, detail, value)


def unknown(name: str, reason: Reason, detail: str = "") -> Finding:
    return Finding(name, Status.UNKNOWN, reason, detail)
