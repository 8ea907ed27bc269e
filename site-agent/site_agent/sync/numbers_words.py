"""What `numbers.Numbers` is told and what it wants done; some of it is told to `windows` and `ha_relay`, too.

An SA here is always an outbound one, named by its kernel key.
"""

from __future__ import annotations

import dataclasses
import enum

from anycast.timer import TimerExpired
from site_agent.netlink.xfrm_keys import SaKey


class Role(enum.Enum):
    BACKUP = "backup"
    PROMOTING = "promoting"
    """It will be Active as soon as ReadyToServe was said. Still nothing may be sent."""
    ACTIVE = "active"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SaReported:
    """The kernel's event of an SA that is new there (XFRM_MSG_NEWSA): nothing was sent on it before it was heard of,
    except by charon's own Active, which is the maker."""

    key: SaKey


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SaListed:
    """One SA of a listing. The whole listing is given before anything is done about it, so `oseq` is younger than our own
    last move."""

    key: SaKey
    oseq: int


@dataclasses.dataclass(frozen=True, slots=True)
class ListingEnded:
    """What it did not tell is not there."""


@dataclasses.dataclass(frozen=True, slots=True)
class EventsLost:
    """ENOBUFS: the kernel dropped some of its events."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EventsDrained:
    """The answer to the `DrainEvents` of that turn, given after all inputs that came of them."""

    turn: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SaGone:
    key: SaKey


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """The kernel acknowledged `Place`."""

    key: SaKey
    block: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlaceFailed:
    """The kernel refused `Place`: the SA is gone (ESRCH), or has no room for the number."""

    key: SaKey


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """The last number sent on an SA, from an event or a listing; may be old."""

    key: SaKey
    oseq: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MirrorHandedOver:
    """A CHILD_ADD goes to our charon now: the kernel will report an outbound SA with this SPI that the peer made."""

    spi: bytes
    """Four bytes, network order."""


@dataclasses.dataclass(frozen=True, slots=True)
class PromotionAsked:
    """No `ha` message is handed to charon any more. Answered by ReadyToServe; addresses come after that."""


@dataclasses.dataclass(frozen=True, slots=True)
class Promoted:
    """charon is told `+1` next: what the kernel reports from here on may be of our own making."""


@dataclasses.dataclass(frozen=True, slots=True)
class Demoted:
    """We send no more (addresses gone, charon PASSIVE)."""


@dataclasses.dataclass(frozen=True, slots=True)
class PeerConnected:
    """A new session with the peer stands; what was under way in the one before may be lost."""


@dataclasses.dataclass(frozen=True, slots=True)
class PeerLost:
    pass


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoleChanged:
    """For `ha_relay` and `windows`: PROMOTING before addresses move; BACKUP only after charon is PASSIVE and its socket was
    read empty. `Numbers` moves its role by the promotion's words."""

    role: Role


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MarkAsked:
    """From the peer: it is Active and sends in `block`."""

    key: SaKey
    block: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MarkTold:
    """From the peer: it is Backup and its kernel has its copy at the start of `block`."""

    key: SaKey
    block: int


Input = (
    SaReported
    | SaListed
    | ListingEnded
    | EventsLost
    | EventsDrained
    | SaGone
    | Placed
    | PlaceFailed
    | Advanced
    | MirrorHandedOver
    | PromotionAsked
    | Promoted
    | Demoted
    | PeerConnected
    | PeerLost
    | MarkAsked
    | MarkTold
    | TimerExpired
)


@dataclasses.dataclass(frozen=True, slots=True)
class ListSas:
    """Dump the outbound SAs: SaListed for each once the dump is complete, then ListingEnded. Also on ENOBUFS."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DrainEvents:
    """Read the kernel's events until there is none (EAGAIN), then say EventsDrained.

    The kernel tells of an SA in the same system call that makes it, so what charon has installed by now is in the socket.
    It costs what charon did in the last moments, not what the table holds.
    """

    turn: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Make `block` << BLOCK_BITS the last number sent, now, in the order of these actions; answer Placed or PlaceFailed."""

    key: SaKey
    block: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RetireSa:
    """Delete it from the kernel: no number is safe on it. charon negotiates another (`ike.tunnel_repair`)."""

    key: SaKey


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RekeySa:
    """It nears the end of its block."""

    key: SaKey


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AskMark:
    """To the peer, as MarkAsked."""

    key: SaKey
    block: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TellMark:
    """To the peer, as MarkTold."""

    key: SaKey
    block: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReadyToServe:
    """Every SA left in the kernel may be sent on."""

    retired: int
    """How many had to be deleted for that."""


Action = ListSas | DrainEvents | Place | RetireSa | RekeySa | AskMark | TellMark | ReadyToServe
