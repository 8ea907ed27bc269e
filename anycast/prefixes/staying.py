"""Which records go on as they are: nearly all of a plan, nearly every time, so this is asked with the fewest steps. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from anycast.prefixes.allocation import Allocation
from anycast.prefixes.numbers import WIDTH, Range, read
from anycast.prefixes.wants import Want


def stays(
    want: Want, old: Allocation, held: Mapping[str, Allocation], blocks: Mapping[tuple[str, str], Range]
) -> bool:
    """Whether it is certain that nothing of a record changes. False says nothing: then it is to be looked at.

    `held`: what lies around it has its place there already; `blocks`: by name and use.
    """
    # Taken apart at once: an attribute of each costs twice as much.
    _, kind, family, use, length, parent, pin, why, at, _ = want
    _, was, value, source, pinned, _, said = old
    if pin or pinned or at is not None or was is not kind or said != why:
        return False
    if use:
        around = blocks.get((source, use))
    elif source == parent and (record := held.get(parent)) is not None:
        around = read(record.value)
    else:
        return not family  # a number lies nowhere
    found = read(value)
    if around is None or found is None:
        return False
    there, start, shortest = around
    mine, first, own = found
    if not mine == there == family or not shortest <= own <= length:
        return False
    return (start ^ first) >> (WIDTH[mine] - shortest) == 0
