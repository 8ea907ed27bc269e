"""What two Actives that meet have said to their clients apart, put together at the one that stays. Pure.

Theory of operation
-------------------
While two are Active, clients speak with whichever gets their packets. What one charon says then, the other one refuses
(`ha_relay`) or never hears. VRRP decides who stays; who stays need not be who has what a client said last. Then the client's
requests, or ours, carry message IDs that the other side does not expect, and are ignored until somebody gives up: minutes.

So the one that has become Backup says what the other one has not acknowledged (`SayLate`), and then that it is a Backup
(`SaySettled`). The one that is Active has kept that, and what it was offered before (`PeerSaid`), and compares it with what
it has said itself since (`OwnSaid`), IKE_SA by IKE_SA. One that was rekeyed is one with what it was rekeyed to.

* Each direction has message IDs of its own. A client's request was handled by one of the two only, since it is handled
  where it is expected; so the higher one is right. A request of ours was answered where a later one followed it, or a
  CHILD_SA came of it; a single one that nothing followed proves nothing, and is left out.
* Where each direction has moved at one of the two at most, and no IKE_SA was rekeyed or ended at one while the other spoke
  to the client, what the other one said is *adopted*: our charon is handed its messages, as a Backup's would be.
* Else the halves cannot be put together: the IKE_SA is *ended*, with the higher message ID, so that the client is told. If
  it does not take that either, its dead peer detection meets silence instead of an answer.
* Where both have made a request with the same message ID, the client has seen one of them, and may have answered the other
  from memory: keys of two exchanges. Such an IKE_SA's CHILD_SAs are *renewed*: rekeyed, and made anew where the client does
  not know them.

The same holds for a planned handover, in which the old Active says something after the new one has closed its ears.

The bytes never come here: a message is a `handle`, as in `ha_relay`.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator

from site_agent.sync.ha_relay import MAX_KEPT, Forget
from site_agent.sync.ha_wire import MessageType, Said
from site_agent.sync.numbers_words import PeerConnected, PeerLost, Role, RoleChanged

NEEDS_PASSIVE = frozenset({MessageType.IKE_ADD, MessageType.CHILD_ADD})
"""What makes an IKE_SA, which is PASSIVE at first, or kernel SAs, which must stand at their marks before they send."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OwnSaid:
    """Our charon's, as Active: `number` is the relay's. `said` is None where it names no IKE_SA."""

    number: int
    said: Said | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PeerSaid:
    """The peer's, as Active, which our charon was not handed: offered while we were not Backup, or late."""

    epoch: int
    number: int
    handle: int
    said: Said | None
    late: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Unheard:
    """Ours, which the peer has not acknowledged, when we cease to be Active; in order, before RoleChanged."""

    number: int
    handle: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PeerHas:
    number: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PeerSettled:
    """Its charon is PASSIVE, and it has said all; `late` so many messages came late."""

    late: int


Input = OwnSaid | PeerSaid | Unheard | PeerHas | PeerSettled | PeerConnected | PeerLost | RoleChanged


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SayLate:
    number: int
    handle: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SaySettled:
    late: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """An IKE_SA whose halves cannot be put together, as our charon has it."""

    ike: bytes
    """Both SPIs, the initiator's first."""
    raised_by: int | None
    """The handle of what tells our charon of the message ID that the client expects next, where ours is lower. To be handed
    to it before."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reunite:
    """Hand charon what `adopt` names, in order; then end `end`, and rekey `renew`. The bytes are whoever's that does it."""

    adopt: tuple[int, ...] = ()
    passive: bool = False
    """charon must be PASSIVE and the gate closed meanwhile."""
    end: tuple[End, ...] = ()
    renew: tuple[bytes, ...] = ()
    """IKE_SAs (SPIs) of which the CHILD_SAs are to be rekeyed."""
    apart: bool = False
    """The two could not hear each other: what the Backup has of message IDs is its own."""


Action = SayLate | SaySettled | Reunite | Forget


@dataclasses.dataclass(slots=True)
class _Half:
    """What one of the two has said of one IKE_SA."""

    requests: set[int] = dataclasses.field(default_factory=set)
    """Message IDs after those of our requests."""
    answered: bool = False
    """A request of ours was."""
    handled: int = 0
    """The message ID after the last request of the client's."""
    first: int = 0
    """The message ID after the first request of the client's."""
    made: bool = False
    """A CHILD_SA, whoever began."""
    whole: bool = False
    """The IKE_SA itself was made, rekeyed, or ended by the client."""
    gone: bool = False
    """This charon has given it up. Its CHILD_SAs were inherited by no other, so there is nothing to put together."""
    last: int = 0
    """Kind of the message before."""
    replaced: set[bytes] = dataclasses.field(default_factory=set)
    now: bytes = b""
    ever: set[tuple[bytes, int]] = dataclasses.field(default_factory=set)
    """Our requests by IKE_SA."""

    def take(self, said: Said) -> bool:
        """Whether it says something of the client: an IKE_DELETE after no request of its own and no rekey was given up."""
        last, self.last = self.last, said.kind
        if said.kind == MessageType.IKE_DELETE and said.ike not in self.replaced and last != MessageType.IKE_MID_RESPONDER:
            self.gone = True
            return False
        if said.kind != MessageType.IKE_DELETE or not self.now:  # the old one's comes last
            self.now = said.ike
        match said.kind:
            case MessageType.IKE_MID_INITIATOR if said.mid:
                self.requests.add(said.mid)
                self.ever.add((said.ike, said.mid))
            case MessageType.IKE_MID_RESPONDER if said.mid:
                self.handled = max(self.handled, said.mid)
                self.first = self.first or said.mid
            case MessageType.CHILD_ADD:
                self.made = True
                self.answered |= said.began
            case MessageType.IKE_ADD | MessageType.IKE_DELETE:
                self.whole = True
                self.requests.clear()
                self.handled = 0
                if said.replaces is not None:
                    self.replaced.add(said.replaces)
        return True

    @property
    def asked(self) -> bool:
        """The client has answered a request for certain."""
        return self.answered or len(self.requests) > 1

    @property
    def spoke(self) -> bool:
        """With the client, for certain."""
        return self.asked or self.handled > 0 or self.made or self.whole

    @property
    def next_request(self) -> int:
        return max(self.requests, default=0)


class Reunion:
    """See the module."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.adopted = self.ended = 0
        """IKE_SAs, since the start."""
        self._connected = self._peer_is_backup = self._settled = False
        self._ours: collections.deque[tuple[int, Said | None]] = collections.deque(maxlen=MAX_KEPT)
        self._theirs: dict[tuple[int, int], PeerSaid] = {}
        self._unheard: list[Unheard] = []
        self._late = 0
        """That have come since the last PeerSettled, or the session's begin."""
        self._complete = self._apart = False

    def handle(self, event: Input) -> list[Action]:
        """Take one input."""
        return list(self._dispatch(event))

    def _dispatch(self, event: Input) -> Iterator[Action]:
        match event:
            case OwnSaid(number=number, said=said):
                self._ours.append((number, said))
            case PeerHas(number=number):
                while self._peer_is_backup and self._ours and self._ours[0][0] <= number:
                    self._ours.popleft()
            case PeerSaid():
                yield from self._on_peer_said(event)
            case Unheard():
                self._unheard.append(event)
            case PeerSettled(late=late):
                if self.role is not Role.BACKUP:
                    self._settled, self._complete, self._apart = True, late == self._late, late > 0
                    yield from self._perhaps_reunite()
                self._late = 0
            case PeerConnected():
                self._connected, self._late = True, 0
                yield from self._testify()
            case PeerLost():
                self._connected = self._peer_is_backup = False
            case RoleChanged(role=role):
                yield from self._on_role(role)

    def _on_peer_said(self, event: PeerSaid) -> Iterator[Action]:
        self._peer_is_backup = self._settled = False
        self._late += event.late
        known = (event.epoch, event.number) in self._theirs
        if self.role is Role.BACKUP or known or len(self._theirs) >= MAX_KEPT:
            yield Forget(handle=event.handle)
        else:
            self._theirs[event.epoch, event.number] = event

    def _on_role(self, role: Role) -> Iterator[Action]:
        self.role = role
        if role is Role.BACKUP:
            self._ours.clear()
            self._peer_is_backup = self._settled = False
            yield from self._drop_theirs()
            yield from self._testify()
            return
        for unheard in self._unheard:
            yield Forget(handle=unheard.handle)
        self._unheard.clear()
        if role is Role.ACTIVE:
            yield from self._perhaps_reunite()

    def _testify(self) -> Iterator[Action]:
        if self.role is not Role.BACKUP or not self._connected:
            return
        for unheard in self._unheard:
            yield SayLate(number=unheard.number, handle=unheard.handle)
            yield Forget(handle=unheard.handle)
        yield SaySettled(late=len(self._unheard))
        self._unheard.clear()

    def _drop_theirs(self) -> Iterator[Action]:
        for one in self._theirs.values():
            yield Forget(handle=one.handle)
        self._theirs.clear()

    def _perhaps_reunite(self) -> Iterator[Action]:
        if self.role is not Role.ACTIVE or not self._settled:
            return
        self._settled, self._peer_is_backup = False, True
        if not self._complete:  # half of what happened is worse than nothing
            yield from self._drop_theirs()
            yield Reunite(apart=True)
            return
        theirs = [self._theirs[key] for key in sorted(self._theirs, key=lambda key: key[1])]
        reunite = decide([(one.handle, one.said) for one in theirs], [said for _number, said in self._ours], self._apart)
        self._theirs.clear()
        needed = {*reunite.adopt, *(end.raised_by for end in reunite.end)}
        for one in theirs:
            if one.handle not in needed:
                yield Forget(handle=one.handle)
        if reunite != Reunite():
            self.ended += len(reunite.end)
            yield reunite


def decide(theirs: Iterable[tuple[int, Said | None]], ours: Iterable[Said | None], apart: bool) -> Reunite:
    """See the module."""
    lines = _Lines()
    own, other = dict[bytes, _Half](), dict[bytes, _Half]()
    said_ours = [said for said in ours if said is not None]
    said_theirs = [(handle, said) for handle, said in theirs if said is not None]
    for said in (*said_ours, *(said for _handle, said in said_theirs)):
        lines.take(said)
    for said in said_ours:
        own.setdefault(lines.of(said.ike), _Half()).take(said)
    told = [other.setdefault(lines.of(said.ike), _Half()).take(said) for _handle, said in said_theirs]
    said_theirs = list(itertools.compress(said_theirs, told))
    ends, renew, adopted = list[End](), list[bytes](), set[bytes]()
    for line, half in other.items():
        mine = own.get(line, _Half())
        if mine.gone:
            continue
        # Requests that we handled before all of those that it did are what the two had in common.
        before = not (mine.asked or mine.made or mine.whole) and mine.handled < half.first
        clash = (half.whole and mine.spoke and not before) or (mine.whole and half.spoke) or (half.asked and mine.asked)
        if half.ever & mine.ever and not clash:
            renew.append(half.now if half.whole else mine.now)
        if clash:
            higher = half.next_request > mine.next_request and not (half.whole or mine.whole)
            raised_by = [handle for handle, said in said_theirs if higher and _raises(said, mine.now, half.next_request)]
            ends.append(End(ike=mine.now, raised_by=raised_by[-1] if raised_by else None))
        elif half.spoke:
            adopted.add(line)
    kept = [
        (handle, said)
        for handle, said in said_theirs
        if (line := lines.of(said.ike)) in adopted and _counts(said, other[line], own.get(line, _Half()))
    ]
    return Reunite(
        adopt=tuple(handle for handle, _said in kept),
        passive=any(said.kind in NEEDS_PASSIVE for _handle, said in kept),
        end=tuple(ends),
        renew=tuple(renew),
        apart=apart and bool(other),
    )


def _raises(said: Said, ike: bytes, mid: int) -> bool:
    return said.kind == MessageType.IKE_MID_INITIATOR and said.ike == ike and said.mid == mid


def _counts(said: Said, half: _Half, mine: _Half) -> bool:
    """Of a line that is adopted: this message of it says something that we lack."""
    match said.kind:
        case MessageType.IKE_MID_INITIATOR:
            return half.whole or half.asked
        case MessageType.IKE_MID_RESPONDER:
            return half.whole or (said.mid or 0) > mine.handled
    return True


class _Lines:
    """IKE_SAs by what they were before they were rekeyed."""

    def __init__(self) -> None:
        self._before: dict[bytes, bytes] = {}

    def take(self, said: Said) -> None:
        if said.replaces is not None and said.replaces != said.ike:
            self._before[said.ike] = said.replaces

    def of(self, ike: bytes) -> bytes:
        seen = {ike}
        while (before := self._before.get(ike)) is not None and before not in seen:
            seen.add(ike := before)
        return ike
