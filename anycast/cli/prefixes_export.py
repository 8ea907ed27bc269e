"""`anycast prefixes export`: the plan in the words of those who must authorise or document it (docs/prefixes.md)."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from anycast.cli.fleet import FleetFile
from anycast.cli.prefixes_table import table
from anycast.errors import ConfigError, Problem
from anycast.fleet.loading import load, load_lock, lock_of
from anycast.fleet.schema import Fleet
from anycast.pki import files
from anycast.prefixes.allocation import Lock
from anycast.prefixes.irr import Difference, decode_dump, differences, encode_objects, wanted_objects
from anycast.prefixes.netbox import encode_objects as netbox_objects
from anycast.prefixes.origins import origins, public_announcements, public_space
from anycast.prefixes.record_table import encode_table


class ExportExit(enum.IntEnum):
    """Exit statuses of `anycast prefixes export`; also in its help and in docs/prefixes.md."""

    SAME = 0
    UNUSABLE = 2
    DIFFERENT = 3


def export(
    file: FleetFile,
    roas: Annotated[
        bool, typer.Option("--roas", help="The ROAs that the announcements need, as `krillc roas update --add` takes them.")
    ] = False,
    irr: Annotated[bool, typer.Option("--irr", help="The route and route6 objects that the announcements need.")] = False,
    dump: Annotated[
        Path | None,
        typer.Option(
            "--irr-dump", metavar="DUMP", help="With --irr: what a registry's dump (RPSL) lacks, has beyond or otherwise."
        ),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Every record of the lock file, for spreadsheets.")] = False,
    netbox: Annotated[
        bool, typer.Option("--netbox", help="Prefixes, IP addresses and ASNs as bodies for NetBox's REST interface (JSON).")
    ] = False,
    rir: Annotated[
        str, typer.Option("--rir", metavar="SLUG", help="With --netbox: the ASNs' RIR there, which it wants of each.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="With --roas or --irr-dump: JSON.")] = False,
) -> None:
    """Print what others need of the plan: one of the options says what. Changes nothing.

    Exit status: 0 printed, or the dump has what it should; 3 the dump differs; 2 a file or the command line cannot be used.
    """
    if dump is not None and not irr:
        raise ConfigError([Problem("--irr-dump", "is compared with the objects of --irr; add that")])
    if rir and not netbox:
        raise ConfigError([Problem("--rir", "is of ASNs in NetBox; add --netbox")])
    if [roas, irr, as_csv, netbox].count(True) != 1:
        raise ConfigError([Problem("", "say what is to be exported, one of --roas, --irr, --csv, --netbox")])
    fleet = load(file)
    if as_csv:
        typer.echo(encode_table(_lock(file)), nl=False)
    elif netbox:
        made = netbox_objects(fleet, _lock(file), rir)
        typer.echo(json.dumps(made, indent=1, ensure_ascii=False))
        if made["asns"] and not rir:
            typer.echo("note: NetBox takes no ASN without a RIR; --rir SLUG names the one there", err=True)
    elif roas:
        _roas(fleet, as_json)
    elif dump is None:
        _irr(fleet, file)
    else:
        _compare(fleet, file, dump, as_json)


def _lock(file: Path) -> Lock:
    if (lock := load_lock(lock_of(file))) is None:
        raise ConfigError([Problem("", "is not there; `anycast prefixes apply` makes it", str(lock_of(file)))])
    return lock


def _roas(fleet: Fleet, as_json: bool) -> None:
    wanted = origins(public_announcements(fleet))
    if as_json:
        _print([{"asn": f"AS{each.asn}", "prefix": each.prefix, "keys": each.keys, "sites": each.sites} for each in wanted])
        return
    for each in wanted:
        typer.echo(f"{each.prefix} => {each.asn} # {', '.join(each.keys)} at {', '.join(each.sites)}")


def _irr(fleet: Fleet, file: Path) -> None:
    if fleet.irr is None:
        raise _no_irr(file)
    typer.echo(encode_objects(origins(public_announcements(fleet)), fleet.irr, fleet.fleet), nl=False)


def _compare(fleet: Fleet, file: Path, dump: Path, as_json: bool) -> None:
    if fleet.irr is None:
        raise _no_irr(file)
    own = public_space(fleet)
    wanted = wanted_objects(origins(public_announcements(fleet)), fleet.irr)
    try:
        _is_a_dump(dump)
        # Registries' dumps are of no one encoding; what is compared is ASCII.
        with dump.open(encoding="latin-1") as lines:
            found = list(decode_dump(lines, own))
    except OSError as exc:
        raise files.refused(dump, exc) from exc
    if not found:
        typer.echo(f"note: {dump} has no route object in this fleet's space; is it {fleet.irr.source}'s?", err=True)
    rows = differences(wanted, found, own)
    if as_json:
        _print([row._asdict() for row in rows])
    else:
        for line in _compared(rows, dump, len(wanted)):
            typer.echo(line)
    raise typer.Exit(ExportExit.DIFFERENT if rows else ExportExit.SAME)


def _is_a_dump(dump: Path) -> None:
    """Registries hand their dumps out compressed, and a download that failed leaves nothing: neither lacks our objects.
    Raises ConfigError, OSError."""
    with dump.open("rb") as file:
        head = file.read(2)
    if head == b"\x1f\x8b":
        raise ConfigError([Problem("", "is compressed; gunzip it first", str(dump))])
    if not head:
        raise ConfigError([Problem("", "is empty; a registry without this fleet's objects says that in words", str(dump))])


def _compared(rows: list[Difference], dump: Path, wanted: int) -> list[str]:
    if not rows:
        return [f"{dump}: good: all {wanted} objects are there, and no others in this fleet's space"]
    return [*table(("what", "prefix", "origin", "why"), [(row.kind, row.prefix, f"AS{row.asn}", row.what) for row in rows])]


def _no_irr(file: Path) -> ConfigError:
    what = "is missing: route objects need a registry and maintainers, irr: {source: RIPE, mnt_by: [EXAMPLE-MNT]}"
    return ConfigError([Problem("irr", what, str(file))])


def _print(rows: Any) -> None:
    typer.echo(json.dumps({"version": 1, "rows": rows}, indent=2, sort_keys=True))
