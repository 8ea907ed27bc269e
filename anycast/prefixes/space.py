"""Free space of address blocks, as the aligned pieces that are left between what is taken.

A prefix is taken from the smallest piece that holds it, at that piece's lowest address, so large pieces stay whole for as
long as small ones do: largest first, nothing is lost to cuts before the space is full. Numbers only: an address is an int, a
prefix its first address and its length. Pure.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

Interval = tuple[int, int]
"""First address, and the one behind the last."""


def free_pieces(first: int, behind: int, taken: Iterable[Interval], width: int) -> list[tuple[int, int]]:
    """What the sorted intervals `taken` leave of the addresses from `first` up to `behind`: starts and lengths.

    `width`: bits of an address. Each piece is as large as its alignment and the gap allow. The intervals may overlap each
    other and the ends.
    """
    pieces: list[tuple[int, int]] = []
    at = first
    for begin, end in taken:
        if begin >= behind:
            break
        if begin > at:
            _cut(at, begin, width, pieces)
        at = max(at, end)
    if at < behind:
        _cut(at, behind, width, pieces)
    return pieces


def _cut(at: int, behind: int, width: int, pieces: list[tuple[int, int]]) -> None:
    while at < behind:
        size = 1 << ((behind - at).bit_length() - 1)
        if at:
            size = min(size, at & -at)
        pieces.append((at, width + 1 - size.bit_length()))
        at += size


class Space:
    """Free pieces of one family, from one or several blocks."""

    def __init__(self, width: int, pieces: Iterable[tuple[int, int]]) -> None:
        self._width = width
        self._free = set(pieces)
        self._starts: dict[int, list[int]] = {}
        self._lengths = 0
        """Bit n: there may be a piece of length n."""
        for start, length in sorted(self._free):
            self._starts.setdefault(length, []).append(start)  # sorted, which a heap is
            self._lengths |= 1 << length

    def largest(self) -> int | None:
        """The length of the largest piece; None where nothing is free."""
        return min((length for _, length in self._free), default=None)

    def free(self) -> int:
        """Addresses in all pieces."""
        return sum(1 << (self._width - length) for _, length in self._free)

    def fits(self, length: int) -> int | None:
        """The length of the piece that a prefix of `length` would be taken from; None: there is none."""
        while lengths := self._lengths & ((2 << length) - 1):
            found = lengths.bit_length() - 1
            starts = self._starts[found]
            while starts and (starts[0], found) not in self._free:
                heapq.heappop(starts)
            if starts:
                return found
            self._lengths ^= 1 << found
        return None

    def take(self, length: int) -> int | None:
        """A free prefix of `length`, which is free no longer; None: there is none."""
        found = self.fits(length)
        if found is None:
            return None
        start = heapq.heappop(self._starts[found])
        self._free.remove((start, found))
        for half in range(found + 1, length + 1):
            self._put(start + (1 << (self._width - half)), half)
        return start

    def take_address(self) -> int | None:
        """A single free address that people and their filters take for one: not the first of an IPv6 /112 (RFC 4291 section
        2.6.1), nor the first or last of an IPv4 /24."""
        while (start := self.take(self._width)) is not None:
            low = start & (0xFF if self._width == 32 else 0xFFFF)
            if low != 0 and not (self._width == 32 and low == 0xFF):
                break
            self._free.add((start, self._width))  # free, but not to be found here again
        return start

    def grow(self, start: int, length: int, wanted: int) -> int | None:
        """Enlarge a taken prefix in its place; its new first address, or None where a neighbour is in the way."""
        neighbours = []
        at = start
        for each in range(length, wanted, -1):
            size = 1 << (self._width - each)
            if (at ^ size, each) not in self._free:
                return None
            neighbours.append((at ^ size, each))
            at &= ~size
        self._free.difference_update(neighbours)
        return at

    def _put(self, start: int, length: int) -> None:
        self._free.add((start, length))
        heapq.heappush(self._starts.setdefault(length, []), start)
        self._lengths |= 1 << length
