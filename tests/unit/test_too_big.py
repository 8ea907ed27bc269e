"""What routers say of packets that were too big, and whose they were: as Linux, and a router that quotes little, send it."""

from __future__ import annotations

import asyncio
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.errors import DecodeError
from anycast.model import Status
from anycast.reasons import Reason
from site_agent.checks.base import Finding
from site_agent.checks.too_big import ASKED_PER_LOOK, SHOWN_S, Address, TooBigCheck
from site_agent.too_big_message import TooBig, decode

VIP, CLIENT, ROUTER = ip_address("203.0.113.1"), ip_address("198.51.100.98"), ip_address("198.51.100.45")
VIP6, CLIENT6 = ip_address("2001:db8:a::1"), ip_address("2001:db8:d::2")


def ipv4(source: Address, destination: Address, protocol: int, body: bytes, *, offset: int = 0) -> bytes:
    header = (0x45, 0, 20 + len(body), 0, offset, 64, protocol, 0, source.packed, destination.packed)
    return struct.pack("!BBHHHBBH4s4s", *header) + body


def ipv6(following: int, body: bytes) -> bytes:
    return struct.pack("!IHBB16s16s", 6 << 28, len(body), following, 64, VIP6.packed, CLIENT6.packed) + body


def udp(content: bytes, port: int = 4500) -> bytes:
    return struct.pack("!HHHH", port, 4500, 8 + len(content), 0) + content


def needed(quoted: bytes, mtu: int = 1280, *, kind: int = 3, code: int = 4) -> bytes:
    return ipv4(ROUTER, VIP, 1, struct.pack("!BBHHH", kind, code, 0, 0, mtu) + quoted)


def too_big6(quoted: bytes, mtu: int = 1280, *, kind: int = 2) -> bytes:
    return struct.pack("!BBHI", kind, 0, 0, mtu) + quoted


ESP = struct.pack("!II", 0xC0FFEE, 7) + bytes(500)


def test_whose_packet_it_was() -> None:
    of = TooBig(1280, VIP, CLIENT, 0xC0FFEE)
    assert decode(4, needed(ipv4(VIP, CLIENT, 17, udp(ESP)))) == of
    assert decode(4, needed(ipv4(VIP, CLIENT, 50, ESP))) == of
    assert decode(4, needed(ipv4(VIP, CLIENT, 50, ESP[:8]))) == of
    assert decode(6, too_big6(ipv6(17, udp(ESP)))) == TooBig(1280, VIP6, CLIENT6, 0xC0FFEE)
    assert decode(6, too_big6(ipv6(50, ESP))) == TooBig(1280, VIP6, CLIENT6, 0xC0FFEE)
    first = struct.pack("!BBHI", 50, 0, 1, 99)
    assert decode(6, too_big6(ipv6(44, first + ESP))) == TooBig(1280, VIP6, CLIENT6, 0xC0FFEE)


def test_what_is_quoted_too_short_or_is_ike_has_no_spi() -> None:
    unknown = TooBig(1280, VIP, CLIENT, None)
    assert decode(4, needed(ipv4(VIP, CLIENT, 17, udp(b"")))) == unknown
    assert decode(4, needed(ipv4(VIP, CLIENT, 17, udp(bytes(4) + bytes(28))))) == unknown


def test_what_is_of_no_concern() -> None:
    assert decode(4, needed(ipv4(VIP, CLIENT, 17, udp(ESP)), code=3)) is None
    assert decode(4, needed(ipv4(VIP, CLIENT, 17, udp(ESP)), kind=11)) is None
    assert decode(4, needed(ipv4(VIP, CLIENT, 17, udp(ESP, port=53)))) is None
    assert decode(4, needed(ipv4(VIP, CLIENT, 6, bytes(20)))) is None
    assert decode(4, needed(ipv4(VIP, CLIENT, 50, ESP, offset=3))) is None
    assert decode(6, too_big6(ipv6(17, udp(ESP)), kind=1)) is None
    assert decode(6, too_big6(ipv6(44, struct.pack("!BBHI", 50, 0, 8, 99) + ESP))) is None


def test_the_length_of_an_extension_is_no_mtu() -> None:
    message = bytearray(needed(ipv4(VIP, CLIENT, 50, ESP)))
    message[20 + 5] = 33  # RFC 4884
    assert decode(4, bytes(message)) == TooBig(1280, VIP, CLIENT, 0xC0FFEE)


@given(st.binary(max_size=120), st.sampled_from([4, 6]))
def test_any_bytes_are_read_or_refused(data: bytes, version: int) -> None:
    try:
        decode(version, data)
    except DecodeError:
        pass


@given(st.integers(0, 56))
def test_a_message_cut_anywhere_is_read_or_refused(length: int) -> None:
    whole = needed(ipv4(VIP, CLIENT, 17, udp(ESP)))
    try:
        found = decode(4, whole[:length])
    except DecodeError:
        return
    assert found is None or found.spi is None


class Machine:
    """A kernel with some SAs, and a socket that has read some messages."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *known: tuple[Address, int]) -> None:
        self.known, self.asked, self.now = set(known), list[tuple[Address, int]](), 100.0
        self.check = TooBigCheck([VIP, VIP6], knows=self._knows, clock=lambda: self.now)
        self.heard: list[TooBig] = []
        monkeypatch.setattr("site_agent.checks.too_big._open", lambda version: None)
        monkeypatch.setattr(self.check, "_read", self._read)

    async def _knows(self, destination: Address, spi: int) -> bool:
        self.asked.append((destination, spi))
        return (destination, spi) in self.known

    def _read(self) -> list[tuple[str, TooBig]]:
        heard, self.heard = self.heard, []
        return [(str(ROUTER), message) for message in heard]

    def look(self, *heard: TooBig) -> Finding:
        self.heard = list(heard)
        (finding,) = asyncio.run(self.check.look())
        return finding


def about(spi: int | None, *, source: IPv4Address | IPv6Address = VIP) -> TooBig:
    return TooBig(1280, source, CLIENT, spi)


def test_two_about_other_sites_are_astray_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, (CLIENT, 1))
    assert machine.look().status is Status.PASSING
    assert machine.look(about(1), about(1), about(1)).status is Status.PASSING
    assert machine.look(about(2)).status is Status.PASSING, "one may be about an SA that is just gone"
    found = machine.look(about(2))
    assert (found.status, found.reason, found.value) == (Status.FAILING, Reason.TOO_BIG_ASTRAY, 2.0)
    assert found.detail == (
        "3 about tunnels here, 2 about other sites', the last one of 198.51.100.45 to 198.51.100.98, 1280 bytes"
    )
    machine.now += SHOWN_S
    assert machine.look().status is Status.FAILING
    machine.now += 1
    assert machine.look().status is Status.PASSING
    assert machine.look(about(2)).status is Status.PASSING, "the one before it is long ago"


@pytest.mark.parametrize("message", [about(None), about(2, source=ip_address("203.0.113.9"))])
def test_what_names_no_tunnel_of_ours_or_others_is_not_counted(monkeypatch: pytest.MonkeyPatch, message: TooBig) -> None:
    machine = Machine(monkeypatch)
    found = machine.look(message, message, message)
    assert (found.status, found.value, machine.asked) == (Status.PASSING, 0.0, [])


def test_the_kernel_is_asked_once_for_each_and_for_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    machine.look(*(about(spi) for spi in range(1, 200)), *(about(spi) for spi in range(1, 200)))
    assert len(machine.asked) == len(set(machine.asked)) == ASKED_PER_LOOK
    assert machine.check.elsewhere == 2 * ASKED_PER_LOOK


