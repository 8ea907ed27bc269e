"""Plans of addresses for eyes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from anycast.prefixes.advice import Fill, Note
from anycast.prefixes.allocation import Allocation, Kind, Resting
from anycast.prefixes.announcements import Announced
from anycast.prefixes.planning import FilePlan
from anycast.prefixes.renumber import Step
from anycast.prefixes.spi import SpiLabel

_MOST = 60
"""Rows of one table; the rest is counted. `--json` has all."""
_ORDER = ("freed", "moved", "grown", "renamed", "unpinned", "pinned", "returned", "new")
"""What somebody may have to do something about comes first."""


def changes(made: FilePlan, hash_: str) -> Iterator[str]:
    """What `anycast prefixes plan` prints."""
    if not made.changed:
        yield f"fleet {made.after.fleet}: nothing to do"
        return
    counted = Counter(each.what for each in made.changes)
    said = ", ".join(f"{counted[what]} {what}" for what in _ORDER if counted[what]) or "reasons only"
    yield f"fleet {made.after.fleet}: {said}"
    rows = [
        (each.what, each.key, each.before or "-", each.after or "-", made.after.held[each.key].why if each.after else "")
        for each in sorted(made.changes, key=lambda each: (_ORDER.index(each.what), each.key))
    ]
    yield from table(("what", "key", "before", "after", "why"), rows)
    yield f"plan {hash_}"


def allocations(rows: Sequence[Allocation], full: Sequence[Fill], resting: Sequence[Resting]) -> Iterator[str]:
    """What `anycast prefixes show` prints: everything, for it is what was asked for."""
    yield from table(
        ("key", "value", "from", "since", "why"),
        [(each.key, _value(each), each.source or "-", each.since, each.why) for each in rows],
        most=len(rows),
    )
    if full:
        yield ""
        yield from table(
            ("block", "prefix", "for", "taken", "largest free"),
            [
                (
                    each.block,
                    each.prefix,
                    ", ".join(each.uses),
                    f"{each.taken * 100 / each.size:.1f} %",
                    "nothing" if each.largest is None else f"/{each.largest}",
                )
                for each in full
            ],
        )
    if resting:
        yield ""
        yield from table(
            ("rests", "value", "since"), [(each.key, each.value, each.freed) for each in resting], most=len(resting)
        )


def count_of(made: FilePlan) -> str:
    return "1 change" if len(made.changes) == 1 else f"{len(made.changes)} changes"


def checked(file: Path, made: FilePlan, known: Sequence[Note]) -> Iterator[str]:
    """What `anycast prefixes check` prints, but for forecasts."""
    if made.changed:
        yield f"{file}: {count_of(made)} to the lock file; `anycast prefixes plan` shows them"
    else:
        yield f"{file}: good: {len(made.after.held)} values are in the lock file"
    for note in known:
        yield f"note: {note.key}: {note.what}"


def announced(rows: Sequence[Announced]) -> Iterator[str]:
    """What `anycast prefixes show --announcements` prints: a table a site."""
    for site in dict.fromkeys(row.site for row in rows):
        yield site
        yield from table(
            ("router", "AS", "side", "prefix", "origin", "next hop", "attributes", "purpose"),
            [
                (
                    row.router,
                    str(row.asn),
                    row.side,
                    row.prefix,
                    str(row.origin),
                    ", ".join(row.next_hops) or "-",
                    row.attributes or "-",
                    row.purpose,
                )
                for row in rows
                if row.site == site
            ],
            most=len(rows),
        )


def steps(found: Sequence[Step]) -> Iterator[str]:
    """What `anycast prefixes renumber` prints."""
    for number, step in enumerate(found, start=1):
        yield f"{number}. when {step.before}"
        for key, value in step.write.items():
            yield f"   write    {key}: {value}" if value else f"   take out {key}"
        yield f"   then     {step.what}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, most: int = _MOST) -> Iterator[str]:
    lines = [head, *rows[:most]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        yield "  " + "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
    if len(rows) > most:
        yield f"  and {len(rows) - most} more; --json has all"


def _value(each: Allocation) -> str:
    return f"{each.value} ({SpiLabel(int(each.value))})" if each.kind is Kind.SPI_LABEL else each.value
