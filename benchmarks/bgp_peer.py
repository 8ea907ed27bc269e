"""A BGP speaker that only listens and stamps what it hears: the upstream of the benchmarks.

It answers one OPEN a session with a mirror of what it got, keeps the session alive while somebody calls `wait`, and notes
every announcement and withdrawal with CLOCK_BOOTTIME at the moment `recv` returned. RFC 4271, with RFC 4760 for IPv6 and
RFC 6793 for four-octet AS numbers. The end of a session withdraws what it carried, as in a router. It never sends a route.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator

MARKER = b"\xff" * 16
OPEN, UPDATE, KEEPALIVE = 1, 2, 4
MP_REACH_NLRI, MP_UNREACH_NLRI = 14, 15
EXTENDED_LENGTH = 0x10
AS_TRANS = 23456
HOLD_TIME_S = 90
"""Ours; the session's is the smaller one, and we send KEEPALIVE every second whatever it is."""


class PeerTimeout(Exception):
    """What was waited for did not happen in time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Heard:
    """One prefix announced or withdrawn."""

    at_ns: int
    announced: bool
    prefix: str


def prefixes(data: bytes, size: int) -> Iterator[str]:
    """The NLRI of RFC 4271 4.3: length in bits, then as many octets as it needs. `size` is 4 or 16."""
    offset = 0
    while offset < len(data):
        bits = data[offset]
        octets = (bits + 7) // 8
        address = data[offset + 1 : offset + 1 + octets].ljust(size, b"\0")
        yield f"{ipaddress.ip_address(address)}/{bits}"
        offset += 1 + octets


def changes(update: bytes) -> Iterator[tuple[bool, str]]:
    """(announced, prefix) of an UPDATE's body."""
    (withdrawn,) = struct.unpack_from("!H", update)
    yield from ((False, p) for p in prefixes(update[2 : 2 + withdrawn], 4))
    offset = 2 + withdrawn
    (length,) = struct.unpack_from("!H", update, offset)
    offset += 2
    end = offset + length
    while offset < end:
        flags, kind, size = update[offset], update[offset + 1], update[offset + 2]
        offset += 3
        if flags & EXTENDED_LENGTH:
            size = size << 8 | update[offset]
            offset += 1
        value = update[offset : offset + size]
        offset += size
        if kind == MP_UNREACH_NLRI:
            yield from ((False, p) for p in prefixes(value[3:], 16))
        elif kind == MP_REACH_NLRI:
            yield from ((True, p) for p in prefixes(value[5 + value[3] :], 16))
    yield from ((True, p) for p in prefixes(update[end:], 4))


def message(kind: int, body: bytes = b"") -> bytes:
    return MARKER + struct.pack("!HB", 19 + len(body), kind) + body


class BgpPeer:
    """Sessions on listening sockets that the caller made, in whatever network namespace."""

    def __init__(self, listeners: list[socket.socket], asn: int, router_id: str) -> None:
        self._asn, self._router_id = asn, ipaddress.IPv4Address(router_id).packed
        self._selector = selectors.DefaultSelector()
        self._pending: dict[socket.socket, bytes] = {}
        self._routes: dict[socket.socket, set[str]] = {}
        self._next_keepalive = 0.0
        self.heard: list[Heard] = []
        for listener in listeners:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, "listener")

    @property
    def routes(self) -> set[str]:
        """What is announced to us now, over all sessions."""
        return set().union(*self._routes.values())

    def wait(self, until: Callable[[], bool], timeout_s: float) -> None:
        """Serve the sessions until the condition holds. Raises PeerTimeout."""
        deadline = time.monotonic() + timeout_s
        while not until():
            now = time.monotonic()
            if now >= deadline:
                raise PeerTimeout(f"still {sorted(self.routes)} after {timeout_s} s")
            if now >= self._next_keepalive:
                self._next_keepalive = now + 1
                for session in list(self._routes):
                    with contextlib.suppress(OSError):
                        session.send(message(KEEPALIVE))
            for key, _ in self._selector.select(min(deadline, self._next_keepalive) - now):
                if key.data == "listener":
                    session, _ = key.fileobj.accept()  # type: ignore[union-attr]
                    self._pending[session] = b""
                    self._selector.register(session, selectors.EVENT_READ, "session")
                else:
                    self._receive(key.fileobj)  # type: ignore[arg-type]

    def serve(self, seconds: float) -> None:
        """Serve the sessions for a while."""
        with contextlib.suppress(PeerTimeout):
            self.wait(lambda: False, seconds)

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _receive(self, session: socket.socket) -> None:
        try:
            data = session.recv(65536)
        except ConnectionError:
            data = b""
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if not data:
            self._end(session, now)
            return
        buffer = self._pending[session] + data
        while len(buffer) >= 19 and len(buffer) >= (length := struct.unpack_from("!H", buffer, 16)[0]):
            self._handle(session, buffer[18], buffer[19:length], now)
            buffer = buffer[length:]
        self._pending[session] = buffer

    def _handle(self, session: socket.socket, kind: int, body: bytes, now: int) -> None:
        if kind == OPEN:
            # Version, AS, hold time, identifier, then the same capabilities back, with our own four-octet AS in place.
            theirs, own = self._four_octet_as(body), struct.pack("!I", self._asn)
            parameters = body[10:].replace(b"\x41\x04" + theirs, b"\x41\x04" + own)
            ours = struct.pack("!BHH", 4, self._asn if self._asn < 65536 else AS_TRANS, HOLD_TIME_S) + self._router_id
            session.send(message(OPEN, ours + body[9:10] + parameters) + message(KEEPALIVE))
            self._routes[session] = set()
        elif kind == UPDATE:
            for announced, prefix in changes(body):
                (self._routes[session].add if announced else self._routes[session].discard)(prefix)
                self.heard.append(Heard(now, announced, prefix))

    @staticmethod
    def _four_octet_as(body: bytes) -> bytes:
        """The value of capability 65 (RFC 6793) in an OPEN's body."""
        place = body.index(b"\x41\x04", 10)
        return body[place + 2 : place + 6]

    def _end(self, session: socket.socket, now: int) -> None:
        self.heard += [Heard(now, False, prefix) for prefix in sorted(self._routes.pop(session, ()))]
        self._selector.unregister(session)
        self._pending.pop(session)
        session.close()
