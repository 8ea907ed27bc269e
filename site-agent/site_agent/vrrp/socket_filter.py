"""What the kernel throws away before a socket of ours wakes anybody: who floods the port, or the protocol, costs no reader.

The readers have real-time priority, so the kernel filters what they must not be given: whatever is not from an address that
is expected, always; and whatever was routed (RFC 5082: TTL or hop limit other than 255), as soon as there is much of it. A
little of it is let through, because its counter tells an operator that the other one is not on this link.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
from collections.abc import Iterable

from site_agent.vrrp.packet import TTL, Address

MOST_ROUTED = 20
"""Packets of a socket, between two looks at it (a second), that are read and counted although they were routed."""
_FILTER = struct.Struct("=HBBI")
_LOAD_WORD, _LOAD_BYTE, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x30, 0x15, 0x06
_NETWORK_HEADER = 0xFFF00000
"""SKF_NET_OFF: an offset from the IP header, wherever the socket's own data begins."""
_HOPS_AT, _SOURCE_AT = {4: 8, 6: 7}, {4: 12, 6: 8}
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27


class SocketFilter:
    """Of one socket: at once what is not from `sources` (None: all are read), and after MOST_ROUTED what was routed."""

    def __init__(self, sock: socket.socket, sources: Iterable[Address] | None) -> None:
        """Raises OSError where the kernel refuses it."""
        self._sock, self._v6 = sock, sock.family == socket.AF_INET6
        self._sources = None if sources is None else frozenset(sources)
        self._routed, self._strict = 0, False
        attach(sock, self._program())

    def routed(self) -> None:
        """One was read that had been routed."""
        self._routed += 1
        if self._routed == MOST_ROUTED:
            self._set(strict=True)

    def look(self) -> None:
        """Once a second: count them again."""
        self._routed = 0
        if self._strict:
            self._set(strict=False)

    def _set(self, *, strict: bool) -> None:
        self._strict = strict
        attach(self._sock, self._program())

    def _program(self) -> bytes:
        return program(6 if self._v6 else 4, self._sources, routed=not self._strict)


def program(version: int, sources: frozenset[Address] | None, *, routed: bool) -> bytes:
    """Several ``struct sock_filter``: lets through what comes from one of `sources`; without `routed` with TTL 255 only."""
    lines: list[tuple[int, int, int, int]] = []
    if not routed:
        lines += [(_LOAD_BYTE, 0, 0, _NETWORK_HEADER + _HOPS_AT[version]), (_JUMP_IF_EQUAL, 1, 0, TTL), (_RETURN, 0, 0, 0)]
    for source in sorted(sources or (), key=int):
        words = struct.unpack(f"!{len(source.packed) // 4}I", source.packed)
        for place, word in enumerate(words):
            to_next = 2 * (len(words) - place) - 1
            lines.append((_LOAD_WORD, 0, 0, _NETWORK_HEADER + _SOURCE_AT[version] + 4 * place))
            lines.append((_JUMP_IF_EQUAL, 0, to_next, word))
        lines.append((_RETURN, 0, 0, 0xFFFF))
    lines.append((_RETURN, 0, 0, 0xFFFF if sources is None else 0))
    return b"".join(_FILTER.pack(*line) for line in lines)


def attach(sock: socket.socket, code: bytes) -> None:
    """In place of the filter that the socket has. Raises OSError."""
    held = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(_Program(len(code) // 8, ctypes.addressof(held))))


def detach(sock: socket.socket) -> None:
    """The socket has no filter, whether it had one or not. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))
