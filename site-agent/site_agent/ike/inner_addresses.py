"""Which inner addresses this gateway's charon may hand out, so that none is given out while somebody has it. Pure.

Theory of operation
-------------------
charon's own pools forget: a mirrored IKE_SA takes no lease, an IKE rekey after a standby's restart brings it without its
address, and an address that was once a client's is that client's again when it returns, whoever has it now. So charon is
offered ranges that are free of every SA, and only those, and is trusted with nothing but what it hands out of them itself.

Who may hand out an address must not depend on messages, because they can be late or lost (rule 4 has the same argument for
sequence numbers). Every pool is cut into shares, one a gateway, by rank; a gateway hands out of its own share. A Backup that
is promoted has never to ask what the other one did a moment before it died. What is in use in one's own share one handed
out oneself; it is known from one's own SAs and from the other's word, and remembered while the other is silent.

* A share that runs short borrows. The other gateway, as Backup, says which of its ranges it leaves (`lends`), before any of
  it is offered here; promoted, it keeps off them until the borrower says that it hands out of them no more. A borrower that
  has died says nothing, so a share lends its lower half alone. It is handed out from the bottom, and the upper half last:
  whoever is promoted has that one at once, less what was handed out of it since the lower one was full.
* A peer that has been silent for FORGET_S, while this gateway was Active all that time, hands out nothing: an Active that
  hears nobody stops within its lease. Then both shares are this gateway's. The other one, after half as long a silence,
  counts with that: promoted, it waits for PEER_STOPS_S before it offers anything. So does one that never heard the other.
* An address that has become free rests for REST_S. What closed in the middle of a handshake shows itself meanwhile, and so
  does a mirror that is late.

Offered ranges stay as they are while they have addresses left, so charon is asked for little: at 20,000 clients there are
some five open ranges and the closed ones behind them. A range that has been handed out entirely is closed, since from then
on charon would give what one client left to the next one at once; what is free of it comes back in a new range, after its
rest. A Backup offers nothing.

Times are in seconds of one clock that goes on in sleep.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from anycast.timer import TimerExpired
from site_agent.ike.address_ranges import EMPTY, Range, Ranges, assignable
from site_agent.ike.inner_address_words import (
    Action,
    Applied,
    CharonStarted,
    Input,
    Looked,
    Offer,
    PeerConnected,
    PeerLost,
    PeerSaid,
    PoolExhausted,
    PoolRecovered,
    PoolsSeen,
    RoleIs,
    TellPeer,
    Word,
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much is offered, and how long is waited."""

    reserve: int = 1024
    """Addresses of each pool that charon has to hand out: more new clients than can come between two looks."""
    longest_range: int = 256
    """Of one offered range: a smaller one is sooner free again, a larger one is fewer changes."""
    most_ranges: int = 64
    """Open ones of one pool: charon walks through them for every client."""
    rest_s: float = 60.0
    """Longer than charon's half-open time-out (30 s)."""
    peer_stops_s: float = 5.0
    """An Active that hears nobody has stopped by then: its lease, and the slowest expiry of an address in the kernel."""
    forget_s: float = 600.0


def shares(prefixes: Iterable[str], rank: int, gateways: int) -> Ranges:
    """The part of these pools that the gateway of this rank hands out of: one piece of each, in the order of the ranks."""
    return Ranges(_pieces(prefixes, rank, gateways))


def lendable(prefixes: Iterable[str], rank: int, gateways: int) -> Ranges:
    """What that gateway may lend: the lower half of each piece, with the middle one of an odd number; a single address is
    kept. Every rank knows it of every other."""
    pieces = _pieces(prefixes, rank, gateways)
    return Ranges(Range(one.first, (one.first + one.last) // 2) for one in pieces if one.first < one.last)


def _pieces(prefixes: Iterable[str], rank: int, gateways: int) -> Iterator[Range]:
    """One of each pool that is large enough; those of neighbouring pools may touch."""
    for prefix in prefixes:
        whole = assignable(prefix)
        size = len(whole)
        first, end = whole.first + size * rank // gateways, whole.first + size * (rank + 1) // gateways
        if first < end:
            yield Range(first, end - 1)


class InnerAddresses:
    """Driven by the role, by looks at charon, by the other gateway's word and by time. One for all pools of a service."""

    def __init__(
        self,
        prefixes: Sequence[str],
        rank: int,
        *,
        now: float,
        gateways: int = 2,
        limits: Limits | None = None,
        first_serial: int = 0,
    ) -> None:
        """`rank`: of this gateway, from 0; `gateways`: of the site. With one, all is its own and nobody is waited for.

        `first_serial`: higher than any serial of a process before this one, e.g. the clock's microseconds.
        """
        self._limits = limits or Limits()
        self._pools = {prefix: Ranges((assignable(prefix),)) for prefix in prefixes}
        self._all = Ranges(assignable(prefix) for prefix in prefixes)
        self._own = shares(prefixes, rank, gateways)
        self._theirs = self._all - self._own
        self._lendable = lendable(prefixes, rank, gateways)
        others = (lendable(prefixes, other, gateways) for other in range(gateways) if other != rank)
        self._borrowable = Ranges(one for share in others for one in share)
        self._now = self._active_since = now
        self._active = False
        self._looked = False
        """This charon's SAs are known."""
        self._knows_offer = False
        """What charon may hand out from is known: it is young, or was looked at. Until then nothing is said of it."""
        self._uses = EMPTY
        self._known = self._known_of_theirs = self._busy = EMPTY
        """In use here, or perhaps; and that with what the other gateway says. Made anew by `_recount` alone."""
        self._resting: list[tuple[float, Ranges]] = []
        """When each became free."""
        self._closed: list[tuple[float | None, Ranges]] = []
        """What was offered and is not, until a look that began later than that time; None: charon may hand it out still."""
        self._offer: tuple[Range, ...] = ()
        self._taken: dict[Range, int] = {}
        self._peer: Word | None = None
        """The last one, also while it is silent."""
        self._channel = self._connected = False
        """It is up; and the other gateway has said something on it."""
        self._lost_at: float | None = None if gateways > 1 else now
        """None before the other gateway was ever heard."""
        self._alone = gateways == 1
        self._lent = self._borrowed = EMPTY
        """Of the own share, to the other; of the other's share, by its word on what is asked for now."""
        self._must_speak = False
        """The other gateway waits for a word, also if it says nothing new."""
        self._serial = self._asks_cut_at = first_serial
        """Of the last word, and of the last one that asked for less than the one before."""
        self._suspect = EMPTY
        """In use there by the first word after a silence, and not known of here."""
        self._last_word = Word(active=False)
        self._exhausted: set[str] = set()

    @property
    def deadline(self) -> float | None:
        """When something may become free by time alone."""
        if not self._active:
            return None
        times = [freed + self._limits.rest_s for freed, _ in self._resting]
        times += [self._active_since + self._limits.peer_stops_s, self._forgets_at()]
        return min((at for at in times if at > self._now), default=None)

    @property
    def hands_out(self) -> bool:
        """With what is offered now a new client gets an address, or would not get one by waiting a few seconds either."""
        return self._active and self._looked and (bool(self._offer) or not self._waits())

    @property
    def in_use(self) -> dict[str, int] | None:
        """By prefix: addresses that this charon's SAs and leases had at the last look; None: it was not looked at yet."""
        if not self._looked:
            return None
        return {prefix: (self._uses & pool).count() for prefix, pool in self._pools.items()}

    def handle(self, event: Input, now: float) -> list[Action]:
        """Take one input."""
        self._now = now
        match event:
            case RoleIs(active=active):
                if active != self._active:
                    self._active, self._active_since = active, now
            case CharonStarted():
                self._on_charon_started()
            case Looked():
                self._on_look(event)
            case PoolsSeen(taken=taken):
                self._taken = {one: count for one, count in taken.items() if one in self._offer}
            case Applied(offer=offer):
                self._on_applied(offer)
            case PeerConnected():
                self._channel = self._must_speak = True
            case PeerSaid(word=word):
                self._on_word(word)
            case PeerLost():
                if self._channel:
                    self._channel, self._connected, self._lost_at = False, False, now
            case TimerExpired():
                pass
        return self._conclude()

    def _on_charon_started(self) -> None:
        """Its SAs have ended here. The other gateway may have taken them over, and may not have said so yet."""
        mirrored = not self._peer_is_gone()
        if mirrored:
            self._resting.append((self._now, self._known | Ranges(self._offer)))
        self._looked, self._knows_offer, self._uses, self._closed = False, True, EMPTY, []
        self._offer, self._taken = (), {}
        self._recount(rest=mirrored)

    def _on_look(self, look: Looked) -> None:
        if not self._looked:  # what a process before this one offered was free then
            self._offer = look.listed
            if closed := Ranges(look.loaded) - Ranges(look.listed):
                self._resting.append((self._now, closed))
        self._looked, self._knows_offer, self._uses = True, True, look.uses & self._all
        self._closed = [(at, ranges) for at, ranges in self._closed if at is None or at >= look.began]
        self._recount()

    def _on_applied(self, offer: tuple[Range, ...]) -> None:
        still = Ranges(offer)
        closed: list[tuple[float | None, Ranges]] = []
        for at, ranges in self._closed:
            if at is None:  # an older offer that was under way may have what a newer one has closed
                closed += [(None, ranges & still), (self._now, ranges - still)]
            else:
                closed.append((at, ranges))
        self._closed = [(at, ranges) for at, ranges in closed if ranges]

    def _on_word(self, word: Word) -> None:
        if not self._connected:
            self._suspect = (word.uses & self._all) - self._uses
        self._channel = self._connected = True
        asks = word.asks & self._own
        self._must_speak |= self._peer is None or word.asks != self._peer.asks
        self._peer = dataclasses.replace(word, uses=word.uses & self._all)
        self._recount()
        if word.heard >= self._asks_cut_at:  # a word from before may lend what was given back since
            self._borrowed = word.lends & self._theirs
        free = EMPTY if self._active else self._lendable - self._busy
        self._lent = asks & (self._lent | free)

    def _conclude(self) -> list[Action]:
        """What follows from all that is known."""
        self._resting = [(at, ranges) for at, ranges in self._resting if self._now < at + self._limits.rest_s]
        if self._peer_is_gone() and self._peer is not None:
            self._peer, self._lent, self._borrowed = None, EMPTY, EMPTY
            self._recount(rest=False)
        actions: list[Action] = []
        before, self._offer = self._offer, self._choose()
        self._suspect = EMPTY
        if self._offer != before:
            if closed := Ranges(before) - Ranges(self._offer):
                self._closed.append((None, closed))
                self._recount()
            actions.append(Offer(self._offer))
        actions += self._complaints()
        return actions if self._alone else actions + self._speak()

    def _speak(self) -> list[Action]:
        if not self._knows_offer:
            return []
        last = self._last_word
        word = Word(
            serial=last.serial, heard=last.heard, active=self._active,
            uses=self._known_of_theirs | (self._known & self._lent), asks=self._asks(), lends=self._lent,
        )  # fmt: skip
        if word == last and not self._must_speak:
            return []
        self._must_speak = False
        self._serial += 1
        if last.asks - word.asks:
            self._asks_cut_at = self._serial
            self._borrowed &= word.asks
        heard = 0 if self._peer is None else self._peer.serial
        self._last_word = dataclasses.replace(word, serial=self._serial, heard=heard)
        return [TellPeer(self._last_word)]

    def _recount(self, *, rest: bool = True) -> None:
        """After a change of what is in use; what is free now and was not rests from now on."""
        before, known = self._busy, self._uses
        for _, ranges in self._closed:
            known |= ranges
        self._known, self._known_of_theirs = known, known & self._theirs
        self._busy = known if self._peer is None else known | self._peer.uses
        if rest and (freed := before - self._busy):
            self._resting.append((self._now, freed))

    def _forgets_at(self) -> float:
        since = self._active_since if self._lost_at is None else max(self._lost_at, self._active_since)
        return since + self._limits.forget_s

    def _peer_is_gone(self) -> bool:
        """It hands out nothing, wherever it is, and what it had is nobody's."""
        return self._alone or (self._active and not self._channel and self._now >= self._forgets_at())

    def _peer_is_known(self) -> bool:
        """What it said last is all that it can have in this gateway's share."""
        if self._connected or self._alone:
            return True
        silent_since = self._lost_at
        return self._peer is not None and silent_since is not None and self._now < silent_since + self._limits.forget_s / 2

    def _may_be_handed_out(self) -> Ranges:
        """Offered, as far as charon may know; also what it has just been told to close."""
        found = Ranges(self._offer)
        for at, ranges in self._closed:
            found = found if at is not None else found | ranges
        return found

    def _allowed(self) -> Ranges:
        """What this gateway may hand out of at all, in use or not."""
        if self._peer_is_gone():
            return self._all
        return (self._own - self._lent) | self._borrowed

    def _choose(self) -> tuple[Range, ...]:
        """The ranges to offer now."""
        if not self._active or not self._looked:
            return ()
        allowed = self._allowed()
        kept = [one for one in self._offer if self._left(one) and self._stays(Ranges((one,)), allowed)]
        if self._waits():
            return tuple(kept)
        short = [pool for pool in self._pools.values() if self._room(pool, kept) < self._limits.reserve]
        free = self._free(allowed) if short else EMPTY
        for pool in short if free else ():
            kept += self._more(pool, kept, free & pool)
        return tuple(sorted(kept, key=self._turn))  # charon hands out in this order

    def _stays(self, one: Ranges, allowed: Ranges) -> bool:
        return not one - allowed and not (self._suspect and one & self._suspect)

    def _waits(self) -> bool:
        """Whether the other gateway may hand out of this share still, for all that is known."""
        return not self._peer_is_known() and self._now < self._active_since + self._limits.peer_stops_s

    def _left(self, one: Range) -> int:
        """Addresses of an offered range that charon has not handed out yet."""
        return max(len(one) - self._taken.get(one, 0), 0)

    def _room(self, pool: Ranges, offer: Iterable[Range]) -> int:
        return sum(self._left(one) for one in offer if one.first in pool)

    def _free(self, allowed: Ranges) -> Ranges:
        free = allowed - self._busy - Ranges(self._offer)
        for _, ranges in self._resting:
            free -= ranges
        return free

    def _turn(self, one: Range) -> int:
        """What the other gateway may borrow goes first, and what it has lent last."""
        return 0 if one.first in self._lendable else 1 if one.first in self._own else 2

    def _more(self, pool: Ranges, kept: list[Range], free: Ranges) -> list[Range]:
        """Ranges to open in this pool, each part's largest first. The half that may be lent goes first, but for crumbs, of
        which `most_ranges` would be less than the reserve; then the rest of the own share."""
        limits = self._limits
        early = Ranges(one for one in free & self._lendable if len(one) * limits.most_ranges >= limits.reserve)
        opened = [one for one in kept if one.first in pool]
        room = self._room(pool, opened)
        more: list[Range] = []
        for part in (early, free & self._own - early, free - self._own):
            for one in sorted(part, key=lambda one: (one.first - one.last, one.first)):
                first = one.first
                while first <= one.last:
                    if room >= self._limits.reserve or len(opened) + len(more) >= self._limits.most_ranges:
                        return more
                    last = min(one.last, first + self._limits.longest_range - 1)
                    more.append(Range(first, last))
                    room += last - first + 1
                    first = last + 1
        return more

    def _asks(self) -> Ranges:
        """What this gateway offers of the other's share, and would like to."""
        handed_out = self._may_be_handed_out() & self._theirs
        if not self._active or not self._connected or self._peer is None or self._peer.active:
            return handed_out
        wanted = EMPTY
        for pool in self._pools.values():
            short = self._limits.reserve - self._room(pool, self._offer)
            if short <= 0:
                continue
            free = self._borrowable - self._busy
            lent = self._borrowed & pool & free
            wanted |= lent
            for one in sorted(free & pool - lent, key=lambda one: (one.first - one.last, one.first)):
                if short <= 0:
                    break
                part = Range(one.first, min(one.last, one.first + short - 1))
                wanted |= Ranges((part,))
                short -= len(part)
        return handed_out | wanted

    def _complaints(self) -> list[Action]:
        """Pools that a new client gets nothing of."""
        actions: list[Action] = []
        for prefix, pool in self._pools.items():
            empty = self._active and self._looked and not self._waits() and not self._room(pool, self._offer)
            if empty and prefix not in self._exhausted:
                self._exhausted.add(prefix)
                actions.append(PoolExhausted(prefix))
            elif not empty and prefix in self._exhausted:
                self._exhausted.remove(prefix)
                actions.append(PoolRecovered(prefix))
        return actions
