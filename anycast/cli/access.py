"""`anycast access`: who may ask the coordinator, and for what."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from anycast.cli.coordinator_client import DEFAULT, Target, ask
from anycast.cli.options import AsJson, Credential, Root, Url
from anycast.cli.screen import moment
from anycast.coordinator.access import Role

app = typer.Typer(no_args_is_help=True, help="Credentials of operators and programs: add, list, remove.")


@app.command("add")
def access_add(
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    role: Annotated[Role, typer.Option(metavar="ROLE", help="viewer, operator, admin or observer.")] = Role.VIEWER,
    sites: Annotated[str | None, typer.Option(help="Sites that it may act on, with commas between; all without.")] = None,
    url: Url = DEFAULT,
    credential: Credential = None,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Make a credential and print it, this once: `anycast access add alice --role operator > alice.credential`."""
    body = {"name": name, "role": role, "sites": None if sites is None else sites.split(",")}
    made = ask(Target(url, credential, root), "POST", "/v1/access", body)
    print(json.dumps(made, indent=1) if as_json else made["token"])
    if sys.stdout.isatty():
        print("keep it in a file that only its owner reads; it is not shown again", file=sys.stderr)


@app.command("list")
def access_list(url: Url = DEFAULT, credential: Credential = None, root: Root = None, as_json: AsJson = False) -> None:
    """All credentials; their secrets are known to their owners only."""
    found = ask(Target(url, credential, root), "GET", "/v1/access")
    if as_json:
        print(json.dumps(found, indent=1))
        return
    table = Table("name", "role", "sites", "made", "by", box=None, header_style="bold")
    for each in found["credentials"]:
        sites = "all" if each["sites"] is None else ", ".join(each["sites"]) or "none"
        table.add_row(each["name"], each["role"], sites, moment(each["made_at"]), each["made_by"])
    Console().print(table)


@app.command("remove")
def access_remove(
    name: Annotated[str, typer.Argument(help="Whose.")],
    url: Url = DEFAULT,
    credential: Credential = None,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Take a credential back; its next request is refused."""
    ask(Target(url, credential, root), "DELETE", f"/v1/access/{name}")
    print(json.dumps({"removed": name}) if as_json else f"{name} may ask nothing any more")
