"""Send prebuilt packets at a rate, many in one system call.

`sendmmsg(2)` takes an array of message headers; both the array and the packets are made once, so that the loop allocates
nothing and one core sends several hundred thousand packets a second. Where the
machine cannot keep up, what was missed is not made up for in one burst: the rate reached is reported, not the rate wished.
"""

from __future__ import annotations

import ctypes
import dataclasses
import socket
import struct
import time
from collections.abc import Callable, Sequence

BATCH = 256
"""Packets a system call."""
BACKLOG_S = 0.1
"""How much of what was missed is sent later."""

_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("header", _Msghdr), ("sent", ctypes.c_uint32))


@dataclasses.dataclass(slots=True)
class Sent:
    """What a flood came to."""

    packets: int = 0
    refused: int = 0
    """The kernel would not send them: no route, no neighbour, or no memory."""
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Packets a second."""
        return self.packets / self.seconds if self.seconds else 0.0


class Volley:
    """Packets of one address family, ready to be sent again and again."""

    def __init__(self, packets: Sequence[bytes]) -> None:
        """Whole IP packets of one family; at least one."""
        self._version = packets[0][0] >> 4
        family = socket.AF_INET if self._version == 4 else socket.AF_INET6
        # IPPROTO_RAW: the packets bring their own headers, spoofed source included (raw(7), ipv6(7)).
        self._socket = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._keep = [self._buffers(packet) for packet in packets]
        self._headers = (_Mmsghdr * len(packets))()
        for message, (name, iov, _) in zip(self._headers, self._keep, strict=True):
            message.header.name, message.header.name_length = ctypes.cast(name, ctypes.c_void_p), len(name)
            message.header.iov, message.header.iov_length = ctypes.pointer(iov), 1
        self._next = 0

    def send(self, count: int, sent: Sent) -> None:
        """Send up to `count` of them, going on where the last call ended."""
        count = min(count, len(self._headers) - self._next)
        first = ctypes.byref(self._headers, self._next * ctypes.sizeof(_Mmsghdr))
        # Never waits: a neighbour that does not resolve shall not hold back the other family.
        done = _libc.sendmmsg(self._socket.fileno(), first, count, socket.MSG_DONTWAIT)
        if done < 0:
            done, sent.refused = count, sent.refused + count
        else:
            sent.packets += done
        self._next = (self._next + done) % len(self._headers)

    def _buffers(self, packet: bytes) -> tuple[ctypes.Array[ctypes.c_char], _Iovec, ctypes.Array[ctypes.c_char]]:
        if self._version == 4:
            name = struct.pack("=HH4s8x", socket.AF_INET, 0, packet[16:20])
        else:
            name = struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, packet[24:40], 0)
        body = ctypes.create_string_buffer(packet, len(packet))
        iov = _Iovec(ctypes.cast(body, ctypes.c_void_p), len(packet))
        return ctypes.create_string_buffer(name, len(name)), iov, body


def flood(volleys: Sequence[Volley], rate: float, ending: Callable[[], bool]) -> Sent:
    """Send `rate` packets a second, shared between the volleys, until `ending`."""
    sent, began, due_from, turn = Sent(), time.monotonic(), time.monotonic(), 0
    before = 0
    while not ending():
        now = time.monotonic()
        due = (now - due_from) * rate - (sent.packets + sent.refused - before)
        if due > BACKLOG_S * rate:
            due_from, before = now - BACKLOG_S, sent.packets + sent.refused
            due = BACKLOG_S * rate
        if due < 1:
            time.sleep(1 / rate if rate < 1000 else 0.001)
            continue
        volleys[turn % len(volleys)].send(min(BATCH, int(due)), sent)
        turn += 1
    sent.seconds = time.monotonic() - began
    return sent
