"""What `conntrack_mirror.ConntrackMirror` is told and what it wants done. Plain data."""

from __future__ import annotations

import dataclasses

from anycast.timer import TimerExpired
from site_agent.sync.numbers_words import RoleChanged


@dataclasses.dataclass(frozen=True, slots=True)
class Connected:
    """Messages flow (`words.Up`)."""

    resumed: bool
    """What was told before has arrived or will."""
    few: bool
    """Our own kernel holds next to no flow, so the whole table is cheaper than a comparison."""


@dataclasses.dataclass(frozen=True, slots=True)
class Parted:
    """They do not any more."""


@dataclasses.dataclass(frozen=True, slots=True)
class Told:
    """The peer's message of `Kind.CONNTRACK`."""

    payload: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Dumped:
    """A part of the dump under way, its end included."""

    data: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class DumpEnded:
    """It broke off."""

    error: int
    """An errno."""


@dataclasses.dataclass(frozen=True, slots=True)
class Heard:
    """Events of the kernel, one after the other."""

    data: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class EventsLost:
    """ENOBUFS: the kernel dropped some."""


@dataclasses.dataclass(frozen=True, slots=True)
class Applied:
    """The answer to `Apply`, before any other input: what the kernel refused."""

    errors: list[tuple[int, int]]
    """Sequence number and errno."""
    unsure: bool = False
    """Some answers were lost."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unsent:
    """A message of ours had no room (`words.Dropped`)."""


Input = RoleChanged | Connected | Parted | Told | Dumped | DumpEnded | Heard | EventsLost | Applied | Unsent | TimerExpired


@dataclasses.dataclass(frozen=True, slots=True)
class Listen:
    """Subscribe to the kernel's events, or end that."""

    on: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Dump:
    """Read the whole table, in `Dumped` until `StopDump`; one under way is abandoned without a word."""


@dataclasses.dataclass(frozen=True, slots=True)
class StopDump:
    """Its end was seen, or nobody needs it any more."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tell:
    payload: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Apply:
    """Messages for the kernel, with their sequence numbers; answered by `Applied`."""

    data: bytes | bytearray = dataclasses.field(repr=False)
    count: int


Action = Listen | Dump | StopDump | Tell | Apply
