"""One space, one owner: what contradicts that among the records and what rests. Pure.

A plan alone never comes to this. A pin may lie in what is somebody's; and two branches may each have planned, and been
merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from anycast.fleet.finding import Finding
from anycast.prefixes.allocation import ADDRESSES, Allocation, Kind, Resting
from anycast.prefixes.intervals import Intervals
from anycast.prefixes.numbers import Range, Ranges, plain, prefix, read

ALONE = frozenset({Kind.COVERING, Kind.UNICAST_PREFIX, Kind.POOL, Kind.SUBNET, Kind.TUNNEL})
"""Kinds that share their space with nobody, where they are not taken from a prefix of one's own."""

_SINGLE = ADDRESSES | {Kind.SPI_LABEL}


def conflicts(held: Iterable[Allocation], resting: Iterable[Resting], taken: Intervals) -> Iterator[Finding]:
    """What two of them have. Where both are written in the file, reading it judges them. `taken`: what lies in none that is
    held, and everything that may overlap another is among it."""
    held, resting = list(held), list(resting)
    if not taken.disjoint:
        yield from _overlaps([*held, *resting])
    yield from _doubles(held)
    yield from _rested(held, resting)


def of_others(
    held: Iterable[Allocation], foreign: Iterable[tuple[str, Range]], written: Iterable[Range]
) -> Iterator[Finding]:
    """What was given out and is somebody else's by now. `foreign`: with their names; `written`: what else the file writes
    anywhere, which may be a machine in a LAN, but nobody in a pool or a prefix that is announced."""
    names = {found: name for name, found in foreign}
    mine = {read(each.value) for each in held if each.pinned}
    elsewhere = [each for each in written if each not in mine]
    if not names and not elsewhere:
        return
    theirs, others = Ranges(names), Ranges(elsewhere)
    for each in [each for each in held if each.kind in ALONE and "." not in each.source and not each.pinned]:
        found = read(each.value)
        if found is None:
            continue
        if (meets := theirs.meeting(found)) is not None:
            yield Finding(each.path, f"{each.value} overlaps {prefix(*meets)} of {names[meets]}")
        elif each.kind is not Kind.SUBNET and (meets := others.meeting(found)) is not None:
            what = f"{each.value} was given out, and holds {plain(meets)}, which the file writes elsewhere"
            yield Finding(each.path, what)


def _overlaps(owned: Iterable[Allocation | Resting]) -> Iterator[Finding]:
    rows = [
        (found.family, found.start, found.length, each.key, found.behind, each)
        for each in owned
        if each.kind in ALONE and "." not in each.source and (found := read(each.value)) is not None
    ]
    rows.sort()
    around: list[tuple[int, Allocation | Resting]] = []
    """What reaches over the next row, up to which address."""
    before = ""
    for family, start, _, _, behind, each in rows:
        while around and (before != family or around[-1][0] <= start):
            around.pop()
        before = family
        for _, other in around:
            if (finding := _judge(each, other)) is not None:
                yield finding
                break
        around.append((behind, each))


def _judge(one: Allocation | Resting, other: Allocation | Resting) -> Finding | None:
    """What is wrong with two that meet, of which `other` is not the smaller one."""
    if isinstance(one, Allocation) and isinstance(other, Allocation):
        if one.pinned and other.pinned:
            return None
        mine, theirs = (other, one) if other.pinned else (one, other)  # what is written is at fault
        return Finding(mine.path, f"{mine.value} overlaps {theirs.value} of {theirs.key}")
    if isinstance(one, Resting) and isinstance(other, Resting):
        return None
    owner, rest = (one, other) if isinstance(one, Allocation) else (other, one)
    assert isinstance(owner, Allocation) and isinstance(rest, Resting)
    if owner.key == rest.key:
        return None  # its own, which a pin made wider or narrower
    what = f"{owner.value} overlaps {rest.value}, which {rest.key} gave up on {rest.freed} and which still rests"
    return Finding(owner.path, what)


def _doubles(held: Iterable[Allocation]) -> Iterator[Finding]:
    """Addresses of one prefix, and labels, that two have. What the file writes twice is judged when it is read."""
    single = [each for each in held if each.kind in _SINGLE]
    if len({each.value for each in single}) == len(single):
        return
    seen: dict[tuple[str, str], Allocation] = {}
    for each in single:
        other = seen.setdefault((each.source, each.value), each)
        if other is not each and not (each.pinned and other.pinned):
            first, second = sorted((each, other), key=lambda one: (one.pinned, one.key))  # what is written is at fault
            what = "the label" if each.kind is Kind.SPI_LABEL else "the address"
            yield Finding(second.path, f"{each.value} is also {what} of {first.key}")


def _rested(held: Iterable[Allocation], resting: Iterable[Resting]) -> Iterator[Finding]:
    """Addresses of one prefix, and labels, that one has while they rest for another. A plan gives none of them out."""
    rests = {(each.source, each.value): each for each in resting if each.kind is Kind.SPI_LABEL or each.kind in ADDRESSES}
    for each in held if rests else ():
        rest = rests.get((each.source, each.value))
        if rest is not None and each.pinned and each.key != rest.key and each.kind is not Kind.ROUTER_ID:
            yield Finding(each.path, f"{each.value} is what {rest.key} gave up on {rest.freed}, and still rests")
