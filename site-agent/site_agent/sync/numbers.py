"""Which ESP sequence numbers this gateway may use: blocks and marks, so that no number is used twice with one key.

Theory of operation
-------------------
Both gateways of a pair have the same outbound SAs, with the same keys, in their kernels; only the Active sends. Who sends
is decided by messages that can be late or lost and by machines that can freeze, so safety must not rest on it. It rests on
arithmetic: the numbers of an SA are cut into blocks of 2^28, and each block has one owner for ever.

    block 0        whoever made the SA (its charon negotiated it while Active)
    block 1, 3, 5  the gateway of rank 1
    block 2, 4, 6  the gateway of rank 0

A kernel counts on by one, so a gateway moves its copy to the start of a block of its own (`Place`) and counts from there.
It never reaches the end, because `life_packets` is smaller than a block and the kernel itself refuses the packet after the
last one: a copy sends at most `life_packets` packets in its life, wherever it stands, and only ever enters at a start.

What is left to order and messages is only that the next Active's numbers are *higher* than what the clients have seen, or
they would drop everything: an Active is always in a block below its Backup's, which is its mark.

* The Backup places its copy when its own kernel reports the SA: a young SA has its mark without any message.
* Who stops being Active moves its copies above the block in which the new Active sends, which it knows: its peer's mark.
* Where that was missed (a partition, two Actives, a restart), both say on the next connection where they stand, and the
  Backup moves above the Active (`AskMark`), or the Active up to just below the Backup (`TellMark`).

Each takeover goes to a higher block, so LAST_BLOCK bounds the takeovers of one SA without a rekey. Seven blocks are also
less than the 2^32 that a receiver with ESN can be ahead without a packet (RFC 4303 appendix A2.2). A copy for which no block
is left is deleted: charon negotiates another one. So is one that could not be placed in time: continuity may be lost, a
number is never used again. An SA near the end of its block is rekeyed; no block is prolonged, because the kernel's bound
does not move with it.

A process that starts anew knows nothing but the kernel's counters. These suffice: moving up to a block of one's own is
always safe, so whatever is in doubt moves. Which is why there is no file.

Inputs are what the kernel, the peer and the promotion say, and TimerExpired. `now` is in seconds of one clock.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from anycast.timer import TimerExpired
from site_agent.netlink.xfrm_keys import SaKey
from site_agent.sync.numbers_words import (
    Action,
    Advanced,
    AskMark,
    Demoted,
    DrainEvents,
    EventsDrained,
    EventsLost,
    Input,
    ListingEnded,
    ListSas,
    MarkAsked,
    MarkTold,
    MirrorHandedOver,
    PeerConnected,
    PeerLost,
    Place,
    Placed,
    PlaceFailed,
    Promoted,
    PromotionAsked,
    ReadyToServe,
    RekeySa,
    RetireSa,
    Role,
    SaGone,
    SaListed,
    SaReported,
    TellMark,
)

BLOCK_BITS = 28
LAST_BLOCK = 7
"""2^31 numbers: half of what an SA without ESN has."""
LIFE_PACKETS = (1 << BLOCK_BITS) - (1 << 24)
"""charon's `life_packets`, the kernel's hard packet limit."""
REKEY_PACKETS = 3 << (BLOCK_BITS - 2)
"""charon's `rekey_packets`, and where we ask for a rekey ourselves: a quarter of a block is minutes at any rate."""
READY_WITHIN_S = 0.2
"""What is not placed so long after a promotion was asked for is deleted. A NEWAE takes the kernel 20 µs."""
UNSURE_S = 1.0
"""So long after the start a new SA may be one that an earlier process of ours handed to charon."""
MAX_WANTED = 1 << 16
"""SAs that a peer may ask about before our kernel has them."""


def block_of(oseq: int, bits: int = BLOCK_BITS) -> int:
    """The block of the next number after `oseq`."""
    return oseq >> bits


def own_above(rank: int, block: int) -> int:
    """The lowest block of the gateway of `rank` above `block`. Block 0 is the maker's, so it is nobody's here."""
    candidate = max(block, 0) + 1
    return candidate if candidate % 2 == rank else candidate + 1


def own_below(rank: int, block: int) -> int:
    """The highest block of the gateway of `rank` below `block`; 0 where there is none."""
    candidate = block - 1
    return max(candidate if candidate % 2 == rank else candidate - 1, 0)


@dataclasses.dataclass(slots=True)
class _Copy:
    block: int
    """Where this kernel's copy is."""
    placing: int | None = None
    """Where the kernel was told to move it; not answered yet."""
    peer: int = 0
    """The highest block in which the peer's copy is known to be; 0 for one that nobody told of."""
    asked: int = 0
    """Of an Active: above which block the peer was asked to be, on this connection."""
    answers: bool = False
    """Of a Backup: the peer asked, and is told when the kernel has moved the copy."""
    rekey_asked: bool = False

    @property
    def top(self) -> int:
        return max(self.block, self.placing or 0)


class Numbers:
    """See the module. `rank` is 0 for one gateway of the pair and 1 for the other, the same in every document."""

    def __init__(self, rank: int, role: Role, *, now: float, block_bits: int = BLOCK_BITS) -> None:
        self._rank, self._bits = rank, block_bits
        self.role = role
        self.connected = False
        self.retired = 0
        """SAs deleted because no number was safe any more."""
        self.conflicts = 0
        """Marks asked for by a peer while we are Active: it thinks that it is."""
        self._ready_by: float | None = None
        """The end of the wait that a promotion is in; None when there is none, or ReadyToServe was said."""
        self._turn = 0
        """Which DrainEvents was the last one."""
        self._draining = self._drained = False
        self._copies: dict[SaKey, _Copy] = {}
        self._expected: dict[bytes, float] = {}
        """SPIs handed to charon and not yet reported by the kernel, with the time."""
        self._wanted: dict[SaKey, int] = {}
        self._listed: set[SaKey] | None = set()
        """What the listing under way has told; None when it has ended."""
        self._started = now

    @property
    def deadline(self) -> float | None:
        return None if self._draining and (self._listed is not None or not self._drained) else self._ready_by

    @property
    def first_actions(self) -> list[Action]:
        """What to do before any input."""
        return [ListSas()]

    @property
    def taken_over(self) -> list[SaKey]:
        """SAs of an Active that were the peer's: each is to be rekeyed, paced."""
        return [key for key, copy in self._copies.items() if copy.block > 0] if self.role is Role.ACTIVE else []

    @property
    def spent(self) -> list[SaKey]:
        """Of those taken over: where no block would be left to us after the next takeover and the one that follows it."""
        return [
            key
            for key in self.taken_over
            if own_above(self._rank, own_above(1 - self._rank, self._copies[key].block)) > LAST_BLOCK
        ]

    @property
    def at_their_end(self) -> list[SaKey]:
        """Of these: where the next takeover has no block, and would lose the SA."""
        return [key for key in self.spent if own_above(1 - self._rank, self._copies[key].block) > LAST_BLOCK]

    @property
    def unconfirmed(self) -> int:
        """Of an Active: SAs whose Backup is not known to stand above. A takeover would lose them, but use nothing twice."""
        return sum(copy.block > 0 and copy.peer <= copy.block for copy in self._copies.values())

    @property
    def known(self) -> int:
        return len(self._copies)

    def handle(self, event: Input, now: float) -> list[Action]:
        """Take one input."""
        actions = list(self._dispatch(event, now))
        if self.role is Role.PROMOTING:
            actions += self._perhaps_ready(now)
        return actions

    def _dispatch(self, event: Input, now: float) -> Iterator[Action]:
        match event:
            case SaReported(key=key):
                yield from self._on_reported(key, now)
            case SaListed(key=key, oseq=oseq):
                yield from self._on_listed(key, oseq)
            case ListingEnded():
                self._on_listing_ended()
            case EventsLost():
                self._listed = set()
                yield ListSas()
            case SaGone(key=key):
                self._copies.pop(key, None)
                self._wanted.pop(key, None)
            case Placed(key=key, block=block):
                yield from self._on_placed(key, block)
            case PlaceFailed(key=key):
                yield from self._retire(key)
            case Advanced(key=key, oseq=oseq):
                yield from self._on_advanced(key, oseq)
            case MirrorHandedOver(spi=spi):
                if len(self._expected) >= MAX_WANTED:
                    del self._expected[next(iter(self._expected))]
                self._expected[spi] = now
            case PromotionAsked():
                if self.role is Role.BACKUP:
                    self.role, self._ready_by = Role.PROMOTING, now + READY_WITHIN_S
                    self._draining = self._drained = False
            case EventsDrained(turn=turn):
                if self._draining and not self._drained and turn == self._turn:
                    self._drained, self._ready_by = True, now + READY_WITHIN_S
            case Promoted():
                if self.role is Role.PROMOTING and self._ready_by is None:  # else the answer to an earlier ReadyToServe
                    self.role = Role.ACTIVE
                    yield from self._ask_all()
            case Demoted():
                yield from self._on_demoted()
            case PeerConnected():
                self.connected = True
                for copy in self._copies.values():
                    copy.asked = 0
                yield from self._ask_all() if self.role is Role.ACTIVE else self._tell_all()
            case PeerLost():
                self.connected = False
            case MarkAsked(key=key, block=block):
                yield from self._on_mark_asked(key, block)
            case MarkTold(key=key, block=block):
                yield from self._on_mark_told(key, block)
            case TimerExpired():
                pass

    # What the kernel says

    def _on_reported(self, key: SaKey, now: float) -> Iterator[Action]:
        spi = spi_of(key)
        mirrored = self.role is not Role.ACTIVE or spi in self._expected or now - self._started < UNSURE_S
        self._expected.pop(spi, None)
        if self._listed is not None:
            self._listed.add(key)
        if key in self._copies:
            return  # a listing was faster
        self._copies[key] = _Copy(block=0)
        if mirrored:
            yield from self._place(key, above=self._wanted.pop(key, 0))

    def _on_listed(self, key: SaKey, oseq: int) -> Iterator[Action]:
        block = block_of(oseq, self._bits)
        if self._listed is not None:
            self._listed.add(key)
        self._expected.pop(spi_of(key), None)
        copy = self._copies.get(key)
        if copy is not None:
            # A lower one is another SA with the same name, or older than our own last move: above both is right for either.
            if block != copy.block and copy.placing is None:
                yield from self._place(key, above=max(block, copy.block))
            return
        self._copies[key] = _Copy(block=block)
        own = block > 0 and block % 2 == self._rank
        if own and (self.role is Role.ACTIVE or oseq == block << self._bits):
            return  # it sends there, or stands there since an earlier process of ours placed it
        # In doubt who made it, or used while Active before: up. Above the peer's mark, too, if it was used.
        yield from self._place(key, above=max(own_above(1 - self._rank, block) if oseq else 0, self._wanted.pop(key, 0)))

    def _on_listing_ended(self) -> None:
        if self._listed is not None:
            for key in [key for key in self._copies if key not in self._listed]:
                del self._copies[key]
        self._listed = None

    def _on_placed(self, key: SaKey, block: int) -> Iterator[Action]:
        copy = self._copies.get(key)
        if copy is None:
            return
        copy.block = max(copy.block, block)
        if copy.placing == block:
            copy.placing = None
            if self.role is Role.ACTIVE:
                yield from self._ask(key, copy)
            elif self.connected and (copy.answers or self._tells(copy)):
                copy.answers = False
                yield TellMark(key=key, block=block)

    def _on_advanced(self, key: SaKey, oseq: int) -> Iterator[Action]:
        copy = self._copies.get(key)
        if copy is None or copy.placing is not None or block_of(oseq, self._bits) < copy.block:
            return
        if block_of(oseq, self._bits) > copy.block:  # the kernel's bound was not there: out of a foreign block
            yield from self._place(key, above=block_of(oseq, self._bits))
            yield RekeySa(key=key)
        elif oseq - (copy.block << self._bits) >= 3 << (self._bits - 2) and not copy.rekey_asked:
            copy.rekey_asked = True
            yield RekeySa(key=key)

    # What the promotion says

    def _perhaps_ready(self, now: float) -> Iterator[Action]:
        """Ready when nothing that could be sent on may be below its mark.

        First what charon was handed, perhaps by the process before this one, is given the time to get into the kernel; it
        may have refused it (a CHILD_ADD without its IKE_SA). Then what the kernel has told is read to its end, however long
        that takes: an SA of which we have not read stands at 0. Then what is not where it should be is moved or deleted.
        """
        if self._ready_by is None:
            return
        late = now >= self._ready_by
        if not self._draining:
            if late or not any(now - handed < READY_WITHIN_S for handed in (*self._expected.values(), self._started)):
                self._draining, self._turn = True, self._turn + 1
                yield DrainEvents(turn=self._turn)
            return
        if self._listed is not None or not self._drained:
            return
        unplaced = [key for key, copy in self._copies.items() if copy.placing is not None]
        if unplaced and not late:
            return
        for key in unplaced:
            yield from self._retire(key)
        self._ready_by = None
        yield ReadyToServe(retired=len(unplaced))

    def _on_demoted(self) -> Iterator[Action]:
        sent_nothing = self.role is Role.BACKUP or self._ready_by is not None
        self.role, self._ready_by = Role.BACKUP, None
        if sent_nothing:
            return
        for key, copy in list(self._copies.items()):
            yield from self._place(key, above=max(own_above(1 - self._rank, copy.top), copy.peer))

    # What the peer says

    def _on_mark_asked(self, key: SaKey, block: int) -> Iterator[Action]:
        """The peer sends in `block`: be above."""
        if self.role is Role.ACTIVE:
            self.conflicts += 1
            return
        copy = self._copies.get(key)
        if copy is None:
            if len(self._wanted) < MAX_WANTED:
                self._wanted[key] = max(block, self._wanted.get(key, 0))
            return
        copy.peer = max(copy.peer, block)
        if copy.top <= block:
            yield from self._place(key, above=block)
        if copy.placing is not None:
            copy.answers = True
        elif key in self._copies:
            yield TellMark(key=key, block=copy.block)

    def _on_mark_told(self, key: SaKey, block: int) -> Iterator[Action]:
        """The peer stands at `block`: be below, and no lower than needed, because it may have sent in a lower one before."""
        copy = self._copies.get(key)
        if copy is None:
            return
        copy.peer = max(copy.peer, block)
        if self.role is not Role.ACTIVE:
            return
        if block <= copy.top:
            yield from self._ask(key, copy)
        elif (below := own_below(self._rank, block)) > copy.top:
            yield from self._place(key, above=below - 1)

    def _ask_all(self) -> Iterator[Action]:
        for key, copy in self._copies.items():
            yield from self._ask(key, copy)

    def _ask(self, key: SaKey, copy: _Copy) -> Iterator[Action]:
        """Once a connection and block: a peer that answers with less is not asked for ever."""
        if self.connected and copy.top > max(copy.asked, copy.peer - 1, 0):
            copy.asked = copy.top
            yield AskMark(key=key, block=copy.top)

    def _tell_all(self) -> Iterator[Action]:
        for key, copy in self._copies.items():
            if copy.placing is None and self._tells(copy):
                yield TellMark(key=key, block=copy.block)

    def _tells(self, copy: _Copy) -> bool:
        """Of the first mark nothing need be said: the peer knows that it is the first."""
        return copy.block > own_above(self._rank, 0)

    # Moving

    def _place(self, key: SaKey, *, above: int) -> Iterator[Action]:
        """Always higher than ever before: to go to the same start twice would be to send what was sent."""
        copy = self._copies[key]
        target = own_above(self._rank, max(above, copy.top))
        if target > LAST_BLOCK:
            yield from self._retire(key)
            return
        copy.placing = target
        yield Place(key=key, block=target)

    def _retire(self, key: SaKey) -> Iterator[Action]:
        if self._copies.pop(key, None) is not None:
            self.retired += 1
            yield RetireSa(key=key)


def spi_of(key: SaKey) -> bytes:
    """In network order, as the key has it."""
    return key[16:20]
