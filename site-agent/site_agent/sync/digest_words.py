"""What `digests.Digests` is told and what it wants done. Messages to and from the peer are those of `digest_wire`."""

from __future__ import annotations

import dataclasses

from anycast.timer import TimerExpired
from site_agent.ike.mirror_view import CharonView
from site_agent.netlink.xfrm_digest import Owned
from site_agent.netlink.xfrm_keys import SaKey
from site_agent.sync.digest_wire import Message
from site_agent.sync.numbers_words import EventsLost, PeerConnected, PeerLost, RoleChanged
from site_agent.sync.repairs import GaveUp, Line, Repair


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """The answer to `Look`. What could not be had is None; a table that changed while it was read is had."""

    sas: list[bytes] | None
    """Of `xfrm_digest.SaReader`."""
    policies: dict[bytes, Owned] | None
    """Of `xfrm_digest.PolicyReader`."""
    charon: CharonView | None
    """Of `list-sas` without `noblock`: an IKE_SA that is busy must not be missing from it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Heard:
    """From the peer, in its order."""

    message: Message


@dataclasses.dataclass(frozen=True, slots=True)
class RepairAsked:
    """charon was asked to rekey what `Wanted` had named so."""

    line: Line


Input = Looked | Heard | RepairAsked | RoleChanged | PeerConnected | PeerLost | EventsLost | TimerExpired


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """Dump client SAs and policies, ask charon, and say Looked: always, and in the order in which it was asked."""


@dataclasses.dataclass(frozen=True, slots=True)
class Send:
    """To the peer. Where the channel drops it, the round ends by its limit and the next one tells the same."""

    message: Message


@dataclasses.dataclass(frozen=True, slots=True)
class RemoveSa:
    """Of a Backup: delete this SA from the kernel (DELSA). Neither the Active nor our own charon knows it."""

    key: SaKey
    source: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class RemovePolicy:
    """Of a Backup: delete this policy (DELPOLICY by direction and index)."""

    direction: int
    index: int


@dataclasses.dataclass(frozen=True, slots=True)
class DropIkeSa:
    """Of a Backup: hand our charon the plugin's IKE_DELETE (`ha_forget`). It tells no client."""

    spis: bytes
    """Initiator's and responder's."""
    initiator: bool


@dataclasses.dataclass(frozen=True, slots=True)
class DropChildSa:
    """Of a Backup: hand our charon the plugin's CHILD_DELETE (`ha_forget`). VICI has no word that a PASSIVE one obeys."""

    spis: bytes
    """Of its IKE_SA."""
    initiator: bool
    spi_in: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """All that is to be rekeyed now for the Backup's sake, in place of what was said before."""

    repairs: tuple[Repair, ...]


Action = Look | Send | Wanted | GaveUp | RemoveSa | RemovePolicy | DropIkeSa | DropChildSa


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """ "unprotected: n of m": SAs of an Active that its Backup is not known to hold, in kernel and charon."""

    unprotected: int
    of: int
    compared_at: float | None
    """When the round began that this rests on; None: never, or too long ago, and then nothing is known to be held."""
    waiting: int
    """Repairs that are due or on their way."""
    given_up: int
    """Of which GaveUp was said."""
    causes: dict[str, int] = dataclasses.field(default_factory=dict)
    """What the last round found, by cause."""
