"""Addresses and prefixes as numbers, and back: a plan compares and cuts a hundred thousand of them. Pure."""

from __future__ import annotations

import bisect
import ipaddress
import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple

WIDTH = {"ipv4": 32, "ipv6": 128}


class Range(NamedTuple):
    """A prefix, or an address as the longest of prefixes."""

    family: str
    start: int
    length: int

    @property
    def behind(self) -> int:
        """The first address behind it."""
        return self.start + (1 << (WIDTH[self.family] - self.length))

    @property
    def single(self) -> bool:
        return self.length == WIDTH[self.family]

    def holds(self, other: Range) -> bool:
        return self.family == other.family and self.start <= other.start and other.behind <= self.behind


def meet(one: Range, other: Range) -> bool:
    return one.family == other.family and one.start < other.behind and other.start < one.behind


class Ranges:
    """Many ranges, of which it is asked whether one meets any."""

    def __init__(self, ranges: Iterable[Range]) -> None:
        rows: dict[str, list[Range]] = {family: [] for family in WIDTH}
        for each in ranges:
            rows[each.family].append(each)
        self._rows = rows
        self._starts: dict[str, list[int]] = {}
        self._reach: dict[str, list[int]] = {}
        """How far what begins up to there reaches."""
        for family, found in rows.items():
            found.sort()
            self._starts[family] = [each.start for each in found]
            self._reach[family] = list(itertools.accumulate((each.behind for each in found), max))

    def meeting(self, other: Range) -> Range | None:
        """One that meets `other`; None: there is none."""
        rows, reach = self._rows[other.family], self._reach[other.family]
        at = bisect.bisect_left(self._starts[other.family], other.behind)
        if not at or reach[at - 1] <= other.start:
            return None
        return next(rows[i] for i in range(at - 1, -1, -1) if rows[i].behind > other.start)

    def meet(self, other: Range) -> bool:
        return self.meeting(other) is not None


def _read(text: str) -> Range | None:
    address, slash, length = text.partition("/")
    if address.count(".") == 3 and (found := _read_ipv4(address)) is not None:
        family, start = "ipv4", found
    else:
        try:
            parsed = ipaddress.IPv6Address(address)
        except ValueError:
            return None
        if parsed.scope_id is not None:
            return None
        family, start = "ipv6", int(parsed)
    width = WIDTH[family]
    if not slash:
        return Range(family, start, width)
    if not (length.isascii() and length.isdecimal()) or len(length) > 3 or int(length) > width:
        return None
    if start & ((1 << (width - int(length))) - 1):
        return None
    return Range(family, start, int(length))


class _Known(dict[str, Range | None]):
    """What was read once: a plan asks for each of its values several times. No cache that orders its entries by their use:
    that costs as much again at each look."""

    def __missing__(self, text: str) -> Range | None:
        if len(self) >= _MOST_KNOWN:
            self.clear()
        found = self[text] = _read(text)
        return found


_MOST_KNOWN = 1 << 18
read: Callable[[str], Range | None] = _Known().__getitem__
"""The range that a text names, an address or a prefix; None where it is neither, or has bits beyond its length."""


def _read_ipv4(text: str) -> int | None:
    number = 0
    for part in text.split("."):
        if not (part.isascii() and part.isdecimal()) or len(part) > 3 or int(part) > 255 or (part[0] == "0" and part != "0"):
            return None
        number = number << 8 | int(part)
    return number


def address(family: str, number: int) -> str:
    """Canonical text (RFC 5952 of IPv6)."""
    if family == "ipv4":
        return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    low, high = number & 0xFFFFFFFFFFFFFFFF, number >> 64
    if low > 0xFFFF or not high >> 48:
        return str(ipaddress.IPv6Address(number))
    # A prefix, or a low number in one: the zeros in the middle are the longest run, whatever stands above them.
    while not high & 0xFFFF:
        high >>= 16
    text = f"{high & 0xFFFF:x}::{low:x}" if low else f"{high & 0xFFFF:x}::"
    while high := high >> 16:
        text = f"{high & 0xFFFF:x}:{text}"
    return text


def prefix(family: str, start: int, length: int) -> str:
    return f"{address(family, start)}/{length}"


def plain(each: Range) -> str:
    """An address without its length, a prefix with it."""
    return address(each.family, each.start) if each.single else prefix(*each)
