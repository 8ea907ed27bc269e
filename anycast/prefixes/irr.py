"""Route objects of an Internet Routing Registry for what a fleet announces: `route` (RFC 2622), `route6` (RFC 4012). Pure.

Upstreams build their filters from them, so one that is missing is a prefix that they drop. A dump is compared by what
filters are made from: prefix, origin, source; and by the maintainers, who can change it. Remarks and descriptions are
people's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from anycast.fleet.irr import Irr
from anycast.prefixes.numbers import Range, read
from anycast.prefixes.origins import Origin

_ATTRIBUTE = re.compile(r"([A-Za-z][A-Za-z0-9_-]*):(.*)", re.DOTALL)
_ORIGIN = re.compile(r"AS(0|[1-9][0-9]{0,9})", re.IGNORECASE)


class RouteObject(NamedTuple):
    prefix: str
    asn: int
    source: str
    """In capitals."""
    mnt_by: tuple[str, ...]
    """In capitals, sorted."""
    line: int = 0
    """Where it begins in its dump."""

    @property
    def range(self) -> Range:
        found = read(self.prefix)
        assert found is not None
        return found


class Difference(NamedTuple):
    """Between the plan and a dump."""

    kind: Literal["missing", "different", "extra", "elsewhere"]
    """``missing``: not in the registry. ``different``: other maintainers than the fleet file's. ``extra``: in the fleet's
    space, not announced. ``elsewhere``: another registry lets somebody announce in the fleet's space."""
    prefix: str
    asn: int
    what: str
    """One sentence."""


def wanted_objects(wanted: Iterable[Origin], irr: Irr) -> list[RouteObject]:
    return [RouteObject(each.prefix, each.asn, irr.source.upper(), _names(irr.mnt_by)) for each in wanted]


def encode_objects(wanted: Iterable[Origin], irr: Irr, fleet: str) -> str:
    """RPSL as registries take it: attributes in their usual order, an empty line between objects."""
    blocks = []
    for each in wanted:
        rows = [
            ("route6" if ":" in each.prefix else "route", each.prefix),
            ("descr", f"{fleet}: {', '.join(each.keys)}"),
            ("origin", f"AS{each.asn}"),
            *(("mnt-by", name) for name in irr.mnt_by),
            ("source", irr.source),
        ]
        blocks.append("".join(f"{name + ':':16}{value}\n" for name, value in rows))
    return "\n".join(blocks)


def decode_dump(lines: Iterable[str], own: Iterable[Range]) -> Iterator[RouteObject]:
    """The route objects of a dump that lie in one of `own`, as they come.

    Objects of other classes, and those that are no whole route object, are passed over: a dump is a registry's, and some of
    its objects are decades old. `lines`: with or without their ends.
    """
    spaces = sorted(set(own))
    for number, rows in _objects(lines):
        kind, value = rows[0]
        if (kind != "route" and kind != "route6") or "/" not in value:
            continue
        space = read(value)
        if space is None or (space.family == "ipv6") != (kind == "route6") or not any(each.holds(space) for each in spaces):
            continue
        found = {name: [text for key, text in rows if key == name] for name in ("origin", "source", "mnt-by")}
        origin = _ORIGIN.fullmatch(found["origin"][0]) if found["origin"] else None
        if origin is not None and found["source"]:
            source = found["source"][0].upper()
            names = [name for text in found["mnt-by"] for name in text.split(",")]
            yield RouteObject(value, int(origin[1]), source, _names(names), number)


def _objects(lines: Iterable[str]) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """Attributes by object, with the line that it begins at (RFC 2622 section 2)."""
    begun, rows = 0, list[tuple[str, str]]()
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\r\n")
        if not line.strip():
            if rows:
                yield begun, rows
            rows = []
        elif line[0] in "%#":
            continue  # what a server says, and comments
        elif line[0] in " \t+":
            if rows:  # goes on with the attribute before
                name, value = rows[-1]
                rows[-1] = name, f"{value} {_bare(line[1:])}".strip()
        elif (match := _ATTRIBUTE.fullmatch(line)) is not None:
            begun = begun if rows else number
            rows.append((match[1].lower(), _bare(match[2])))
    if rows:
        yield begun, rows


def _bare(value: str) -> str:
    """Without its comment."""
    return value.partition("#")[0].strip()


def differences(wanted: Iterable[RouteObject], found: Iterable[RouteObject], own: Iterable[Range]) -> list[Difference]:
    """`own`: the fleet's public space, in which nobody else should have objects. Missing ones first."""
    wanted, found, own = list(wanted), list(found), list(own)
    source = wanted[0].source if wanted else ""
    needed = {(each.range, each.asn): each for each in wanted}
    here = {(each.range, each.asn): each for each in found if each.source == source}
    rows = []
    for key, each in needed.items():
        there = here.get(key)
        if there is None:
            rows.append(Difference("missing", each.prefix, each.asn, f"{source} has no such object"))
        elif there.mnt_by != each.mnt_by:
            what = f"line {there.line}: maintained by {_listed(there.mnt_by)}, not by {_listed(each.mnt_by)}"
            rows.append(Difference("different", each.prefix, each.asn, what))
    origins = {asn for _, asn in needed}
    for each in found:
        if (each.range, each.asn) in needed or not any(space.holds(each.range) for space in own):
            continue
        if each.source == source:
            what = f"line {each.line}: not announced by this fleet; maintained by {_listed(each.mnt_by)}"
            rows.append(Difference("extra", each.prefix, each.asn, what))
        else:
            whose = "announces it nowhere in this fleet" if each.asn in origins else "is not this fleet's"
            what = f"line {each.line}: in {each.source}; AS {each.asn} {whose}, and filters made from there let it announce"
            rows.append(Difference("elsewhere", each.prefix, each.asn, what))
    order = ("missing", "different", "extra", "elsewhere")
    return sorted(rows, key=lambda row: (order.index(row.kind), read(row.prefix), row.asn, row.what))


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({name.strip().upper() for name in names if name.strip()}))


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "nobody"
