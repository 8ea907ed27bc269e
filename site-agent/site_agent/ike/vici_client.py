"""charon's control socket (VICI) for an event loop that must never wait for charon.

The `vici` library is used for what the bytes mean (`Packet`, `Message`); its `Session` is not, because it clears the
socket's time limit as soon as one byte has come: a charon that is stopped in the middle of an answer would hold its
thread for ever. Here every call has a time limit, and a call that ends early for whatever reason closes the connection,
so no late answer is ever taken for the answer to a later question.

Protocol: length-prefixed packets, one request in flight, a `list-…` command answers with a stream of events
(strongSwan, src/libcharon/plugins/vici/README.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn

from vici.exception import DeserializationException
from vici.protocol import Message, Packet

from anycast.errors import PeerError

LONGEST_PACKET = 512 * 1024
"""strongSwan's own limit for one packet."""
BACKLOG_POLL_S = 0.1
"""Between two attempts at a socket whose backlog is full: there is no event for it."""
EVENTS_PER_TURN = 4
"""A long list is parsed in turns with the rest of the agent: about half a millisecond each, some more on a busy machine."""

Section = dict[str, Any]
"""What VICI calls a section: text keys; values are bytes, lists of bytes, or sections."""


class ViciClient:
    """One connection, opened at the first call and again after a failure. Calls queue behind each other."""

    def __init__(self, path: str, connect: Callable[[], Awaitable[socket.socket]] | None = None) -> None:
        """`connect` makes a connected socket where connecting to `path` is not enough."""
        self.path, self._open = path, connect
        self._lock = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, command: str, message: Section | None = None, *, timeout_s: float) -> Section:
        """Ask once. Raises TimeoutError (charon says nothing) or PeerError (no socket, or charon refuses)."""
        async with asyncio.timeout(timeout_s), self._lock, self._guarded() as (reader, writer):
            answer = await self._exchange(reader, writer, Packet.request(command, Message.serialize(message or {})))
            section = _section(answer, Packet.CMD_RESPONSE, command)
        if section.get("success", b"yes") != b"yes":
            raise PeerError("charon", f"{command}: {section.get('errmsg', b'failed').decode(errors='replace')}")
        return section

    async def stream(
        self, command: str, event: str, take: Callable[[Section], None], message: Section | None = None, *, timeout_s: float
    ) -> None:
        """Ask for a list; `take` is called with each of its events. Raises as `request` does."""
        async with asyncio.timeout(timeout_s), self._lock, self._guarded() as (reader, writer):
            confirmed = await self._exchange(reader, writer, Packet.register_event(event))
            if confirmed.response_type != Packet.EVENT_CONFIRM:
                raise PeerError("charon", f"does not know the event {event}")
            packet = await self._exchange(reader, writer, Packet.request(command, Message.serialize(message or {})))
            turns = 0
            while packet.response_type == Packet.EVENT:
                take(_section(packet, Packet.EVENT, command))
                turns += 1
                if turns % EVENTS_PER_TURN == 0:
                    await asyncio.sleep(0)
                packet = await self._receive(reader)
            _section(packet, Packet.CMD_RESPONSE, command)
            done = await self._exchange(reader, writer, Packet.unregister_event(event))
            if done.response_type != Packet.EVENT_CONFIRM:
                raise PeerError("charon", f"does not let go of the event {event}")

    async def listen(self, listeners: Mapping[str, Callable[[Section], None]], *, register_s: float) -> NoReturn:
        """Call who listens with each event of its name, which charon tells by itself. Nothing else can be asked meanwhile.

        Raises PeerError when the connection has ended, TimeoutError where charon does not answer for `register_s`.
        """
        async with self._lock, self._guarded() as (reader, writer):
            early: list[Any] = []
            async with asyncio.timeout(register_s):
                for event in listeners:
                    answer = await self._exchange(reader, writer, Packet.register_event(event))
                    while answer.response_type == Packet.EVENT:
                        early.append(answer)  # of a kind that is registered already
                        answer = await self._receive(reader)
                    if answer.response_type != Packet.EVENT_CONFIRM:
                        raise PeerError("charon", f"does not know the event {event}")
            for packet in early:
                self._tell(packet, listeners)
            while True:
                self._tell(await self._receive(reader), listeners)

    @staticmethod
    def _tell(packet: Any, listeners: Mapping[str, Callable[[Section], None]]) -> None:
        section = _section(packet, Packet.EVENT, "an event")
        if (take := listeners.get(packet.event_type.decode(errors="replace"))) is not None:
            take(section)

    def close(self) -> None:
        """Drop the connection; the next call opens a new one."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection. A charon that accepts nothing has a full backlog soon: that is silence, not a refusal."""
        opened = None if self._open is None else await self._open()
        sock = opened or socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if opened is not None:
                return await asyncio.open_unix_connection(sock=opened)
            while True:
                try:
                    sock.connect(self.path)  # at once or never: unix(7) knows no connection in progress
                    return await asyncio.open_unix_connection(sock=sock)
                except BlockingIOError:
                    await asyncio.sleep(BACKLOG_POLL_S)
        except BaseException:
            sock.close()
            raise

    @contextlib.asynccontextmanager
    async def _guarded(self) -> Any:
        """The connection for one call, closed unless the call ends well. OSError becomes PeerError here."""
        try:
            if self._streams is None:
                self._streams = await self._connect()
            yield self._streams
        except (OSError, EOFError) as exc:
            self.close()
            if isinstance(exc, TimeoutError):
                raise
            raise PeerError("charon", f"vici: {exc}") from exc
        except BaseException:
            self.close()
            raise

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, packet: bytes) -> Any:
        writer.write(struct.pack("!I", len(packet)) + packet)
        await writer.drain()
        return await self._receive(reader)

    async def _receive(self, reader: asyncio.StreamReader) -> Any:
        (length,) = struct.unpack("!I", await reader.readexactly(4))
        if not 0 < length <= LONGEST_PACKET:
            raise PeerError("charon", f"vici: a packet of {length} bytes")
        try:
            return Packet.parse(await reader.readexactly(length))
        except struct.error as exc:
            raise PeerError("charon", f"vici: {exc}") from exc


def _section(packet: Any, expected: int, command: str) -> Section:
    if packet.response_type != expected:
        raise PeerError("charon", f"{command}: unexpected answer of type {packet.response_type}")
    try:
        section: Section = Message.deserialize(packet.payload)
    except (DeserializationException, struct.error, UnicodeDecodeError) as exc:
        raise PeerError("charon", f"{command}: {exc}") from exc
    return section
