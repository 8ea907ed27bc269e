"""A drain at one gateway: its tunnels move to another site before its route does. Pure.

    moving ──▶ degrading ──▶ withdrawing ──▶ refusing ──▶ done         abort, from any of them:
    accept,    the route     no route        no new                    reopening ──▶ reannouncing ──▶ ended
    redirect   is worse                      clients                   (the door)    (the route)

Theory of operation
-------------------
    step         wanted of the route  what ends it                                          what is done to tunnels
    moving       as ever              none is left; or only those that cannot follow, and   REDIRECT (RFC 5685)
                                      those may be cut
    degrading    worse (RFC 8326)     the bridge has said so for `settle_s`, and none is    REDIRECT; soon DELETE
                                      left, or they have had their DELETE
    withdrawing  none                 the bridge says so, and an observer does not see it   REDIRECT, DELETE
                                      (or cannot tell, for `settle_s`)
    refusing     none                 charon's door is closed
    done         none                 a word

DELETE before the route has moved is no use: a client that keeps its tunnel up is back at this site within milliseconds
(measured, docs/drain.md). After it the same client connects where the route leads. Long after it the DELETE waits behind a
DPD whose answer goes elsewhere, for minutes. So who cannot follow a REDIRECT is let go when the route has just become worse.
Refusing while a route attracts is an outage: the door is wanted closed only where the bridge says that there is no route,
also if that changes afterwards.

`Left` says what becomes of tunnels that cannot follow: `delete` cuts them, `wait` never does: then the route does not move
while there is one. No limit turns one into the other; what is overdue is told, once a step, and waits for a word.

One IKE_SA follows one REDIRECT: charon ignores all later ones, also where the first led nowhere (measured). So none is sent
before the other site's address has answered. Redirects and DELETEs keep a pace each.

Which tunnels were asked is not stored: who goes on with a stored drain asks those that are left again, which charon
passes over, and gives them `follow_s` again. Everything else that is needed is in `Drain`, small, and to be written before
what `wants` says is acted on. A pair's gateways have a drain each. The Backup counts its copies and moves no tunnel; when it
becomes Active, it asks whoever is left.

A drain only takes away: `wants` can turn an announcement into none, never the other way. Facts act beside it, at once.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable

from anycast.reasons import Reason
from anycast.timer import TimerExpired

SHOW_LIMIT_S = 60.0
"""For the bridge, an observer or the door to show what a step asked for, before people are told that it does not."""
FOLLOW_S = 30.0
"""How long a redirected client may take: a handshake that loses packets. Who is left then cannot follow."""
MOVE_LIMIT_S = 600.0
"""Where nobody says otherwise."""
REOPEN_LIMIT_S = 10.0
"""For the door to open, before the route returns all the same: a route to a closed door is found by the checks."""
BURST_S = 0.25
"""How much of a second's redirects or DELETEs may go at once."""


class Step(enum.StrEnum):
    MOVING = "moving"
    DEGRADING = "degrading"
    WITHDRAWING = "withdrawing"
    REFUSING = "refusing"
    DONE = "done"
    REOPENING = "reopening"
    REANNOUNCING = "reannouncing"
    ENDED = "ended"


FORTH = (Step.MOVING, Step.DEGRADING, Step.WITHDRAWING, Step.REFUSING, Step.DONE)
"""In this order; an abort leaves them."""


class Left(enum.StrEnum):
    """What becomes of a tunnel whose client cannot follow."""

    DELETE = "delete"
    """It is ended with a DELETE when the route has become worse, so that its client connects elsewhere."""
    WAIT = "wait"
    """Nothing is cut: the route stays until its client has gone by itself."""


class RouteWord(enum.StrEnum):
    """What is announced, by the bridge's word."""

    NONE = "none"
    NORMAL = "normal"
    """At least one route is announced as if there were no drain."""
    WORSE = "worse"
    UNKNOWN = "unknown"
    """The bridge has said nothing yet."""


class Seen(enum.StrEnum):
    """What an observer outside says of the site's route."""

    SEEN = "seen"
    NOT_SEEN = "not_seen"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is asked for."""

    id: str
    by: str
    why: str
    to: tuple[str, ...]
    """Unicast service addresses of another site, one a family. None: nobody is redirected."""
    left: Left = Left.WAIT
    community: bool = True
    """While degrading the route carries GRACEFUL_SHUTDOWN (65535:0, RFC 8326)."""
    prepend: int = 0
    """While degrading: how many more copies of the own AS number."""
    redirects_per_s: float = 20.0
    deletes_per_s: float = 20.0
    follow_s: float = FOLLOW_S
    move_limit_s: float = MOVE_LIMIT_S
    """For `moving`. Overdue, with `delete` the route moves and who is left is cut; with `wait` people are told."""
    settle_s: float = 10.0
    """How long BGP takes to carry a change to everybody who matters."""
    cut_after_s: float = 2.0
    """From a route that is worse to the first DELETE. Earlier, a client comes back here and gets another; later, a DPD
    that lost its answer to the moved route keeps the DELETE from being sent, for minutes (IKE's window is one)."""
    cut_limit_s: float = 60.0
    """For the DELETEs, before the route goes all the same."""

    @property
    def degrades(self) -> bool:
        return self.community or self.prepend > 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """What is stored of one: everything that an agent needs to go on with it."""

    plan: Plan
    step: Step = Step.MOVING
    since: float
    """Of `step`."""
    shown_at: float | None = None
    """When the bridge first said that the route is as this step wants it."""
    told: bool = False
    """People know that this step is overdue."""
    waits_for: str = ""
    """What it waits for, for people."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tunnel:
    """An IKE_SA of a client, up."""

    id: str
    """Charon's number of it."""
    can: bool = True
    """False: it is known beforehand that a REDIRECT cannot move it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """One look at everything that a drain goes by."""

    tunnels: tuple[Tunnel, ...] | None
    """None: charon did not say."""
    route: RouteWord
    serving: bool
    """Without the drain the route would be announced."""
    active: bool
    """This gateway's charon serves the tunnels; else they are copies."""
    closed: bool
    """No new client gets to charon."""
    answers: bool = True
    """The other site's charon has answered at each address of `Plan.to`."""
    seen: Seen = Seen.UNKNOWN


@dataclasses.dataclass(frozen=True, slots=True)
class Abort:
    """Undo, from wherever it is."""


@dataclasses.dataclass(frozen=True, slots=True)
class Redirect:
    ids: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Delete:
    ids: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Tell:
    """Somebody must look."""

    reason: Reason
    detail: str


@dataclasses.dataclass(frozen=True, slots=True)
class Wants:
    """What a drain asks of the route and of charon's door, at each moment all of it."""

    worse: bool = False
    withdrawn: bool = False
    refuse: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """For `status`, of the last look."""

    left: int | None
    """Tunnels; None: charon did not say."""
    unasked: int
    """Of those: not redirected yet."""
    moving: int
    """Redirected, and may yet follow."""
    cannot: int
    time_left_s: float | None
    """Until the step is overdue."""


Input = Looked | Abort | TimerExpired
Action = Redirect | Delete | Tell


class Pace:
    """So many a second, evenly: at most `BURST_S` of a second's worth, and at least one, at once."""

    def __init__(self, rate: float) -> None:
        self._rate, self._most = rate, max(1.0, rate * BURST_S)
        self._left, self._at = self._most, float("-inf")

    def take(self, wanted: int, now: float) -> int:
        """How many of `wanted` may go now."""
        self._left = min(self._most, self._left + max(0.0, now - self._at) * self._rate)
        self._at = now
        granted = min(wanted, int(self._left))
        self._left -= granted
        return granted

    def next_at(self) -> float:
        """When one more may go."""
        return self._at + max(0.0, 1.0 - self._left) / self._rate


class DrainCore:
    """Driven by looks (each second, and at changes), a word, and its own deadline. Store `drain` when it has changed."""

    def __init__(self, drain: Drain) -> None:
        self.drain = drain
        self._looked: Looked | None = None
        self._asked: dict[str, float] = {}
        """When each tunnel that is left was redirected."""
        self._cut: dict[str, float] = {}
        self._redirects, self._deletes = Pace(drain.plan.redirects_per_s), Pace(drain.plan.deletes_per_s)
        self._last = self._worse_since = float("-inf")

    @property
    def wants(self) -> Wants:
        step = self.drain.step
        gone = self._looked is not None and self._looked.route is RouteWord.NONE
        return Wants(
            worse=step in FORTH[1:] and self.drain.plan.degrades,
            withdrawn=step in FORTH[2:] or step is Step.REOPENING,
            refuse=step in FORTH[3:] and gone,
        )

    @property
    def deadline(self) -> float | None:
        """When time alone changes something."""
        if self._looked is None or self.drain.step is Step.ENDED:
            return None
        moments = [at for at in (self._overdue_at, self._settled_at, self._cut_at) if at is not None]
        if self._unasked():
            moments.append(self._redirects.next_at())
        if self._to_cut():
            moments.append(self._deletes.next_at())
        if self.drain.step is Step.DEGRADING:
            moments.append(self.drain.since + self.drain.plan.cut_limit_s)
        if self.drain.step in FORTH:
            moments += [at + self.drain.plan.follow_s for at in self._asked.values()]
        return min((at for at in moments if at > self._last), default=None)

    def handle(self, event: Input, now: float) -> list[Action]:
        """What follows; `drain` has changed where a step did."""
        self._last = now
        match event:
            case Looked():
                self._looked = event
                left = {tunnel.id for tunnel in event.tunnels or ()}
                if event.tunnels is not None:
                    self._asked = {tunnel: at for tunnel, at in self._asked.items() if tunnel in left}
                    self._cut = {tunnel: at for tunnel, at in self._cut.items() if tunnel in left}
            case Abort():
                self._abort(now)
                return []  # the last look was at what the drain wanted before
            case TimerExpired():
                pass
        if self._looked is None or self.drain.step is Step.ENDED:
            return []
        while self._go_on(self._looked, now):
            pass
        actions = [*self._move(now)]
        if (overdue := self._overdue_at) is not None and now >= overdue and not self.drain.told:
            self.drain = dataclasses.replace(self.drain, told=True)
            actions.append(Tell(Reason.DRAIN_WAITS, f"{self.drain.step}: {self.drain.waits_for or 'nothing was seen'}"))
        return actions

    def progress(self, now: float) -> Progress:
        tunnels = self._tunnels()
        cannot = sum(not self._may_follow(tunnel, now) for tunnel in tunnels)
        unasked = len(self._unasked())
        return Progress(
            left=None if self._looked is None or self._looked.tunnels is None else len(tunnels),
            unasked=unasked,
            moving=len(tunnels) - cannot - unasked,
            cannot=cannot,
            time_left_s=None if self._overdue_at is None else max(0.0, self._overdue_at - now),
        )

    # Steps

    def _go_on(self, seen: Looked, now: float) -> bool:
        """One step further, where its evidence is there."""
        match self.drain.step:
            case Step.MOVING:
                return self._moved(seen, now) and self._step(Step.DEGRADING, now)
            case Step.DEGRADING:
                return self._degraded(seen, now) and self._step(Step.WITHDRAWING, now)
            case Step.WITHDRAWING:
                return self._withdrawn(seen, now) and self._step(Step.REFUSING, now)
            case Step.REFUSING:
                if seen.closed and seen.route is RouteWord.NONE:
                    return self._step(Step.DONE, now)
                closing = seen.route is RouteWord.NONE
                return self._waits("charon's door is not closed" if closing else "there is a route again")
            case Step.REOPENING:
                if not seen.closed or now >= self.drain.since + REOPEN_LIMIT_S:
                    return self._step(Step.REANNOUNCING, now)
                return self._waits("charon's door is not open")
            case Step.REANNOUNCING:
                if seen.route is RouteWord.NORMAL or not seen.serving:
                    return self._step(Step.ENDED, now)
                return self._waits("the bridge does not announce the route as before")
            case _:
                return False

    def _moved(self, seen: Looked, now: float) -> bool:
        overdue = now >= self.drain.since + self.drain.plan.move_limit_s
        if seen.tunnels is None:
            return self._waits("charon does not list its tunnels")
        if not seen.tunnels:
            return True
        can = [tunnel for tunnel in seen.tunnels if self._may_follow(tunnel, now)]
        if self.drain.plan.left is Left.WAIT:
            return self._waits(f"{len(seen.tunnels)} tunnels, of which {len(seen.tunnels) - len(can)} cannot follow")
        if can and not seen.answers:
            return self._waits(f"{', '.join(self.drain.plan.to)} does not answer: nobody is redirected or cut")
        if can and not overdue:
            return self._waits(f"{len(can)} tunnels that may follow")
        return True

    def _degraded(self, seen: Looked, now: float) -> bool:
        left = seen.tunnels is None or bool(seen.tunnels)
        if self.drain.plan.left is Left.WAIT and left:
            return self._waits("tunnels that stand (again)")
        if not self.drain.plan.degrades:
            return True
        if seen.route is RouteWord.NONE:
            return True
        if not self._settled(seen.route is RouteWord.WORSE, now):
            return self._waits("the route to be known as worse everywhere")
        if left and now < self.drain.since + self.drain.plan.cut_limit_s and not self._all_cut(seen, now):
            return self._waits("tunnels that cannot follow to be gone")
        return True

    def _withdrawn(self, seen: Looked, now: float) -> bool:
        if not self._settled(seen.route is RouteWord.NONE, now, at_once=seen.seen is Seen.NOT_SEEN):
            return self._waits("the route to be gone everywhere")
        return seen.seen is not Seen.SEEN or self._waits("an observer still sees the route")

    def _settled(self, shown: bool, now: float, *, at_once: bool = False) -> bool:
        """The bridge has said it for long enough, without a break."""
        if not shown:
            self.drain = dataclasses.replace(self.drain, shown_at=None)
            return False
        if self.drain.shown_at is None:
            self.drain = dataclasses.replace(self.drain, shown_at=now)
        assert self.drain.shown_at is not None
        return at_once or now >= self.drain.shown_at + self.drain.plan.settle_s

    def _all_cut(self, seen: Looked, now: float) -> bool:
        """Each has had its DELETE, and a second look shows it still: its client does not answer, and may be gone."""
        return all(self._cut.get(tunnel.id, now) < now for tunnel in seen.tunnels or ())

    def _waits(self, what: str) -> bool:
        if what != self.drain.waits_for:
            self.drain = dataclasses.replace(self.drain, waits_for=what)
        return False

    def _step(self, step: Step, now: float) -> bool:
        self.drain = dataclasses.replace(self.drain, step=step, since=now, shown_at=None, told=False, waits_for="")
        if step is Step.DEGRADING:
            self._worse_since = now
        return True

    def _abort(self, now: float) -> None:
        match self.drain.step:
            case Step.MOVING:
                self._step(Step.ENDED, now)
            case Step.DEGRADING | Step.WITHDRAWING:
                self._step(Step.REANNOUNCING, now)
            case Step.REFUSING | Step.DONE:
                self._step(Step.REOPENING, now)

    @property
    def _overdue_at(self) -> float | None:
        plan, since = self.drain.plan, self.drain.since
        if self.drain.told:
            return None
        match self.drain.step:
            case Step.MOVING:
                return since + plan.move_limit_s
            case Step.DEGRADING:
                return since + max(plan.cut_limit_s, plan.settle_s) + SHOW_LIMIT_S
            case Step.WITHDRAWING | Step.REFUSING | Step.REANNOUNCING:
                return since + plan.settle_s + SHOW_LIMIT_S
            case Step.REOPENING:
                return since + REOPEN_LIMIT_S
            case _:
                return None

    @property
    def _settled_at(self) -> float | None:
        return None if self.drain.shown_at is None else self.drain.shown_at + self.drain.plan.settle_s

    # Tunnels

    def _tunnels(self) -> tuple[Tunnel, ...]:
        return () if self._looked is None or self._looked.tunnels is None else self._looked.tunnels

    def _may_follow(self, tunnel: Tunnel, now: float) -> bool:
        """Nothing is known against it."""
        asked = self._asked.get(tunnel.id)
        in_time = asked is None or now < asked + self.drain.plan.follow_s
        return bool(self.drain.plan.to) and tunnel.can and in_time

    def _unasked(self) -> list[str]:
        if self.drain.step not in FORTH or not self.drain.plan.to:
            return []
        return [tunnel.id for tunnel in self._tunnels() if tunnel.can and tunnel.id not in self._asked]

    def _to_cut(self) -> list[str]:
        """Who is left, cannot follow, and would connect elsewhere."""
        drain = self.drain
        worse = drain.step is Step.DEGRADING and (at := self._cut_at) is not None and self._last >= at
        gone = drain.step in FORTH[2:] and self._looked is not None and self._looked.route is RouteWord.NONE
        if drain.plan.left is not Left.DELETE or not (worse or gone):
            return []
        return [t.id for t in self._tunnels() if t.id not in self._cut and not self._is_waited_for(t)]

    def _is_waited_for(self, tunnel: Tunnel) -> bool:
        """It came late, and may follow. Who was asked before the route became worse had its time, or the limit was over."""
        return self._may_follow(tunnel, self._last) and self._asked.get(tunnel.id, self._last) >= self._worse_since

    @property
    def _cut_at(self) -> float | None:
        return None if self.drain.shown_at is None else self.drain.shown_at + self.drain.plan.cut_after_s

    def _move(self, now: float) -> Iterable[Action]:
        assert self._looked is not None
        if not self._looked.active:
            return
        if self._looked.answers and (unasked := self._unasked()):
            ids = tuple(unasked[: self._redirects.take(len(unasked), now)])
            self._asked |= dict.fromkeys(ids, now)
            if ids:
                yield Redirect(ids)
        if to_cut := self._to_cut():
            ids = tuple(to_cut[: self._deletes.take(len(to_cut), now)])
            self._cut |= dict.fromkeys(ids, now)
            if ids:
                yield Delete(ids)
