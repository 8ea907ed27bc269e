"""The agent's end of the route lease, as a pure core: when to renew, and when to end a holder that does not answer.

Theory of operation
-------------------
The verdict core speaks at every tick (a sixth of a lease) and at once when the verdict changes. Each time it speaks, one
message goes to the bridge, so that silence always means that something is wrong:

    serving, and the verdict is fresh       Renew(all routes, expires = the verdict's time + the lease)
    a fact stands against serving           Renew(no routes): withdraw now
    no check has answered yet, or stale     Query: changes nothing, so a predecessor's grace goes on

There are two sets of routes, and where a gateway has both it is told two verdicts of the same look (`Verdicts`): the
service's routes, which drain, token and content may keep away, and the site's own (`routes.own_routes_of`), which they do
not. One message renews what is left of both, so the bridge knows one set and one expiry.

A holder is killed, because ExaBGP's TCP close withdraws in milliseconds while a stopped bridge keeps its route for ever:

    a message is not acknowledged within a lease, or the bridge does not connect  BRIDGE_SILENT, BRIDGE_GONE
    the bridge answers, but ExaBGP has not answered *it* for a lease              EXABGP_SILENT
    after an acknowledgement something is announced that was not asked for        EXABGP_REFUSED
    the bridge was started with another lease: it would lapse between two renewals LEASE_CHANGED

An ExaBGP that we just started announces nothing, so its bridge has `START_LIMIT_S` to come; one that we adopted may hold a
route, so its bridge has one lease. If more than a lease passes between two of our own inputs, we were stopped ourselves:
the acknowledgements wait in our socket, and all limits begin anew.

What is announced is what the bridge last said (`Ack`, `Report`, `Hello`): whole sets, which this core turns into
`PrefixAnnounced`, `PrefixWithdrawn` and `SessionChanged`. Times are CLOCK_BOOTTIME in seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from anycast.events import (
    Event,
    HolderKilled,
    OwnRouteAnnounced,
    OwnRouteWithdrawn,
    PrefixAnnounced,
    PrefixWithdrawn,
    SessionChanged,
)
from anycast.lease_wire import Ack, FromAgent, FromBridge, Grace, Hello, Query, Renew, Report, Session
from anycast.model import Route, SessionState
from anycast.policy.verdict import TICKS_PER_LEASE, VerdictReached
from anycast.reasons import Reason
from anycast.runtime import TimerExpired

START_LIMIT_S = 30.0
"""From starting ExaBGP to its hello: 0.3 s natively, up to 6 s in User Mode Linux. Nothing is announced meanwhile."""
FRESHNESS_SLACK = 0.5
"""Of a tick: how much later than a tick a verdict may be used. Beyond that the verdict core is not running."""
WITHOUT_US = frozenset({Reason.AGENT_GONE, Reason.RESTART_GRACE})
"""What a bridge did while no agent was connected. Nobody has told the world of these withdrawals yet."""
EXABGP = "exabgp"
"""Name of the holder in events."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExabgpStarted:
    """ExaBGP runs, started by us or found running."""

    pid: int
    adopted: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExabgpExited:
    """ExaBGP has ended; its sessions are closed."""

    pid: int


@dataclasses.dataclass(frozen=True, slots=True)
class BridgeGone:
    """The bridge's connection has ended."""


@dataclasses.dataclass(frozen=True, slots=True)
class StopRequested:
    """The agent is about to stop cleanly: leave a grace."""


@dataclasses.dataclass(frozen=True, slots=True)
class RoutesChanged:
    """What is announced while serving is something else from now on: a Backup with a link of its own announces worse."""

    routes: tuple[Route, ...]
    own: tuple[Route, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """Of one look, and so of one time."""

    service: VerdictReached
    own: VerdictReached
    """Without what keeps only the service's routes away."""


Input = (
    VerdictReached
    | Verdicts
    | RoutesChanged
    | ExabgpStarted
    | ExabgpExited
    | FromBridge
    | BridgeGone
    | StopRequested
    | TimerExpired
)


@dataclasses.dataclass(frozen=True, slots=True)
class TellBridge:
    """Send this to the bridge."""

    message: FromAgent


@dataclasses.dataclass(frozen=True, slots=True)
class KillHolder:
    """SIGKILL ExaBGP and its bridge. ExaBGP's exit is reported as `ExabgpExited`."""

    reason: Reason


@dataclasses.dataclass(frozen=True, slots=True)
class Happened:
    """Tell the world."""

    event: Event


@dataclasses.dataclass(frozen=True, slots=True)
class StopReady:
    """Nothing more to wait for: the agent may end. `grace_s` is how long the route stays without us."""

    grace_s: float


Action = TellBridge | KillHolder | Happened | StopReady


class RouteLease:
    """Driven by the verdict core, the bridge's messages, ExaBGP's life, the request to stop, and its own timer."""

    def __init__(
        self,
        *,
        instance: str,
        routes: Iterable[Route],
        own: Iterable[Route] = (),
        lease_s: float,
        grace_s: float,
        now: float,
    ) -> None:
        """`routes` and `own`: all that is announced while serving; `instance` is unique to this run of the agent."""
        self._instance = instance
        self._routes, self._own = tuple(sorted(routes)), tuple(sorted(own))
        self._lease_s, self._grace_s = lease_s, grace_s
        self._last = now
        self._verdicts: Verdicts | None = None
        self._exabgp: int | None = None
        self._kill_reason: Reason | None = None
        self._hello: Hello | None = None
        self._contact_limit: float | None = None
        self._seq = 0
        self._waiting: dict[int, tuple[float, tuple[Route, ...] | None]] = {}
        self._moved_by = self._own_moved_by = Reason.HEALTHY
        self._announced: dict[tuple[str, str], Route] = {}
        self._sessions: dict[str, SessionState] = {}
        self._stopping = self._stop_owed = False
        self._grace_seq: int | None = None
        self._grace_left_s = 0.0

    @property
    def deadline(self) -> float | None:
        """When a holder has been silent for too long."""
        limits = [sent + self._lease_s for sent, _ in self._waiting.values()]
        if self._contact_limit is not None:
            limits.append(self._contact_limit)
        return min(limits, default=None)

    @property
    def knows(self) -> bool:
        """A bridge is connected, so `announced` is its word."""
        return self._hello is not None

    @property
    def announced(self) -> tuple[Route, ...]:
        """What ExaBGP acknowledged of the service's routes on sessions that are up, in order."""
        own = self._own_keys
        return tuple(sorted(route for key, route in self._announced.items() if key not in own))

    @property
    def own_announced(self) -> tuple[Route, ...]:
        """The same of the site's own routes."""
        own = self._own_keys
        return tuple(sorted(route for key, route in self._announced.items() if key in own))

    @property
    def sessions(self) -> dict[str, SessionState]:
        """Each neighbor's session as last reported."""
        return dict(self._sessions)

    @property
    def hello(self) -> Hello | None:
        """What the connected bridge said of itself; None while none is connected."""
        return self._hello

    def handle(self, event: Input, now: float) -> list[Action]:
        """Take one input."""
        if now - self._last > self._lease_s:
            self._begin_limits_anew(now)
        self._last = now
        actions = self._take(event, now)
        if (late := self._late(now)) is not None:
            actions += self._kill(late)
        return actions

    def _take(self, event: Input, now: float) -> list[Action]:
        match event:
            case TimerExpired():
                return []
            case VerdictReached():
                self._verdicts = Verdicts(service=event, own=event)
                return self._speak(now)
            case Verdicts():
                self._verdicts = event
                return self._speak(now)
            case RoutesChanged(routes=routes, own=own):
                before = self._routes, self._own
                self._routes, self._own = tuple(sorted(routes)), tuple(sorted(own))
                return [] if before == (self._routes, self._own) else self._speak(now)
            case ExabgpStarted(pid=pid, adopted=adopted):
                self._exabgp, self._kill_reason = pid, None
                if self._hello is None:
                    self._contact_limit = now + (self._lease_s if adopted else START_LIMIT_S)
                return []
            case ExabgpExited():
                return self._on_exit()
            case BridgeGone():
                return self._on_bridge_gone(now)
            case Hello():
                self._hello, self._contact_limit = event, None
                self._waiting.clear()
                reason = Reason.RESTART_GRACE if event.grace_ns else Reason.HEALTHY
                news = self._learn(event.announced, event.sessions, up=reason, down=Reason.LEASE_LAPSED)
                if event.lease_ns not in (0, round(self._lease_s * 1e9)):
                    return news + self._kill(Reason.LEASE_CHANGED)
                return news + self._speak(now)
            case Report():
                if event.cause in WITHOUT_US:
                    self._announced = {route.key: route for route in (*self._routes, *self._own)} | self._announced
                news = self._learn(event.announced, event.sessions, down=event.cause)
                silent = self._silent(event.exabgp_answered_ns, now)
                return news + silent + (self._speak(now) if event.cause is Reason.SESSION_UP else [])
            case Ack():
                return self._on_ack(event, now)
            case StopRequested():
                return self._on_stop(now)

    # What goes to the bridge

    def _speak(self, now: float) -> list[Action]:
        verdicts = self._verdicts
        if verdicts is None or self._hello is None or self._kill_reason is not None or self._stopping:
            return []
        self._seq += 1
        said = [self._said(verdict, now) for verdict in (verdicts.service, verdicts.own)]
        if any(reason is None for _, reason in said):
            self._waiting[self._seq] = (now, None)
            return [TellBridge(Query(seq=self._seq))]
        (serves, reason), (own_serves, own_reason) = said
        assert reason is not None and own_reason is not None
        self._moved_by, self._own_moved_by = reason, own_reason
        routes = (*(self._routes if serves else ()), *(self._own if own_serves else ()))
        expires = verdicts.own.at + self._lease_s if routes else verdicts.service.at
        return self._renew(tuple(sorted(routes)), reason, expires, now)

    def _said(self, verdict: VerdictReached, now: float) -> tuple[bool, Reason | None]:
        """Whether its routes are wanted, and why or why not; None: it decides nothing, so nothing changes."""
        if verdict.serving:
            return (True, verdict.causes[0].reason) if self._fresh(verdict, now) else (False, None)
        against = [cause.reason for cause in verdict.causes if cause.reason is not Reason.NO_EVIDENCE_YET]
        return False, against[0] if against else None

    def _renew(self, routes: tuple[Route, ...], reason: Reason, expires: float, now: float) -> list[Action]:
        self._waiting[self._seq] = (now, routes)
        return [
            TellBridge(
                Renew(
                    seq=self._seq,
                    instance=self._instance,
                    expires_ns=round(expires * 1e9),
                    reason=reason,
                    routes=routes,
                    candidates=tuple(sorted((*self._routes, *self._own))),
                )
            )
        ]

    def _fresh(self, verdict: VerdictReached, now: float) -> bool:
        return now - verdict.at <= self._lease_s / TICKS_PER_LEASE * (1 + FRESHNESS_SLACK)

    def _on_stop(self, now: float) -> list[Action]:
        self._stopping = True
        verdicts = self._verdicts
        told = () if verdicts is None else (verdicts.service, verdicts.own)
        serving = any(verdict.serving and self._fresh(verdict, now) for verdict in told)
        if not serving or not self._announced or self._hello is None:
            # A withdrawal that nobody has acknowledged would be nobody's business once we are gone.
            self._stop_owed = bool(self._waiting)
            return [] if self._stop_owed else [StopReady(0.0)]
        self._seq += 1
        self._grace_seq, self._grace_left_s = self._seq, self._grace_s
        self._waiting[self._seq] = (now, None)
        expires_ns = round((now + self._grace_s) * 1e9)
        return [TellBridge(Grace(seq=self._seq, instance=self._instance, expires_ns=expires_ns))]

    # What comes from the holders

    def _on_ack(self, ack: Ack, now: float) -> list[Action]:
        asked = self._waiting.get(ack.seq, (now, None))[1]
        self._waiting = {seq: item for seq, item in self._waiting.items() if seq > ack.seq}
        actions = self._learn(ack.announced, ack.sessions)
        if asked is not None and not set(ack.announced) <= set(asked):
            actions += self._kill(Reason.EXABGP_REFUSED)
        actions += self._silent(ack.exabgp_answered_ns, now)
        if self._grace_seq is not None and ack.seq >= self._grace_seq:
            self._grace_seq = None
            actions.append(StopReady(self._grace_left_s))
        return actions + self._settled_stop()

    def _silent(self, answered_ns: int, now: float) -> list[Action]:
        return self._kill(Reason.EXABGP_SILENT) if now - answered_ns / 1e9 > self._lease_s else []

    def _on_bridge_gone(self, now: float) -> list[Action]:
        if self._hello is None:  # it belonged to an ExaBGP that has ended
            return []
        self._hello = None
        self._waiting.clear()
        if self._exabgp is not None and self._kill_reason is None:
            self._contact_limit = now + self._lease_s
        if self._grace_seq is not None:
            self._grace_seq = None
            return [StopReady(0.0)]
        return self._settled_stop()

    def _settled_stop(self) -> list[Action]:
        if not self._stop_owed or self._waiting or self._kill_reason is not None:
            return []
        self._stop_owed = False
        return [StopReady(0.0)]

    def _on_exit(self) -> list[Action]:
        reason = self._kill_reason or Reason.EXABGP_EXITED
        self._exabgp = self._hello = self._contact_limit = self._kill_reason = None
        self._waiting.clear()
        down = [Session(neighbor=neighbor, state=SessionState.DOWN) for neighbor in self._sessions]
        return self._learn((), down, up=reason, down=reason) + self._settled_stop()

    # Consequences

    def _late(self, now: float) -> Reason | None:
        if self._contact_limit is not None and now >= self._contact_limit:
            return Reason.BRIDGE_GONE
        if any(now >= sent + self._lease_s for sent, _ in self._waiting.values()):
            return Reason.BRIDGE_SILENT
        return None

    def _kill(self, reason: Reason) -> list[Action]:
        self._waiting.clear()
        self._contact_limit = None
        if self._exabgp is None or self._kill_reason is not None:
            return []
        self._kill_reason = reason
        killed = HolderKilled(name=EXABGP, pid=self._exabgp, reason=reason)
        return [KillHolder(reason), Happened(killed)]

    def _begin_limits_anew(self, now: float) -> None:
        self._waiting = {seq: (now, routes) for seq, (_, routes) in self._waiting.items()}
        if self._contact_limit is not None:
            self._contact_limit = max(self._contact_limit, now + self._lease_s)

    @property
    def _own_keys(self) -> frozenset[tuple[str, str]]:
        return frozenset(route.key for route in self._own)

    def _learn(
        self,
        announced: Iterable[Route],
        sessions: Iterable[Session],
        *,
        up: Reason | None = None,
        down: Reason | None = None,
    ) -> list[Action]:
        """`up`, `down`: why routes came and went; None: because the verdicts said so that they were asked for by."""
        events: list[Event] = []
        for session in sessions:
            if self._sessions.get(session.neighbor) is not session.state:
                self._sessions[session.neighbor] = session.state
                events.append(SessionChanged(neighbor=session.neighbor, state=session.state, detail=""))
        before, after, own = self._announced, {route.key: route for route in announced}, self._own_keys
        self._announced = after
        for key in sorted(before.keys() - after.keys()):
            withdrawn = OwnRouteWithdrawn if key in own else PrefixWithdrawn
            events.append(withdrawn(neighbor=key[0], prefix=key[1], reason=down or self._why(key in own)))
        for key in sorted(after.keys() - before.keys()):
            arrived = OwnRouteAnnounced if key in own else PrefixAnnounced
            events.append(arrived(neighbor=key[0], prefix=key[1], reason=up or self._why(key in own)))
        return [Happened(event) for event in events]

    def _why(self, own: bool) -> Reason:
        return self._own_moved_by if own else self._moved_by
