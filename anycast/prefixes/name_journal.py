"""`fleet.dns` beside the fleet file: which records were written for the fleet, and what stood there before the last time.

It is written before an update is sent, so a crash between the two is a journal of something that did not happen, which a
look at the server shows; never an update that nobody remembers. A machine's record: unknown fields are ignored, unknown
names in `requires` are refused. Pure.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from anycast.errors import ConfigError, Problem
from anycast.fleet.values import show
from anycast.prefixes.name_changes import Change
from anycast.prefixes.names import Key, Records

VERSION = 1
MAX_CHARACTERS = 64 << 20


class Journal(NamedTuple):
    fleet: str
    written: dict[str, Records]
    """By the zone's name: what is the fleet's there."""
    last: dict[str, tuple[Change, ...]]
    """By the zone's name: what the last `apply` changed."""
    before: dict[str, Records]
    """`written` before the last `apply`."""


def empty(fleet: str) -> Journal:
    return Journal(fleet, {}, {}, {})


def encode_journal(journal: Journal) -> str:
    return (
        json.dumps(
            {
                "version": VERSION,
                "fleet": journal.fleet,
                "written": {zone: _records(found) for zone, found in journal.written.items() if found},
                "before": {zone: _records(found) for zone, found in journal.before.items() if found},
                "last": {
                    zone: [
                        {
                            "name": each.key.name,
                            "type": each.key.type,
                            "before": sorted(each.before),
                            "before_ttl": each.before_ttl,
                            "after": sorted(each.after),
                            "after_ttl": each.after_ttl,
                        }
                        for each in changes
                    ]
                    for zone, changes in journal.last.items()
                },
            },
            indent=1,
            sort_keys=True,
            ensure_ascii=False,
        )
        + "\n"
    )


def _records(found: Records) -> list[dict[str, Any]]:
    held = sorted((key, values) for key, values in found.items() if values)
    return [{"name": key.name, "type": key.type, "values": sorted(values)} for key, values in held]


def decode_journal(text: str, *, file: str = "fleet.dns") -> Journal:
    """Raises ConfigError."""
    try:
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"is longer than {MAX_CHARACTERS >> 20} million characters")
        found = json.loads(text)
        if not isinstance(found, dict) or found.get("version") != VERSION:
            raise ValueError(f"is no journal of version {VERSION}; `anycast prefixes dns apply` writes one")
        if found.get("requires"):
            raise ValueError(f"requires {show(str(found['requires']))}, which is unknown to this version")
        return Journal(
            _text(found["fleet"]),
            {_text(zone): _decoded(rows) for zone, rows in found["written"].items()},
            {_text(zone): tuple(_change(row) for row in rows) for zone, rows in found["last"].items()},
            {_text(zone): _decoded(rows) for zone, rows in found["before"].items()},
        )
    except json.JSONDecodeError as exc:
        raise ConfigError([Problem("", f"is not JSON: {exc.msg.lower()}", file, exc.lineno, exc.colno)]) from exc
    except (KeyError, TypeError, AttributeError, RecursionError) as exc:
        what = "is no journal: fleet, written, last or before is lacking, or something else than it should be"
        raise ConfigError([Problem("", what, file)]) from exc
    except ValueError as exc:
        raise ConfigError([Problem("", str(exc), file)]) from exc


def _decoded(rows: Any) -> Records:
    return {_key(row): _values(row["values"]) for row in rows}


def _change(row: Any) -> Change:
    ttls = row["before_ttl"], row["after_ttl"]
    if any(type(ttl) is not int or ttl < 0 for ttl in ttls):
        raise ValueError("has a TTL that is no number")
    return Change(_key(row), _values(row["before"]), ttls[0], _values(row["after"]), ttls[1])


def _key(row: Any) -> Key:
    if row["type"] not in ("A", "AAAA", "PTR"):
        raise ValueError(f"has a record of type {show(str(row['type']))}; this program writes A, AAAA and PTR")
    return Key(_text(row["name"]), row["type"])


def _values(values: Any) -> frozenset[str]:
    return frozenset(_text(value) for value in values)


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"has {show(str(value))} where a text should be")
    return value
