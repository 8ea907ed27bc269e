"""Sets of addresses of both families as sorted ranges. Pure.

IPv4 addresses stand on the same number line as IPv6 ones: where the IPv4-mapped ones are (RFC 4291), which are nobody's
pool. 20,000 scattered addresses cost some 20 ms to make a set of and 10 ms to subtract; handed out in order they are one
range.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from anycast.errors import DecodeError

MAPPED = 0xFFFF << 32
"""Where IPv4 begins on the line."""
RANGE_BYTES = 32


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Range:
    """All addresses from `first` to `last`, both included."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __str__(self) -> str:
        """As `load-pool` takes it."""
        return f"{address_text(self.first)}-{address_text(self.last)}"


class Ranges:
    """An unchanging set of addresses. Its ranges neither touch nor overlap, and ascend."""

    __slots__ = ("ranges",)

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        merged: list[Range] = []
        for one in sorted(ranges):
            if merged and one.first <= merged[-1].last + 1:
                if one.last > merged[-1].last:
                    merged[-1] = Range(merged[-1].first, one.last)
            else:
                merged.append(one)
        self.ranges = tuple(merged)

    @classmethod
    def of(cls, numbers: Iterable[int]) -> Ranges:
        """The set of these addresses, each as its place on the line."""
        return cls(Range(number, number) for number in numbers)

    def __iter__(self) -> Iterator[Range]:
        return iter(self.ranges)

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranges) and self.ranges == other.ranges

    def __hash__(self) -> int:
        return hash(self.ranges)

    def __repr__(self) -> str:
        return f"Ranges({', '.join(map(str, self.ranges))})"

    def __or__(self, other: Ranges) -> Ranges:
        if not self.ranges or not other.ranges:
            return self if self.ranges else other
        return Ranges((*self.ranges, *other.ranges))

    def __sub__(self, other: Ranges) -> Ranges:
        left: list[Range] = []
        holes, at = other.ranges, 0
        for one in self.ranges:
            first = one.first
            while at < len(holes) and holes[at].last < first:
                at += 1
            hole = at
            while hole < len(holes) and holes[hole].first <= one.last:
                if holes[hole].first > first:
                    left.append(Range(first, holes[hole].first - 1))
                first = holes[hole].last + 1
                hole += 1
            if first <= one.last:
                left.append(Range(first, one.last))
        return Ranges(left)

    def __and__(self, other: Ranges) -> Ranges:
        return self - (self - other) if self.ranges and other.ranges else Ranges()

    def __contains__(self, number: int) -> bool:
        return any(one.first <= number <= one.last for one in self.ranges)

    def count(self) -> int:
        """How many addresses; an IPv6 pool has more than `len` could say."""
        return sum(one.last - one.first + 1 for one in self.ranges)


EMPTY = Ranges()


def address_number(address: IPv4Address | IPv6Address) -> int:
    """Its place on the line."""
    return int(address) + MAPPED if address.version == 4 else int(address)


def address_text(number: int) -> str:
    """The address at a place on the line."""
    return str(IPv4Address(number - MAPPED) if number >> 32 == 0xFFFF else IPv6Address(number))


def parse_address(text: str) -> int:
    """Raises ValueError."""
    return address_number(ip_address(text))


def parse_range(text: str) -> Range:
    """``203.0.113.10-203.0.113.12``. Raises ValueError."""
    first, dash, last = text.partition("-")
    low, high = ip_address(first), ip_address(last if dash else first)
    span = Range(address_number(low), address_number(high))
    if low.version != high.version or span.first > span.last:
        raise ValueError(f"{text!r} is no range")
    return span


def assignable(prefix: str) -> Range:
    """What of a pool's prefix charon itself would hand out: not the network's own address, not the last one, not more than
    2^31 (strongSwan, src/libcharon/attributes/mem_pool.c, mem_pool_create). Raises ValueError."""
    network = ip_network(prefix)
    size = min(network.num_addresses, 1 << 31)
    first = address_number(network.network_address)
    return Range(first + 1, first + size - 2) if size > 2 else Range(first, first + size - 1)


def encode_ranges(ranges: Ranges) -> bytes:
    """Both ends of each range, 16 bytes each in network order."""
    return b"".join(one.first.to_bytes(16, "big") + one.last.to_bytes(16, "big") for one in ranges)


def decode_ranges(data: bytes, field: str) -> Ranges:
    """What a peer sent. Raises DecodeError: ranges of one set ascend and do not touch, and none ends before it begins."""
    if len(data) % RANGE_BYTES:
        raise DecodeError(field, len(data), f"{len(data)} bytes are no whole ranges")
    found: list[Range] = []
    for offset in range(0, len(data), RANGE_BYTES):
        high, low, last_high, last_low = struct.unpack_from("!QQQQ", data, offset)
        one = Range(high << 64 | low, last_high << 64 | last_low)
        if one.first > one.last or (found and one.first <= found[-1].last + 1):
            raise DecodeError(field, offset, "ranges do not ascend")
        found.append(one)
    return Ranges(found)
