"""The fleet's address space as one picture (SVG 1.1): a bar a block, in it what is given out, what rests, what is free.

Widths are the addresses' own within each block, so that a hole is seen as a hole; what would be narrower than a hair is
drawn as one. It is read on 400 pixels and on 1,280, and printed without colour: kinds differ by lines and letters, too. No
script, no font, no reference to anything outside the file. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from xml.sax.saxutils import escape

from anycast.fleet.schema import Fleet
from anycast.prefixes.allocation import PREFIXES, Allocation, Kind, Lock, Resting
from anycast.prefixes.numbers import Range, read

# Drawn 480 units wide and scaled to whatever room there is: letters of 12 are 10 pixels high on 400, 32 on 1,280.
WIDTH, BAR, GAP, LEFT = 440, 30, 40, 20
LETTERS = 12
_COLUMNS, _ROW = 3, 20
_LINE = 62
"""Characters of a line of text."""
_HAIR = 0.6
"""Of a prefix that is too small to be seen."""
_WIDE = 12
"""What has room for its letter."""


class Look(NamedTuple):
    """How a kind is told from the others: by its colour, by its lines where there is none, by its letter."""

    name: str
    letter: str
    colour: str
    lines: str
    """An SVG path in a tile of 8 by 8."""
    ink: str = "#000000"


LOOKS = {
    Kind.COVERING: Look("covering", "A", "#d9818a", "M0 4H8 M4 0V8"),
    Kind.UNICAST_PREFIX: Look("unicast prefix", "U", "#e9b08c", "M0 8L8 0"),
    Kind.POOL: Look("pool", "P", "#9db5dc", "M0 4H8"),
    Kind.SUBNET: Look("subnet", "S", "#9fd0ae", "M4 0V8"),
    Kind.TUNNEL: Look("tunnel", "T", "#bdb3dd", "M0 0L8 8"),
}
_RESTS = Look("rests", "r", "#d0d0d0", "M0 0L8 8 M0 8L8 0")
_OTHERS = Look("of others", "x", "#404040", "", "#ffffff")
_FREE = Look("free", "", "#ffffff", "")
_ALL = (*LOOKS.values(), _RESTS, _OTHERS, _FREE)


def picture(fleet: Fleet, lock: Lock) -> str:
    """The whole file. A fleet without blocks has an empty one."""
    blocks = {} if fleet.addressing is None else fleet.addressing.blocks
    top = 10 + _ROW * -(-len(_ALL) // _COLUMNS)
    height = top + len(blocks) * (BAR + GAP) + 10
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 2 * LEFT} {height}" width="100%"'
        f' font-family="sans-serif" font-size="{LETTERS}">',
        f"<title>{escape(f'Address space of fleet {fleet.fleet}')}</title>",
        "<defs>",
        *(_tile(look) for look in _ALL),
        "</defs>",
        f'<rect width="{WIDTH + 2 * LEFT}" height="{height}" fill="#ffffff"/>',
    ]
    for number, look in enumerate(_ALL):
        x, y = LEFT + number % _COLUMNS * WIDTH // _COLUMNS, 8 + number // _COLUMNS * _ROW
        lines.append(f'<rect x="{x}" y="{y}" width="16" height="16" fill="{_fill(look)}" stroke="#666666"/>')
        lines += _letter(x, y, 16, 16, look)
        lines.append(f'<text x="{x + 22}" y="{y + 12}">{escape(look.name)}</text>')
    for number, (name, block) in enumerate(blocks.items()):
        around = read(str(block.prefix))
        assert around is not None
        bar = top + GAP + number * (BAR + GAP)
        for line, said in enumerate((f"{name}: {block.prefix}", f"for {', '.join(block.use)}")):
            text = said if len(said) <= _LINE else said[: _LINE - 1] + "…"
            lines.append(f'<text x="{LEFT}" y="{bar - 20 + 14 * line}">{escape(text)}</text>')
        lines.append(f'<rect x="{LEFT}" y="{bar}" width="{WIDTH}" height="{BAR}" fill="{_fill(_FREE)}" stroke="#666666"/>')
        lines += _pieces(around, bar, fleet, lock)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _tile(look: Look) -> str:
    path = f'<path d="{look.lines}" stroke="#000000" stroke-opacity="0.45" fill="none"/>' if look.lines else ""
    return (
        f'<pattern id="{_id(look)}" width="8" height="8" patternUnits="userSpaceOnUse">'
        f'<rect width="8" height="8" fill="{look.colour}"/>{path}</pattern>'
    )


def _id(look: Look) -> str:
    return look.name.replace(" ", "-")


def _fill(look: Look) -> str:
    return f"url(#{_id(look)})"


def _letter(x: float, y: float, width: float, height: float, look: Look) -> Iterator[str]:
    if look.letter and width >= _WIDE:
        place = f'x="{x + width / 2:.3f}" y="{y + height / 2 + 4:.3f}" text-anchor="middle"'
        yield f'<text {place} font-weight="bold" fill="{look.ink}">{look.letter}</text>'


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
                yield from _piece(around, found, top, LOOKS[each.kind], f"{each.value}: {each.key}")


def _piece(around: Range, found: Range, top: int, look: Look, title: str) -> Iterator[str]:
    """What of `found` lies in the block."""
    if found.family != around.family or found.behind <= around.start or around.behind <= found.start:
        return
    size = around.behind - around.start
    first, behind = max(found.start, around.start), min(found.behind, around.behind)
    x, width = (first - around.start) * WIDTH / size, (behind - first) * WIDTH / size
    place = f'x="{LEFT + x:.3f}" y="{top}" width="{max(width, _HAIR):.3f}" height="{BAR}"'
    yield f'<rect {place} fill="{_fill(look)}" stroke="#000000" stroke-width="0.3"><title>{escape(title)}</title></rect>'
    yield from _letter(LEFT + x, top, width, BAR, look)
