"""What two gateways of a pair say to each other, over whichever connection there is. Pure.

Driven by connections that were authenticated before (`channel.py`), their bytes, what the owner hands in, and the clock.
A *session* is what two runs of the sync process have between them; it outlives its *links*. A new link begins with HELLO
both ways: protocol, what must be known, versions, session. Where both are in the same session it goes on, else both begin
a new one whose name is made of what both offered; then RESUME says which messages arrived, and the rest is sent again. So
a renewed certificate needs a new link and drops nothing: the link before is used until the new one has been greeted, and
a cut cable costs time only.

What a peer can do to us is bounded, because it proved who it is and nothing more: what is here and not worked off by
`WINDOWS`, what waits for it by `QUEUES` (more is dropped, and its owner told), frames that carry nothing by
`MOST_IDLE_FRAMES` a second. Whatever the protocol does not allow ends the link and the session, and the peer is not
listened to for a while, each time for longer.

Inputs: LinkUp, Received, Drained, LinkEnded, DialFailed, Submit, WorkedOff, VersionsChanged, IdentityChanged, TimerExpired.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from anycast.errors import DecodeError
from anycast.reasons import Reason
from anycast.timer import TimerExpired
from site_agent.sync import versions as versioning
from site_agent.sync import wire
from site_agent.sync.kinds import BY_NUMBER, LARGEST, Kind, Lane
from site_agent.sync.lanes import Inbound, Outbound
from site_agent.sync.versions import Mismatch, Versions
from site_agent.sync.wire import Frame, Hello, Standing, Type
from site_agent.sync.words import (
    Action,
    Cause,
    Compared,
    Deliver,
    Dial,
    DialFailed,
    Down,
    Drained,
    Dropped,
    End,
    IdentityChanged,
    Input,
    LinkEnded,
    LinkUp,
    Received,
    RoomAgain,
    Submit,
    Up,
    VersionsChanged,
    WorkedOff,
    Write,
)

WINDOWS = (1 << 20, 8 << 20)
"""Bytes, urgent and bulk, that the peer may have on their way to us: 8 MiB are 65 ms of 1 Gbit/s."""
QUEUES = (4 << 20, 16 << 20)
"""Bytes, urgent and bulk, that wait for the peer while it is away; what does not fit is dropped, told, and repaired."""
BURST = 256 * 1024
"""Bytes that are written before the link has to say that it has drained: what is urgent waits for no more than these."""
HELLO_LIMIT_S = 5.0
PING_EVERY_S = 1.0
SILENCE_LIMIT_S = 4.0
"""A link that nothing was heard on for so long is dead: three pings and a bit."""
STALL_LIMIT_S = 10.0
"""A peer that reads nothing for so long is as good as dead."""
MOST_IDLE_FRAMES = 50
"""Frames a second that carry nothing (pings, versions): ours sends one or two."""
DIAL_FIRST_S, DIAL_LONGEST_S = 0.25, 5.0
REDIAL_LEAST_S = 10.0
"""Between two new links that a peer has asked for."""
PENALTY_FIRST_S, PENALTY_LONGEST_S = 1.0, 60.0
PENALTY_FORGOTTEN_S = 600.0
KNOWN: frozenset[str] = frozenset()
"""Names that a peer may put into `requires`."""


class _Phase(enum.Enum):
    HELLO = enum.auto()
    RESUME = enum.auto()
    OPEN = enum.auto()


class _Link:
    def __init__(self, up: LinkUp, offer: str, now: float) -> None:
        self.id, self.called = up.link, up.called
        self.offer = offer
        """As our HELLO said."""
        self.phase = _Phase.HELLO
        self.reader = wire.Reader()
        self.began = self.heard = self.said = now
        self.written = 0
        """Bytes since it was last drained."""
        self.blocked_at: float | None = None
        self.ping = self.versions = self.redial = False
        self.idle_frames, self.idle_since = 0, now


class Session:
    """One side. `dials`: this one opens the connections; the other one is called.

    `instance` names this run of the process and no other. Properties say how it stands; all changes are actions.
    """

    def __init__(
        self,
        *,
        instance: str,
        dials: bool,
        versions: Versions,
        now: float,
        newest: int = versioning.NEWEST,
        oldest: int = versioning.OLDEST,
        requires: tuple[str, ...] = (),
        known: frozenset[str] = KNOWN,
        windows: tuple[int, int] = WINDOWS,
        queues: tuple[int, int] = QUEUES,
    ) -> None:
        self.dials, self.versions = dials, versions
        self.peer_versions: Versions | None = None
        """As it said last, also when it is gone."""
        self.mismatches: tuple[Mismatch, ...] = ()
        """Of the two; kept when the peer is gone, because a handover asks."""
        self.protocol: int | None = None
        self._instance, self._newest, self._oldest = instance, newest, oldest
        self._requires, self._known = requires, known
        self._windows, self._queues = windows, queues
        self._links: dict[int, _Link] = {}
        self._open: _Link | None = None
        self._offers = 0
        self._session = ""
        self._epoch = 0
        self._fresh = True
        self._down_later: Down | None = None
        self._peer_windows = windows
        self._out = [Outbound(limit) for limit in queues]
        self._in = [Inbound(window) for window in windows]
        self._full = [False, False]
        self._dial_at: float | None = now if dials else None
        """When the next link is tried, where there is none."""
        self._renew_at: float | None = None
        """When one is to show a certificate that is newer than the links there are, or may be: none that opens ends that."""
        self._dialing = False
        self._failures = 0
        self._last_redial = now - REDIAL_LEAST_S
        self._violations, self._penalty_until = 0, now
        self._actions: list[Action] = []

    @property
    def is_up(self) -> bool:
        return self._open is not None

    @property
    def name(self) -> str:
        """Of the session, the same at both ends; empty where there is none."""
        return self._session

    @property
    def deadline(self) -> float | None:
        moments = [] if self._dialing else self._dials_at
        for link in self._links.values():
            moments += [link.heard + SILENCE_LIMIT_S, link.said + PING_EVERY_S]
            if link.phase is not _Phase.OPEN:
                moments.append(link.began + HELLO_LIMIT_S)
            if link.blocked_at is not None:
                moments.append(link.blocked_at + STALL_LIMIT_S)
        return min(moments, default=None)

    @property
    def _dials_at(self) -> list[float]:
        return [moment for moment in (self._dial_at, self._renew_at) if moment is not None]

    def room(self, lane: Lane) -> int:
        """Bytes that one more message of the lane may have; 0 without a session."""
        return min(self._out[lane].room, LARGEST) if self._session else 0

    def lag(self, lane: Lane, now: float) -> float:
        """Seconds since the oldest message was handed in that the peer has not worked off; 0 where there is none."""
        oldest = self._out[lane].oldest_at
        return 0.0 if oldest is None else now - oldest

    def handle(self, event: Input, now: float) -> list[Action]:
        """Move by one input."""
        match event:
            case LinkUp():
                self._on_link_up(event, now)
            case Received(link, data):
                self._on_received(link, data, now)
            case Drained(link):
                if (found := self._links.get(link)) is not None:
                    found.written, found.blocked_at = 0, None
            case LinkEnded(link, cause, detail):
                if link in self._links:
                    self._forget(self._links[link], cause, detail, now)
            case DialFailed(detail):
                self._dialing = False
                self._try_later(now)
            case Submit(kind, payload):
                self._on_submit(kind, payload, now)
            case WorkedOff(lane, epoch, count):
                if epoch == self._epoch:
                    self._in[lane].work_off(count)
            case VersionsChanged(versions):
                self._on_versions(versions)
            case IdentityChanged():
                self._on_identity(now)
            case TimerExpired():
                self._on_timer(now)
        for each in list(self._links.values()):
            self._pump(each, now)
        for lane in Lane:
            if self._full[lane] and self._out[lane].room > self._queues[lane] // 2:
                self._full[lane] = False
                self._actions.append(RoomAgain(lane))
        actions, self._actions = self._actions, []
        return actions

    # Links

    def _on_link_up(self, up: LinkUp, now: float) -> None:
        if up.called:
            self._dialing = False
        if now < self._penalty_until:
            self._actions.append(End(up.link, Cause.PENALTY, "it broke the protocol a moment ago"))
            if up.called:
                self._try_later(now)
            return
        # One that is used and one that is being greeted are all that an honest peer has.
        for link in [link for link in self._links.values() if link is not self._open]:
            self._end(link, Cause.REPLACED, "by a newer connection", now)
        self._offers += 1
        link = _Link(up, f"{self._instance}.{self._offers}", now)
        self._links[up.link] = link
        hello = Hello(
            newest=self._newest, oldest=self._oldest, requires=self._requires, offer=link.offer, session=self._session,
            windows=self._windows, versions=self.versions,
        )  # fmt: skip
        self._write(link, wire.encode_hello(hello), now)

    def _on_received(self, number: int, data: bytes, now: float) -> None:
        link = self._links.get(number)
        if link is None:
            return  # it was ended, and these were on their way
        link.heard = now
        link.reader.receive_data(data)
        try:
            for frame in link.reader.frames():
                self._on_frame(link, frame, now)
                if link.id not in self._links:
                    return
        except DecodeError as exc:
            self._violation(link, str(exc), now)

    def _on_frame(self, link: _Link, frame: Frame, now: float) -> None:
        match link.phase, frame.type:
            case _, Type.CLOSE:
                close = wire.decode_close(frame)
                cause = Cause(close.cause) if close.cause in list(Cause) else Cause.ENDED
                self._actions.append(End(link.id, cause, close.detail))
                self._forget(link, cause, close.detail, now)
            case _Phase.HELLO, Type.HELLO:
                self._on_hello(link, wire.decode_hello(frame), now)
            case _Phase.RESUME, Type.RESUME:
                self._on_resume(link, wire.decode_resume(frame))
            case _Phase.OPEN, Type.MESSAGE:
                self._on_message(frame)
            case _Phase.OPEN, Type.CONSUMED:
                lane = wire.lane_of(frame)
                self._out[lane].worked_off(frame.number)
            case (_Phase.RESUME | _Phase.OPEN), (Type.PING | Type.VERSIONS | Type.REDIAL):
                self._on_idle_frame(link, frame, now)
            case phase, type_:
                raise DecodeError("type", 4, f"{type_.name} in phase {phase.name}")

    def _on_hello(self, link: _Link, peer: Hello, now: float) -> None:
        protocol = min(self._newest, peer.newest)
        unknown = [name for name in peer.requires if name not in self._known]
        if protocol < max(self._oldest, peer.oldest) or unknown:
            own = f"protocol {self._oldest} to {self._newest}"
            theirs = f"protocol {peer.oldest} to {peer.newest}{''.join(f', {name}' for name in unknown)}"
            self._compare(peer.versions, (Mismatch(Reason.PROTOCOL_DIFFERS, own, theirs),))
            self._end(link, Cause.PROTOCOL, f"{own} here", now)
            return
        # From here on the new link counts; the one before has nothing to say any more.
        if self._open is not None:
            self._end(self._open, Cause.REPLACED, "by a newer connection", now)
        self.protocol, self._peer_windows = protocol, peer.windows
        if not self._session or peer.session != self._session:
            first, second = (link.offer, peer.offer) if link.called else (peer.offer, link.offer)
            self._begin(f"{first}-{second}")
        link.phase = _Phase.RESUME
        self._write(link, wire.encode_resume((self._in[0].standing(), self._in[1].standing())), now)
        self._compare(peer.versions)

    def _on_resume(self, link: _Link, standing: tuple[Standing, Standing]) -> None:
        for out, (received, worked_off) in zip(self._out, standing, strict=True):
            out.resume(received, worked_off)
        link.phase = _Phase.OPEN
        self._open, self._down_later, self._failures, self._dial_at = link, None, 0, None
        self._actions.append(Up(not self._fresh, self.protocol or 0))
        self._fresh = False

    def _on_message(self, frame: Frame) -> None:
        kind = BY_NUMBER.get(frame.which)
        if kind is None or kind.since > (self.protocol or 0):
            raise DecodeError("kind", 5, f"unknown ({frame.which})")
        self._in[kind.lane].accept(frame.number, wire.HEADER + len(frame.payload))
        self._actions.append(Deliver(kind, frame.payload, self._epoch))

    def _on_idle_frame(self, link: _Link, frame: Frame, now: float) -> None:
        if now - link.idle_since >= 1.0:
            link.idle_frames, link.idle_since = 0, now
        link.idle_frames += 1
        if link.idle_frames > MOST_IDLE_FRAMES:
            raise DecodeError("type", 4, f"more than {MOST_IDLE_FRAMES} frames a second that carry nothing")
        match frame.type:
            case Type.VERSIONS:
                self._compare(wire.decode_versions(frame))
            case Type.REDIAL if self.dials:
                self._renew_at = max(now, self._last_redial + REDIAL_LEAST_S)
            case _:
                pass

    # What the owner says

    def _on_submit(self, kind: Kind, payload: bytes, now: float) -> None:
        if len(payload) > LARGEST:
            raise ValueError(f"{kind.name}: {len(payload)} bytes")
        out = self._out[kind.lane]
        if not self._session or kind.since > (self.protocol or 0):
            self._actions.append(Dropped(kind))
        elif not out.submit(kind, payload, now):
            self._full[kind.lane] = True
            self._actions.append(Dropped(kind))

    def _on_versions(self, versions: Versions) -> None:
        self.versions = versions
        for link in self._links.values():
            link.versions = True
        if self.peer_versions is not None:
            self._compare(self.peer_versions)

    def _on_identity(self, now: float) -> None:
        if self.dials:
            self._renew_at = now
            self._on_timer(now)
        for link in self._links.values():
            link.redial = not self.dials  # on each: the peer may end the one in use before it has read that

    # Time

    def _on_timer(self, now: float) -> None:
        for link in list(self._links.values()):
            if now >= link.heard + SILENCE_LIMIT_S:
                self._end(link, Cause.SILENT, f"nothing heard for {SILENCE_LIMIT_S:g} s", now)
            elif link.phase is not _Phase.OPEN and now >= link.began + HELLO_LIMIT_S:
                self._end(link, Cause.LATE, f"no greeting within {HELLO_LIMIT_S:g} s", now)
            elif link.blocked_at is not None and now >= link.blocked_at + STALL_LIMIT_S:
                self._end(link, Cause.STALLED, f"nothing read for {STALL_LIMIT_S:g} s", now)
            elif now >= link.said + PING_EVERY_S:
                link.ping, link.said = link.phase is _Phase.OPEN, now
        if not self._dialing and now >= min(self._dials_at, default=float("inf")):
            self._dialing, self._dial_at, self._renew_at, self._last_redial = True, None, None, now
            self._actions.append(Dial())

    # Parts

    def _begin(self, session: str) -> None:
        self._session, self._fresh = session, True
        self._epoch += 1
        self._out = [Outbound(limit) for limit in self._queues]
        self._in = [Inbound(window) for window in self._windows]
        self._full = [False, False]

    def _compare(self, peer: Versions, found: tuple[Mismatch, ...] | None = None) -> None:
        self.peer_versions = peer
        self.mismatches = versioning.mismatches(self.versions, peer) if found is None else found
        self._actions.append(Compared(self.mismatches))

    def _violation(self, link: _Link, what: str, now: float) -> None:
        """Ends the session: what a peer that breaks the protocol has said before is no ground to go on from."""
        if now >= self._penalty_until + PENALTY_FORGOTTEN_S:
            self._violations = 0
        self._penalty_until = now + min(PENALTY_FIRST_S * 2**self._violations, PENALTY_LONGEST_S)
        self._violations = min(self._violations + 1, 16)
        self._begin("")
        self._end(link, Cause.VIOLATION, what, now)
        for other in list(self._links.values()):
            self._end(other, Cause.STALE, "the session has ended meanwhile", now)

    def _end(self, link: _Link, cause: Cause, detail: str, now: float) -> None:
        if link.blocked_at is None:
            self._write(link, wire.encode_close(cause, detail), now)
        self._actions.append(End(link.id, cause, detail))
        self._forget(link, cause, detail, now)

    def _forget(self, link: _Link, cause: Cause, detail: str, now: float) -> None:
        del self._links[link.id]
        if link is self._open:
            self._open = None
            self._down_later = Down(cause, detail)
        # While another link is being greeted, it may yet carry on as if nothing had been.
        if self._down_later is not None and not self._links:
            self._actions.append(self._down_later)
            self._down_later = None
        # A greeting that failed beside a link in use was to prove a new certificate: it still is.
        if self.dials and cause is not Cause.REPLACED and (not self._links or link.phase is not _Phase.OPEN):
            self._try_later(now)

    def _try_later(self, now: float) -> None:
        delay = min(DIAL_FIRST_S * 2**self._failures, DIAL_LONGEST_S)
        self._failures = min(self._failures + 1, 8)
        self._dial_at = max(now + delay, self._penalty_until)

    def _pump(self, link: _Link, now: float) -> None:
        """Write what is owed, urgent before bulk, as far as link and peer have room."""
        if link.blocked_at is not None or link.id not in self._links:
            return
        owed: list[bytes] = []
        if link.phase is not _Phase.HELLO:
            if link.ping:
                owed.append(Frame(Type.PING).encode())
            if link.versions:
                owed.append(wire.encode_versions(self.versions))
            if link.redial:
                owed.append(Frame(Type.REDIAL).encode())
            link.ping = link.versions = link.redial = False
        if link is self._open:
            owed += self._told()
            size = link.written + sum(map(len, owed))
            for lane in Lane:
                while size < BURST and (message := self._out[lane].take(self._peer_windows[lane])) is not None:
                    owed += (wire.header(Type.MESSAGE, message.kind.number, message.number, len(message.payload)),
                             message.payload)  # fmt: skip
                    size += message.size
        if owed:
            self._write(link, b"".join(owed), now)

    def _told(self) -> Iterable[bytes]:
        for lane in Lane:
            if (number := self._in[lane].tell()) is not None:
                yield Frame(Type.CONSUMED, lane, number).encode()

    def _write(self, link: _Link, data: bytes, now: float) -> None:
        self._actions.append(Write(link.id, data))
        link.said = now
        link.written += len(data)
        if link.written >= BURST:
            link.blocked_at = now
