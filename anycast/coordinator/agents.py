"""The agents' connections: TLS with certificates from both ends, judged before a byte is read, one newest connection each.

A connection that says nothing for three heartbeats is ended; so is one that says what it must not, after a line in the log.
Nothing that an agent says is believed about another gateway than the one that its certificate names. A renewed certificate
of the coordinator's own is used from the next handshake on; a revocation ends the connections of whom it names.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable

from anycast import link_wire
from anycast.coordinator.fleet_view import FleetView
from anycast.coordinator.porch import Porch, listening
from anycast.errors import ConfigError, DecodeError
from anycast.link_offer import PACKED, OfferFrames
from anycast.link_stream import read_message
from anycast.link_wire import Ack, ContentHad, ContentWanted, DarknessTold, EventsTold, Hello, Message, Report, Welcome
from anycast.pki import certificates, tls
from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Identity, Role
from anycast.pki.trust import Accepted, Refused, judge
from anycast.runtime import boottime

HELLO_LIMIT_S = 5.0
SILENT_LIMIT_S = 3 * link_wire.HEARTBEAT_S
YOUNG_S = 1.0
"""A fleet that comes at once: a handshake takes milliseconds, and the machine has others to do."""
LOOK_EVERY_S = 5.0
"""At the certificate's files."""
UNSENT = 256 * 1024
"""Bytes that may wait for one agent, besides the last offer; who reads nothing is left."""
OFFERS_AT_ONCE = 64 << 20
"""Bytes of unpacked offers under way to all agents together: those of a large fleet would be gigabytes, and a minute without
an acknowledgement. What finds no room is for a later look."""
UNDER_WAY_S = 10.0
"""Longer than that no offer takes another's room: a narrow way, or one who does not read, must not hold up a fleet."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Came:
    hello: Hello
    session: int
    """Of no other connection of this process."""


@dataclasses.dataclass(frozen=True, slots=True)
class Went:
    gateway: str
    site: str
    session: int


@dataclasses.dataclass(frozen=True, slots=True)
class Said:
    hello: Hello
    report: Report
    news: bool
    """It says something that the one before did not."""


@dataclasses.dataclass(frozen=True, slots=True)
class SaidDarkness:
    gateway: str
    session: int
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class HandedOver:
    gateway: str
    content: ContentHad


@dataclasses.dataclass(frozen=True, slots=True)
class SaidEvents:
    gateway: str
    session: int
    records: tuple[str, ...]


AgentEvent = Came | Went | Said | SaidDarkness | HandedOver | SaidEvents


@dataclasses.dataclass(slots=True)
class _Connection:
    hello: Hello
    session: int
    der: bytes
    writer: asyncio.StreamWriter
    asked: int = 0
    """Contents that it was asked for and has not answered: only those may be long."""
    offered: int = 0
    """Bytes of the last offer: it may be longer than all else together, and a narrow way takes its time for it."""
    offered_at: float = 0.0

    def longest(self) -> int:
        return link_wire.LONGEST_OFFER if self.asked else link_wire.LONGEST_FRAME

    @property
    def waiting(self) -> int:
        """Bytes that it has not taken yet, without the first write that waits: asyncio's TLS hands that on whole, and does
        not count it."""
        return self.writer.transport.get_write_buffer_size()


class Agents:
    """Use from the event loop's thread: `start`, then `keep` runs until cancelled; `close` when done."""

    def __init__(
        self,
        view: FleetView,
        folder: MachineFolder,
        me: Identity,
        *,
        instance: str,
        epoch: int,
        may_be_at: Callable[[str, str], bool],
        happened: Callable[[AgentEvent], None],
        seen: Callable[[str], str] = lambda site: "unknown",
    ) -> None:
        """`may_be_at` says whether a gateway is one of that site. `happened` is told in the event loop's thread, and may
        raise DecodeError at what a gateway says. `seen`: what observers say of a site's route."""
        self._seen = seen
        self._view, self._folder, self._me = view, folder, me
        self._instance, self._epoch, self._happened = instance, epoch, happened
        self._may_be_at = may_be_at
        self._sessions = 0
        self._loaded = tls.load(folder, me, link_wire.ALPN)
        self._signature = tls.signature(folder)
        self._connections: dict[str, _Connection] = {}
        self._offers: dict[int, _Connection] = {}
        """By session: those with an offer under way."""
        self._porch = Porch("agents", self._protocol, young_s=YOUNG_S)
        self._sockets: list[socket.socket] = []
        self.problem = ""
        """Why the files of the coordinator's certificate cannot be used, while what was loaded before goes on."""
        self.refused: Counter[str] = Counter()

    async def start(self, addresses: list[str], port: int) -> None:
        """Raises OSError."""
        self._sockets = [listening(address, port) for address in addresses]
        for each in self._sockets:
            self._porch.start(each, self._loaded.called)

    @property
    def port(self) -> int:
        return int(self._sockets[0].getsockname()[1])

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._on_connection(reader, writer, lambda: self._porch.know(made))

        made = asyncio.StreamReaderProtocol(asyncio.StreamReader(), connected)
        return made

    def send(self, gateway: str, message: Message) -> bool:
        """Whether it is connected, and reads what it is sent."""
        connection = self._connections.get(gateway)
        if connection is None:
            return False
        if connection.waiting > UNSENT + connection.offered:
            _log.warning("%s is left: it does not read what it is sent", gateway)
            connection.writer.transport.abort()
            return False
        connection.asked += isinstance(message, ContentWanted)
        connection.writer.write(link_wire.encode(message))
        return True

    def offer(self, gateway: str, frames: OfferFrames, document: str) -> bool:
        """Whether it is connected, has taken what it was sent before, and there is room beside the offers to others; else it
        is for later."""
        connection = self._connections.get(gateway)
        if connection is None or connection.waiting > 0:
            return False
        packs = PACKED in connection.hello.takes  # a few ten KiB, of any fleet
        if not packs and not self._has_room():
            return False
        frame = frames.frame(document, connection.hello.takes)
        connection.offered, connection.offered_at = len(frame), boottime()
        connection.writer.write(memoryview(frame)[:-1])
        connection.writer.write(frame[-1:])  # this is what waits for as long as the rest is under way
        if connection.waiting > 0 and not packs:
            self._offers[connection.session] = connection
        return True

    def _has_room(self) -> bool:
        """For another offer."""
        since = boottime() - UNDER_WAY_S
        self._offers = {
            session: each for session, each in self._offers.items()
            if each.waiting and each.offered_at > since and self._connections.get(each.hello.gateway) is each
        }  # fmt: skip
        return sum(each.offered for each in self._offers.values()) < OFFERS_AT_ONCE

    def answer(self, gateway: str, session: int, message: Message) -> None:
        """For that connection only."""
        connection = self._connections.get(gateway)
        if connection is not None and connection.session == session:
            self.send(gateway, message)

    def answer_darkness(self, gateway: str, session: int, text: str) -> None:
        self.answer(gateway, session, DarknessTold(data=text))

    async def keep(self) -> None:
        """Look at the files again and again."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if (now := tls.signature(self._folder)) != self._signature:
                self._signature = now
                self._reload()

    def close(self) -> None:
        self._porch.close()
        for connection in self._connections.values():
            connection.writer.transport.abort()

    def _reload(self) -> None:
        try:
            loaded = tls.load(self._folder, self._me, link_wire.ALPN)
        except ConfigError as exc:
            self.problem = str(exc)
            _log.warning("certificate files cannot be used, what was loaded goes on: %s", exc)
            return
        self.problem = ""
        # The server keeps its context: what was renewed is put into it.
        self._loaded.called.load_cert_chain(self._folder.identity_file)
        self._loaded = dataclasses.replace(loaded, called=self._loaded.called)
        for connection in list(self._connections.values()):
            if isinstance(self._judge(connection.der), Refused):
                _log.warning("%s is not believed any more", connection.hello.gateway)
                connection.writer.transport.abort()

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, known: Callable[[], None]
    ) -> None:
        """`known` is called once it is no stranger any more."""
        try:
            await self._serve(reader, writer, known)
        except (DecodeError, OSError, asyncio.IncompleteReadError, TimeoutError, ssl.SSLError) as exc:
            if isinstance(exc, TimeoutError):
                _log.warning("%s is left: it has said nothing in time", writer.get_extra_info("peername"))
            if isinstance(exc, DecodeError):
                self.refused["malformed"] += 1
                _log.warning("%s says what it must not: %s", writer.get_extra_info("peername"), exc)
        finally:
            known()
            writer.transport.abort()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, known: Callable[[], None]
    ) -> None:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        judged = self._judge(der)
        if isinstance(judged, Refused):
            self.refused[judged.cause] += 1
            _log.warning("%s is refused: %s: %s", writer.get_extra_info("peername"), judged.cause, judged.detail)
            return
        async with asyncio.timeout(HELLO_LIMIT_S):
            hello = await read_message(reader)
        if not isinstance(hello, Hello):
            raise DecodeError("hello", 0, "does not come first")
        if (hello.fleet, hello.gateway) != (self._me.fleet, judged.identity.name):
            raise DecodeError("hello", 0, f"names {hello.gateway} of {hello.fleet}, its certificate {judged.identity}")
        if not self._may_be_at(hello.gateway, hello.site):
            raise DecodeError("hello", 0, f"says that it is at {hello.site}, and operators have signed otherwise")
        welcome = Welcome(
            protocol=link_wire.protocol_of(hello),
            instance=self._instance,
            epoch=self._epoch,
            heartbeat_s=link_wire.HEARTBEAT_S,
        )
        known()
        self._sessions += 1
        connection = _Connection(hello, self._sessions, der, writer)
        before, self._connections[hello.gateway] = self._connections.get(hello.gateway), connection
        if before is not None:
            before.writer.transport.abort()
        try:
            self._view.connected(hello, boottime())
            writer.write(link_wire.encode(welcome))
            self._happened(Came(hello, connection.session))
            while True:
                message = await read_message(reader, connection.longest, silent_s=SILENT_LIMIT_S)
                if isinstance(message, Report):
                    news = self._view.reported(hello.gateway, message, boottime())
                    self._happened(Said(hello, message, news))
                    self.send(hello.gateway, Ack(number=message.number, seen=self._seen(hello.site)))
                elif isinstance(message, DarknessTold):
                    self._happened(SaidDarkness(hello.gateway, connection.session, message.data))
                elif isinstance(message, ContentHad) and connection.asked:
                    connection.asked -= 1
                    self._happened(HandedOver(hello.gateway, message))
                elif isinstance(message, EventsTold):
                    self._happened(SaidEvents(hello.gateway, connection.session, message.records))
        finally:
            if self._connections.get(hello.gateway) is connection:
                del self._connections[hello.gateway]
                self._view.disconnected(hello.gateway)
            self._happened(Went(hello.gateway, hello.site, connection.session))

    def _judge(self, der: bytes) -> Accepted | Refused:
        name = ""
        with contextlib.suppress(DecodeError):
            name = certificates.identity_of(certificates.from_der(der)).name
        expected = Identity(self._me.fleet, Role.GATEWAY, name)
        return judge(der, self._loaded.own.trust, expected, None, datetime.datetime.now(datetime.UTC))
