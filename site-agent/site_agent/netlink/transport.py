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
from collections.abc import Callable

from anycast.errors import DecodeError, KernelError
from site_agent.netlink.messages import (
    HEADER,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_NOOP,
    Message,
    answer_code,
    split_messages,
)

RECEIVE_BYTES = 32 * 1024
"""What the kernel fills at most in one read of a dump (NLMSG_GOODSIZE grows to the reader's buffer, up to 32 KiB)."""
EVENTS_PER_WAKEUP = 64
"""A flood of events must not starve the loop: the rest waits for the next iteration."""


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
        if self._sock.fileno() >= 0:
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
                self.close()  # the looks at intervals go on; a reader that always fails would spin
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
