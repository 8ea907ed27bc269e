"""What a check is: a thing that looks, and says what it found. Class, time stamps and time limits are the runner's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from anycast.model import EvidenceClass, Status
from anycast.reasons import Reason


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """What one look found about one thing. The runner makes `Evidence` of it."""

    name: str
    """One of the names in the check's `reports`."""
    status: Status
    reason: Reason
    detail: str = ""


class Check(Protocol):
    @property
    def reports(self) -> Mapping[str, EvidenceClass]:
        """What it reports about, and the class of each: part of the code, with its reason, never of the configuration."""
        ...

    @property
    def interval_s(self) -> float:
        """From the end of one look to the start of the next."""
        ...

    @property
    def timeout_s(self) -> float: ...

    async def look(self) -> Sequence[Finding]:
        """Look once. May be cancelled at any point; may raise PeerError or KernelError where it could not see."""
        ...


def passing(name: str, detail: str = "") -> Finding:
    return Finding(name, Status.PASSING, Reason.HEALTHY, detail)


def failing(name: str, reason: Reason, detail: str = "") -> Finding:
    return Finding(name, Status.FAILING, reason, detail)


def unknown(name: str, reason: Reason, detail: str = "") -> Finding:
    return Finding(name, Status.UNKNOWN, reason, detail)
