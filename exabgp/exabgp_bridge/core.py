"""The lease on the route, as a pure core: what may be announced, until when, and which command makes it so.

Theory of operation
-------------------
*Sets, not deltas.* The core keeps what the agent wants until when (`_lease`), and what ExaBGP may be holding (`_held`: every
route whose announcement was written and whose withdrawal is not yet answered). After each input it compares the two and, if
no command is in flight, writes one: first withdrawals, then announcements, then a probe. There is no queue that could
be out of date.

*What ends a route.* A renewal without it; its lease's expiry; a gap of more than a lease between two of our own inputs (we
were stopped, so we assume that we lost everything). The end of the agent's connection alone ends nothing: the lease
runs out. A grace is the one way to have a longer expiry, and any renewal ends it.

*Session-up.* A route is announced on a session only by a renewal that arrived after that session came up, so a thawed
machine announces nothing from before. With `adj-rib-out false` ExaBGP replays nothing either. What it *can* still hold is
an announcement that it read after the session had ended: it would go to the next session. Such a route stays in `_held`
and is withdrawn at once, while the session is still down.

*Start.* When ExaBGP restarts a dead helper it replays nothing, so we ask for the neighbors. A session that is up already may
carry routes of our predecessor, which nobody can list (the Adj-RIB-Out is not kept). The first renewal names every
candidate: those it wants are announced again, which BGP does not even notice as a flap, the rest is withdrawn. If no
renewal comes within a lease of our start, the predecessor's lease is over as well and the only exact way to end what it
announced is to end ExaBGP, whose TCP close withdraws everything in milliseconds (`EndExabgp`). A `teardown` would do
the same, but depends on the very process that may be broken.

*The last holder.* A withdrawal that ExaBGP has not answered for a whole lease ends ExaBGP too: the agent does the same from
its side, but the agent may be dead.

All times are integer nanoseconds of CLOCK_BOOTTIME.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from anycast.errors import PeerError
from anycast.lease_wire import Ack, FromAgent, FromBridge, Grace, Hello, Query, Renew, Report, Session
from anycast.model import Route, SessionState
from anycast.reasons import Reason
from exabgp_bridge.api import (
    Announce,
    ApiEvent,
    AskNeighbors,
    AskVersion,
    Command,
    CommandDone,
    CommandRefused,
    NeighborState,
    OtherEvent,
    OutputLine,
    Withdraw,
    decode_neighbors,
)

TICKS_PER_LEASE = 3
"""As many probes a lease as the agent sends renewals."""
_VERSION = re.compile(r"exabgp ([A-Za-z0-9._-]{1,64})", re.ASCII)
Key = tuple[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class TimerExpired:
    """`Bridge.deadline` has passed."""


@dataclasses.dataclass(frozen=True, slots=True)
class AgentConnected:
    """The socket to the agent is open."""


@dataclasses.dataclass(frozen=True, slots=True)
class AgentGone:
    """The socket to the agent is closed."""


Input = TimerExpired | AgentConnected | AgentGone | FromAgent | ApiEvent


@dataclasses.dataclass(frozen=True, slots=True)
class WriteCommand:
    """Write this to ExaBGP."""

    command: Command


@dataclasses.dataclass(frozen=True, slots=True)
class TellAgent:
    """Send this to the agent, if it is there."""

    message: FromBridge


@dataclasses.dataclass(frozen=True, slots=True)
class EndExabgp:
    """SIGKILL our parent: it may hold a route that nobody answers for."""

    reason: Reason


Action = WriteCommand | TellAgent | EndExabgp


@dataclasses.dataclass(slots=True)
class _Session:
    state: SessionState
    local_asn: int
    epoch: int = 0
    """Counts changes of state, so that an answer is not taken for a later session's."""
    renewed: bool = False
    """A renewal arrived since it came up."""
    inherited: bool = False
    """It was up before we started and no renewal has named the candidates: its routes are unknown."""


@dataclasses.dataclass(slots=True)
class _Lease:
    instance: str
    expires_ns: int
    routes: dict[Key, Route]
    graced: bool = False


@dataclasses.dataclass(slots=True)
class _InFlight:
    command: Command
    epoch: int
    output: list[str] = dataclasses.field(default_factory=list)


class Bridge:
    """Driven by four things: a message of the agent, a line of ExaBGP, the agent's connection, and its own timer."""

    def __init__(self, *, pid: int, exabgp_pid: int, lease_ns: int, grace_ns: int, now_ns: int) -> None:
        """`lease_ns` and `grace_ns` are the document's: no message can make a lease or a grace longer than these."""
        self._pid, self._exabgp_pid = pid, exabgp_pid
        self._lease_ns, self._grace_ns = lease_ns, grace_ns
        self._version: str | None = None
        self._known = False
        self._sessions: dict[str, _Session] = {}
        self._lease: _Lease | None = None
        self._grace_spent: str | None = None
        self._held: dict[Key, Route] = {}
        self._acknowledged: dict[Key, Route] = {}
        self._refused: set[Command] = set()
        self._in_flight: _InFlight | None = None
        self._probe_due = False
        self._answered_ns = now_ns
        self._last_ns = now_ns
        self._tick_ns = now_ns + lease_ns // TICKS_PER_LEASE
        self._overdue_ns: int | None = None
        self._inherited_until_ns = now_ns + lease_ns
        self._connected = self._greeted = False
        self._ack_owed: int | None = None
        self._report_owed: Reason | None = None

    @property
    def deadline(self) -> int:
        """When `TimerExpired` is due at the latest."""
        times = [self._tick_ns]
        if self._lease is not None:
            times.append(self._lease.expires_ns)
        if (limit := self._end_ns) is not None:
            times.append(limit)
        return min(times)

    @property
    def announced(self) -> tuple[Route, ...]:
        """What ExaBGP acknowledged on sessions that are up, in order."""
        return tuple(sorted(self._acknowledged.values()))

    @property
    def held(self) -> tuple[Route, ...]:
        """What ExaBGP may be announcing or about to announce because of us, in order."""
        return tuple(sorted(self._held.values()))

    def handle(self, event: Input, now_ns: int) -> list[Action]:
        """Take one input. Raises PeerError and DecodeError where ExaBGP breaks its protocol: exit, be started anew."""
        if now_ns - self._last_ns > self._lease_ns:
            self._end_lease(Reason.CLOCK_GAP)
        self._last_ns = now_ns
        if self._lease is not None and now_ns >= self._lease.expires_ns:
            self._end_lease(self._lapse_reason(self._lease))
        if now_ns >= self._tick_ns:
            self._tick_ns = now_ns + self._lease_ns // TICKS_PER_LEASE
            self._probe_due = True
            self._refused.clear()
        self._take(event, now_ns)
        return self._conclude(now_ns)

    # Inputs

    def _take(self, event: Input, now_ns: int) -> None:
        match event:
            case TimerExpired() | OtherEvent():
                pass
            case AgentConnected():
                self._connected, self._greeted = True, False
            case AgentGone():
                self._connected, self._ack_owed = False, None
            case Renew():
                self._on_renew(event, now_ns)
            case Grace():
                self._on_grace(event, now_ns)
            case Query():
                self._ack_owed = event.seq
            case NeighborState():
                self._on_state(event)
            case OutputLine():
                if self._in_flight is not None:
                    self._in_flight.output.append(event.text)
            case CommandDone() | CommandRefused():
                self._on_answer(done=isinstance(event, CommandDone), now_ns=now_ns)

    def _on_renew(self, renew: Renew, now_ns: int) -> None:
        self._ack_owed = renew.seq
        self._refused.clear()
        if not renew.routes:
            self._lease = None
        elif renew.expires_ns > now_ns:
            # The cap is ours: a mistaken or hostile agent cannot hold a route longer than the document's lease.
            expires_ns = min(renew.expires_ns, now_ns + self._lease_ns)
            if (old := self._lease) is not None and old.instance == renew.instance and not old.graced:
                expires_ns = max(expires_ns, old.expires_ns)
            self._lease = _Lease(renew.instance, expires_ns, {route.key: route for route in renew.routes})
        else:
            return  # it waited in a buffer for longer than it was good for
        for neighbor, session in self._sessions.items():
            if session.state is not SessionState.UP:
                continue
            session.renewed = True
            if session.inherited:
                session.inherited = False
                for route in renew.candidates:
                    if route.neighbor == neighbor:
                        self._held.setdefault(route.key, route)

    def _on_grace(self, grace: Grace, now_ns: int) -> None:
        self._ack_owed = grace.seq
        lease = self._lease
        if lease is None or lease.instance != grace.instance or self._grace_spent == grace.instance:
            return
        self._grace_spent = grace.instance
        lease.graced = True
        lease.expires_ns = max(lease.expires_ns, min(grace.expires_ns, now_ns + self._grace_ns))

    def _on_state(self, event: NeighborState) -> None:
        session = self._sessions.setdefault(event.neighbor, _Session(SessionState.DOWN, event.local_asn))
        was_up, is_up = session.state is SessionState.UP, event.state is SessionState.UP
        session.state, session.local_asn = event.state, event.local_asn
        if not was_up and not is_up:
            return
        session.epoch += 1
        session.renewed = session.inherited = False
        self._report_owed = Reason.SESSION_UP if is_up and not was_up else Reason.SESSION_DOWN
        # The upstream dropped what this session carried, and ExaBGP its queue. An announcement that ExaBGP has not answered
        # may be read after that and wait for the next session, so it stays held until its withdrawal is answered.
        in_flight = self._in_flight.command if self._in_flight is not None else None
        unanswered = in_flight.route.key if isinstance(in_flight, Announce) else None
        for key in [key for key in self._held if key[0] == event.neighbor]:
            self._acknowledged.pop(key, None)
            if key != unanswered:
                del self._held[key]

    def _on_answer(self, *, done: bool, now_ns: int) -> None:
        if self._in_flight is None:
            raise PeerError("exabgp", "an answer without a command")
        command, epoch, output = self._in_flight.command, self._in_flight.epoch, self._in_flight.output
        self._in_flight, self._answered_ns = None, now_ns
        if not done:
            self._refused.add(command)
            self._report_owed = Reason.EXABGP_REFUSED
            return
        match command:
            case AskVersion():
                match_ = _VERSION.fullmatch(output[-1]) if output else None
                self._version = match_[1] if match_ else "unknown"
            case AskNeighbors():
                self._on_neighbors(decode_neighbors("".join(output)))
            case Announce(route, _):
                session = self._sessions[route.neighbor]
                if session.state is SessionState.UP and session.epoch == epoch:
                    self._acknowledged[route.key] = route
            case Withdraw(route, _):
                self._held.pop(route.key, None)
                self._acknowledged.pop(route.key, None)

    def _on_neighbors(self, neighbors: Iterable[NeighborState]) -> None:
        self._known = True
        for seen in neighbors:
            if seen.neighbor not in self._sessions:  # an event that came meanwhile is the better witness
                up = seen.state is SessionState.UP
                self._sessions[seen.neighbor] = _Session(seen.state, seen.local_asn, inherited=up)

    # Consequences

    def _end_lease(self, reason: Reason) -> None:
        if self._lease is not None:
            self._lease = None
            self._report_owed = reason

    def _lapse_reason(self, lease: _Lease) -> Reason:
        if lease.graced:
            return Reason.RESTART_GRACE
        return Reason.LEASE_LAPSED if self._connected else Reason.AGENT_GONE

    @property
    def _wanted(self) -> dict[Key, Route]:
        if self._lease is None:
            return {}
        ready = {n for n, s in self._sessions.items() if s.state is SessionState.UP and s.renewed}
        return {key: route for key, route in self._lease.routes.items() if route.neighbor in ready}

    @property
    def _end_ns(self) -> int | None:
        limits = []
        if self._overdue_ns is not None:
            limits.append(self._overdue_ns + self._lease_ns)
        if any(session.inherited for session in self._sessions.values()):
            limits.append(self._inherited_until_ns)
        return min(limits, default=None)

    def _reconcile(self) -> Command | None:
        """The command that brings ExaBGP nearest to what is wanted; None where it is there."""
        wanted = self._wanted
        commands: list[Command] = [
            Withdraw(route, self._sessions[route.neighbor].local_asn)
            for key, route in self._held.items()
            if key not in wanted
        ]
        commands += [
            Announce(route, self._sessions[route.neighbor].local_asn)
            for key, route in wanted.items()
            if self._acknowledged.get(key) != route
        ]
        return next((command for command in commands if command not in self._refused), None)

    def _conclude(self, now_ns: int) -> list[Action]:
        actions: list[Action] = []
        overdue = any(key not in self._wanted for key in self._held)
        self._overdue_ns = (self._overdue_ns or now_ns) if overdue else None
        if (limit := self._end_ns) is not None and now_ns >= limit:
            return [EndExabgp(Reason.EXABGP_SILENT if overdue else Reason.LEASE_LAPSED)]
        pending = self._reconcile() if self._known else None
        if self._in_flight is None and (command := pending or self._housekeeping()) is not None:
            actions.append(self._write(command))
        if self._known and self._version is not None and self._connected:
            in_flight = self._in_flight.command if self._in_flight is not None else None
            settled = pending is None and not isinstance(in_flight, Announce | Withdraw)
            actions += [TellAgent(message) for message in self._news(now_ns, settled)]
        return actions

    def _housekeeping(self) -> Command | None:
        command: Command | None = None
        if not self._known and self._version is not None:
            command = AskNeighbors()
        elif self._version is None or self._probe_due:
            command = AskVersion()
        return None if command in self._refused else command

    def _write(self, command: Command) -> WriteCommand:
        epoch = 0
        if isinstance(command, AskVersion):
            self._probe_due = False
        elif isinstance(command, Announce):
            epoch = self._sessions[command.route.neighbor].epoch
            self._held[command.route.key] = command.route
        self._in_flight = _InFlight(command, epoch)
        return WriteCommand(command)

    def _news(self, now_ns: int, settled: bool) -> Iterable[FromBridge]:
        sessions = tuple(Session(neighbor=n, state=s.state) for n, s in sorted(self._sessions.items()))
        if not self._greeted:
            self._greeted = True
            lease = self._lease
            yield Hello(
                pid=self._pid,
                exabgp_pid=self._exabgp_pid,
                exabgp_version=self._version or "unknown",
                announced=self.announced,
                sessions=sessions,
                grace_ns=max(0, lease.expires_ns - now_ns) if lease is not None and lease.graced else 0,
                lease_ns=self._lease_ns,
            )
        if not settled:
            return
        if self._report_owed is not None:
            cause, self._report_owed = self._report_owed, None
            yield Report(cause=cause, announced=self.announced, exabgp_answered_ns=self._answered_ns, sessions=sessions)
        if self._ack_owed is not None:
            seq, self._ack_owed = self._ack_owed, None
            yield Ack(seq=seq, announced=self.announced, exabgp_answered_ns=self._answered_ns, sessions=sessions)
