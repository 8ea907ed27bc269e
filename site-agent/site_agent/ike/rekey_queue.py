"""All rekeys that a gateway begins by itself: one budget, one order, one end. Pure.

    who wishes ──Wished──▶ RekeyQueue ──Ask, End──▶ charon (VICI)
    charon's events and list ──Rekeyed, Gone, Looked──▶    ──Refused──▶ people

Theory of operation
-------------------
Whoever wants an SA rekeyed says so with the reason, and the queue asks charon for at most `per_second` of them a second, and
for no more while `unanswered` clients have not answered. There is one wish for one SA: a second one merges into the first,
and the more urgent reason counts. A wish whose SA is gone or was rekeyed meanwhile ends without a rekey.

The order is ORDER, within one reason by deadline, then first come first served. A CHILD_SA waits for its IKE_SA's answer, or
IKE_FIRST_S, where that is wished for as urgently: one that is made with the old IKE_SA would be told with it, too. So that
nobody waits for ever behind more urgent ones, one ask in FAIR_EVERY goes to whoever has waited longest, if that is more than
PATIENCE_S.

What became of a request charon tells by an event; of one that a client refuses (TEMPORARY_FAILURE, NO_ADDITIONAL_SAS, RFC
7296 sections 2.25 and 1.3) it tells nothing. So an SA that charon still lists ANSWER_S after it was asked for, and does not
call REKEYING, has a client that refused. It is asked again later, each time twice as late; from MAX_REFUSED on the client is
named, and asked once in LONGEST_PAUSE_S at most. A request that is on its way (REKEYING) is charon's to repeat, and is never
asked for again.

An SA with a hard mark (`end_at`: its lifetime) whose client has not let it be rekeyed gets a last request LAST_CALL_S before
the mark, and is ended END_BEFORE_S before it, by a DELETE that tells the client, who may connect anew.

Rekeys that charon begins by its own timers, and clients', are not counted: they come spread over a lifetime.

`now` is in seconds of one clock that never goes back.
"""

from __future__ import annotations

import collections
import dataclasses
import heapq
import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from anycast.reasons import Reason
from anycast.timer import TimerExpired

PER_SECOND = 50
"""A rekey costs charon about 1 ms of a core, and the client's answer as much: a tenth of one."""
UNANSWERED = 100
"""Twice what a second brings: with clients that all answer within 2 s it holds up nobody."""
ANSWER_S = 4.0
"""A client that has not answered by then does not count as unanswered any more. charon repeats its request after 2 s, 5.6 s
and later. So with nobody answering at all, UNANSWERED / ANSWER_S = 25 are asked a second."""
IKE_FIRST_S = 0.3
"""For the IKE_SA's own rekey. One that takes longer hands the CHILD_SA's, which waits behind it, on to the new IKE_SA."""
FAIR_EVERY, PATIENCE_S = 5, 30.0
AGAIN_S = 60.0
"""After the first refusal. charon itself repeats after a TEMPORARY_FAILURE within 15 s."""
LOST_AGAIN_S = 10.0
"""Of a tunnel without kernel state at first: its client has no service, and after 15 s it is ended (`ike.lost_tunnels`)."""
LONGEST_PAUSE_S = 3600.0
MAX_REFUSED = 3
LAST_CALL_S, END_BEFORE_S = 90.0, 30.0
SWEEP_S = ANSWER_S
"""Nothing is asked for so long after a request for everything by name, which is outside of the budget (`tunnel_repair`)."""
RUN_ENDS_S = 30.0
"""Without a request for so long, what follows is counted anew."""
MOST_WAITING = 1 << 18

ORDER = (
    Reason.CLIENT_MOVED,
    Reason.SA_STATE_PARTIAL,
    Reason.REKEY_OVERDUE,
    Reason.TUNNEL_UNPROTECTED,
    Reason.MESSAGES_LOST,
    Reason.TAKEN_OVER,
)
"""Most urgent first."""
_URGENCY = {reason: place for place, reason in enumerate(ORDER)}
_NEVER = float("inf")


class SaId(NamedTuple):
    """As charon numbers them: unique as long as it runs."""

    kind: str
    """``ike`` or ``child``."""
    unique: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One SA that is to be rekeyed."""

    sa: SaId
    ike: str
    """Unique id of its IKE_SA, or its own."""
    name: str = ""
    """For people, with the client's identity."""
    client: str = ""
    """The client's identity alone."""
    deadline: float = _NEVER
    """For the order: the nearer the earlier."""
    end_at: float = _NEVER
    """Its hard mark, where charon would not end it by itself."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wished:
    """All that this reason wants now (a set, not a change), or with `more` what it wants besides."""

    reason: Reason
    wishes: tuple[Wish, ...]
    more: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Rekeyed:
    """charon's event: this SA has a successor. Also of a rekey that the client began."""

    sa: SaId


@dataclasses.dataclass(frozen=True, slots=True)
class Gone:
    """charon knows no such SA."""

    sa: SaId


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """All SAs that charon listed, those in use included; and of each whether a rekey of ours is with its client."""

    rekeying: Mapping[SaId, bool]
    began: float
    """When it was asked: what was wished for later may be missing."""


class Swept:
    """charon was asked to rekey everything by name."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stopped:
    """This gateway is Active no longer, or another charon runs: nothing that was said counts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Hold:
    span_s: float
    """Ask for nothing for so long, or until Stopped: who is Active again is not about to be relieved."""


Input = Wished | Rekeyed | Gone | Looked | Swept | Hold | Stopped | TimerExpired


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """VICI `rekey`."""

    sa: SaId
    name: str
    reason: Reason
    """The most urgent of them."""
    reasons: frozenset[Reason]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """VICI `terminate`, with a DELETE to the client: its mark is near, and it lets nobody rekey it."""

    sa: SaId
    name: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The client has refused MAX_REFUSED rekeys of this SA. Said once of an SA."""

    sa: SaId
    name: str
    client: str
    reason: Reason


Action = Ask | End | Refused


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The words of status, metrics and `why`."""

    waiting: Mapping[Reason, int]
    """SAs that wait for their request, by reason. Not those whose client refused a moment ago, or has a request."""
    unanswered: int
    """Asked for within the last ANSWER_S, and not answered."""
    done: int
    """Rekeyed since the last pause of RUN_ENDS_S."""
    total: int
    """Rekeyed at our request, since the start."""
    refusing: tuple[str, ...]
    """Names of SAs whose clients refuse."""
    left_s: float
    """At the budget; what clients who refused wait for is not counted."""


@dataclasses.dataclass(slots=True)
class _Waiting:
    """A wish that has been taken in."""

    wish: Wish
    reasons: set[Reason]
    since: float
    """When it was wished for first."""
    entry: int = 0
    """Which entry of the heaps is the living one."""

    @property
    def reason(self) -> Reason:
        return min(self.reasons, key=_URGENCY.__getitem__)


@dataclasses.dataclass(slots=True)
class _Asked:
    """What was tried with one SA."""

    times: int
    last: float
    reason: Reason
    name: str
    client: str
    said: bool = False


class RekeyQueue:
    """See the module."""

    def __init__(self, per_second: int = PER_SECOND, unanswered: int = UNANSWERED) -> None:
        self._interval, self._most = 1 / per_second, unanswered
        self._recent: collections.deque[float] = collections.deque(maxlen=per_second)
        self._free_at = self._held_until = float("-inf")
        self._waiting: dict[SaId, _Waiting] = {}
        self._ready: dict[Reason, list[tuple[float, float, int, SaId]]] = {reason: [] for reason in ORDER}
        """Heaps: deadline, since, entry."""
        self._by_age: list[tuple[float, int, SaId]] = []
        """A heap of the ready ones: since, entry."""
        self._later: list[tuple[float, int, SaId]] = []
        """A heap of those that may not be asked for yet: when, entry."""
        self._behind: dict[SaId, list[tuple[int, SaId]]] = {}
        """CHILD_SAs that wait for their IKE_SA's request, by IKE_SA."""
        self._entries = itertools.count(1)
        self._asked: dict[SaId, _Asked] = {}
        self._open: collections.OrderedDict[SaId, float] = collections.OrderedDict()
        """Unanswered, and since when; the oldest first."""
        self._rekeying: frozenset[SaId] = frozenset()
        self._marks: list[tuple[float, SaId]] = []
        """A heap of when an SA with a hard mark is to be looked at."""
        self._marked: set[SaId] = set()
        self._turns = 0
        self._forget_at = float("-inf")
        self.done = self.total = 0

    @property
    def deadline(self) -> float | None:
        times = []
        if any(self._ready.values()):
            at = max(self._free_at, self._held_until)
            if len(self._open) >= self._most:
                at = max(at, next(iter(self._open.values())) + ANSWER_S)
            times.append(at)
        times += [heap[0][0] for heap in (self._later, self._marks) if heap]
        if self._open and not self._waiting:
            times.append(next(iter(self._open.values())) + ANSWER_S)
        return min(times, default=None)

    def progress(self, now: float) -> Progress:
        counts: dict[Reason, int] = {}
        for sa, waiting in self._waiting.items():
            if self._not_before(sa, waiting) <= now and sa not in self._rekeying:
                counts[waiting.reason] = counts.get(waiting.reason, 0) + 1
        return Progress(
            waiting=counts,
            unanswered=len(self._open),
            done=self.done,
            total=self.total,
            refusing=tuple(sorted(asked.name for asked in self._asked.values() if asked.said)),
            left_s=sum(counts.values()) * self._interval,
        )

    def handle(self, event: Input, now: float) -> list[Action]:
        """Take one input."""
        return [*self._dispatch(event, now), *self._go_on(now)]

    def _dispatch(self, event: Input, now: float) -> Iterator[Action]:
        match event:
            case Wished(reason=reason, wishes=wishes, more=more):
                if not more:
                    self._withdraw(reason, {wish.sa for wish in wishes})
                for wish in wishes:
                    self._take_in(wish, reason, now)
            case Rekeyed(sa):
                if self._asked.pop(sa, None) is not None:
                    self.done += 1
                    self.total += 1
                self._end(sa)
            case Gone(sa):
                self._asked.pop(sa, None)
                self._end(sa)
            case Looked():
                yield from self._on_looked(event, now)
            case Swept():
                self._free_at = max(self._free_at, now + SWEEP_S)
            case Hold(span_s=span_s):
                self._held_until = max(self._held_until, now + span_s)
            case Stopped():
                done, recent, free_at = self.total, self._recent, self._free_at
                self.__init__(recent.maxlen or 1, self._most)  # type: ignore[misc]
                self.total, self._recent, self._free_at = done, recent, free_at
            case TimerExpired():
                pass

    # Wishes

    def _take_in(self, wish: Wish, reason: Reason, now: float) -> None:
        waiting = self._waiting.get(wish.sa)
        if waiting is None:
            if len(self._waiting) >= MOST_WAITING:
                return
            if now >= self._free_at + RUN_ENDS_S:
                self.done = 0
            waiting = self._waiting[wish.sa] = _Waiting(wish, {reason}, now)
        else:
            before = waiting.reason, waiting.wish.deadline
            waiting.reasons.add(reason)
            waiting.wish = dataclasses.replace(
                wish,
                deadline=min(wish.deadline, waiting.wish.deadline),
                end_at=min(wish.end_at, waiting.wish.end_at),
            )
            if (waiting.reason, waiting.wish.deadline) == before:
                return
        self._place(wish.sa, waiting, now)
        if waiting.wish.end_at != _NEVER and wish.sa not in self._marked:
            self._marked.add(wish.sa)
            heapq.heappush(self._marks, (max(waiting.wish.end_at - END_BEFORE_S, now), wish.sa))

    def _place(self, sa: SaId, waiting: _Waiting, now: float, not_before: float = float("-inf")) -> None:
        """Where it waits from now on; what the heaps have of it from before is void."""
        waiting.entry = next(self._entries)
        if (at := max(self._not_before(sa, waiting), not_before)) > now:
            heapq.heappush(self._later, (at, waiting.entry, sa))
            return
        heapq.heappush(self._ready[waiting.reason], (waiting.wish.deadline, waiting.since, waiting.entry, sa))
        heapq.heappush(self._by_age, (waiting.since, waiting.entry, sa))

    def _not_before(self, sa: SaId, waiting: _Waiting) -> float:
        """When it may be asked for again."""
        if (asked := self._asked.get(sa)) is None:
            return float("-inf")
        if waiting.reason is Reason.SA_STATE_PARTIAL and asked.times < MAX_REFUSED:
            return asked.last + LOST_AGAIN_S
        if _URGENCY[waiting.reason] < _URGENCY[asked.reason]:
            return asked.last + ANSWER_S  # what is more urgent now gets a request of its own
        at = asked.last + min(AGAIN_S * (1 << min(asked.times - 1, 16)), LONGEST_PAUSE_S)
        last_call = waiting.wish.end_at - LAST_CALL_S
        return min(at, last_call) if asked.last < last_call else at

    def _withdraw(self, reason: Reason, but: set[SaId]) -> None:
        for sa in [sa for sa, waiting in self._waiting.items() if reason in waiting.reasons and sa not in but]:
            waiting = self._waiting[sa]
            waiting.reasons.discard(reason)
            if not waiting.reasons:
                self._end(sa, answered=False)
            else:
                waiting.entry = next(self._entries)
                heapq.heappush(self._later, (float("-inf"), waiting.entry, sa))  # finds its place with the next turn

    def _end(self, sa: SaId, *, answered: bool = True) -> None:
        """It is wished for no longer; where it was `answered`, nor waited for."""
        self._waiting.pop(sa, None)
        if answered:
            self._open.pop(sa, None)
        self._release(sa, float("-inf"))

    def _release(self, ike: SaId, not_before: float) -> None:
        """Those that wait behind this IKE_SA may go, soon."""
        for entry, child in self._behind.pop(ike, ()):
            waiting = self._waiting.get(child)
            if waiting is not None and waiting.entry == entry:
                waiting.entry = next(self._entries)
                heapq.heappush(self._later, (not_before, waiting.entry, child))

    # Answers

    def _on_looked(self, looked: Looked, now: float) -> Iterator[Action]:
        self._rekeying = frozenset(sa for sa, rekeying in looked.rekeying.items() if rekeying)
        for sa in [sa for sa, each in self._waiting.items() if sa not in looked.rekeying and each.since < looked.began]:
            self._asked.pop(sa, None)
            self._end(sa)
        for sa, asked in list(self._asked.items()):
            if asked.last > looked.began - ANSWER_S:
                continue
            if sa not in looked.rekeying:
                del self._asked[sa]
                self._open.pop(sa, None)
            elif sa not in self._rekeying and asked.times >= MAX_REFUSED and not asked.said:
                asked.said = True
                yield Refused(sa=sa, name=asked.name, client=asked.client, reason=asked.reason)

    # Asking

    def _go_on(self, now: float) -> Iterator[Action]:
        while self._open and next(iter(self._open.values())) + ANSWER_S <= now:
            self._open.popitem(last=False)
        if not self._waiting:
            for ready in self._ready.values():
                ready.clear()
            self._by_age.clear()
            self._later.clear()
        if now >= self._forget_at:
            self._forget_at = now + LONGEST_PAUSE_S
            old = now - 2 * LONGEST_PAUSE_S
            self._asked = {sa: asked for sa, asked in self._asked.items() if asked.last > old or sa in self._waiting}
        yield from self._ends(now)
        while self._later and self._later[0][0] <= now:
            _at, entry, sa = heapq.heappop(self._later)
            if (waiting := self._waiting.get(sa)) is not None and waiting.entry == entry:
                self._place(sa, waiting, now)
        while now >= max(self._free_at, self._held_until) and len(self._open) < self._most and (found := self._next(now)):
            yield self._ask(*found, now)

    def _next(self, now: float) -> tuple[SaId, _Waiting] | None:
        """Which is asked for now; None where all wait for something."""
        if self._turns % FAIR_EVERY == FAIR_EVERY - 1 and (oldest := self._oldest(now)) is not None:
            return oldest
        for heap in self._ready.values():
            while heap:
                *_order, entry, sa = heap[0]
                waiting = self._waiting.get(sa)
                if waiting is None or waiting.entry != entry:
                    heapq.heappop(heap)
                elif self._may(sa, waiting, now):
                    return sa, waiting
                # else it has another entry now, and this one is void
        return None

    def _oldest(self, now: float) -> tuple[SaId, _Waiting] | None:
        while self._by_age and self._by_age[0][0] <= now - PATIENCE_S:
            _since, entry, sa = self._by_age[0]
            waiting = self._waiting.get(sa)
            if waiting is None or waiting.entry != entry:
                heapq.heappop(self._by_age)
            elif self._may(sa, waiting, now):
                return sa, waiting
        return None

    def _may(self, sa: SaId, waiting: _Waiting, now: float) -> bool:
        """Whether it may be asked for now. If not, it was put where it waits."""
        if sa in self._rekeying:
            self._place(sa, waiting, now, now + ANSWER_S)
            return False
        ike = SaId("ike", waiting.wish.ike)
        if sa.kind == "ike":
            return True
        first = self._waiting.get(ike)
        if first is not None and _URGENCY[first.reason] <= _URGENCY[waiting.reason] and ike not in self._asked:
            waiting.entry = next(self._entries)
            self._behind.setdefault(ike, []).append((waiting.entry, sa))
            return False
        if (since := self._open.get(ike)) is not None and now < since + IKE_FIRST_S:
            self._place(sa, waiting, now, since + IKE_FIRST_S)
            return False
        return True

    def _ask(self, sa: SaId, waiting: _Waiting, now: float) -> Ask:
        self._turns += 1
        self._recent.append(now)
        self._free_at = now + self._interval
        if len(self._recent) == self._recent.maxlen:
            self._free_at = max(self._free_at, self._recent[0] + 1.0)
        asked = self._asked.setdefault(sa, _Asked(0, now, waiting.reason, waiting.wish.name, waiting.wish.client))
        asked.times, asked.last, asked.reason = asked.times + 1, now, waiting.reason
        self._open[sa] = now
        self._open.move_to_end(sa)
        self._place(sa, waiting, now)  # should the client refuse
        if sa.kind == "ike":
            self._release(sa, now + IKE_FIRST_S)
        reasons = frozenset(waiting.reasons)
        return Ask(sa=sa, name=waiting.wish.name, reason=waiting.reason, reasons=reasons)

    def _ends(self, now: float) -> Iterator[Action]:
        while self._marks and self._marks[0][0] <= now:
            _at, sa = heapq.heappop(self._marks)
            waiting, asked = self._waiting.get(sa), self._asked.get(sa)
            if waiting is None:
                self._marked.discard(sa)
                continue
            at = max(waiting.wish.end_at - END_BEFORE_S, now + 1.0 if asked is None else asked.last + ANSWER_S)
            if now < at:  # not asked for yet, or a moment ago: the order has it near the front
                heapq.heappush(self._marks, (at, sa))
            else:
                self._marked.discard(sa)
                yield End(sa=sa, name=waiting.wish.name)
