"""Whether what is announced is valid by an export of VRPs (docs/prefixes.md): the file, the sentences, the table."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from anycast.cli.text_file import text_of
from anycast.prefixes.origins import Announcement, origins
from anycast.prefixes.rpki import Judged, Validity, judge, loose, unneeded
from anycast.prefixes.vrps import Export, Vrp, decode_vrps, spaces_around

Vrps = Annotated[
    Path | None,
    typer.Option(
        "--vrps",
        envvar="ANYCAST_VRPS",
        metavar="EXPORT",
        help="VRPs as `routinator vrps -f json` or rpki-client write them: nothing is announced that these make invalid.",
    ),
]
_OLD = datetime.timedelta(hours=24)
"""A validator runs every ten minutes or every hour; a day means that it has stopped."""


@dataclasses.dataclass(frozen=True, slots=True)
class Verdicts:
    """Every announcement, judged by one export."""

    export: Export
    rows: tuple[Judged, ...]
    notes: tuple[str, ...]

    @property
    def invalid(self) -> list[Judged]:
        return [row for row in self.rows if row.validity is Validity.INVALID]

    def lines(self) -> Iterator[str]:
        yield ""
        head = ("site", "prefix", "origin", "RPKI", "why")
        rows = [(row.announcement.site, row.announcement.prefix, f"AS {row.announcement.origin}") for row in self.rows]
        said = [(*left, str(row.validity), row.why) for left, row in zip(rows, self.rows, strict=True)]
        widths = [max(len(line[i]) for line in (head, *said)) for i in range(len(head))]
        for line in (head, *said):
            yield "  " + "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for note in self.notes:
            yield f"note: {note}"

    def shown(self) -> dict[str, Any]:
        """For programs."""
        return {
            "generated": None if self.export.generated is None else self.export.generated.isoformat(),
            "vrps": self.export.total,
            "notes": self.notes,
            "announcements": [
                {
                    **row.announcement._asdict(),
                    "validity": str(row.validity),
                    "why": row.why,
                    "covering": [vrp._asdict() for vrp in row.covering],
                }
                for row in self.rows
            ],
        }


def judged_by(path: Path, told: Iterable[Announcement]) -> Verdicts:
    """Raises ConfigError where the export cannot be used."""
    told = list(told)
    now = datetime.datetime.now(datetime.UTC)
    export = decode_vrps(text_of(path), spaces_around(each.range for each in told), now, file=str(path))
    rows = tuple(judge(told, export.vrps))
    return Verdicts(export, rows, tuple(_notes(path, export, rows, told, now)))


def refusals(path: Path | None, told: Iterable[Announcement]) -> list[str]:
    """Why it must not be announced: a sentence for each invalid prefix and origin. None where there is no export."""
    if path is None:
        return []
    said: dict[str, list[str]] = {}
    found = judged_by(path, told)
    if (age := _age(path, found.export, datetime.datetime.now(datetime.UTC))) is not None:
        typer.echo(f"note: {age}", err=True)
    for row in found.invalid:
        what = f"{row.announcement.prefix} from AS {row.announcement.origin} would be RPKI-invalid: {row.why}"
        said.setdefault(what, []).append(row.announcement.site)
    return [f"at {', '.join(sites)}: {what}" for what, sites in said.items()]


def _notes(
    path: Path, export: Export, rows: Iterable[Judged], told: list[Announcement], now: datetime.datetime
) -> Iterator[str]:
    if (age := _age(path, export, now)) is not None:
        yield age
    if export.expired:
        yield f"{path} has {export.expired} VRPs about this fleet that have expired; they count for nothing"
    for each, vrp in sorted(set(loose(rows))):
        yield (
            f"{vrp.prefix} is authorised for AS {vrp.asn} up to /{vrp.max_length}, and only {each.prefix} is announced:"
            " whoever forges that origin announces longer prefixes validly (RFC 9319); a ROA without maxLength closes that"
        )
    spoken: set[Vrp] = {vrp for _, vrp in loose(rows)}
    for vrp in unneeded(origins(told), export.vrps, {each.origin for each in told}):
        if vrp not in spoken:
            yield f"{vrp.prefix} is authorised for AS {vrp.asn}, and this fleet does not announce it"


def _age(path: Path, export: Export, now: datetime.datetime) -> str | None:
    """What is to be said of an export that may be of another time."""
    if export.generated is None:
        return f"{path} does not say when it was made"
    if (age := now - export.generated) > _OLD:
        return f"{path} was made {age.days} d {age.seconds // 3600} h ago; what was authorised since is not in it"
    return None
