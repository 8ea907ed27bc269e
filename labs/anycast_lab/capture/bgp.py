"""BGP as it went over a wire: TCP put together again, messages cut out, UPDATEs read (RFC 4271, RFC 4760). Pure.

A capture may begin in the middle of a session; the reader then begins at the first message's marker. AS numbers are not
looked into and attributes are compared byte by byte, so nothing has to be known of what the two ends agreed on but that
they send no path identifiers (RFC 7911).
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network

from anycast.errors import DecodeError
from anycast_lab.capture.frames import Segment

PORT = 179
OPEN, UPDATE, NOTIFICATION, KEEPALIVE, ROUTE_REFRESH = range(1, 6)
_MARKER = b"\xff" * 16
_HEADER_BYTES, _LONGEST = 19, 4096
_EXTENDED = 0x10
_MP_REACH, _MP_UNREACH = 14, 15
_FAMILIES = {1: 4, 2: 16}
"""Address family identifier -> bytes of an address."""
_UNICAST = 1
_MOST_WAITING = 256

Prefix = IPv4Network | IPv6Network
Attributes = tuple[tuple[int, int, bytes], ...]
"""Type, flags without "extended length", value; sorted. MP_REACH_NLRI counts without its prefixes: its next hop is one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    withdrawn: tuple[Prefix, ...]
    announced: tuple[Prefix, ...]
    attributes: Attributes

    @property
    def end_of_rib(self) -> bool:
        return not self.withdrawn and not self.announced


def decode_update(body: bytes) -> Update:
    """An UPDATE behind its header. Raises DecodeError."""
    withdrawn, at = _counted(body, 0, "withdrawn routes")
    pairs, at = _counted(body, at, "path attributes")
    gone, told = list(_prefixes(withdrawn, 4)), list(_prefixes(body[at:], 4))
    attributes = []
    for flags, kind, value in _attributes(pairs):
        if kind == _MP_UNREACH:
            if (size := _family(value, "MP_UNREACH_NLRI")) is not None:
                gone += _prefixes(value[3:], size)
        elif kind == _MP_REACH:
            size = _family(value, "MP_REACH_NLRI")
            if len(value) < 4 or len(value) < 5 + value[3]:
                raise DecodeError("MP_REACH_NLRI", len(value), "truncated")
            end = 4 + value[3]
            attributes.append((kind, flags, value[:end]))
            if size is not None:
                told += _prefixes(value[end + 1 :], size)
        else:
            attributes.append((kind, flags, value))
    return Update(withdrawn=tuple(gone), announced=tuple(told), attributes=tuple(sorted(attributes)))


def _counted(data: bytes, at: int, field: str) -> tuple[bytes, int]:
    if len(data) < at + 2:
        raise DecodeError(field, at, "truncated")
    end = at + 2 + struct.unpack_from("!H", data, at)[0]
    if len(data) < end:
        raise DecodeError(field, at, "longer than the message")
    return data[at + 2 : end], end


def _attributes(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at < len(data):
        size = 4 if data[at] & _EXTENDED else 3
        if len(data) < at + size:
            raise DecodeError("path attribute", at, "truncated")
        length = struct.unpack_from("!H", data, at + 2)[0] if size == 4 else data[at + 2]
        if len(data) < at + size + length:
            raise DecodeError("path attribute", at, "longer than all of them")
        yield data[at] & ~_EXTENDED, data[at + 1], data[at + size : at + size + length]
        at += size + length


def _family(value: bytes, field: str) -> int | None:
    """Bytes of an address; None where it is not unicast of IPv4 or IPv6."""
    if len(value) < 3:
        raise DecodeError(field, len(value), "truncated")
    family, subsequent = struct.unpack_from("!HB", value)
    return _FAMILIES.get(family) if subsequent == _UNICAST else None


def _prefixes(data: bytes, size: int) -> Iterator[Prefix]:
    at = 0
    while at < len(data):
        length = data[at]
        used = (length + 7) // 8
        if length > 8 * size or len(data) < at + 1 + used:
            raise DecodeError("nlri", at, f"a prefix of {length} bits")
        padded = data[at + 1 : at + 1 + used].ljust(size, b"\0")
        yield ip_network((padded, length), strict=False)
        at += 1 + used


class Direction:
    """What one end of a session sent. Feed it all of its segments; `messages` are (time, type, body)."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, int, bytes]] = []
        self.ends: list[tuple[int, str]] = []
        """When and how this end closed: ``FIN`` or ``RST``."""
        self._next: int | None = None
        self._waiting: dict[int, Segment] = {}
        self._buffer = b""
        self._in_step = False

    @property
    def holes(self) -> bool:
        """Bytes are missing: the capture has lost packets, and nothing can be said about this direction."""
        return bool(self._waiting)

    def receive(self, segment: Segment) -> None:
        """Raises DecodeError where the bytes are no BGP, or the snapshot was too short."""
        if segment.rst:
            self.ends.append((segment.at_ns, "RST"))
            self._next, self._waiting = None, {}
            return
        if segment.syn:
            self._next, self._waiting, self._buffer, self._in_step = (segment.sequence + 1) % 2**32, {}, b"", True
        if segment.cut:
            raise DecodeError("tcp payload", len(segment.payload), "cut by the snapshot")
        if segment.payload:
            if self._next is None:
                self._next = segment.sequence
            self._waiting[segment.sequence] = segment
            if len(self._waiting) > _MOST_WAITING:
                raise DecodeError("tcp", 0, f"bytes from {self._next} on never came")
            self._take()
        if segment.fin:
            self.ends.append((segment.at_ns, "FIN"))

    def _take(self) -> None:
        """Whatever continues what came, retransmissions less what was there before."""
        progress = True
        while progress:
            progress = False
            for sequence in list(self._waiting):
                assert self._next is not None
                behind = (self._next - sequence) % 2**32
                if behind >= 2**31:
                    continue  # later than what is wanted
                segment = self._waiting.pop(sequence)
                if behind < len(segment.payload):
                    self._buffer += segment.payload[behind:]
                    self._next = (self._next + len(segment.payload) - behind) % 2**32
                    self._cut(segment.at_ns)
                    progress = True

    def _cut(self, at_ns: int) -> None:
        if not self._in_step:
            begin = self._buffer.find(_MARKER)
            if begin < 0:
                self._buffer = self._buffer[-len(_MARKER) + 1 :]
                return
            self._buffer, self._in_step = self._buffer[begin:], True
        while len(self._buffer) >= _HEADER_BYTES:
            length, kind = struct.unpack_from("!HB", self._buffer, 16)
            if self._buffer[:16] != _MARKER or not _HEADER_BYTES <= length <= _LONGEST:
                raise DecodeError("bgp header", 0, f"no marker, or a length of {length}")
            if len(self._buffer) < length:
                return
            self.messages.append((at_ns, kind, self._buffer[_HEADER_BYTES:length]))
            self._buffer = self._buffer[length:]
