"""A flood is worth what its packets are: well formed where a gateway must take them seriously, and never from anybody."""

from __future__ import annotations

import ipaddress
import itertools
import random
import struct

import pytest

from anycast_lab.flood import packets as p
from anycast_lab.flood.__main__ import SOURCES
from anycast_lab.flood.sender import Sent

VIPS = [ipaddress.ip_address("203.0.113.1"), ipaddress.ip_address("2001:db8:a::1")]
NETWORKS = [ipaddress.ip_network(source) for source in SOURCES]


def some(kinds: list[p.Kind], count: int = 200) -> list[bytes]:
    return list(itertools.islice(p.packets(kinds, VIPS, NETWORKS, random.Random(1)), count))


def parts(packet: bytes) -> tuple[p.Address, p.Address, int, bytes]:
    """Source, target, protocol and body of a whole IP packet."""
    if packet[0] >> 4 == 4:
        assert struct.unpack_from("!H", packet, 2) == (len(packet),)
        return ipaddress.ip_address(packet[12:16]), ipaddress.ip_address(packet[16:20]), packet[9], packet[20:]
    assert struct.unpack_from("!H", packet, 4) == (len(packet) - 40,)
    return ipaddress.ip_address(packet[8:24]), ipaddress.ip_address(packet[24:40]), packet[6], packet[40:]


def datagram(source: p.Address, target: p.Address, body: bytes) -> tuple[int, bytes]:
    """Port and payload of a UDP datagram whose length and checksum are right."""
    port, length = struct.unpack_from("!2xHH", body)
    assert length == len(body)
    assert p.checksum(source.packed + target.packed + struct.pack("!II", length, p.UDP) + body) == 0
    return port, body[8:]


@pytest.mark.parametrize("kind", list(p.Kind))
def test_every_packet_is_whole_and_its_source_is_documentation(kind: p.Kind) -> None:
    targets = set()
    for packet in some([kind]):
        source, target, protocol, body = parts(packet)
        targets.add(target)
        assert any(source in network for network in NETWORKS if network.version == source.version)
        assert protocol == (p.ESP if kind is p.Kind.ESP else p.UDP)
        if kind is not p.Kind.ESP:
            port, _ = datagram(source, target, body)
            assert port in (p.IKE_PORT, p.NATT_PORT)
    assert targets == set(VIPS)


def test_ports_lead_garbage_to_where_it_costs_something() -> None:
    for packet in some([p.Kind.NATT, p.Kind.IKE]):
        source, target, _, body = parts(packet)
        port, payload = datagram(source, target, body)
        marker = payload[:4] == bytes(4)  # RFC 3948, section 2.2: IKE on 4500; anything else there is ESP
        assert not (port == p.IKE_PORT and marker)
    kinds = {datagram(*parts(packet)[:2], parts(packet)[3])[0] for packet in some([p.Kind.IKE])}
    assert kinds == {p.IKE_PORT, p.NATT_PORT}


def test_an_ike_sa_init_reads_as_rfc_7296_says() -> None:
    seen = set()
    for packet in some([p.Kind.INIT]):
        source, target, _, body = parts(packet)
        _, message = datagram(source, target, body)
        spi_i, spi_r, following, version, exchange, flags, number, length = struct.unpack_from("!QQBBBBII", message)
        assert (spi_r, version, exchange, flags, number, length) == (0, 0x20, 34, 0x08, 0, len(message))
        assert spi_i
        seen.add(spi_i)
        payloads, offset = [], 28
        while following:
            payloads.append(following)
            following, size = struct.unpack_from("!BxH", message, offset)
            offset += size
        assert (payloads, offset) == ([33, 34, 40], len(message))
    assert len(seen) == 200, "the same SPI again is a retransmission, which costs a responder nothing"


def test_a_target_without_a_source_of_its_family_is_refused() -> None:
    with pytest.raises(ValueError, match="2001:db8:a::1"):
        next(p.packets([p.Kind.ESP], VIPS, NETWORKS[:1], random.Random(1)))


def test_the_rate_is_what_was_sent() -> None:
    assert Sent(packets=100, refused=50, seconds=2.0).rate == 50
    assert Sent().rate == 0
