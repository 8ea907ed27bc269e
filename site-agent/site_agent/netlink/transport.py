"""One way to speak netlink: a raw socket, whole messages in, whole messages out (netlink(7), RFC 3549).

Theory of operation
-------------------
A dump opens a socket, asks, reads until NLMSG_DONE and closes: no sequence state survives a cancelled caller, and a time
limit outside is enough. Between two reads it yields to the event loop, because a table of 20,000 SAs takes 0.2 s to read
and a lease must be renewed meanwhile. Messages are handed on as views into the receive buffer, without copies; who
needs one longer than its callback copies it.

Events are different: the kernel drops them when the socket's buffer is full and then says ENOBUFS once. An event
is therefore only a reason to look; `on_overrun` says that events were lost and everything must be looked at again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from anycast.errors import DecodeError, KernelError

NETLINK_XFRM = 6
HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence number, port id."""

NLM_F_REQUEST = 0x001
NLM_F_ACK = 0x004
NLM_F_DUMP_INTR = 0x010
NLM_F_DUMP = 0x300

NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3

RECEIVE_BYTES = 32 * 1024
"""What the kernel fills at most in one read of a dump (NLMSG_GOODSIZE grows to the reader's buffer, up to 32 KiB)."""
EVENTS_PER_WAKEUP = 64
"""A flood of events must not starve the loop: the rest waits for the next iteration."""


class Message(NamedTuple):
    kind: int
    flags: int
    sequence: int
    payload: memoryview


def split_messages(data: bytes | memoryview) -> Iterator[Message]:
    """The messages of one datagram. Raises DecodeError where a length does not fit."""
    view = memoryview(data)
    offset = 0
    while offset < len(view):
        if len(view) - offset < HEADER.size:
            raise DecodeError("nlmsghdr", offset, "truncated")
        length, kind, flags, sequence, _port = HEADER.unpack_from(view, offset)
        if length < HEADER.size or offset + length > len(view):
            raise DecodeError("nlmsg_len", offset, f"{length} does not fit")
        yield Message(kind, flags, sequence, view[offset + HEADER.size : offset + length])
        offset += (length + 3) & ~3  # NLMSG_ALIGN


def split_attributes(data: memoryview, start: int) -> Iterator[tuple[int, memoryview]]:
    """The (type, value) pairs of the attributes from `start` on. Raises DecodeError where a length does not fit."""
    offset = start
    while offset < len(data):
        if len(data) - offset < 4:
            raise DecodeError("nlattr", offset, "truncated")
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4 or offset + length > len(data):
            raise DecodeError("nla_len", offset, f"{length} does not fit")
        yield kind & 0x3FFF, data[offset + 4 : offset + length]  # without NLA_F_NESTED, NLA_F_NET_BYTEORDER
        offset += (length + 3) & ~3


def answer_code(payload: memoryview) -> int:
    """The (negated) errno of NLMSG_ERROR and NLMSG_DONE; 0 is success. Raises DecodeError."""
    if len(payload) < 4:
        raise DecodeError("nlmsgerr", 0, "truncated")
    code: int = struct.unpack_from("=i", payload)[0]
    return code


async def dump(protocol: int, kind: int, take: Callable[[Message], None], payload: bytes = b"") -> bool:
    """Ask for a whole table; `take` is called with each message of it.

    Returns whether the table stood still meanwhile (no NLM_F_DUMP_INTR). Raises KernelError, DecodeError; cancel freely.
    """
    loop = asyncio.get_running_loop()
    name = f"netlink {protocol} dump {kind:#x}"
    consistent = True
    with contextlib.closing(_open(protocol, 0, name)) as sock:
        _send(sock, HEADER.pack(HEADER.size + len(payload), kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + payload, name)
        while True:
            try:
                data = await loop.sock_recv(sock, RECEIVE_BYTES)
            except OSError as exc:
                raise KernelError(exc.errno or errno.EIO, name) from exc
            for message in split_messages(data):
                consistent = consistent and not message.flags & NLM_F_DUMP_INTR
                if message.kind in (NLMSG_DONE, NLMSG_ERROR):
                    if (code := answer_code(message.payload)) != 0:
                        raise KernelError(-code, name)
                    return consistent
                if message.kind != NLMSG_NOOP:
                    take(message)
            await asyncio.sleep(0)


async def request(protocol: int, kind: int, payload: bytes, flags: int = 0) -> list[bytes]:
    """Send one request and wait for its acknowledgement; returns the payloads that came before it. Raises KernelError."""
    loop = asyncio.get_running_loop()
    name = f"netlink {protocol} request {kind:#x}"
    answers: list[bytes] = []
    with contextlib.closing(_open(protocol, 0, name)) as sock:
        whole = HEADER.pack(HEADER.size + len(payload), kind, NLM_F_REQUEST | NLM_F_ACK | flags, 1, 0) + payload
        _send(sock, whole, name)
        while True:
            for message in split_messages(await loop.sock_recv(sock, RECEIVE_BYTES)):
                if message.kind != NLMSG_ERROR:
                    answers.append(bytes(message.payload))
                elif (code := answer_code(message.payload)) != 0:
                    raise KernelError(-code, name)
                else:
                    return answers


class EventSocket:
    """Listens to multicast groups of one protocol. Use from the event loop's thread; `close` when done."""

    def __init__(
        self, protocol: int, groups: int, on_message: Callable[[Message], None], on_overrun: Callable[[], None]
    ) -> None:
        """`groups` is the bit mask of nl_groups. Raises KernelError."""
        self._on_message, self._on_overrun = on_message, on_overrun
        self._sock = _open(protocol, groups, f"netlink {protocol} groups {groups:#x}")
        asyncio.get_running_loop().add_reader(self._sock, self._readable)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()

    def _readable(self) -> None:
        for _ in range(EVENTS_PER_WAKEUP):
            try:
                data = self._sock.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno == errno.ENOBUFS:
                    self._on_overrun()
                    continue
                raise KernelError(exc.errno or errno.EIO, "netlink events") from exc
            try:
                for message in split_messages(data):
                    self._on_message(message)
            except DecodeError:
                self._on_overrun()  # what it meant is lost, like a dropped one


def _open(protocol: int, groups: int, name: str) -> socket.socket:
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    except OSError as exc:
        raise KernelError(exc.errno or errno.EIO, name) from exc
    try:
        sock.bind((0, groups))
    except OSError as exc:
        sock.close()
        raise KernelError(exc.errno or errno.EIO, name) from exc
    return sock


def _send(sock: socket.socket, data: bytes, name: str) -> None:
    """The kernel answers while it takes the request, so this never waits."""
    try:
        sent = sock.send(data)
    except OSError as exc:
        raise KernelError(exc.errno or errno.EIO, name) from exc
    if sent != len(data):
        raise KernelError(errno.EMSGSIZE, f"{name}: {os.strerror(errno.EMSGSIZE)}")
