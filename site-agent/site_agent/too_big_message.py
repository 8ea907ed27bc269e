"""Codec of what a router says of a packet that its next link does not carry, with as much of that packet as it quotes.

ICMP "fragmentation needed" (RFC 792, RFC 1191) and ICMPv6 "packet too big" (RFC 4443 section 3.2). Pure, bounds-checked.
Only what is about ESP is of concern, by itself or in UDP: the SPI says whose tunnel it is. A router may quote as little as 8
bytes behind the IP header, which hold a raw ESP packet's SPI and no more than the header of UDP.
"""

from __future__ import annotations

import dataclasses
import struct
from ipaddress import IPv4Address, IPv6Address

from anycast.errors import DecodeError

UNREACHABLE, FRAGMENTATION_NEEDED = 3, 4
PACKET_TOO_BIG = 2
_IPV4_BYTES, _IPV6_BYTES, _ICMP_BYTES, _UDP_BYTES = 20, 40, 8, 8
_ESP, _UDP, _FRAGMENT = 50, 17, 44
_ESP_IN_UDP = 4500


@dataclasses.dataclass(frozen=True, slots=True)
class TooBig:
    """About a packet of ESP."""

    mtu: int
    source: IPv4Address | IPv6Address
    """Of the packet that was too big: one of our own addresses."""
    destination: IPv4Address | IPv6Address
    spi: int | None
    """None where too little is quoted, or what is quoted is IKE."""


def decode(version: int, data: bytes) -> TooBig | None:
    """What a raw socket of IP `version` has read; IPv4's hands the packet's own header on (raw(7)). None for any other
    message, and about any other packet. Raises DecodeError."""
    start = _header(data, 0) if version == 4 else 0
    _need(data, start, _ICMP_BYTES, "ICMP header")
    kind, code, mtu = struct.unpack_from("!BB2xI", data, start)
    at = start + _ICMP_BYTES
    if version == 4:  # the upper half may hold the length of an extension (RFC 4884)
        return _ipv4(data, at, mtu & 0xFFFF) if (kind, code) == (UNREACHABLE, FRAGMENTATION_NEEDED) else None
    return _ipv6(data, at, mtu) if kind == PACKET_TOO_BIG else None


def _ipv4(data: bytes, at: int, mtu: int) -> TooBig | None:
    behind = _header(data, at)
    if struct.unpack_from("!H", data, at + 6)[0] & 0x1FFF:
        return None  # a later fragment quotes no port and no SPI
    source, destination = IPv4Address(data[at + 12 : at + 16]), IPv4Address(data[at + 16 : at + 20])
    return _about(data, behind, data[at + 9], mtu, source, destination)


def _ipv6(data: bytes, at: int, mtu: int) -> TooBig | None:
    _need(data, at, _IPV6_BYTES, "quoted IPv6 header")
    source, destination = IPv6Address(data[at + 8 : at + 24]), IPv6Address(data[at + 24 : at + 40])
    following, behind = data[at + 6], at + _IPV6_BYTES
    if following == _FRAGMENT:
        _need(data, behind, 8, "quoted fragment header")
        if struct.unpack_from("!H", data, behind + 2)[0] & 0xFFF8:
            return None
        following, behind = data[behind], behind + 8
    return _about(data, behind, following, mtu, source, destination)


def _about(
    data: bytes, at: int, protocol: int, mtu: int, source: IPv4Address | IPv6Address, destination: IPv4Address | IPv6Address
) -> TooBig | None:
    if protocol == _UDP:
        _need(data, at, _UDP_BYTES, "quoted UDP header")
        if struct.unpack_from("!H", data, at)[0] != _ESP_IN_UDP:
            return None
        at += _UDP_BYTES
    elif protocol != _ESP:
        return None
    # Four zeros are the marker before IKE (RFC 3948 section 2.2), which fragments its own messages.
    spi = struct.unpack_from("!I", data, at)[0] if len(data) >= at + 4 else 0
    return TooBig(mtu, source, destination, spi or None)


def _header(data: bytes, at: int) -> int:
    """Where an IPv4 header at this place ends."""
    _need(data, at, _IPV4_BYTES, "IPv4 header")
    length = (data[at] & 0xF) * 4
    if length < _IPV4_BYTES:
        raise DecodeError("IHL", at, f"{length} bytes of header")
    _need(data, at, length, "IPv4 header")
    return at + length


def _need(data: bytes, at: int, size: int, field: str) -> None:
    if len(data) < at + size:
        raise DecodeError(field, len(data), f"shorter than {at + size} bytes")
