"""`anycast prefixes export`: the plan in the words of those who must authorise or document it (docs/prefixes.md)."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from anycast.cli.fleet import FleetFile
from anycast.errors import ConfigError, Problem
from anycast.fleet.loading import load
from anycast.prefixes.origins import origins, public_announcements


def export(
    file: FleetFile,
    roas: Annotated[
        bool, typer.Option("--roas", help="The ROAs that the announcements need, as `krillc roas update --add` takes them.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --roas: a JSON list.")] = False,
) -> None:
    """Print what others need of the plan: one of the options says what. Changes nothing.

    Exit status: 0 printed, 2 the fleet file or the lock file cannot be used.
    """
    if not roas:
        raise ConfigError([Problem("", "say what is to be exported: --roas")])
    wanted = origins(public_announcements(load(file)))
    if as_json:
        shown = [{"asn": f"AS{each.asn}", "prefix": each.prefix, "keys": each.keys, "sites": each.sites} for each in wanted]
        typer.echo(json.dumps({"version": 1, "roas": shown}, indent=2, sort_keys=True))
        return
    for each in wanted:
        typer.echo(f"{each.prefix} => {each.asn} # {', '.join(each.keys)} at {', '.join(each.sites)}")
