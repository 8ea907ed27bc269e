"""Does "packet too big" about other sites' tunnels come here?

A router on the way to a client says it to the packet's source, which is the VIP, and the VIP is at every site. Where the
router's own way to it leads to another site than the one that sent the packet, that one never hears of it, and what must not
be fragmented (TCP through the tunnel, where nothing clamps its MSS) is lost for that client without end. It is seen where
the message ends up: here, by an SPI that this kernel has no SA for.

Load, not a fact: everybody can forge such a message, and a lost packet elsewhere is nothing that a withdrawal here would
mend. Constant cost: the kernel keeps everything else from the sockets, and a look reads and asks a bounded number.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address

from anycast.errors import DecodeError, KernelError
from anycast.model import EvidenceClass
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.checks.base import Finding, Timing, failing, passing
from site_agent.netlink.messages import NETLINK_XFRM
from site_agent.netlink.transport import request
from site_agent.netlink.xfrm import XFRM_MSG_GETSA, SaId, encode_sa_id
from site_agent.too_big_message import FRAGMENTATION_NEEDED, PACKET_TOO_BIG, UNREACHABLE, TooBig, decode
from site_agent.vrrp.socket_filter import attach

NAME = "too_big"
SHOWN_S = 60.0
"""A sender that nobody answers sends again ever more rarely."""
AT_LEAST = 2
"""So many within that time: one may be about an SA that a rekey has just replaced."""
READ_PER_LOOK, ASKED_PER_LOOK = 256, 32
_ESP = 50
_RECEIVE_BYTES = 2048
_SOL_RAW = 255
_ICMP_FILTER = _ICMP6_FILTER = 1
_WORD = 32
_INSTRUCTION = struct.Struct("=HBBI")
_NETWORK_HEADER = 0xFFF00000
_LOAD_BYTE, _JUMP_IF_EQUAL, _RETURN = 0x30, 0x15, 0x06
_PLAIN = 0x45
"""Version 4, a header without options."""

Address = IPv4Address | IPv6Address
Knows = Callable[[Address, int], Awaitable[bool]]
"""Whether the kernel has an ESP SA with this destination and SPI. Raises KernelError."""


async def kernel_knows(destination: Address, spi: int) -> bool:
    sa = SaId(destination, destination, spi, _ESP, 0, 0)
    try:
        await request(NETLINK_XFRM, XFRM_MSG_GETSA, encode_sa_id(sa))
    except KernelError as error:
        if error.errno == errno.ESRCH:
            return False
        raise
    return True


class TooBigCheck:
    """Reports `too_big`."""

    reports: Mapping[str, EvidenceClass] = {NAME: EvidenceClass.LOAD}
    timing = Timing(interval_s=2.0, timeout_s=1.0)

    def __init__(
        self,
        ends: Iterable[Address],
        *,
        knows: Knows = kernel_knows,
        clock: Callable[[], float] = boottime,
    ) -> None:
        """`ends`: the addresses that tunnels end at."""
        self._ends, self._knows, self._clock = frozenset(ends), knows, clock
        self._sockets: dict[int, socket.socket] = {}
        self._strays: deque[float] = deque(maxlen=AT_LEAST)
        self._last = ""
        self.ours = self.elsewhere = 0
        """Messages about tunnels that end here, and about others, since the agent began."""

    async def look(self) -> Sequence[Finding]:
        for version in sorted({end.version for end in self._ends}):
            if version not in self._sockets:
                self._sockets[version] = _open(version)
        asked = dict[tuple[Address, int], bool]()
        for router, message in self._read():
            if message.spi is None or message.source not in self._ends:
                continue
            sa = (message.destination, message.spi)
            if sa not in asked and len(asked) < ASKED_PER_LOOK:
                asked[sa] = await self._knows(*sa)
            if sa in asked:
                self._take(router, message, asked[sa])
        return [self._judge()]

    def _take(self, router: str, message: TooBig, known: bool) -> None:
        if known:
            self.ours += 1
            return
        self.elsewhere += 1
        self._strays.append(self._clock())
        self._last = f"{router} to {message.destination}, {message.mtu} bytes"

    def _judge(self) -> Finding:
        value = float(self.elsewhere)
        detail = f"{self.ours} about tunnels here, {self.elsewhere} about other sites'"
        if self._last:
            detail += f", the last one of {self._last}"
        if len(self._strays) < AT_LEAST or self._clock() - self._strays[0] > SHOWN_S:
            return passing(NAME, detail, value)
        return failing(NAME, Reason.TOO_BIG_ASTRAY, detail, value)

    def _read(self) -> Iterator[tuple[str, TooBig]]:
        """What has come since the last look: who said it, and what."""
        for version, sock in self._sockets.items():
            for _ in range(READ_PER_LOOK):
                try:
                    data, sender = sock.recvfrom(_RECEIVE_BYTES)
                except BlockingIOError:
                    break
                except OSError as error:
                    raise KernelError(error.errno or errno.EIO, "read ICMP") from error
                with contextlib.suppress(DecodeError):  # a stranger's rubbish
                    if (message := decode(version, data)) is not None:
                        yield str(sender[0]), message

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()


def _open(version: int) -> socket.socket:
    """A raw socket that is given "packet too big" and nothing else. Raises KernelError."""
    family, protocol = (socket.AF_INET, socket.IPPROTO_ICMP) if version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    try:
        sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    except OSError as error:
        raise KernelError(error.errno or errno.EPERM, "a raw socket for ICMP") from error
    try:
        if version == 4:
            sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << UNREACHABLE) & 0xFFFFFFFF))
            attach(sock, _fragmentation_needed())
        else:
            blocked = [0xFFFFFFFF] * 8
            blocked[PACKET_TOO_BIG // _WORD] &= ~(1 << PACKET_TOO_BIG % _WORD)
            sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *blocked))
        while True:  # what came before the filters
            try:
                sock.recv(1)
            except BlockingIOError:
                return sock
    except OSError as error:
        sock.close()
        raise KernelError(error.errno or errno.EIO, "filter ICMP") from error


def _fragmentation_needed() -> bytes:
    """Several ``struct sock_filter``: of ICMP's messages that something cannot be reached, the one with this code."""
    lines = (
        (_LOAD_BYTE, 0, 0, _NETWORK_HEADER),
        (_JUMP_IF_EQUAL, 0, 2, _PLAIN),  # with options: read it, and see
        (_LOAD_BYTE, 0, 0, _NETWORK_HEADER + 21),
        (_JUMP_IF_EQUAL, 0, 1, FRAGMENTATION_NEEDED),
        (_RETURN, 0, 0, 0xFFFF),
        (_RETURN, 0, 0, 0),
    )
    return b"".join(_INSTRUCTION.pack(*line) for line in lines)
