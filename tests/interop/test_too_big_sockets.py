"""The kernel hands "packet too big" to the check, of both families, and nothing else that comes by ICMP."""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from anycast.model import Status
from anycast.reasons import Reason
from site_agent.checks.icmp_echo import checksum
from site_agent.checks.too_big import READ_PER_LOOK, Address, TooBigCheck
from tests.support.namespace import in_namespace

pytestmark = pytest.mark.root

VIP, VIP6 = ip_address("203.0.113.1"), ip_address("2001:db8:a::1")
CLIENT, CLIENT6 = ip_address("198.51.100.98"), ip_address("2001:db8:d::2")
ESP_IN_UDP = struct.pack("!HHHHII", 4500, 40000, 1400, 0, 0xC0FFEE, 1)


def quoted4() -> bytes:
    assert isinstance(VIP, IPv4Address) and isinstance(CLIENT, IPv4Address)
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 1400, 0, 0x4000, 63, 17, 0, VIP.packed, CLIENT.packed) + ESP_IN_UDP


def quoted6() -> bytes:
    assert isinstance(VIP6, IPv6Address) and isinstance(CLIENT6, IPv6Address)
    return struct.pack("!IHBB16s16s", 6 << 28, 1400, 17, 63, VIP6.packed, CLIENT6.packed) + ESP_IN_UDP


def say(kind: int, code: int, quoted: bytes, *, options: bool = False) -> None:
    """ICMP to the VIP, by loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        if options:  # no operation, four times
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x01" * 4)
        message = struct.pack("!BBHHH", kind, code, 0, 0, 1280) + quoted
        sock.sendto(message[:2] + struct.pack("!H", checksum(message)) + message[4:], (str(VIP), 0))


def say6(kind: int, quoted: bytes) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        sock.sendto(struct.pack("!BBHI", kind, 0, 0, 1280) + quoted, (str(VIP6), 0))


@in_namespace
def test_what_the_kernel_hands_on() -> None:
    for words in ("link set lo up", f"address add {VIP}/32 dev lo", f"-6 address add {VIP6}/128 dev lo nodad"):
        subprocess.run(["ip", *words.split()], check=True)
    asked: list[tuple[Address, int]] = []

    async def knows(destination: Address, spi: int) -> bool:
        asked.append((destination, spi))
        return destination.version == 6

    check = TooBigCheck([VIP, VIP6], knows=knows)

    def look() -> tuple[Status, Reason, float | None]:
        (found,) = asyncio.run(check.look())
        return found.status, found.reason, found.value

    say(3, 4, quoted4())
    assert look() == (Status.PASSING, Reason.HEALTHY, 0.0), "what came before the sockets"
    for kind, code in ((3, 3), (3, 1), (8, 0), (11, 0)):
        say(kind, code, quoted4())
    say6(1, quoted6())
    say6(128, quoted6())
    sockets = list(check._sockets.values())
    for sock in sockets:
        with pytest.raises(BlockingIOError):
            sock.recv(1, socket.MSG_PEEK)
    say6(2, quoted6())
    assert look() == (Status.PASSING, Reason.HEALTHY, 0.0)
    assert (check.ours, check.elsewhere, asked) == (1, 0, [(CLIENT6, 0xC0FFEE)])
    say(3, 4, quoted4())
    say(3, 4, quoted4(), options=True)
    assert look() == (Status.FAILING, Reason.TOO_BIG_ASTRAY, 2.0)
    for _ in range(2 * READ_PER_LOOK):
        say(3, 4, quoted4())
    look()
    assert check.elsewhere <= 2 + READ_PER_LOOK, "a look is bounded"
    check.close()
    assert all(sock.fileno() == -1 for sock in sockets)
