"""Carries the `ha` plugin's messages between two charons: what, in which order, and to whom. Pure.

Theory of operation
-------------------
The plugin sends each message once and never hears whether it arrived. One that is lost is an SA that the other charon does
not have, or a message ID that it believes to be another. So here each is numbered, kept until the peer's relay has
acknowledged it, and handed to charon strictly in order; what could not be kept is *counted*, because then the Active has to
feed the Backup anew by rekeying (the shell's `rekey` on MirrorGap).

Two gates, each of which would do alone if the other side were always right:

* only an Active's messages are numbered and carried, so that a Backup's charon that is stopped and says IKE_DELETE for what
  it mirrored deletes nothing at the peer;
* only a Backup's charon is handed messages, so that a stale Active's IKE_DELETE destroys no living SA. What arrives at an
  Active, or while it is being promoted, is acknowledged and dropped; when it is a Backup again, that is a gap like any
  other (the peer may have been Active all the time, and then nobody else rekeys).

From the first step of a demotion on, what arrives is the next Active's, which rekeys what it took over while our charon is
not PASSIVE yet. It is held, and handed over when the gate opens. Dropped, it left charon behind the clients' message IDs,
and the next handover found clients that took no request and had other CHILD_SAs: a black hole of minutes (measured).

Numbers belong to one life of the sending process, named by its `epoch`. A receiver that meets a new epoch begins with the
first message offered, and tells a gap where that is not the first one of all.

What an Active said is sent again in a later session only while it is Active still. Afterwards the peer may have served, and
its SAs and message IDs are younger than what was kept. Numbers go on, so what never arrived is told by the next message.

The bytes never come here: a message is a `handle`, which the shell exchanges for the bytes and forgets when told to.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator

from site_agent.sync.ha_wire import CARRIED, MessageType
from site_agent.sync.numbers_words import PeerConnected, PeerLost, Role, RoleChanged

MAX_KEPT = 8192
"""Messages; as bytes at most some MB. One tunnel's life costs five, a DPD of one tunnel one."""
ACK_EVERY = 64
"""Of a burst, every so many are acknowledged; the rest when the shell says that it has read everything (InboxEmpty)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FromCharon:
    """A datagram of our own charon."""

    kind: int
    size: int
    handle: int
    spi: bytes | None = None
    """Of a CHILD_ADD: the outbound SPI."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FromPeer:
    """A Carry of the peer's."""

    epoch: int
    number: int
    kind: int
    handle: int
    spi: bytes | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PeerHas:
    """An Acknowledge of the peer's: it has everything up to `number` of `epoch`."""

    epoch: int
    number: int


@dataclasses.dataclass(frozen=True, slots=True)
class InboxEmpty:
    """Everything that the peer sent so far was given to the core."""


@dataclasses.dataclass(frozen=True, slots=True)
class DemotionBegins:
    """This gateway is no longer to serve; its charon does not know yet. Ends with the next RoleChanged."""


Input = DemotionBegins | FromCharon | FromPeer | PeerHas | PeerConnected | PeerLost | InboxEmpty | RoleChanged


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Carry:
    epoch: int
    number: int
    handle: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HandToCharon:
    handle: int
    spi: bytes | None
    """Of a CHILD_ADD: told to `Numbers` (MirrorHandedOver) before the datagram is sent."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """The shell may drop the bytes."""

    handle: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """The peer said it as Active, and our charon is not handed it. The bytes are for whoever judges it (`reunion`)."""

    epoch: int
    number: int
    handle: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NotAcknowledged:
    """We said it as Active, and are Backup now: the peer may never have had it. As SetAside."""

    number: int
    handle: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledge:
    epoch: int
    number: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MirrorGap:
    """So many messages never reached, or never will reach, the Backup's charon."""

    missing: int


Action = Carry | HandToCharon | Forget | SetAside | NotAcknowledged | Acknowledge | MirrorGap


class HaRelay:
    """See the module. `epoch` is drawn by the shell, new for each process."""

    def __init__(self, epoch: int, role: Role) -> None:
        self.role = role
        self.counts: collections.Counter[tuple[str, int]] = collections.Counter()
        """(what was done, message type): carried, refused_type, refused_backup, handed, held, refused_active, lost."""
        self._epoch, self._last = epoch, 0
        self._kept: collections.deque[tuple[int, int, int]] = collections.deque()
        """(number, handle, kind), not acknowledged yet."""
        self._connected = False
        self._peer_epoch: int | None = None
        self._peer_has_given = 0
        """The last number of the peer's that was taken."""
        self._acknowledged = 0
        self._holding = False
        self._held: list[HandToCharon] = []
        self._not_handed = 0
        """Messages that were dropped, or found missing, since this gateway was Backup last."""

    @property
    def last(self) -> int:
        """Number of the last message that our charon said as Active."""
        return self._last

    @property
    def waiting(self) -> int:
        """Messages that the peer has not acknowledged."""
        return len(self._kept)

    def handle(self, event: Input) -> list[Action]:
        """Take one input."""
        return list(self._dispatch(event))

    def _dispatch(self, event: Input) -> Iterator[Action]:
        match event:
            case FromCharon():
                yield from self._on_charon(event)
            case FromPeer():
                yield from self._on_peer(event)
            case PeerHas(epoch=epoch, number=number):
                if epoch == self._epoch:
                    while self._kept and self._kept[0][0] <= number:
                        yield Forget(handle=self._kept.popleft()[1])
            case PeerConnected():
                self._connected = True
                for number, handle, _kind in self._kept:
                    yield Carry(epoch=self._epoch, number=number, handle=handle)
            case PeerLost():
                self._connected = False
            case InboxEmpty():
                yield from self._acknowledge()
            case DemotionBegins():
                self._holding = self.role is not Role.BACKUP
            case RoleChanged(role=role):
                self.role = role
                while self._kept and role is not Role.ACTIVE:
                    number, handle, _kind = self._kept.popleft()
                    unheard = role is Role.BACKUP
                    yield NotAcknowledged(number=number, handle=handle) if unheard else Forget(handle=handle)
                yield from self._let_go(role)
                if role is Role.BACKUP and self._not_handed:
                    yield MirrorGap(missing=self._not_handed)
                    self._not_handed = 0

    def _on_charon(self, event: FromCharon) -> Iterator[Action]:
        refused = "refused_type" if event.kind not in CARRIED else "refused_backup" if self.role is not Role.ACTIVE else ""
        if refused:
            self.counts[refused, event.kind] += 1
            yield Forget(handle=event.handle)
            return
        self.counts["carried", event.kind] += 1
        self._last += 1
        self._kept.append((self._last, event.handle, event.kind))
        if len(self._kept) > MAX_KEPT:  # without a peer for long: what it missed is fed anew, not remembered
            _number, handle, kind = self._kept.popleft()
            self.counts["lost", kind] += 1
            yield Forget(handle=handle)
        if self._connected:
            yield Carry(epoch=self._epoch, number=self._last, handle=event.handle)

    def _on_peer(self, event: FromPeer) -> Iterator[Action]:
        if event.kind not in CARRIED:
            self.counts["refused_type", event.kind] += 1
            yield Forget(handle=event.handle)
            return
        if event.epoch != self._peer_epoch:
            self._peer_epoch, self._peer_has_given, self._acknowledged = event.epoch, 0, 0
        if event.number <= self._peer_has_given:  # sent again in a new session: our acknowledgement was lost
            self._acknowledged = 0
            yield Forget(handle=event.handle)
            return
        missing = event.number - self._peer_has_given - 1
        self._peer_has_given = event.number
        hand = HandToCharon(handle=event.handle, spi=event.spi if event.kind == MessageType.CHILD_ADD else None)
        if self.role is Role.BACKUP:
            if missing:
                yield MirrorGap(missing=missing)
            self.counts["handed", event.kind] += 1
            yield hand
        elif self._holding and len(self._held) < MAX_KEPT:
            self.counts["held", event.kind] += 1
            self._not_handed += missing
            self._held.append(hand)
        else:
            self.counts["refused_active", event.kind] += 1
            self._not_handed += missing + 1
            yield SetAside(epoch=event.epoch, number=event.number, handle=event.handle)
        if self._peer_has_given - self._acknowledged >= ACK_EVERY:
            yield from self._acknowledge()

    def _let_go(self, role: Role) -> Iterator[Action]:
        """Of what was held."""
        for held in self._held:
            if role is Role.BACKUP:
                yield held
            else:
                self._not_handed += 1
                yield Forget(handle=held.handle)
        self._held.clear()
        self._holding = False

    def _acknowledge(self) -> Iterator[Action]:
        if self._peer_epoch is not None and self._peer_has_given > self._acknowledged:
            self._acknowledged = self._peer_has_given
            yield Acknowledge(epoch=self._peer_epoch, number=self._peer_has_given)
