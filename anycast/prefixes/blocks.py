"""The declared blocks: which holds what, what is free in them, and what size would do where they are too small. Pure."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple

from anycast.fleet.addressing import Addressing
from anycast.fleet.finding import Finding
from anycast.prefixes.numbers import WIDTH, Range, prefix, read
from anycast.prefixes.space import Interval, Space, free_pieces
from anycast.prefixes.wants import Want

Spaces = dict[tuple[str, frozenset[str]], Space]
"""Free space by family and by everything that it may be used for."""


class Block(NamedTuple):
    space: Range
    name: str
    uses: frozenset[str]


class Blocks:
    def __init__(self, addressing: Addressing) -> None:
        found = [
            Block(space, name, frozenset(block.use))
            for name, block in addressing.blocks.items()
            if (space := read(str(block.prefix))) is not None
        ]
        found.sort(key=lambda block: (block.space, block.name))
        self._of = {family: [block for block in found if block.space.family == family] for family in WIDTH}
        self._named = {block.name: block for block in found}
        self._starts = {family: [block.space.start for block in blocks] for family, blocks in self._of.items()}

    def of(self, found: Range, use: str) -> str:
        """The name of the block for `use` that holds `found`; empty: there is none."""
        at = bisect.bisect_right(self._starts[found.family], found.start)
        for block in reversed(self._of[found.family][max(0, at - 2) : at]):  # blocks that overlap are refused elsewhere
            if block.space.holds(found) and use in block.uses:
                return block.name
        return ""

    def still(self, name: str, found: Range, use: str) -> bool:
        """Whether the block of that name is one for `use` that holds `found`."""
        block = self._named.get(name)
        return block is not None and use in block.uses and block.space.holds(found)

    def spaces(self, taken: Iterable[Range], reached: Iterable[Range]) -> Spaces:
        """What `taken` leaves of the blocks; `reached`: of those that no inside LAN is taken from, too, because a client
        could not tell what is there from what it reaches inside."""
        found = self._spaces(taken, {block for blocks in self._of.values() for block in blocks if "inside" in block.uses})
        others = {block for blocks in self._of.values() for block in blocks if "inside" not in block.uses}
        return {**found, **self._spaces([*taken, *reached], others)}

    def _spaces(self, taken: Iterable[Range], blocks: Set[Block]) -> Spaces:
        intervals: dict[str, list[Interval]] = {family: [] for family in WIDTH}
        for each in taken:
            intervals[each.family].append((each.start, each.behind))
        pieces: dict[tuple[str, frozenset[str]], list[tuple[int, int]]] = defaultdict(list)
        for family, rows in intervals.items():
            rows.sort()
            # How far what begins before each row reaches: it may be all of a block.
            reach = [0]
            for _, behind in rows:
                reach.append(max(reach[-1], behind))
            for block in self._of[family]:
                if block not in blocks:
                    continue
                first, behind = block.space.start, block.space.behind
                begin, end = bisect.bisect_left(rows, (first, 0)), bisect.bisect_left(rows, (behind, 0))
                start = max(first, min(reach[begin], behind))
                pieces[family, block.uses] += free_pieces(start, behind, rows[begin:end], WIDTH[family])
        return {key: Space(WIDTH[key[0]], found) for key, found in pieces.items()}

    def fitting(self, spaces: Spaces, family: str, use: str) -> list[Space]:
        """The space for `use`: first what is for nothing else, so that the rest is left for others."""
        found = [(len(uses), sorted(uses), space) for (of, uses), space in spaces.items() if of == family and use in uses]
        return [space for _, _, space in sorted(found, key=lambda row: row[:2])]

    def too_small(self, refused: Mapping[tuple[str, str], Sequence[Want]], spaces: Spaces) -> Iterator[Finding]:
        """`refused`: by family and use, what found no room, the largest first.

        What one use lacks would fit into one more block of its sum. A block in place of one that is there must have room in
        its other half for all that is lacking of it, for whatever use.
        """
        blocks, lacking = {}, {}
        sums: dict[str, int] = defaultdict(int)
        none = {pair for pair in refused if not any(pair[1] in each.uses for each in self._of[pair[0]])}
        for family, use in sorted(none):
            for want in refused[family, use]:
                yield Finding(want.path, f"no {family} block has {use} in its use")
        refused = {pair: wants for pair, wants in refused.items() if pair not in none}
        for (family, use), wants in refused.items():
            having = (each for each in self._of[family] if use in each.uses)
            block = blocks[family, use] = min(having, key=lambda each: (each.space.length, each.name))
            addresses = sum(1 << (WIDTH[family] - want.length) for want in wants)
            if wants[-1].length == WIDTH[family]:
                addresses += addresses // 64 + 2  # those that are not given out singly
            lacking[family, use] = addresses
            sums[block.name] += addresses
        for (family, use), wants in sorted(refused.items()):
            block, width = blocks[family, use], WIDTH[family]
            more = width - (lacking[family, use] - 1).bit_length()
            grown = max(0, min(width - (sums[block.name] - 1).bit_length(), block.space.length) - 1)
            left = [length for each in self.fitting(spaces, family, use) if (length := each.largest()) is not None]
            named = ", ".join(want.key for want in wants[:3]) + (f" and {len(wants) - 3} more" if len(wants) > 3 else "")
            free = f"no more than a /{min(left)}" if left else "nothing"
            what = (
                f"{prefix(*block.space)} is too small for what is taken from {family} blocks for {use}: no room for {named}"
                f" (the largest is a /{wants[0].length}, and {free} is free); one more block of /{more}, or a /{grown} in"
                " place of this one, would do"
            )
            yield Finding(("addressing", "blocks", block.name, "prefix"), what)
