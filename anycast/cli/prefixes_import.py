"""`anycast prefixes import`: records that come back from a spreadsheet or from NetBox (docs/prefixes.md)."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from anycast.cli.fleet import FleetFile
from anycast.cli.prefixes import PrefixesExit
from anycast.cli.prefixes_table import table
from anycast.cli.text_file import alone, text_of
from anycast.errors import ConfigError, Problem
from anycast.fleet.loading import load_lock, lock_of, read_text
from anycast.fleet.schema import Fleet
from anycast.pki import files
from anycast.prefixes.allocation import Lock, nothing
from anycast.prefixes.lock import encode_lock
from anycast.prefixes.netbox import Foreign, Imported, decode_answers
from anycast.prefixes.numbers import read
from anycast.prefixes.planning import plan_file
from anycast.prefixes.record_table import decode_table, rows_of
from anycast.prefixes.wants import Declared


class _Row(NamedTuple):
    what: str
    """``new``, ``gone``, ``different``."""
    key: str
    here: str
    there: str


def import_(
    file: FleetFile,
    table_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Records as `export --csv` writes them.")
    ] = None,
    netbox: Annotated[
        list[Path] | None,
        typer.Option(
            "--netbox", metavar="FILE", help="What NetBox's REST interface answered (?limit=0); once for each endpoint."
        ),
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Put these records in place of the lock file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Compare records from elsewhere with the lock file; with --write put them in its place, if a plan can be made of them.

    What of NetBox is not this fleet's and lies in its blocks is shown as `addressing.foreign` would have it. Exit status: 0
    the same, or written; 3 they differ; 2 a file or the command line cannot be used, or the records contradict the fleet
    file: nothing is written then.
    """
    if (table_file is None) == (not netbox):
        raise ConfigError([Problem("", "say where the records come from: --csv FILE, or --netbox FILE for each endpoint")])
    with alone(file):
        text, today = read_text(file), datetime.datetime.now(datetime.UTC).date()
        here = load_lock(lock_of(file))
        fleet = plan_file(text, here, today, file=str(file)).fleet
        if table_file is not None:
            found = Imported(decode_table(text_of(table_file), fleet.fleet, file=str(table_file)), ())
        else:
            found = decode_answers([(str(path), text_of(path)) for path in netbox or ()], fleet)
        rows = _differences(here or nothing(fleet.fleet), found.lock)
        planned = plan_file(text, found.lock, today, file=str(file))  # raises where they contradict something
        others = _in_blocks(fleet, found.foreign)
        if as_json:
            _print(rows, others, found.unkept)
        else:
            for line in _lines(rows, others, len(found.lock.held)):
                typer.echo(line)
            if found.unkept:
                said = ", ".join(f"{name} ({count})" for name, count in found.unkept)
                typer.echo(f"note: only in NetBox, and kept by no record, of so many of the fleet's objects: {said}")
        if write and here is not None and (lost := _lost(here, found.lock, planned.wanted)):
            raise ConfigError([Problem("--write", lost, str(table_file or ", ".join(map(str, netbox or ()))))])
        if write and rows:
            files.write(lock_of(file), encode_lock(found.lock).encode(), files.PUBLIC)
            typer.echo(f"{lock_of(file)}: {len(rows)} records changed", err=True)
    raise typer.Exit(PrefixesExit.CHANGES if rows and not write else PrefixesExit.NOTHING)


def _lost(here: Lock, there: Lock, wanted: Declared) -> str:
    """What is given out, asked for by the fleet file, and not in an import. Once written, the next plan would give it
    out anew: a table that was cut off, or an answer of NetBox that permissions kept short, would move a fleet."""
    gone = [key for key in sorted(here.held.keys() - there.held.keys()) if (want := wanted.wants.get(key)) and not want.pin]
    if not gone:
        return ""
    count = "1 record is" if len(gone) == 1 else f"{len(gone)} records are"
    named = ", ".join(gone[:3]) + (" …" if len(gone) > 3 else "")
    return (
        f"has not all that the fleet file asks for and the lock file gave out: {count} missing ({named});"
        " what is to go is taken out of the fleet file, and rests then"
    )


def _differences(here: Lock, there: Lock) -> list[_Row]:
    mine, theirs = ({_key(row): row for row in rows_of(lock)} for lock in (here, there))
    rows = []
    for key in sorted(mine.keys() | theirs.keys()):
        one, other = mine.get(key), theirs.get(key)
        if one is None or other is None:
            values = ["" if row is None else str(row["value"]) for row in (one, other)]
            rows.append(_Row("new" if one is None else "gone", key[0], *values))
        elif one != other:
            differ = [name for name in one if one[name] != other.get(name)]
            said = [", ".join(f"{name}: {row.get(name)}" for name in differ) for row in (one, other)]
            rows.append(_Row("different", key[0], said[0], said[1]))
    return rows


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    """Of what rests, a key may have several."""
    return (row["key"], row["freed"], row["value"]) if "freed" in row else (row["key"], "", "")


def _in_blocks(fleet: Fleet, foreign: Sequence[Foreign]) -> list[Foreign]:
    """Others' objects in the fleet's blocks, but for the blocks themselves and what is declared as others'."""
    if fleet.addressing is None:
        return []
    blocks = [found for block in fleet.addressing.blocks.values() if (found := read(str(block.prefix))) is not None]
    known = [found for many in fleet.addressing.foreign.values() for each in many if (found := read(str(each))) is not None]
    return [
        each
        for each in foreign
        if any(block.holds(each.range) and block != each.range for block in blocks)
        and not any(other.holds(each.range) for other in known)
    ]


def _lines(rows: Sequence[_Row], others: Sequence[Foreign], count: int) -> Iterator[str]:
    if rows:
        yield from table(("what", "key", "lock file", "import"), [tuple(text or "-" for text in row) for row in rows])
    else:
        yield f"good: all {count} records are as in the lock file"
    if others:
        yield "note: these are in the fleet's blocks and not the fleet's; so that nothing is taken from them, write"
        yield "addressing:"
        yield "  foreign:"
        yield f"    netbox: [{', '.join(_quoted(each) for each in others)}]"


def _quoted(each: Foreign) -> str:
    start, length = each.text.partition("/")[0], each.range.length
    return f'"{start}/{length}"' if ":" in start else f"{start}/{length}"


def _print(rows: Sequence[_Row], others: Sequence[Foreign], unkept: Sequence[tuple[str, int]]) -> None:
    shown = {
        "version": 1,
        "changes": [row._asdict() for row in rows],
        "foreign": [{"range": each.text, "what": each.what} for each in others],
        "unkept": dict(unkept),
    }
    typer.echo(json.dumps(shown, indent=2, sort_keys=True))
