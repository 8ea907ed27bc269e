"""Inbound replay windows: what one gateway accepted, the other refuses. Pure.

The Active hears from its kernel how far each inbound SA has come (aevents), and tells the Backup, which writes it into its
own kernel's copy with every bit of the window set. What the Active accepted after the last such message can be accepted once
more by the Backup after a takeover: the exposure, which is `rseqth` packets and those of one message's way (docs). It ends
with the rekey that follows every takeover.

A position only ever goes forward, and never into the kernel of a gateway that receives: an Active that took a stale peer's
word would refuse good packets. It keeps it for the time when it is Backup, because in a handover both are Active for a
moment, and the new one tells nothing twice. A kernel that is behind what was written is written to again, when a listing
shows it.

Addresses move before the role does, so a gateway may hear of its own kernel's advance before it is Active. What the peer
was not told of is told then; all the rest it knows, so a takeover costs the same for 10 SAs and 20,000.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from site_agent.netlink.xfrm_keys import SaKey
from site_agent.sync.numbers_words import PeerConnected, PeerLost, Role, RoleChanged, SaGone

MAX_EARLY = 1 << 16
"""SAs that a peer may tell of before we write it. Beyond it the one told of first goes: it is the likeliest to be one
that both kernels have deleted, and that was told of once more on the way."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SaThere:
    """Our kernel has this inbound SA, at `seq`; from an event, a listing or an aevent that nobody wrote."""

    key: SaKey
    seq: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PeerSaw:
    """From the peer: it accepted numbers up to `seq`."""

    key: SaKey
    seq: int


Input = SaThere | SaGone | PeerSaw | PeerConnected | PeerLost | RoleChanged


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TellSeen:
    """To the peer, as PeerSaw. A later one of the same SA replaces one that is not sent yet."""

    key: SaKey
    seq: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RefuseUpTo:
    """Write into our kernel (`xfrm_replay.encode_seen_up_to`)."""

    key: SaKey
    seq: int


Action = TellSeen | RefuseUpTo


class Windows:
    """See the module."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self._connected = False
        self._seen: dict[SaKey, int] = {}
        """The highest number known to be used up, of the SAs that our kernel has."""
        self._early: dict[SaKey, int] = {}
        """What the peer told and is not written: our kernel has no such SA yet, or is an Active's."""
        self._untold: dict[SaKey, None] = {}
        """Of `_seen`: what the peer may not know, in the order in which it came."""

    def handle(self, event: Input) -> list[Action]:
        """Take one input."""
        return list(self._dispatch(event))

    def _dispatch(self, event: Input) -> Iterator[Action]:
        match event:
            case SaThere(key=key, seq=seq):
                yield from self._on_there(key, seq)
            case SaGone(key=key):
                self._seen.pop(key, None)
                self._early.pop(key, None)
                self._untold.pop(key, None)
            case PeerSaw(key=key, seq=seq):
                yield from self._on_peer_saw(key, seq)
            case PeerConnected():
                self._connected = True
                self._untold.update((key, None) for key, seq in self._seen.items() if seq > 0)
                yield from self._tell()
            case PeerLost():
                self._connected = False
            case RoleChanged(role=role):
                self.role = role
                yield from self._tell()
                if role is Role.BACKUP:
                    early, self._early = self._early, {}
                    for key, seq in early.items():
                        yield from self._on_peer_saw(key, seq)

    def _on_there(self, key: SaKey, seq: int) -> Iterator[Action]:
        known = self._seen.get(key, 0)
        if self.role is not Role.ACTIVE:
            known = max(known, self._early.pop(key, 0))
        self._seen[key] = max(seq, known)
        if seq > known:
            self._untold[key] = None
            yield from self._tell()
        elif seq < known and self.role is not Role.ACTIVE:
            yield RefuseUpTo(key=key, seq=known)

    def _tell(self) -> Iterator[Action]:
        if self.role is Role.ACTIVE and self._connected:
            for key in self._untold:
                yield TellSeen(key=key, seq=self._seen[key])
            self._untold.clear()

    def _on_peer_saw(self, key: SaKey, seq: int) -> Iterator[Action]:
        known = self._seen.get(key)
        if known is None or self.role is Role.ACTIVE:
            self._early[key] = max(seq, self._early.pop(key, 0))  # behind all others: told of last
            if len(self._early) > MAX_EARLY:
                del self._early[next(iter(self._early))]
            return
        if seq >= known:
            self._untold.pop(key, None)
        if seq > known:
            self._seen[key] = seq
            yield RefuseUpTo(key=key, seq=seq)
