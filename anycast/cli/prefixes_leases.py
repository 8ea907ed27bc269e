"""`anycast prefixes forecast`: when pools run out, by the leases that were in use. `check` and `show` say it, too."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from anycast.cli.coordinator_client import DEFAULT, Target, ask
from anycast.cli.fleet import FleetFile
from anycast.cli.options import Credential, Root
from anycast.cli.prefixes_day import On, day_of
from anycast.cli.prefixes_table import table
from anycast.cli.text_file import text_of
from anycast.errors import AnycastError, ConfigError, PeerError
from anycast.fleet.loading import load
from anycast.fleet.schema import Fleet
from anycast.prefixes.forecast import WINDOW_DAYS, Forecast, Sample, decode_samples, forecasts, samples_of

LeasesFile = Annotated[
    Path | None,
    typer.Option("--leases", metavar="SAMPLES", help="Leases that were in use, one JSON object a line, in place of asking."),
]
Asked = Annotated[
    str | None,
    typer.Option(
        "--coordinator", envvar="ANYCAST_COORDINATOR", metavar="URL", show_default=False,
        help="Ask it for leases that were in use: unix:PATH, or https://HOST:PORT.",
    ),
]  # fmt: skip


def forecast(
    file: FleetFile,
    leases: LeasesFile = None,
    url: Asked = None,
    credential: Credential = None,
    root: Root = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
    on: On = None,
) -> None:
    """Say when each site's pools run out: a straight line through the days' most, or unknown. Changes nothing.

    The coordinator is asked (the one of this machine, where none is named), or a file is read (`--leases`). Exit status: 0
    said, 2 the fleet file, its lock file or SAMPLES cannot be used, 3 the coordinator does not answer.
    """
    found = forecasts(load(file), samples(leases, Target(url or DEFAULT, credential, root)), day_of(on))
    if as_json:
        typer.echo(json.dumps({"version": 1, "forecasts": shown(found)}, indent=2, sort_keys=True))
        return
    for line in lines(found, most=len(found)):
        typer.echo(line)


def samples(leases: Path | None, target: Target) -> list[Sample]:
    """Of the file, or of the coordinator. Raises ConfigError, Unreachable, Denied, PeerError."""
    if leases is not None:
        return decode_samples(text_of(leases), file=str(leases))
    try:
        return samples_of(ask(target, "GET", f"/v1/leases?days={WINDOW_DAYS}"))
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise PeerError("coordinator", "says of leases what means nothing") from exc


def beside(
    fleet: Fleet, leases: Path | None, url: str | None, credential: Path | None, root: Path | None, day: datetime.date
) -> list[Forecast]:
    """For a command that has something else to say first: where nobody is named to ask, or does not answer, what follows is
    unknown, and standard error says why."""
    if leases is None and url is None:
        return forecasts(fleet, (), day)
    try:
        return forecasts(fleet, samples(leases, Target(url or DEFAULT, credential, root)), day)
    except ConfigError:
        raise
    except AnycastError as exc:
        typer.echo(f"leases are unknown: {exc}", err=True)
        return forecasts(fleet, (), day)


def shown(found: Sequence[Forecast]) -> list[dict[str, Any]]:
    """For programs."""
    return [{**each._asdict(), "runs_out": each.runs_out and str(each.runs_out)} for each in found]


def lines(found: Sequence[Forecast], *, most: int = 60) -> Iterator[str]:
    """For eyes: what runs out first comes first, and where nothing at all was seen of anybody that is one line."""
    if not found:
        yield "pools: no site has one"
    elif not any(each.days for each in found):
        yield "pools: when they run out is unknown: nothing was seen in use (`anycast prefixes forecast` asks for it)"
    else:
        rows = [
            (each.site, each.family, str(each.room), _number(each.most), str(each.days), each.what)
            for each in sorted(found, key=lambda each: (each.runs_out is None, str(each.runs_out), each.site, each.family))
        ]
        yield from table(("site", "family", "room", "most in use", "days seen", "forecast"), rows, most=most)


def _number(value: int | None) -> str:
    return "unknown" if value is None else str(value)
