"""`anycast prefixes`: from the fleet file's blocks to its lock file (docs/prefixes.md)."""

from __future__ import annotations

import enum
import gc
import json
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from anycast.cli import prefixes_leases, prefixes_table
from anycast.cli.fleet import FleetFile
from anycast.cli.options import Credential, Root
from anycast.cli.origins import Vrps, judged_by, refusals
from anycast.cli.prefixes_day import On, day_of
from anycast.cli.prefixes_leases import Asked, LeasesFile
from anycast.cli.text_file import alone
from anycast.content.canonical import hash_of
from anycast.errors import ConfigError, PeerError, Problem
from anycast.fleet.loading import load, load_lock, lock_of, read_text
from anycast.fleet.schema import Fleet
from anycast.pki import files
from anycast.prefixes import renumber as moves
from anycast.prefixes.advice import fills, notes
from anycast.prefixes.allocation import site_of
from anycast.prefixes.announcements import announcements
from anycast.prefixes.forecast import Forecast
from anycast.prefixes.lock import encode_lock
from anycast.prefixes.origins import public_announcements
from anycast.prefixes.picture import picture
from anycast.prefixes.planning import FilePlan, plan_file, records_of

app = typer.Typer(
    help="Plan a fleet's addresses from its blocks: what the fleet file leaves out stands in the lock file beside it, and"
    " what stands there stays.",
    no_args_is_help=True,
)


class PrefixesExit(enum.IntEnum):
    """Exit statuses of `plan`, `check` and `apply`; also in their help and in docs/prefixes.md."""

    NOTHING = 0
    REFUSED = 1
    UNUSABLE = 2
    CHANGES = 3


Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")]


def _planned(file: Path, on: str | None) -> FilePlan:
    gc.disable()  # this process ends with all that it made; looking for rubbish among it took a third of the time
    lock = load_lock(lock_of(file))
    made = plan_file(read_text(file), lock, day_of(on), file=str(file))
    if lock is None:
        typer.echo(f"no {lock_of(file)} yet: planned from nothing", err=True)
    if note := _perhaps_renamed(made):
        typer.echo(note, err=True)
    return made


def _perhaps_renamed(made: FilePlan) -> str:
    """Whoever writes another name only gives up all that the site had, and seldom means it."""
    before, after = ({each.site for each in lock.held.values() if each.site} for lock in (made.before, made.after))
    said = {site for each in made.changes if each.what == "renamed" for site in (site_of(each.key), site_of(each.before))}
    gone, come = sorted(before - after - said), sorted(after - before - said)
    if not gone or not come:
        return ""
    goes, comes = (
        f"{', '.join(names)} {word}{'' if len(names) > 1 else ending}"
        for names, word, ending in ((gone, "go", "es"), (come, "come", "s"))
    )
    return f"note: {goes} and {comes}: a site under a new name says `formerly: {gone[0]}`, and keeps all"


@app.command()
def plan(file: FleetFile, as_json: Json = False, on: On = None, vrps: Vrps = None) -> None:
    """Show what the lock file would get, each with its reason. Changes nothing.

    Exit status: 0 nothing to do, 3 there is something to do, 1 refused: something would be announced that the VRPs make
    invalid, 2 the fleet file or the lock file cannot be used, or a block is too small; then every problem is said.
    """
    made = _planned(file, on)
    refused = refusals(vrps, public_announcements(made.fleet))
    if as_json:
        _print(_shown(made))
    else:
        for line in prefixes_table.changes(made, _hash(made)):
            typer.echo(line)
    for each in refused:
        typer.echo(f"refused: {each}", err=True)
    if refused:
        raise typer.Exit(PrefixesExit.REFUSED)
    raise typer.Exit(PrefixesExit.CHANGES if made.changed else PrefixesExit.NOTHING)


@app.command()
def apply(
    file: FleetFile,
    expect: Annotated[str | None, typer.Option(metavar="HASH", help="The plan that was reviewed, and no other.")] = None,
    on: On = None,
    vrps: Vrps = None,
) -> None:
    """Write the lock file, whole or not at all; commit it together with the fleet file.

    Exit status: 0 written, or nothing to do; 1 not the plan that was reviewed, or one that the VRPs make invalid; 2 as for
    `plan`. Nothing is written then.
    """
    with alone(file):
        made = _planned(file, on)
        if expect is not None and expect != _hash(made):
            raise PeerError(str(file), f"comes to plan {_hash(made)}, not the one that was reviewed; nothing was written")
        if refused := refusals(vrps, public_announcements(made.fleet)):
            for each in refused:
                typer.echo(f"refused: {each}", err=True)
            raise typer.Exit(PrefixesExit.REFUSED)
        path = lock_of(file)
        if made.changed:
            files.write(path, encode_lock(made.after).encode(), files.PUBLIC)
            typer.echo(f"{path}: {prefixes_table.count_of(made)}, plan {_hash(made)}; commit it with {file.name}", err=True)
        else:
            typer.echo(f"{path}: nothing to do", err=True)


@app.command()
def show(
    file: FleetFile,
    site: Annotated[str | None, typer.Option("--site", "-s", help="Only this site.")] = None,
    announced: Annotated[bool, typer.Option("--announcements", help="Who announces what to whom.")] = False,
    svg: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a picture of the address space there; only `--announcements` prints then."),
    ] = None,
    leases: LeasesFile = None,
    url: Asked = None,
    credential: Credential = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Show who has what, since when and why; without --site, how full the blocks are, too. Where a coordinator or leases are
    given, also how full the pools are, and when they run out.

    What the lock file lacks is not shown: `plan` shows that. Where the plan is refused, the records and the blocks are shown
    all the same, and the problems on standard error. `--announcements` and `--svg` want all of it good; the former needs no
    blocks.

    Exit status: 0 shown; 2 a file cannot be used; then what could be read is shown.
    """
    problems: ConfigError | None = None
    ahead: list[Forecast] = []
    try:
        made = _planned(file, None)
    except ConfigError as exc:
        if announced and (fleet := load(file)).addressing is None:  # who plans nothing announces all the same
            _known(site, fleet.sites, file)
            _announcements(fleet, site, as_json)
            return
        if announced or svg is not None:
            raise
        problems = exc
        asked, lock = records_of(read_text(file), load_lock(lock_of(file)), file=str(file))
    else:
        asked, lock = made.wanted, made.before
        if announced or svg is not None:
            if made.changed:
                what = "apply what there is to do first (`anycast prefixes plan` shows it)"
                raise ConfigError([Problem("", what, str(file))])
            _known(site, made.fleet.sites, file)
            if svg is not None:
                files.write(svg, picture(made.fleet, lock).encode(), files.PUBLIC)
            if announced:
                _announcements(made.fleet, site, as_json)
            return
        if leases is not None or url is not None:
            found = prefixes_leases.beside(made.fleet, leases, url, credential, root, day_of(None))
            ahead = [each for each in found if site in (None, each.site)]
    _known(site, {each.site for each in lock.held.values() if each.site} | asked.sites, file)
    rows = [each for key, each in sorted(lock.held.items()) if site is None or each.site == site]
    full = fills(asked.addressing, asked.reached, lock) if site is None else []
    resting = [each for each in lock.resting if site is None or each.site == site]
    if as_json:
        _print(
            {
                "version": 1,
                "held": [each._asdict() for each in rows],
                "blocks": [each._asdict() for each in full],
                "resting": [each._asdict() for each in resting],
                "forecasts": prefixes_leases.shown(ahead),
            }
        )
    else:
        for line in prefixes_table.allocations(rows, full, resting):
            typer.echo(line)
        if ahead:
            typer.echo("")
            for line in prefixes_leases.lines(ahead, most=len(ahead)):
                typer.echo(line)
    if problems is not None:
        raise problems


def _known(site: str | None, sites: Collection[str], file: Path) -> None:
    if site is not None and site not in sites:
        raise ConfigError([Problem("--site", f"there is no site {site}; there are {', '.join(sorted(sites))}", str(file))])


def _announcements(fleet: Fleet, site: str | None, as_json: bool) -> None:
    heard = [each for each in announcements(fleet) if site in (None, each.site)]
    if as_json:
        _print({"version": 1, "announcements": [each._asdict() for each in heard]})
        return
    for line in prefixes_table.announced(heard):
        typer.echo(line)


@app.command()
def check(
    file: FleetFile,
    leases: LeasesFile = None,
    url: Asked = None,
    credential: Credential = None,
    root: Root = None,
    vrps: Vrps = None,
    as_json: Json = False,
    on: On = None,
) -> None:
    """Say whether the lock file has all that the fleet file leaves out, and what else is worth knowing. Changes nothing.

    Exit status: 0 it has; 3 `apply` would change it; 1 the VRPs make an announcement invalid; 2 as for `plan`.
    """
    made = _planned(file, on)
    known = notes(made.fleet)
    ahead = prefixes_leases.beside(made.fleet, leases, url, credential, root, day_of(on))
    rpki = None if vrps is None else judged_by(vrps, public_announcements(made.fleet))
    if as_json:
        _print(
            {
                "version": 1,
                **({} if rpki is None else {"rpki": rpki.shown()}),
                "changes": len(made.changes),
                "notes": [each._asdict() for each in known],
                "forecasts": prefixes_leases.shown(ahead),
            }
        )
    else:
        for line in (*prefixes_table.checked(file, made, known), *prefixes_leases.lines(ahead)):
            typer.echo(line)
        for line in () if rpki is None else rpki.lines():
            typer.echo(line)
    if rpki is not None and rpki.invalid:
        raise typer.Exit(PrefixesExit.REFUSED)
    raise typer.Exit(PrefixesExit.CHANGES if made.changed else PrefixesExit.NOTHING)


@app.command()
def renumber(
    file: FleetFile,
    key: Annotated[str, typer.Argument(metavar="KEY", help="What is to move, as `show` names it: sites.fra.pools.ipv4.")],
    as_json: Json = False,
    on: On = None,
) -> None:
    """Plan a move in steps that each leave everything working. Changes nothing: each step is an edit of the fleet file.

    Exit status: 0 the steps are shown, 2 it cannot move, or `apply` has something to do first.
    """
    if not key:
        raise ConfigError([Problem("KEY", "is empty; `anycast prefixes show` lists what can be named")])
    made = _planned(file, on)
    if made.changed:
        raise ConfigError([Problem("", "apply what there is to do first (`anycast prefixes plan` shows it)", str(file))])
    steps = moves.renumber(made.wanted, made.before, key, day_of(on))
    if isinstance(steps, moves.Refused):
        raise ConfigError([Problem(".".join(map(str, each.path)), each.what, str(file)) for each in steps.findings])
    if as_json:
        _print({"version": 1, "key": key, "steps": [each._asdict() for each in steps]})
        return
    for line in prefixes_table.steps(steps):
        typer.echo(line)


def _hash(made: FilePlan) -> str:
    """Of what the lock file would be, so of the file, the records and the day together."""
    return hash_of(encode_lock(made.after))


def _shown(made: FilePlan) -> dict[str, Any]:
    held = made.after.held
    return {
        "version": 1,
        "fleet": made.after.fleet,
        "hash": _hash(made),
        "changes": [{**each._asdict(), "why": held[each.key].why if each.key in held else ""} for each in made.changes],
    }


def _print(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, sort_keys=True))
