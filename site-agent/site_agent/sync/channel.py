"""The TLS shell around the session core: one listening socket or one dialler, the judge before the first byte, the clock.

Of the two gateways the one whose name comes first in the alphabet calls. Only the peer's own address is answered at all,
and a handshake that waits gives way to a newer one, so a stranger on the management network costs a few handshakes and
nothing else. The files are looked at every few seconds: a renewed certificate is proved over a new connection, a
revocation ends the one in use.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import datetime
import secrets
import socket
import ssl
from collections.abc import Callable, Coroutine

from anycast.errors import ConfigError, KernelError
from anycast.pki import tls
from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Identity
from anycast.pki.tls import Loaded
from anycast.pki.trust import Accepted, Pin, Refusal, Refused, judge, pinned
from anycast.reasons import Reason
from anycast.runtime import boottime
from anycast.timer import TimerExpired
from site_agent.sync import identity, wire
from site_agent.sync.identity import PinFile
from site_agent.sync.kinds import LARGEST, Lane
from site_agent.sync.session import Session
from site_agent.sync.versions import Versions
from site_agent.sync.words import (
    Action,
    Cause,
    Dial,
    DialFailed,
    Down,
    Drained,
    End,
    FromOwner,
    IdentityChanged,
    Input,
    LinkEnded,
    LinkUp,
    Received,
    Write,
)

PORT = 4517
"""TCP, on the management network. Nobody's by registration; 4510 is the `ha` plugin's own."""
HANDSHAKE_LIMIT_S = 4.0
MOST_HANDSHAKES = 16
"""Of the peer's address at once; the oldest gives way."""
LOOK_EVERY_S = 5.0
EXPIRING_DAYS = 30
CLOSING_LIMIT_S = 2.0
ALARM_STANDS_S = 60.0
"""A refusal or a violation is told for so long after it was seen last."""
BULK_LAG_S = 0.1
"""Flows wait while so much of them is on its way already: what is urgent goes before, and memory is bounded."""
UNSENT = 128 * 1024
"""TCP_NOTSENT_LOWAT: what is urgent does not wait behind more than this in the kernel."""
_LOW, _HIGH = 16 * 1024, 64 * 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Whose channel it is, and where."""

    me: Identity
    peer: Identity
    own_address: str
    peer_address: str
    """Both on the management network, literal."""
    port: int = PORT

    @property
    def dials(self) -> bool:
        return self.me.name < self.peer.name


class Channel:
    """`owner` is given every action of the session that is not the shell's; it must be quick. `run` runs until cancelled."""

    def __init__(
        self,
        plan: Plan,
        folder: MachineFolder,
        pins: PinFile,
        versions: Versions,
        owner: Callable[[Action], None],
        *,
        look_every_s: float = LOOK_EVERY_S,
        wall: Callable[[], datetime.datetime] = lambda: datetime.datetime.now(datetime.UTC),
    ) -> None:
        self.session = Session(instance=secrets.token_hex(12), dials=plan.dials, versions=versions, now=boottime())
        self.refused: collections.Counter[str] = collections.Counter()
        """Connections refused, by cause: certificates' `Refusal`, and what TLS itself or the address refused."""
        self._plan, self._folder, self._pins, self._owner = plan, folder, pins, owner
        self._look_every_s, self._wall = look_every_s, wall
        self._loaded: Loaded | None = None
        self._signature: tuple[object, ...] = ()
        self._pin: Pin | None = None
        self._problem = self._pin_problem = self._down = ""
        self._seen: Accepted | None = None
        self._recent: dict[Reason, tuple[float, str]] = {}
        self._links: dict[int, _Connection] = {}
        self._numbers = 0
        self._inbox: collections.deque[Input] = collections.deque()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}
        """In the order they began."""

    def feed(self, event: FromOwner) -> None:
        """What the owner hands in."""
        self._feed(event)

    @property
    def takes_flows(self) -> bool:
        """There is room for another message of them."""
        return self.session.room(Lane.BULK) >= LARGEST and self.session.lag(Lane.BULK, boottime()) < BULK_LAG_S

    @property
    def alarms(self) -> dict[Reason, str]:
        """What an operator must see, by reason; empty where all is well."""
        now, wall, found = boottime(), self._wall(), dict[Reason, str]()
        if self._problem or self._pin_problem:
            found[Reason.IDENTITY_UNUSABLE] = self._problem or self._pin_problem
        peer = self._plan.peer.name
        ends = [] if self._loaded is None else [("this gateway's", self._loaded.own.certificate.not_valid_after_utc)]
        if self._seen is not None:
            ends.append((f"{peer}'s", self._seen.not_after))
            if self._seen.out_of_time is Refusal.NOT_YET_VALID:
                found[Reason.CERTIFICATE_EXPIRED] = f"{peer}'s certificate is not valid yet by this gateway's clock"
        for whose, end in ends:
            if wall > end:
                found[Reason.CERTIFICATE_EXPIRED] = f"{whose} certificate expired on {end:%Y-%m-%d}"
            elif wall > end - datetime.timedelta(days=EXPIRING_DAYS):
                found.setdefault(Reason.CERTIFICATE_EXPIRING, f"{whose} certificate is good until {end:%Y-%m-%d}")
        for reason, (at, detail) in self._recent.items():
            if now < at + ALARM_STANDS_S:
                found[reason] = detail
        for mismatch in self.session.mismatches:
            found[mismatch.reason] = str(mismatch)
        if not self.session.is_up:
            found[Reason.CHANNEL_DOWN] = f"no session with {peer}{self._down and f': {self._down}'}"
        return found

    async def run(self) -> None:
        """Until cancelled; then nothing is left open."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._look_again())
                if not self._plan.dials:
                    group.create_task(self._listen())
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for connection in list(self._links.values()):
                connection.abort()

    def look(self) -> None:
        """Read what has changed, and judge who is connected anew: by other files, or by a later clock."""
        if self._pin is None:
            self._load_pin()
        now = tls.signature(self._folder)
        if now != self._signature or self._loaded is None:
            self._signature = now
            before = self._loaded
            try:
                self._loaded = identity.load(self._folder, self._plan.me)
                self._problem = ""
            except ConfigError as exc:
                self._problem = str(exc)  # what is in force stays so: an operator's mistake parts nobody
            if before is not None and self._loaded is not None:
                if before.own.certificate != self._loaded.own.certificate:
                    self._feed(IdentityChanged())
            elif self._loaded is not None:
                self._arm()
        for number, connection in list(self._links.items()):
            judged = self._judge(connection.certificate)
            if isinstance(judged, Refused):
                self._note_refusal(judged.cause, judged.detail)
                connection.close(wire.encode_close(Cause.REFUSED, judged.cause))
                self._links.pop(number, None)
                self._feed(LinkEnded(number, Cause.REFUSED, f"{judged.cause}: {judged.detail}"))
            else:
                self._seen = judged

    # Connections

    def arrived(self, connection: _Connection, *, called: bool) -> None:
        """A handshake is done. Nothing that the connection says is read before this has accepted it."""
        judged = self._judge(connection.certificate) if connection.alpn == identity.ALPN else Refused(
            Refusal.MALFORMED, "it does not speak this channel's protocol"
        )  # fmt: skip
        if isinstance(judged, Refused):
            self._note_refusal(judged.cause, judged.detail)
            connection.close(wire.encode_close(Cause.REFUSED, judged.cause))
            if called:
                self._feed(DialFailed(f"{judged.cause}: {judged.detail}"))
            return
        self._seen = judged
        if (pin := pinned(self._pin, judged)) != self._pin and pin is not None:
            self._pin = pin
            try:
                self._pins.save(pin)
                self._pin_problem = ""
            except (ConfigError, KernelError) as exc:
                self._pin_problem = f"the peer's key could not be kept: {exc}"
        self._numbers += 1
        connection.link = self._numbers
        self._links[self._numbers] = connection
        self._feed(LinkUp(self._numbers, called))

    def said(self, link: int, data: bytes) -> None:
        self._feed(Received(link, data))

    def drained(self, link: int) -> None:
        self._feed(Drained(link))

    def gone(self, link: int, detail: str) -> None:
        if self._links.pop(link, None) is not None:
            if not self.session.is_up:
                self._down = detail
            self._feed(LinkEnded(link, Cause.ENDED, detail))

    def _judge(self, certificate: bytes | None) -> Accepted | Refused:
        if self._loaded is None:
            return Refused(Refusal.MALFORMED, "this gateway has no identity")
        return judge(certificate, self._loaded.own.trust, self._plan.peer, self._pin, self._wall())

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in self._plan.own_address else socket.AF_INET
        while True:
            with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as listener:
                try:
                    listener.setblocking(False)
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    listener.bind((self._plan.own_address, self._plan.port))
                    listener.listen(MOST_HANDSHAKES)
                    while True:
                        connection, address = await loop.sock_accept(listener)
                        self._answer(connection, str(address[0]))
                except OSError as exc:  # the address is not there yet, or no descriptor is left
                    self._down = f"cannot listen on {self._plan.own_address}: {exc.strerror}"
            await asyncio.sleep(1.0)

    def _answer(self, connection: socket.socket, address: str) -> None:
        if address.partition("%")[0] != self._plan.peer_address or self._loaded is None:
            self.refused["address" if self._loaded is not None else "no_identity"] += 1
            connection.close()
            return
        if len(self._tasks) >= MOST_HANDSHAKES:
            next(iter(self._tasks)).cancel()
        self._begin(self._shake_hands(connection, self._loaded.called))

    async def _shake_hands(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(HANDSHAKE_LIMIT_S):
                await loop.connect_accepted_socket(lambda: _Connection(self, called=False), connection, ssl=context)
        except (ssl.SSLError, OSError, TimeoutError) as exc:  # asyncio has closed it
            self._note_tls(exc)
            if not isinstance(exc, ssl.SSLError):  # asyncio's client sends no alert where it refuses a certificate
                self._down = f"{self._plan.peer.name} broke off the handshake (another root there?)"

    async def _dial(self) -> None:
        loop, plan = asyncio.get_running_loop(), self._plan
        if self._loaded is None:
            self._feed(DialFailed("this gateway has no identity"))
            return
        try:
            async with asyncio.timeout(HANDSHAKE_LIMIT_S):
                await loop.create_connection(
                    lambda: _Connection(self, called=True), plan.peer_address, plan.port, ssl=self._loaded.calling,
                    local_addr=(plan.own_address, 0),
                )  # fmt: skip
        except (ssl.SSLError, OSError, TimeoutError) as exc:
            self._note_tls(exc)
            self._down = str(exc) or "no answer"
            self._feed(DialFailed(self._down))

    # The core

    def _feed(self, event: Input) -> None:
        self._inbox.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._inbox:
                now = boottime()
                # An overdue timer comes before any queued input: a flood must not starve it.
                deadline = self.session.deadline
                overdue = deadline is not None and deadline <= now
                for action in self.session.handle(TimerExpired() if overdue else self._inbox.popleft(), now):
                    self._perform(action)
        finally:
            self._busy = False
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.session.deadline
        if deadline is not None and self._loaded is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(deadline - boottime(), 0), self._feed, TimerExpired())

    def _perform(self, action: Action) -> None:
        match action:
            case Dial():
                self._begin(self._dial())
            case Write(link, data):
                if (connection := self._links.get(link)) is not None:
                    connection.write(data)
            case End(link, cause, detail):
                if cause is Cause.VIOLATION:
                    self._note(Reason.CHANNEL_VIOLATED, detail)
                elif cause is Cause.REFUSED:
                    self._note(Reason.CHANNEL_REFUSED, f"{self._plan.peer.name} refuses this gateway: {detail}")
                if (connection := self._links.pop(link, None)) is not None:
                    connection.close()
            case _:
                if isinstance(action, Down):
                    self._down = action.detail
                self._owner(action)

    # Parts

    async def _look_again(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(self._look_every_s)

    def _load_pin(self) -> None:
        try:
            self._pin = self._pins.load()
            self._pin_problem = ""
        except ConfigError as exc:
            self._pin_problem = str(exc)

    def _begin(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    def _note_tls(self, exc: BaseException) -> None:
        if isinstance(exc, ssl.SSLCertVerificationError):
            self._note_refusal(Refusal.FOREIGN, exc.verify_message)
        elif isinstance(exc, ssl.SSLError):
            self.refused["tls"] += 1
            self._note(Reason.CHANNEL_REFUSED, f"no TLS with {self._plan.peer_address}: {exc.reason or exc}")

    def _note_refusal(self, cause: Refusal, detail: str) -> None:
        self.refused[cause] += 1
        self._note(Reason.CHANNEL_REFUSED, f"who calls itself {self._plan.peer.name} is refused: {cause}: {detail}")

    def _note(self, reason: Reason, detail: str) -> None:
        self._recent[reason] = boottime(), detail


class _Connection(asyncio.Protocol):
    """One TCP connection after its handshake. `link` is its number once it was accepted; until then it is deaf."""

    def __init__(self, channel: Channel, *, called: bool) -> None:
        self._channel, self._called = channel, called
        self.link: int | None = None
        self.certificate: bytes | None = None
        self.alpn: str | None = None
        self._transport: asyncio.Transport | None = None
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=_HIGH, low=_LOW)
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
        tls = transport.get_extra_info("ssl_object")
        self.certificate, self.alpn = tls.getpeercert(binary_form=True), tls.selected_alpn_protocol()
        self._channel.arrived(self, called=self._called)

    def data_received(self, data: bytes) -> None:
        if self.link is not None:
            self._channel.said(self.link, data)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self.link is not None:
            self._channel.drained(self.link)

    def connection_lost(self, exc: Exception | None) -> None:
        link, self.link = self.link, None
        if link is not None:
            self._channel.gone(link, str(exc or "closed by the peer"))

    def write(self, data: bytes) -> None:
        if self._transport is None or self.link is None:
            return
        self._transport.write(data)
        if not self._paused:
            asyncio.get_running_loop().call_soon(self._drained, self.link)

    def close(self, last: bytes = b"") -> None:
        """After what was written; whatever comes meanwhile is not read."""
        self.link = None
        if self._transport is None:
            return
        if last:
            self._transport.write(last)
        self._transport.close()
        asyncio.get_running_loop().call_later(CLOSING_LIMIT_S, self._transport.abort)

    def abort(self) -> None:
        self.link = None
        if self._transport is not None:
            self._transport.abort()

    def _drained(self, link: int) -> None:
        if self.link == link and not self._paused:
            self._channel.drained(link)
