"""What taken space leaves of a block, and whether any of it meets, against sets of single addresses."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from anycast.prefixes.intervals import Intervals
from anycast.prefixes.numbers import WIDTH, Range

FIRST = {"ipv4": 10 << 24, "ipv6": 0x20010DB8 << 96}
BITS = 7
"""Of the space around the block."""


@st.composite
def ranges(draw: st.DrawFn, family: str | None = None) -> Range:
    family = family or draw(st.sampled_from(sorted(WIDTH)))
    bits = draw(st.integers(0, BITS))
    at = draw(st.integers(0, (1 << BITS) - 1)) >> bits << bits
    return Range(family, FIRST[family] + at, WIDTH[family] - bits)


def addresses(each: Range) -> set[tuple[str, int]]:
    return {(each.family, number) for number in range(each.start, each.behind)}


@given(st.lists(ranges(), max_size=8), st.lists(ranges(), max_size=3), ranges())
def test_what_is_left_is_every_address_that_is_in_none_and_each_once(
    taken: list[Range], others: list[Range], block: Range
) -> None:
    pieces = [Range(block.family, *piece) for piece in Intervals(taken).left_of(block, others)]
    left = [address for piece in pieces for address in addresses(piece)]
    gone = set().union(*(addresses(each) for each in (*taken, *others)))
    assert len(left) == len(set(left))
    assert set(left) == addresses(block) - gone
    assert all(each.start % (1 << (WIDTH[each.family] - each.length)) == 0 for each in pieces)


@given(st.lists(ranges(), max_size=6))
def test_they_are_disjoint_where_no_two_have_an_address(taken: list[Range]) -> None:
    apart = not any(addresses(one) & addresses(other) for one, other in itertools.combinations(taken, 2))
    assert Intervals(taken).disjoint is apart
