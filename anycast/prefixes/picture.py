"""The fleet's address space as one picture (SVG 1.1): a bar a block, in it what is given out, what rests, what is free.

Widths are the addresses' own within each block, so that a hole is seen as a hole; what would be narrower than a hair is
drawn as one. No script, no font, no reference to anything outside the file. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

from anycast.fleet.schema import Fleet
from anycast.prefixes.allocation import PREFIXES, Allocation, Kind, Lock, Resting
from anycast.prefixes.numbers import Range, read

WIDTH, BAR, GAP, LEFT = 1000, 34, 26, 20
_HAIR = 0.6
"""Of a prefix that is too small to be seen."""
COLOURS = {
    Kind.COVERING: "#c44e52",
    Kind.UNICAST_PREFIX: "#dd8452",
    Kind.POOL: "#4c72b0",
    Kind.SUBNET: "#55a868",
    Kind.TUNNEL: "#8172b3",
}
_RESTS, _OTHERS, _FREE = "#999999", "#333333", "#f2f2f2"
_LEGEND = (
    *((str(kind).replace("_", " "), colour) for kind, colour in COLOURS.items()),
    ("rests", _RESTS),
    ("of others", _OTHERS),
    ("free", _FREE),
)


def picture(fleet: Fleet, lock: Lock) -> str:
    """The whole file. A fleet without blocks has an empty one."""
    blocks = {} if fleet.addressing is None else fleet.addressing.blocks
    height = 2 * GAP + len(blocks) * (BAR + GAP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + 2 * LEFT}" height="{height}"'
        ' font-family="sans-serif" font-size="12">',
        f"<title>{escape(f'Address space of fleet {fleet.fleet}')}</title>",
    ]
    at = LEFT
    for name, colour in _LEGEND:
        lines.append(f'<rect x="{at}" y="8" width="12" height="12" fill="{colour}" stroke="#666666"/>')
        lines.append(f'<text x="{at + 16}" y="18">{escape(name)}</text>')
        at += 30 + 8 * len(name)
    for number, (name, block) in enumerate(blocks.items()):
        around = read(str(block.prefix))
        assert around is not None
        top = 2 * GAP + number * (BAR + GAP)
        said = f"{name}: {block.prefix}, for {', '.join(block.use)}"
        lines.append(f'<text x="{LEFT}" y="{top - 6}">{escape(said)}</text>')
        lines.append(f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{BAR}" fill="{_FREE}" stroke="#666666"/>')
        lines += _pieces(around, top, fleet, lock)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _pieces(around: Range, top: int, fleet: Fleet, lock: Lock) -> Iterator[str]:
    others = [] if fleet.addressing is None else fleet.addressing.foreign.items()
    for name, networks in others:
        for network in networks:
            if (found := read(str(network))) is not None:
                yield from _piece(around, found, top, _OTHERS, f"{network}: {name}")
    records: list[Allocation | Resting] = [*(lock.held[key] for key in sorted(lock.held)), *lock.resting]
    for each in records:
        if each.kind in PREFIXES or (each.kind is Kind.TUNNEL and "." not in each.source):
            found = read(each.value)
            if found is not None and isinstance(each, Resting):
                yield from _piece(around, found, top, _RESTS, f"{each.value}: was {each.key}, rests since {each.freed}")
            elif found is not None:
                yield from _piece(around, found, top, COLOURS[each.kind], f"{each.value}: {each.key}")


def _piece(around: Range, found: Range, top: int, colour: str, title: str) -> Iterator[str]:
    """What of `found` lies in the block."""
    if found.family != around.family or found.behind <= around.start or around.behind <= found.start:
        return
    size = around.behind - around.start
    first, behind = max(found.start, around.start), min(found.behind, around.behind)
    x, width = (first - around.start) * WIDTH / size, (behind - first) * WIDTH / size
    place = f'x="{LEFT + x:.3f}" y="{top}" width="{max(width, _HAIR):.3f}" height="{BAR}"'
    yield f'<rect {place} fill="{colour}" stroke="#ffffff" stroke-width="0.2"><title>{escape(title)}</title></rect>'
