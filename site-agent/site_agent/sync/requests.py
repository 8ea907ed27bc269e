"""Many netlink requests in one system call, and the kernel's answer to each, without leaving the caller's turn.

The kernel works a request off while it takes it, so its answers are there when `send` returns: to wait for them is to read.
A table is listed the same way, in one go: nobody else of this process changes it meanwhile.
"""

from __future__ import annotations

import errno
import itertools
import socket
from collections.abc import Callable, Sequence

from anycast.errors import DecodeError, KernelError
from site_agent.netlink.messages import (
    HEADER,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_NOOP,
    Message,
    answer_code,
    split_messages,
)

AT_ONCE = 64
"""Messages of one system call: their answers fit into the socket's buffer."""
RECEIVE_BYTES = 64 * 1024
LIMIT_S = 2.0
"""The kernel answers at once; one that does not is broken, and nothing waits for it for ever."""
SOL_NETLINK, NETLINK_CAP_ACK = 270, 10

Request = tuple[int, int, bytes]
"""Kind, flags and payload."""


class Requests:
    """One socket of one protocol. `close` when done."""

    def __init__(self, protocol: int) -> None:
        """Raises KernelError."""
        self._name = f"netlink {protocol}"
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
            self._socket.bind((0, 0))
            self._socket.settimeout(LIMIT_S)
            self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)  # a refusal does not repeat what it refuses
        except OSError as exc:
            raise KernelError(exc.errno or errno.EIO, self._name) from exc
        self._numbers = itertools.count(1)

    def close(self) -> None:
        self._socket.close()

    def ask(self, requests: Sequence[Request]) -> list[int]:
        """Send them in this order. Returns the errno of each, 0 for done. Raises KernelError, DecodeError."""
        answers: list[int] = []
        for start in range(0, len(requests), AT_ONCE):
            answers += self._ask(requests[start : start + AT_ONCE])
        return answers

    def all(self, requests: Sequence[Request], *, missing: bool = False) -> None:
        """Send them, and raise KernelError for the first that was refused. `missing`: what is not there may be so."""
        for (kind, _flags, _payload), code in zip(requests, self.ask(requests), strict=True):
            if code and not (missing and code in (errno.ENOENT, errno.ESRCH)):
                raise KernelError(code, f"{self._name} request {kind:#x}")

    def dump(self, kind: int, take: Callable[[Message], None]) -> None:
        """Ask for a whole table; `take` is called with each message of it. Raises KernelError, DecodeError."""
        number = next(self._numbers)
        self._send(HEADER.pack(HEADER.size, kind, NLM_F_REQUEST | NLM_F_DUMP, number, 0))
        while True:
            for message in split_messages(self._receive()):
                if message.sequence != number or message.kind == NLMSG_NOOP:
                    continue  # of a request that was given up
                if message.kind in (NLMSG_DONE, NLMSG_ERROR):
                    if (code := answer_code(message.payload)) != 0:
                        raise KernelError(-code, f"{self._name} dump {kind:#x}")
                    return
                take(message)

    def _ask(self, requests: Sequence[Request]) -> list[int]:
        whole, numbers = bytearray(), []
        for kind, flags, payload in requests:
            numbers.append(number := next(self._numbers))
            length = HEADER.size + len(payload)
            whole += HEADER.pack(length, kind, NLM_F_REQUEST | NLM_F_ACK | flags, number, 0) + payload + bytes(-length % 4)
        self._send(whole)
        found: dict[int, int] = {}
        while len(found) < len(numbers):
            for message in split_messages(self._receive()):
                if message.kind == NLMSG_ERROR and numbers[0] <= message.sequence <= numbers[-1]:
                    found[message.sequence] = -answer_code(message.payload)
        return [found[number] for number in numbers]

    def _send(self, data: bytes | bytearray) -> None:
        try:
            self._socket.send(data)
        except OSError as exc:
            raise KernelError(exc.errno or errno.EIO, self._name) from exc

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(RECEIVE_BYTES)
        except TimeoutError as exc:
            raise KernelError(errno.ETIMEDOUT, self._name) from exc
        except OSError as exc:
            raise KernelError(exc.errno or errno.EIO, self._name) from exc


def drained(sock: socket.socket, take: Callable[[Message], None], lost: Callable[[], None], *, most: int = 2**31) -> bool:
    """Read a socket's events until there is none, or `most` datagrams. Returns whether there is none.

    `lost` is called where the kernel dropped some (ENOBUFS), or one cannot be understood. Raises KernelError.
    """
    for _ in range(most):
        try:
            data = sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return True
        except OSError as exc:
            if exc.errno != errno.ENOBUFS:
                raise KernelError(exc.errno or errno.EIO, "netlink events") from exc
            lost()
            continue
        try:
            for message in split_messages(data):
                take(message)
        except DecodeError:
            lost()
    return False
