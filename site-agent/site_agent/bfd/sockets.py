"""The two ends of BFD over one hop (RFC 5881): what hears at one local address, and what speaks for one session.

Both are bound to the interface and to the address, so what comes by another way is never seen. The TTL, 255 and nothing
less (section 5), is looked at here and not left to the kernel (IP_MINTTL), which would drop without a count, while there is
little of it (`socket_filter`); strangers' the kernel drops at once. The address is taken alone, without SO_REUSEADDR:
another BFD daemon on this machine is a fault to be told, not one to share packets with.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable
from ipaddress import ip_address

from anycast.errors import KernelError
from site_agent.bfd.packet import PORT, TTL
from site_agent.vrrp.packet import Address
from site_agent.vrrp.plan import BfdPeer
from site_agent.vrrp.socket_filter import SocketFilter

LONGEST = 256
_ANCILLARY = 64
_IP_RECVTTL = 12
_FIRST_PORT = 49152
"""Of the source ports that RFC 5881 section 4 allows."""
_ATTEMPTS = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Heard:
    """What came in, not yet believed."""

    place: tuple[Address, str]
    """Local address and interface."""
    source: Address
    hops: int
    """TTL or hop limit; -1 where the kernel did not say."""
    data: bytes


class Listener:
    """Hears at one local address of one interface. Raises KernelError where it cannot be opened."""

    def __init__(self, local: Address, interface: str, remotes: Iterable[Address]) -> None:
        """`remotes`: who is expected there; what anybody else sends never gets here."""
        self.place = local, interface
        self._v6 = local.version == 6
        self._sock, self._filter = _open(local, interface, PORT, remotes)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def look(self) -> None:
        """Once a second."""
        self._filter.look()

    def receive(self, take: Callable[[Heard], None]) -> None:
        """One packet that waits."""
        try:
            data, ancillary, _flags, sender = self._sock.recvmsg(LONGEST, _ANCILLARY)
        except OSError:
            return
        wanted = (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT) if self._v6 else (socket.IPPROTO_IP, socket.IP_TTL)
        hops = -1
        for level, kind, value in ancillary:
            if (level, kind) == wanted:
                hops = struct.unpack("=i", value[:4])[0]
        if hops != TTL:
            self._filter.routed()
        take(Heard(self.place, ip_address(str(sender[0]).partition("%")[0]), hops, data))


class Speaker:
    """Sends for one session, always from the same port. Raises KernelError where it cannot be opened."""

    def __init__(self, peer: BfdPeer, port: int = 0) -> None:
        """`port`: the one that the session had before, tried first; 0 for any."""
        self._sock, self._to = _open_at_any(peer, port)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # nothing is awaited here
        self.port = int(self._sock.getsockname()[1])

    def close(self) -> None:
        self._sock.close()

    def send(self, payload: bytes) -> None:
        """What the kernel refuses is lost, as on the wire."""
        try:
            self._sock.sendto(payload, self._to)
        except OSError:
            return


def _open_at_any(peer: BfdPeer, port: int) -> tuple[socket.socket, tuple[str, int] | tuple[str, int, int, int]]:
    for left in reversed(range(_ATTEMPTS)):
        port = port or _FIRST_PORT + int.from_bytes(os.urandom(2), "big") % (65536 - _FIRST_PORT)
        try:
            to = _place(peer.remote, PORT, peer.interface)
            return _open(peer.local, peer.interface, port, ())[0], to
        except KernelError as exc:
            if exc.errno != errno.EADDRINUSE or not left:
                raise
            port = 0
        except OSError as exc:
            raise KernelError(exc.errno or 0, f"bfd socket for {peer.remote} on {peer.interface}") from exc
    raise AssertionError("the last attempt raises")


def _open(local: Address, interface: str, port: int, remotes: Iterable[Address]) -> tuple[socket.socket, SocketFilter]:
    family = socket.AF_INET if local.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        heard = SocketFilter(sock, remotes)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode() + b"\0")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 6)  # before bulk traffic in the interface's queue
        if family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, TTL)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xC0)  # internetwork control
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, TTL)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0xC0)
        sock.bind(_place(local, port, interface))
    except OSError as exc:
        sock.close()
        raise KernelError(exc.errno or 0, f"bfd socket for {local} port {port} on {interface}") from exc
    return sock, heard


def _place(address: Address, port: int, interface: str) -> tuple[str, int] | tuple[str, int, int, int]:
    if address.version == 4:
        return str(address), port
    return str(address), port, 0, socket.if_nametoindex(interface) if address.is_link_local else 0
