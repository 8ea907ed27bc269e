"""Listens for IKE messages on a cable while a drill runs, so that a fault can be placed by one of them.

A raw socket in the namespace of the cable's far end, read in the drill's own loop: a message is known within the time that
one system call takes, and what comes next can be counted in milliseconds from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator

from anycast.errors import DecodeError
from anycast_lab.capture.frames import Ike, Seen, decode
from anycast_lab.capture.pcap import Frame
from anycast_lab.embedded.links import inside
from anycast_lab.runner import Runner

_ETH_P_ALL = 0x0003
_SNAPSHOT = 128
_BUFFER = 4 << 20


@contextlib.contextmanager
def open_ear(runner: Runner, node: str, interface: str) -> Iterator[socket.socket]:
    """Hears what comes in and goes out there from now on."""
    netns = os.open(f"/proc/{runner.pid(node)}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with inside(netns):
            # Protocol 0 hears nothing until it is bound (packet(7)); with one it would hear every interface until then.
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    finally:
        os.close(netns)
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        sock.bind((interface, _ETH_P_ALL))
        yield sock


async def next_ike(sock: socket.socket) -> Ike:
    """The next IKE message; its time is when it was read."""
    loop = asyncio.get_running_loop()
    while True:
        data = await loop.sock_recv(sock, _SNAPSHOT)
        with contextlib.suppress(DecodeError):
            if isinstance(one := decode(Frame(time.time_ns(), data, True)), Ike):
                return one


async def all_ike(sock: socket.socket, seconds: float) -> list[Ike]:
    """Of both ways."""
    heard = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                heard.append(await next_ike(sock))
    return heard


async def coming_in(sock: socket.socket, seconds: float) -> list[Seen]:
    """Only what the cable's other end has sent."""
    loop, heard = asyncio.get_running_loop(), list[Seen]()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                data, where = await loop.sock_recvfrom(sock, _SNAPSHOT)
                with contextlib.suppress(DecodeError):
                    if where[2] != socket.PACKET_OUTGOING and (one := decode(Frame(time.time_ns(), data, True))) is not None:
                        heard.append(one)
    return heard


async def hear(sock: socket.socket, wanted: Callable[[Ike], bool], limit_s: float) -> Ike:
    """The first message that is wanted. Raises TimeoutError."""
    async with asyncio.timeout(limit_s):
        while not wanted(one := await next_ike(sock)):
            pass
        return one
