"""The filter before charon's sockets, run by the kernel: what asks for a new IKE_SA is not read, everything else is."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from site_agent.ike.door import LOOPBACK, program
from site_agent.vrrp.socket_filter import attach, detach

HOSTS = {4: "127.0.0.1", 6: "::1"}
OTHERS = ("203.0.113.1", "2001:db8:a::1", "127.0.0.2", "2001:db8:a::2")
ELSEWHERE = LOOPBACK + 1
"""As if the packets, which do come by the loopback interface, came by another one than what is spared."""
IKE_SA_INIT, IKE_AUTH, CREATE_CHILD_SA, INFORMATIONAL, IKE_SESSION_RESUME = 34, 35, 36, 37, 38
INITIATOR, RESPONSE = 0x08, 0x20


def ike(exchange: int, flags: int, *, marked: bool, body: int = 100) -> bytes:
    """RFC 7296 section 3.1; the marker of RFC 3948 section 2.2."""
    version = 0x10 if exchange in (2, 4, 5, 32) else 0x20
    header = b"initiate" + bytes(8) + bytes([33, version, exchange, flags]) + bytes(4) + (28 + body).to_bytes(4, "big")
    return bytes(4 if marked else 0) + header + b"\xff" * body


class Ends:
    """A socket with the filter, and one that speaks to it."""

    def __init__(self, version: int) -> None:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        self.hears, self.speaks = (socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) for _ in range(2))
        self.hears.bind((HOSTS[version], 0))
        self.speaks.connect(self.hears.getsockname())

    def passes(self, packet: bytes) -> bool:
        """Whether it is read, and then whole. On the loopback interface that is settled when `send` returns."""
        self.speaks.send(packet)
        try:
            read = self.hears.recv(4096)
        except BlockingIOError:
            return False
        assert read == packet
        return True

    def close(self) -> None:
        self.hears.close()
        self.speaks.close()


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("version", [4, 6])
def test_only_what_asks_for_a_new_ike_sa_is_dropped(version: int, marked: bool) -> None:
    ends = Ends(version)
    try:
        attach(ends.hears, program(version, [ip_address(HOSTS[version])], marked=marked, spared=ELSEWHERE))
        for exchange, flags in ((IKE_SA_INIT, INITIATOR), (IKE_SA_INIT, 0), (2, 0), (4, 0), (2, RESPONSE)):
            assert not ends.passes(ike(exchange, flags, marked=marked)), (exchange, flags)
            assert not ends.passes(ike(exchange, flags, marked=marked, body=0)), "a header alone"
        for exchange in (IKE_AUTH, CREATE_CHILD_SA, INFORMATIONAL, IKE_SESSION_RESUME, 5, 32):
            for flags in (INITIATOR, 0, RESPONSE):
                assert ends.passes(ike(exchange, flags, marked=marked)), (exchange, flags)
        assert ends.passes(ike(IKE_SA_INIT, RESPONSE, marked=marked)), "charon's own question is answered"
        assert ends.passes(b"\xff"), "a NAT keepalive"
        assert ends.passes(b"") and ends.passes(ike(IKE_SA_INIT, INITIATOR, marked=marked, body=0)[:-1]), "no header"
        detach(ends.hears)
        assert ends.passes(ike(IKE_SA_INIT, INITIATOR, marked=marked))
        detach(ends.hears)  # nothing to take away
    finally:
        ends.close()


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("version", [4, 6])
def test_a_hushed_door_lets_responses_through_and_no_request(version: int, marked: bool) -> None:
    ends = Ends(version)
    try:
        vips = [ip_address(HOSTS[version])]
        attach(ends.hears, program(version, vips, marked=marked, hushed=True, spared=ELSEWHERE))
        for exchange in (IKE_SA_INIT, IKE_AUTH, CREATE_CHILD_SA, INFORMATIONAL, IKE_SESSION_RESUME):
            for flags in (INITIATOR, 0):
                assert not ends.passes(ike(exchange, flags, marked=marked)), (exchange, flags)
            assert ends.passes(ike(exchange, RESPONSE, marked=marked)), exchange
        assert ends.passes(b"\xff"), "a NAT keepalive"
        assert not marked or ends.passes(b"\0\0\0\1" + ike(INFORMATIONAL, 0, marked=False)), "ESP"
        attach(ends.hears, program(version, vips, marked=marked, spared=ELSEWHERE))
        assert ends.passes(ike(INFORMATIONAL, INITIATOR, marked=marked)), "one filter in the place of the other"
    finally:
        ends.close()


@pytest.mark.parametrize("version", [4, 6])
def test_what_has_no_marker_on_port_4500_is_esp(version: int) -> None:
    ends = Ends(version)
    try:
        attach(ends.hears, program(version, [ip_address(HOSTS[version])], marked=True, spared=ELSEWHERE))
        assert ends.passes(b"\0\0\0\1" + ike(IKE_SA_INIT, INITIATOR, marked=False))
    finally:
        ends.close()


@pytest.mark.parametrize("version", [4, 6])
def test_other_addresses_than_the_services_and_the_loopback_interface_are_spared(version: int) -> None:
    ends, asks = Ends(version), ike(IKE_SA_INIT, INITIATOR, marked=False)
    vip, others = ip_address(HOSTS[version]), [ip_address(other) for other in OTHERS]
    try:
        for vips, passes in (
            ([vip], False), ([vip, *others], False), ([*others, vip], False), ([*others[:2], vip, *others[2:]], False),
            (others, True), ([], True),
        ):  # fmt: skip
            attach(ends.hears, program(version, vips, marked=False, spared=ELSEWHERE))
            assert ends.passes(asks) is passes, vips
            attach(ends.hears, program(version, vips, marked=False))
            assert ends.passes(asks), "asked by the loopback interface"
    finally:
        ends.close()
