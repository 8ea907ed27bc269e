"""Codec of the VRRP ADVERTISEMENT, version 3 (RFC 9568 section 5.2), for IPv4 and IPv6. Bounds-checked; pure.

     0                   1                   2                   3
    |Version| Type  | Virtual Rtr ID|   Priority    |IPvX Addr Count|
    |Reserve| Max Advertise Interval|          Checksum             |
    |                       IPvX Address(es)                        |

What a packet must satisfy before any of its fields may act (section 7.1) is checked here, and each way to fail has a name
of its own, because an operator mends a wrong TTL elsewhere than a wrong VRID. keepalived departs from the RFC in two
places that `Interop` names; with a router of ours neither is accepted.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

from anycast.errors import DecodeError

PROTOCOL = 112
"""IP protocol number of VRRP (RFC 9568 section 5.1.1)."""
TTL = 255
"""Every advertisement is sent with it, and one that arrives with less was routed, which none of ours is (section 5.1.1)."""
GROUP_V4 = IPv4Address("224.0.0.18")
GROUP_V6 = IPv6Address("ff02::12")
MAX_INTERVAL = 4095
"""Centiseconds: the field has 12 bits."""
OWNER = 255
"""Priority of the router that owns the virtual addresses as its own."""
MOST_ADDRESSES = 255

_HEADER = struct.Struct("!BBBBHH")
_VERSION_TYPE = 0x31
_PSEUDO_V4 = struct.Struct("!4s4sxBH")
_PSEUDO_V6 = struct.Struct("!16s16sI3xB")

Address = IPv4Address | IPv6Address


class Discard(enum.StrEnum):
    """Why an advertisement was discarded: the label of its counter (RFC 9568 section 7.1, RFC 8347's error names)."""

    TTL = "ttl"
    VERSION = "version"
    TYPE = "type"
    CHECKSUM = "checksum"
    LENGTH = "length"
    VRID = "vrid"
    ADDRESSES = "addresses"
    """Other virtual addresses than ours: two operators, or one who changed half a fleet."""
    INTERVAL = "interval"
    """An interval of zero, which no timer can keep."""
    SEAL = "seal"
    """No trailer, an unknown key, or a digest that does not fit."""
    REPLAY = "replay"
    OWN = "own"
    """One's own, sent back by a loop in the network."""
    OWNER = "owner"
    """Heard by the owner of the addresses, which yields to nobody (RFC 9568 section 7.1)."""


class DiscardError(DecodeError):
    """The bytes are no advertisement that may act. `cause` says why."""

    def __init__(self, cause: Discard, field: str, offset: int, what: str) -> None:
        super().__init__(field, offset, what)
        self.cause = cause


class Interop(enum.StrEnum):
    """Whose reading of the standard is spoken."""

    RFC9568 = "rfc9568"
    KEEPALIVED = "keepalived"
    """keepalived 2.2.7 by default counts the pseudo-header into IPv4's checksum, too, and logs anything else as invalid (it
    becomes Active beside us); it sends IPv6 unicast with hop limit 64. Spoken: with pseudo-header. Heard: either."""
    KEEPALIVED_AS_V2 = "keepalived_as_v2"
    """keepalived from 2.2.8 with `v3_checksum_as_v2`. Spoken: without pseudo-header. Heard: either, and hop limit 64."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Advertisement:
    """One ADVERTISEMENT."""

    vrid: int
    """1 to 255."""
    priority: int
    """0 releases, 1 to 254 offers, 255 owns."""
    max_advertise_interval: int
    """Centiseconds, 1 to 4095."""
    addresses: tuple[Address, ...]
    """Of one family; with IPv6 the first is link-local (section 5.2.9)."""


def encode(advert: Advertisement, source: Address, destination: Address, interop: Interop = Interop.RFC9568) -> bytes:
    """The IP payload of `advert` from `source` to `destination`, which IPv6's checksum covers."""
    addresses = b"".join(address.packed for address in advert.addresses)
    head = (_VERSION_TYPE, advert.vrid, advert.priority, len(advert.addresses), advert.max_advertise_interval)
    blank = _HEADER.pack(*head, 0) + addresses
    pseudo = source.version == 6 or interop is Interop.KEEPALIVED
    return _HEADER.pack(*head, checksum(blank, source, destination, pseudo_header=pseudo)) + addresses


def decode(
    data: bytes | memoryview, source: Address, destination: Address, ttl: int, interop: Interop = Interop.RFC9568
) -> tuple[Advertisement, memoryview]:
    """The advertisement at the start of an IP payload, and what follows it (a seal, or nothing).

    `ttl` is TTL or hop limit as received. Raises DiscardError.
    """
    view = memoryview(data)
    lenient = interop is not Interop.RFC9568 and source.version == 6 and not destination.is_multicast
    if ttl != TTL and not lenient:
        raise DiscardError(Discard.TTL, "ttl", 0, f"{ttl}, not {TTL}")
    if len(view) < _HEADER.size:
        raise DiscardError(Discard.LENGTH, "header", len(view), "truncated")
    version_type, vrid, priority, count, interval, _sum = _HEADER.unpack_from(view)
    if version_type >> 4 != _VERSION_TYPE >> 4:
        raise DiscardError(Discard.VERSION, "version", 0, f"{version_type >> 4}, not 3")
    if version_type & 0xF != _VERSION_TYPE & 0xF:
        raise DiscardError(Discard.TYPE, "type", 0, f"{version_type & 0xF}, not 1")
    size = 4 if source.version == 4 else 16
    end = _HEADER.size + count * size
    if not count or len(view) < end:
        raise DiscardError(Discard.LENGTH, "ipvx addr count", 3, f"{count} addresses in {len(view)} bytes")
    if not _checksum_fits(view[:end], source, destination, interop):
        raise DiscardError(Discard.CHECKSUM, "checksum", 6, "does not fit")
    if not vrid:
        raise DiscardError(Discard.VRID, "virtual rtr id", 1, "0")
    interval &= MAX_INTERVAL  # the upper four bits are reserved and ignored (section 5.2.6)
    if not interval:
        raise DiscardError(Discard.INTERVAL, "max advertise interval", 4, "0")
    addresses = tuple(ip_address(bytes(view[at : at + size])) for at in range(_HEADER.size, end, size))
    advert = Advertisement(vrid=vrid, priority=priority, max_advertise_interval=interval, addresses=addresses)
    return advert, view[end:]


def checksum(message: bytes | memoryview, source: Address, destination: Address, *, pseudo_header: bool) -> int:
    """RFC 1071's sum over `message`, whose own checksum field is 0 (or, to verify, as received: the result is then 0)."""
    data = bytes(message)
    if pseudo_header and source.version == 4:
        data = _PSEUDO_V4.pack(source.packed, destination.packed, PROTOCOL, len(data)) + data
    elif pseudo_header:
        data = _PSEUDO_V6.pack(source.packed, destination.packed, len(data), PROTOCOL) + data
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _checksum_fits(message: memoryview, source: Address, destination: Address, interop: Interop) -> bool:
    if source.version == 6:
        return checksum(message, source, destination, pseudo_header=True) == 0
    if checksum(message, source, destination, pseudo_header=False) == 0:
        return True
    return interop is not Interop.RFC9568 and checksum(message, source, destination, pseudo_header=True) == 0
