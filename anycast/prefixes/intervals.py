"""What is taken of the address space, sorted once: whether two of it meet, and what it leaves of a block. Pure."""

from __future__ import annotations

import bisect
import itertools
import operator
from collections.abc import Collection, Iterable
from typing import Self

from anycast.prefixes.allocation import Allocation, Kind, Resting
from anycast.prefixes.numbers import WIDTH, Range, read
from anycast.prefixes.space import Interval, free_pieces

_SIZES = {family: [1 << (width - length) for length in range(width + 1)] for family, width in WIDTH.items()}


class Intervals:
    def __init__(self, ranges: Iterable[Range]) -> None:
        rows: dict[str, list[Interval]] = {family: [] for family in WIDTH}
        for family, start, length in ranges:
            rows[family].append((start, start + _SIZES[family][length]))
        for found in rows.values():
            found.sort()
        self._rows = rows
        self._reach = {
            # How far what stands before each row reaches, and behind the last one what all of them do.
            family: [0, *itertools.accumulate((behind for _, behind in found), max)]
            for family, found in rows.items()
        }

    @classmethod
    def of_records(cls, records: Iterable[Allocation | Resting], held: Collection[str]) -> Self:
        """Of what is somebody's or rests. What lies in a prefix that is `held` is taken with it."""
        label = Kind.SPI_LABEL
        apart = (each.value for each in records if each.source not in held and each.kind is not label)
        return cls(found for value in apart if (found := read(value)) is not None)

    @property
    def disjoint(self) -> bool:
        """Whether no two of them meet."""
        return all(
            all(map(operator.le, self._reach[family], (start for start, _ in rows))) for family, rows in self._rows.items()
        )

    def left_of(self, space: Range, *others: Iterable[Range]) -> list[tuple[int, int]]:
        """Starts and lengths of the free pieces that they and `others` leave of it."""
        rows, first, behind = self._rows[space.family], space.start, space.behind
        begin, end = bisect.bisect_left(rows, (first, 0)), bisect.bisect_left(rows, (behind, 0))
        within = rows[begin:end]
        if more := [(each.start, each.behind) for each in itertools.chain(*others) if each.family == space.family]:
            within = sorted([*within, *more])
        return free_pieces(max(first, min(self._reach[space.family][begin], behind)), behind, within, WIDTH[space.family])
