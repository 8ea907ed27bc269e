"""The declared blocks: which holds what, what is free in them, and what size would do where they are too small. Pure."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from anycast.fleet.addressing import Addressing
from anycast.fleet.finding import Finding
from anycast.prefixes.intervals import Intervals
from anycast.prefixes.numbers import WIDTH, Range, meet, prefix, read
from anycast.prefixes.space import Space
from anycast.prefixes.wants import Want

Spaces = dict[tuple[str, frozenset[str]], Space]
"""Free space by family and by everything that it may be used for."""
Pieces = dict[tuple[str, frozenset[str]], list[tuple[int, int]]]
INSIDE = frozenset({"inside"})


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
        self._foreign = [
            space for many in addressing.foreign.values() for each in many if (space := read(str(each))) is not None
        ]
        self.of_use = {(block.name, use): block.space for block in found for use in block.uses}
        """By name and use."""
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
        space = self.of_use.get((name, use))
        return space is not None and space.holds(found)

    def spaces(self, taken: Intervals, others: Iterable[Range], reached: Sequence[Range]) -> Spaces:
        """What `taken` and the few `others` leave of the blocks. Of what clients reach through their tunnels (`reached`),
        inside LANs only are taken, whatever else the block is for: a client could not tell what is there from what it
        reaches inside."""
        others = list(others)
        pieces: Pieces = defaultdict(list)
        for block in (block for blocks in self._of.values() for block in blocks):
            space, family = block.space, block.space.family
            hidden = () if block.uses == INSIDE else reached
            pieces[family, block.uses] += taken.left_of(space, others, hidden)
            if reached and block.uses > INSIDE:
                outside = [Range(family, *piece) for piece in left_of(space, reached)]
                pieces[family, INSIDE] += taken.left_of(space, others, outside)
        return {key: Space(WIDTH[key[0]], found) for key, found in pieces.items()}

    def fitting(self, spaces: Spaces, family: str, use: str) -> list[Space]:
        """The space for `use`: first what is for nothing else, so that the rest is left for others."""
        found = [(len(uses), sorted(uses), space) for (of, uses), space in spaces.items() if of == family and use in uses]
        return [space for _, _, space in sorted(found, key=lambda row: row[:2])]

    def too_small(
        self, refused: Mapping[tuple[str, str], Sequence[Want]], spaces: Spaces, reached: Sequence[Range]
    ) -> Iterator[Finding]:
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
            block = blocks[family, use] = min(
                having, key=lambda each: (bool(self._others(each, use, reached)), each.space.length, each.name)
            )
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
            path = ("addressing", "blocks", block.name, "prefix")
            if others := self._others(block, use, reached):
                what = (
                    f"{prefix(*block.space)} lies in {others}, of which nothing is taken for {use}: no room for {named}; a"
                    f" block of /{more} that lies elsewhere would do"
                )
                yield Finding(path, what)
                continue
            free = f"no more than a /{min(left)}" if left else "nothing"
            wider = Range(family, block.space.start >> (width - grown) << (width - grown), grown)
            beside = [each for each in left_of(wider, [block.space]) if self._is_free(Range(family, *each), use, reached)]
            room = sum(1 << (width - length) for _, length in beside) == (1 << (width - grown)) - (
                1 << (width - block.space.length)
            )
            instead = f", or a /{grown} in place of this one," if room else " elsewhere"
            what = (
                f"{prefix(*block.space)} is too small for what is taken from {family} blocks for {use}: no room for {named}"
                f" (the largest is a /{wants[0].length}, and {free} is free); one more block of /{more}{instead} would do"
            )
            yield Finding(path, what)

    def _others(self, block: Block, use: str, reached: Sequence[Range]) -> str:
        """What all of a block lies in, so that nothing of it is to be had; empty: not all of it does."""
        foreign, inside = self._foreign, [] if use == "inside" else reached
        for name, found in (
            ("service.inside", inside),
            ("addressing.foreign", foreign),
            ("service.inside and addressing.foreign", [*inside, *foreign]),
        ):
            if not left_of(block.space, found):
                return name
        return ""

    def _is_free(self, space: Range, use: str, reached: Sequence[Range]) -> bool:
        return not any(meet(space, each) for each in (*self._foreign, *(() if use == "inside" else reached)))


def left_of(space: Range, taken: Iterable[Range]) -> list[tuple[int, int]]:
    """Starts and lengths of what `taken` leaves of it."""
    return Intervals(taken).left_of(space)
