"""What a router says of a packet that its next link does not carry, as a capture shows it. Pure.

An observer's own reading, as all of this folder.
"""

from __future__ import annotations

import dataclasses
import struct
from ipaddress import IPv4Address, IPv6Address

_ICMP_BYTES, _IPV4_BYTES, _IPV6_BYTES, _UDP_BYTES = 8, 20, 40, 8
_UDP, _ESP = 17, 50
KINDS = {1: (3, 4), 58: (2, 0)}
"""By protocol, ICMP and ICMPv6: type and code."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TooBig:
    """About a packet of ESP, by itself or in UDP, that is quoted as far as its SPI."""

    at_ns: int
    router: IPv4Address | IPv6Address
    """Who says it."""
    about: IPv4Address | IPv6Address
    """Where the packet was going."""
    spi: int
    mtu: int


def read(at_ns: int, router: IPv4Address | IPv6Address, protocol: int, body: bytes) -> TooBig | None:
    """`body` begins with the ICMP header. None for any other message, and about any other packet."""
    if protocol not in KINDS or tuple(body[:2]) != KINDS[protocol] or len(body) < _ICMP_BYTES:
        return None
    quoted, mtu = body[_ICMP_BYTES:], struct.unpack_from("!I", body, 4)[0]
    about: IPv4Address | IPv6Address
    if protocol == 1 and len(quoted) >= _IPV4_BYTES:
        about, inner, behind = IPv4Address(quoted[16:20]), quoted[9], (quoted[0] & 0xF) * 4
        mtu &= 0xFFFF
    elif protocol == 58 and len(quoted) >= _IPV6_BYTES:
        about, inner, behind = IPv6Address(quoted[24:40]), quoted[6], _IPV6_BYTES
    else:
        return None
    behind += _UDP_BYTES if inner == _UDP else 0
    if inner not in (_UDP, _ESP) or len(quoted) < behind + 4:
        return None
    (spi,) = struct.unpack_from("!I", quoted, behind)
    return TooBig(at_ns=at_ns, router=router, about=about, spi=spi, mtu=mtu) if spi else None
