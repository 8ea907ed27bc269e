"""One BFD session (RFC 5880 section 6.8), asynchronous mode, active role: pure, driven by packets, its timers and a lease.

What it is for here: BGP notices a powered-off gateway by its hold time, seconds later. A router that runs BFD beside BGP
notices after `detect_mult` lost packets. And it is a lease like everything that attracts traffic: the agent grants it until
a time, and when the grant ends the session says Down at once, with a diagnostic, and stays down. It never says AdminDown,
because a router must not take that for a failure (RFC 5882 section 3.2).

A clean restart ends nothing: the process that follows begins with `Resumed`, which has both discriminators, and goes on
within the router's detection time.

Where this is stricter than the standard: a session that is Up takes only packets that name its discriminator. Section 6.8.6
would take one without, chosen by its source address, so that whoever can send on the link ends the session with one forged
packet; 32 random bits must be guessed. The price: a router that was restarted is noticed after the detection time.

Times on the wire are microseconds; `now` and deadlines are seconds of one clock.
"""

from __future__ import annotations

import dataclasses
import hashlib

from anycast.timer import TimerExpired
from site_agent.bfd.packet import ControlPacket, Diagnostic, State

SLOW_US = 1_000_000
"""A session that is not Up sends no faster than once a second (section 6.8.3)."""
QUIET_S = 0.75
"""What is said after the end of a grant is Down, once, and then nothing for this long, not even Final to a Poll.

A router that hears a Down in its own Down goes to Init, and BIRD 2.0.12 tells BGP only of the last of several changes: a
Final at once made it miss the Down (measured: most times). The shortest interval of a session that is not Up.
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PacketReceived:
    """A packet for this session that has passed `packet.decode` and came with TTL 255."""

    packet: ControlPacket


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """The agent's word that this gateway shall attract traffic, until then. 0 ends it now."""

    until: float


Input = PacketReceived | Granted | TimerExpired


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """A session that was Up, as the process before this one left it. Intervals in microseconds."""

    remote_discriminator: int
    remote_min_rx: int
    remote_desired_tx: int
    remote_mult: int
    desired_min_tx: int
    """Ours, as the router knows it: it may be another one now."""
    required_min_rx: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SendPacket:
    packet: ControlPacket


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SessionChanged:
    state: State
    diagnostic: Diagnostic


Action = SendPacket | SessionChanged


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Intervals in microseconds."""

    my_discriminator: int
    """Unique on this machine, never 0."""
    desired_min_tx: int = 100_000
    required_min_rx: int = 100_000
    detect_mult: int = 3


class BfdSession:
    """See the module. `deadline` is when TimerExpired is due."""

    def __init__(self, parameters: Parameters, *, now: float, resumed: Resumed | None = None) -> None:
        self._p = parameters
        self.state = State.DOWN
        self.diagnostic = Diagnostic.NONE
        self.remote_state = State.DOWN
        self.remote_diagnostic = 0
        """What the router gave as its reason, as a number: a later standard may know more of them."""
        self.discarded = 0
        """Packets that were not for this session."""
        self._granted_until = now
        self._remote_discriminator = 0
        self._remote_min_rx = 1
        """bfd.RemoteMinRxInterval; 1 before the first packet (section 6.8.1)."""
        self._remote_desired_tx = 0
        self._remote_mult = 1
        self._remote_demand = False
        self._known_tx, self._known_rx = parameters.desired_min_tx, parameters.required_min_rx
        """Our intervals, as the router knows them: not the parameters' until a Poll Sequence has ended (section 6.8.3)."""
        self._polling = False
        self._send_at = self._quiet_until = now
        self._detect_at: float | None = None
        self._detected_late = False
        self._sent = 0
        if resumed is not None:
            self._resume(resumed, now)

    def _resume(self, resumed: Resumed, now: float) -> None:
        self.state = self.remote_state = State.UP
        self._remote_discriminator, self._remote_min_rx = resumed.remote_discriminator, resumed.remote_min_rx
        self._remote_desired_tx, self._remote_mult = resumed.remote_desired_tx, resumed.remote_mult
        self._known_tx, self._known_rx = resumed.desired_min_tx, resumed.required_min_rx
        self._polling = True  # also where nothing changed: what the one before asked may be unanswered
        self._detect_at = now + self.detection_time

    @property
    def deadline(self) -> float | None:
        timers = [] if self._silent else [self._send_at]
        if self._detect_at is not None:
            timers.append(self._detect_at)
        if self.state is not State.DOWN:
            timers.append(self._granted_until)
        return min(timers, default=None)

    @property
    def detection_time(self) -> float:
        """Seconds of silence that end the session (section 6.8.4)."""
        required = max(self._p.required_min_rx, self._known_rx) if self.state is State.UP else self._p.required_min_rx
        return self._remote_mult * max(required, self._remote_desired_tx) / 1e6

    @property
    def to_resume(self) -> Resumed:
        """For a session that goes on as this one, while it is Up."""
        return Resumed(
            remote_discriminator=self._remote_discriminator,
            remote_min_rx=self._remote_min_rx,
            remote_desired_tx=self._remote_desired_tx,
            remote_mult=self._remote_mult,
            desired_min_tx=self._known_tx,
            required_min_rx=self._known_rx,
        )

    def handle(self, event: Input, now: float) -> list[Action]:
        """Take one input."""
        actions: list[Action] = []
        match event:
            case Granted(until=until):
                self._granted_until = until
            case PacketReceived(packet=packet):
                actions += self._on_packet(packet, now)
            case TimerExpired():
                pass
        if self._detect_at is not None and now >= self._detect_at:
            actions += self._on_silence(self._detect_at, now)
        if now >= self._granted_until and self.state is not State.DOWN:
            actions += self._go(State.DOWN, Diagnostic.PATH_DOWN, now)
            self._quiet_until = now + QUIET_S
        if now >= self._send_at and not self._silent:
            actions.append(self._send(now))
        return actions

    def _on_silence(self, due: float, now: float) -> list[Action]:
        """Who looks late has not read yet what waits, and looks once more before it believes in silence."""
        if not self._detected_late and now - due > self.detection_time / 8:
            self._detected_late, self._detect_at = True, now + self.detection_time / 8
            return []
        self._detect_at, self._remote_discriminator, self._remote_demand = None, 0, False
        self.remote_state = State.DOWN
        return self._go(State.DOWN, Diagnostic.DETECTION_TIME_EXPIRED, now)

    def _on_packet(self, packet: ControlPacket, now: float) -> list[Action]:
        """Section 6.8.6, from "If the Your Discriminator field is nonzero" on."""
        unnamed = not packet.your_discriminator and self.state is not State.UP
        if packet.your_discriminator != self._p.my_discriminator and not unnamed:
            self.discarded += 1
            return []
        self._remote_discriminator, self.remote_state = packet.my_discriminator, packet.state
        self.remote_diagnostic = packet.diagnostic
        self._remote_min_rx, self._remote_desired_tx = packet.required_min_rx, packet.desired_min_tx
        self._remote_mult, self._remote_demand = packet.detect_mult, packet.demand
        if packet.final:
            self._end_poll()
        actions = self._next_state(packet.state, now)
        self._detect_at, self._detected_late = now + self.detection_time, False
        # A faster rate may be wanted now than when the next packet was planned.
        self._send_at = min(self._send_at, now + self._interval_s())
        if packet.poll and now >= self._quiet_until:
            actions.append(SendPacket(packet=self._packet(final=True)))
        return actions

    def _next_state(self, remote: State, now: float) -> list[Action]:
        match self.state, remote:
            case State.INIT | State.UP, State.ADMIN_DOWN:
                return self._go(State.DOWN, Diagnostic.NEIGHBOR_SIGNALED_DOWN, now)
            case State.UP, State.DOWN:
                return self._go(State.DOWN, Diagnostic.NEIGHBOR_SIGNALED_DOWN, now)
            case _ if now >= self._granted_until:
                return []
            case State.DOWN, State.DOWN:
                return self._go(State.INIT, Diagnostic.NONE, now)
            case (State.DOWN, State.INIT) | (State.INIT, State.INIT | State.UP):
                return self._go(State.UP, Diagnostic.NONE, now)
        return []

    def _go(self, state: State, diagnostic: Diagnostic, now: float) -> list[Action]:
        if state is self.state:
            return []
        self.state, self.diagnostic = state, diagnostic
        self._end_poll()
        # Going Up changes DesiredMinTx from the slow one to our own, which a Poll Sequence announces (section 6.8.3).
        self._polling = state is State.UP
        self._send_at = max(now, self._quiet_until)
        return [SessionChanged(state=state, diagnostic=diagnostic)]

    def _end_poll(self) -> None:
        self._polling = False
        self._known_tx, self._known_rx = self._p.desired_min_tx, self._p.required_min_rx

    @property
    def _silent(self) -> bool:
        """A router that wants to hear nothing, or only its polls answered, is sent nothing (section 6.8.7)."""
        both_up = self.state is State.UP and self.remote_state is State.UP
        return not self._remote_min_rx or (self._remote_demand and both_up and not self._polling)

    def _send(self, now: float) -> SendPacket:
        self._sent += 1
        self._send_at = now + self._interval_s() * self._jitter()
        return SendPacket(packet=self._packet())

    def _packet(self, *, final: bool = False) -> ControlPacket:
        return ControlPacket(
            state=self.state,
            diagnostic=self.diagnostic,
            poll=self._polling and not final,
            final=final,
            detect_mult=self._p.detect_mult,
            my_discriminator=self._p.my_discriminator,
            your_discriminator=self._remote_discriminator,
            desired_min_tx=self._desired_min_tx(),
            required_min_rx=self._p.required_min_rx,
        )

    def _desired_min_tx(self) -> int:
        return self._p.desired_min_tx if self.state is State.UP else max(SLOW_US, self._p.desired_min_tx)

    def _interval_s(self) -> float:
        """A longer one of ours waits for the end of the Poll Sequence that announces it (section 6.8.3)."""
        own = self._desired_min_tx()
        return max(min(own, self._known_tx) if self.state is State.UP else own, self._remote_min_rx) / 1e6

    def _jitter(self) -> float:
        """75 to 100 % of the interval, at most 90 % with a detect multiplier of 1 (section 6.8.7); no dice in a core."""
        digest = hashlib.blake2b(f"{self._p.my_discriminator} {self._sent}".encode(), digest_size=2).digest()
        return 0.75 + (0.15 if self._p.detect_mult == 1 else 0.25) * int.from_bytes(digest, "big") / 65536
