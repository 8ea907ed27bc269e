"""A lock's records as a table (CSV, RFC 4180), for spreadsheets, and back without loss. Pure."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from anycast.errors import ConfigError, Problem
from anycast.prefixes.allocation import Allocation, Lock, Resting
from anycast.prefixes.lock import END, VERSION, decode_lock

COLUMNS = ("key", "kind", "value", "source", "pinned", "since", "freed", "why")


def rows_of(lock: Lock) -> list[dict[str, Any]]:
    """Every record as `fleet.lock` names its fields, by key; what rests comes behind what is held."""
    owned: list[Allocation | Resting] = [lock.held[key] for key in sorted(lock.held)]
    return [each._asdict() for each in [*owned, *lock.resting]]


def lock_of_rows(fleet: str, rows: list[dict[str, Any]], places: list[str], file: str) -> Lock:
    """A lock of records that came from elsewhere, judged as `fleet.lock` itself is. `places`: where each row stands in its
    `file`. Raises ConfigError with every row that means nothing."""
    lines = [{"fleet": fleet, "version": VERSION}, *rows]
    text = "\n".join([*(json.dumps(each, ensure_ascii=False) for each in lines), END])
    try:
        return decode_lock(text, file=file)
    except ConfigError as exc:
        raise ConfigError([Problem(places[each.line - 2], each.what, file) for each in exc.problems]) from exc


def encode_table(lock: Lock) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows_of(lock):
        if "pinned" in row:
            row["pinned"] = "yes" if row["pinned"] else "no"
        writer.writerow(row)
    return out.getvalue()


def decode_table(text: str, fleet: str, *, file: str = "records.csv") -> Lock:
    """The columns may stand in any order, and others beside them. Raises ConfigError."""
    try:
        reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
        found = reader.fieldnames or ()
        if missing := [column for column in COLUMNS if column not in found]:
            other = next((mark for mark in ";\t" if len(found) == 1 and found[0].count(mark) >= len(COLUMNS) - 1), "")
            hint = f"is separated by {'semicolons' if other == ';' else 'tabs'}; save it with commas" if other else ""
            what = hint or f"has no column {', '.join(missing)}; the first line names the columns: {','.join(COLUMNS)}"
            raise ConfigError([Problem("", what, file, 1, 1)])
        rows, places, problems = [], [], []
        for row in reader:
            place = f"line {reader.line_num}"
            if None in row or None in row.values():
                problems.append(Problem(place, f"has not {len(found)} fields as the first line", file))
            elif row["pinned"] not in ("yes", "no", ""):
                problems.append(Problem(place, "pinned is yes or no, and empty where it is freed", file))
            else:
                rows.append(_record(row))
                places.append(place)
    except csv.Error as exc:
        raise ConfigError([Problem("", f"is no CSV: {exc}", file, reader.line_num, 1)]) from exc
    if problems:
        raise ConfigError(problems)
    return lock_of_rows(fleet, rows, places, file)


def _record(row: dict[str, str]) -> dict[str, Any]:
    record: dict[str, Any] = {name: row[name] for name in ("key", "kind", "value", "source")}
    if row["freed"]:
        return {**record, "freed": row["freed"]}
    return {**record, "pinned": row["pinned"] == "yes", "since": row["since"], "why": row["why"]}
