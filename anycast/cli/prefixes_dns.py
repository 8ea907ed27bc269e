"""`anycast prefixes dns`: the fleet's names in its zones, by signed updates (docs/prefixes.md)."""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from anycast.cli.fleet import FleetFile
from anycast.cli.name_server import NotChanged, Primary
from anycast.cli.prefixes_table import table
from anycast.cli.text_file import alone, text_of
from anycast.content.canonical import hash_of
from anycast.errors import ConfigError, PeerError, Problem
from anycast.fleet import yaml_text
from anycast.fleet.finding import Finding
from anycast.fleet.loading import load, located
from anycast.fleet.name_zones import Dns, Zone
from anycast.fleet.schema import Fleet
from anycast.pki import files
from anycast.prefixes.name_changes import Change, Diff, diff, keys_to_look_at, way_back
from anycast.prefixes.name_journal import Journal, decode_journal, empty, encode_journal
from anycast.prefixes.names import Names, Records, names
from anycast.prefixes.tsig_keys import TsigKey, decode_keys

app = typer.Typer(
    help="The names of service, sites and gateways in the zones of the fleet file's `dns`: forward and reverse. Only these"
    " zones and names are looked at and written; what is somebody else's there stays.",
    no_args_is_help=True,
)


class DnsExit(enum.IntEnum):
    """Exit statuses; also in the commands' help and in docs/prefixes.md."""

    NOTHING = 0
    REFUSED = 1
    UNUSABLE = 2
    CHANGES = 3


KeyFile = Annotated[
    Path,
    typer.Option("--key-file", envvar="ANYCAST_DNS_KEY_FILE", metavar="PATH", help="TSIG keys, readable by its owner only."),
]
Replace = Annotated[
    bool, typer.Option("--replace", help="What is somebody else's at the fleet's names goes. Without it, it stays.")
]


class _Looked(NamedTuple):
    """What the zones have, and what they would get."""

    names: Names
    journal: Journal
    diffs: dict[str, Diff]
    """By the zone's key in the fleet file."""
    left: tuple[str, ...]
    """What the journal has in zones that the fleet file has no more."""

    @property
    def problems(self) -> list[str]:
        return [each for found in self.diffs.values() for each in found.problems]

    @property
    def changes(self) -> dict[str, tuple[Change, ...]]:
        return {zone: found.changes for zone, found in self.diffs.items() if found.changes}


@app.command()
def plan(
    file: FleetFile, key_file: KeyFile, replace: Replace = False, as_json: Annotated[bool, typer.Option("--json")] = False
) -> None:
    """Show what would change in each zone. Changes nothing.

    Exit status: 0 nothing to do, 3 there is something to do, 1 refused (every reason is said), or a server does not answer
    as it should, 2 a file or the command line cannot be used.
    """
    fleet, dns = _fleet(file)
    looked = _look(file, fleet, dns, _keys(key_file, dns, file), replace)
    if as_json:
        typer.echo(json.dumps(_shown(looked, dns), indent=2, sort_keys=True))
    else:
        for line in _lines(looked, dns):
            typer.echo(line)
    for problem in looked.problems:
        typer.echo(f"refused: {problem}", err=True)
    raise typer.Exit(DnsExit.REFUSED if looked.problems else DnsExit.CHANGES if looked.changes else DnsExit.NOTHING)


@app.command()
def apply(
    file: FleetFile,
    key_file: KeyFile,
    replace: Replace = False,
    expect: Annotated[str | None, typer.Option(metavar="HASH", help="The plan that was reviewed, and no other.")] = None,
) -> None:
    """Write the names: each zone whole, or not at all if somebody changed it since it was looked at.

    What stood there before is recorded first, in the journal beside the fleet file (FILE with .dns), for `rollback`. Exit
    status: 0 written, or nothing to do; 1 refused, or a server does not do as it should: it is said which zones were
    written; 2 a file or the command line cannot be used.
    """
    fleet, dns = _fleet(file)
    keys = _keys(key_file, dns, file)
    with alone(file):
        looked = _look(file, fleet, dns, keys, replace)
        if expect is not None and expect != _hash(looked, dns):
            raise PeerError(str(file), f"comes to {_hash(looked, dns)}, not what was reviewed; nothing was written")
        if looked.problems:
            for problem in looked.problems:
                typer.echo(f"refused: {problem}", err=True)
            raise typer.Exit(DnsExit.REFUSED)
        journal = _begun(looked, dns)
        _write(file, journal)

        def settled(zone: str) -> None:
            journal.written[dns.zones[zone].name] = looked.names.zones[zone]
            _write(file, journal)

        sent = _send(dns, keys, looked.changes, settled)
        if sent.refused and not (sent.written or sent.unknown):
            _write(file, looked.journal)  # nothing happened: what was done before can still be taken back
    raise typer.Exit(DnsExit.NOTHING if sent.whole else DnsExit.REFUSED)


@app.command()
def rollback(
    file: FleetFile,
    key_file: KeyFile,
    dry: Annotated[bool, typer.Option("--dry-run", help="Show what would be restored, and change nothing.")] = False,
) -> None:
    """Restore what stood in the zones before the last `apply`: each zone whole, or not at all if somebody changed it since.

    Exit status: 0 restored, or nothing to restore; 3 with --dry-run: there is something; 1 refused, or a server does not do
    as it should; 2 a file or the command line cannot be used.
    """
    fleet, dns = _fleet(file)
    keys = _keys(key_file, dns, file)
    with alone(file):
        journal = _journal(file, fleet)
        by_name = {zone.name: key for key, zone in dns.zones.items()}
        back: dict[str, tuple[Change, ...]] = {}
        problems = []
        for name, done in journal.last.items():
            if name not in by_name:
                problems.append(f"{name} is no longer one of dns.zones: it is not touched")
                continue
            zone = dns.zones[by_name[name]]
            with Primary(name, str(zone.server), zone.port, keys[by_name[name]]) as primary:
                changes, found = way_back(done, primary.look([each.key for each in done]))
            problems += found
            if changes and not found:
                back[by_name[name]] = tuple(changes)
        for line in _changes(back, dns):
            typer.echo(line)
        for problem in problems:
            typer.echo(f"refused: {problem}", err=True)
        if dry:
            raise typer.Exit(DnsExit.REFUSED if problems else DnsExit.CHANGES if back else DnsExit.NOTHING)
        sent = _send(dns, keys, back, lambda _: None)
        if not problems and sent.whole:
            _write(file, Journal(journal.fleet, journal.before, {}, {}))
    raise typer.Exit(DnsExit.NOTHING if sent.whole and not problems else DnsExit.REFUSED)


def journal_of(file: Path) -> Path:
    """Beside the fleet file: ``fleet.dns``."""
    return file.with_suffix(".dns")


def _fleet(file: Path) -> tuple[Fleet, Dns]:
    fleet = load(file)
    if fleet.dns is None:
        what = "is missing: names need a domain and zones to write them into (docs/prefixes.md)"
        raise ConfigError([Problem("dns", what, str(file))])
    return fleet, fleet.dns


def _keys(path: Path, dns: Dns, file: Path) -> dict[str, TsigKey]:
    """Of each zone."""
    data = files.read(path, "make one with tsig-keygen, and let the server know it", secret=True)
    try:
        found = decode_keys(data.decode())
    except UnicodeDecodeError as exc:
        raise ConfigError([Problem("", "not UTF-8", str(path))]) from exc
    except ValueError as exc:
        raise ConfigError([Problem("", str(exc), str(path))]) from exc
    named = {key: zone.key.lower() if zone.key else next(iter(found)) for key, zone in dns.zones.items()}
    problems = [
        Finding(("dns", "zones", key, "key"), f"{name} is none of the keys in {path} ({', '.join(found)})")
        for key, name in named.items()
        if name not in found
    ]
    if len(found) > 1:
        problems += [
            Finding(("dns", "zones", key), f"says no key, and {path} has {len(found)}: write which ({', '.join(found)})")
            for key, zone in dns.zones.items()
            if zone.key is None
        ]
    if problems:
        raise ConfigError(located(problems, yaml_text.parse(text_of(file), file=str(file)), str(file)))
    return {key: found[name] for key, name in named.items()}


def _look(file: Path, fleet: Fleet, dns: Dns, keys: dict[str, TsigKey], replace: bool) -> _Looked:
    journal, wanted = _journal(file, fleet), names(fleet)
    ttl = int(dns.ttl.total_seconds())
    diffs = {}
    for key, zone in dns.zones.items():
        written = journal.written.get(zone.name, {})
        with Primary(zone.name, str(zone.server), zone.port, keys[key]) as primary:
            seen = primary.look(keys_to_look_at(wanted.zones[key], written), _progress(zone))
        diffs[key] = diff(wanted.zones[key], written, seen, ttl, replace=replace)
    declared = {zone.name for zone in dns.zones.values()}
    left = tuple(
        f"{len(found)} names of {name} stay: it is no longer one of dns.zones"
        for name, found in journal.written.items()
        if name not in declared and found
    )
    return _Looked(wanted, journal, diffs, left)


def _progress(zone: Zone) -> Callable[[int], None]:
    def say(count: int) -> None:
        if sys.stderr.isatty() and count % 500 == 0:
            typer.echo(f"{zone.name}: {count} names looked at", err=True)

    return say


def _journal(file: Path, fleet: Fleet) -> Journal:
    path = journal_of(file)
    if not path.exists():
        return empty(fleet.fleet)
    journal = decode_journal(text_of(path), file=str(path))
    if journal.fleet != fleet.fleet:
        raise ConfigError([Problem("", f"is the journal of fleet {journal.fleet}, not of {fleet.fleet}", str(path))])
    return journal


def _begun(looked: _Looked, dns: Dns) -> Journal:
    """Before anything is sent: what may be the fleet's is what was, and what will be."""
    before = looked.journal
    written = dict(before.written)
    for key, zone in dns.zones.items():
        wanted = looked.names.zones[key]
        written[zone.name] = _both(before.written.get(zone.name, {}), wanted) if key in looked.changes else wanted
    if not looked.changes:
        return before._replace(written=written)
    last = {dns.zones[key].name: changes for key, changes in looked.changes.items()}
    return Journal(before.fleet, written, last, before.written)


def _both(one: Records, other: Records) -> Records:
    return {key: one.get(key, frozenset()) | other.get(key, frozenset()) for key in one.keys() | other.keys()}


class _Sent(NamedTuple):
    """Zones, by what became of them."""

    written: list[str]
    refused: list[str]
    unknown: list[str]
    """The server did not answer: it may have done it."""

    @property
    def whole(self) -> bool:
        return not (self.refused or self.unknown)


def _send(
    dns: Dns, keys: dict[str, TsigKey], changes: dict[str, tuple[Change, ...]], settled: Callable[[str], None]
) -> _Sent:
    """One zone after the other; one that fails keeps none of the others from being written."""
    sent = _Sent([], [], [])
    for key, some in changes.items():
        zone = dns.zones[key]
        try:
            with Primary(zone.name, str(zone.server), zone.port, keys[key]) as primary:
                primary.change(some)
        except NotChanged as exc:
            typer.echo(f"refused: {exc}", err=True)
            sent.refused.append(key)
        except PeerError as exc:
            typer.echo(f"refused: {exc}; `anycast prefixes dns plan` shows whether it was changed", err=True)
            sent.unknown.append(key)
        else:
            sent.written.append(key)
            settled(key)
            typer.echo(f"{zone.name}: {len(some)} changes", err=True)
    if not changes:
        typer.echo("nothing to do", err=True)
    return sent


def _write(file: Path, journal: Journal) -> None:
    files.write(journal_of(file), encode_journal(journal).encode(), files.PUBLIC)


def _hash(looked: _Looked, dns: Dns) -> str:
    return hash_of(json.dumps(_rows(looked.changes, dns), sort_keys=True))


def _shown(looked: _Looked, dns: Dns) -> dict[str, Any]:
    """For programs."""
    return {
        "version": 1,
        "hash": _hash(looked, dns),
        "changes": _rows(looked.changes, dns),
        "foreign": [
            {"name": key.name, "type": key.type, "values": sorted(values)}
            for found in looked.diffs.values()
            for key, values in found.foreign
        ],
        "problems": looked.problems,
        "notes": [*looked.names.unplaced, *looked.left],
    }


def _rows(changes: dict[str, tuple[Change, ...]], dns: Dns) -> list[dict[str, Any]]:
    return [
        {
            "zone": dns.zones[zone].name,
            "name": each.key.name,
            "type": each.key.type,
            "before": sorted(each.before),
            "before_ttl": each.before_ttl,
            "after": sorted(each.after),
            "after_ttl": each.after_ttl,
        }
        for zone, some in changes.items()
        for each in some
    ]


def _lines(looked: _Looked, dns: Dns) -> Iterator[str]:
    yield from _changes(looked.changes, dns)
    if not looked.changes:
        yield f"nothing to do: {sum(len(found) for found in looked.names.zones.values())} names are as they should be"
    for found in looked.diffs.values():
        for key, values in found.foreign:
            yield f"note: {key.name} {key.type} {', '.join(sorted(values))} is not this fleet's, and stays"
    for note in (*looked.names.unplaced, *looked.left):
        yield f"note: {note}"
    if looked.changes:
        yield f"plan {_hash(looked, dns)}"


def _changes(changes: dict[str, tuple[Change, ...]], dns: Dns) -> Iterator[str]:
    """As a diff has it, a record a line."""
    for zone, some in changes.items():
        yield f"zone {dns.zones[zone].name}:"
        rows = []
        for each in some:
            retimed = each.before_ttl != each.after_ttl
            for value in sorted(each.before - (frozenset() if retimed else each.after)):
                rows.append(("-", each.key.name, str(each.before_ttl), each.key.type, value))
            for value in sorted(each.after - (frozenset() if retimed else each.before)):
                rows.append(("+", each.key.name, str(each.after_ttl), each.key.type, value))
        yield from table(("", "name", "TTL", "type", "value"), rows, most=len(rows))
