"""What moves a session (inputs), and what it wants done (actions). Plain data."""

from __future__ import annotations

import dataclasses
import enum

from anycast.timer import TimerExpired
from site_agent.sync.kinds import Kind, Lane
from site_agent.sync.versions import Mismatch, Versions


class Cause(enum.StrEnum):
    """Why a link ended."""

    ENDED = "ended"
    """The connection did, or the peer gave no reason."""
    REPLACED = "replaced"
    """By a newer link of the same session."""
    SILENT = "silent"
    STALLED = "stalled"
    LATE = "late"
    """No HELLO or RESUME in time."""
    STALE = "stale"
    """Its session has ended."""
    VIOLATION = "violation"
    PENALTY = "penalty"
    """Too soon after a violation."""
    PROTOCOL = "protocol"
    """No common version, or something required that is not known here."""
    REFUSED = "refused"
    """By certificate (the shell's word)."""


@dataclasses.dataclass(frozen=True, slots=True)
class LinkUp:
    """An authenticated connection. `called`: we opened it."""

    link: int
    called: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Received:
    link: int
    data: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Drained:
    """Most of what was written to the link has gone to the kernel."""

    link: int


@dataclasses.dataclass(frozen=True, slots=True)
class LinkEnded:
    link: int
    cause: Cause = Cause.ENDED
    detail: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class DialFailed:
    detail: str


@dataclasses.dataclass(frozen=True, slots=True)
class Submit:
    kind: Kind
    payload: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class WorkedOff:
    """The owner is done with the next `count` messages of a lane."""

    lane: Lane
    epoch: int
    """Of the messages (`Deliver.epoch`): those of a session that has ended are nobody's concern."""
    count: int = 1


@dataclasses.dataclass(frozen=True, slots=True)
class VersionsChanged:
    versions: Versions


@dataclasses.dataclass(frozen=True, slots=True)
class IdentityChanged:
    """Our certificate was renewed: a new link is to prove it."""


FromOwner = Submit | WorkedOff | VersionsChanged | IdentityChanged
Input = LinkUp | Received | Drained | LinkEnded | DialFailed | FromOwner | TimerExpired


@dataclasses.dataclass(frozen=True, slots=True)
class Dial:
    """Open a connection to the peer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Write:
    link: int
    data: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """Close the link, after what was written to it."""

    link: int
    cause: Cause
    detail: str


@dataclasses.dataclass(frozen=True, slots=True)
class Deliver:
    """To the owner, who says `WorkedOff` when it is done with it."""

    kind: Kind
    payload: bytes = dataclasses.field(repr=False)
    epoch: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Up:
    """Messages flow. Not `resumed`: nothing of what was said before counts, begin with a snapshot."""

    resumed: bool
    protocol: int


@dataclasses.dataclass(frozen=True, slots=True)
class Down:
    cause: Cause
    detail: str


@dataclasses.dataclass(frozen=True, slots=True)
class Compared:
    """The peer has said its versions: what differs, nothing included."""

    mismatches: tuple[Mismatch, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Dropped:
    """A message had no session, no room, or no meaning to this peer: the owner repairs what it would have told."""

    kind: Kind


@dataclasses.dataclass(frozen=True, slots=True)
class RoomAgain:
    """Half of a queue that had been full is free."""

    lane: Lane


Action = Dial | Write | End | Deliver | Up | Down | Compared | Dropped | RoomAgain
