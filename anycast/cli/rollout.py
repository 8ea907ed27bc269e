"""`anycast rollout`: the one under way or the last, and the four words that it heeds."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from anycast.cli.coordinator_client import DEFAULT, Target, ask
from anycast.cli.options import AsJson, Credential, Root, Url
from anycast.cli.progress import ENDED, Wait, bar, follow, headline
from anycast.cli.screen import cleaned

app = typer.Typer(help="The rollout under way, or the last one: show, pause, resume, abort, override.")


@app.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    url: Url = DEFAULT,
    credential: Credential = None,
    root: Root = None,
    as_json: AsJson = False,
    wait: Wait = False,
) -> None:
    """Show it: which site is being changed, how far it is, and what it waits for."""
    if context.invoked_subcommand is not None:
        return
    target = Target(url, credential, root)
    found = ask(target, "GET", "/v1/status")
    if wait and found["rollout"] is not None:
        if not follow(target, found["rollout"]["id"], Console(stderr=as_json)):
            raise typer.Exit(1)
        found = ask(target, "GET", "/v1/status")
    rollout = found["rollout"]
    if as_json:
        print(json.dumps(rollout, indent=1))
    elif rollout is None:
        print("there was no rollout yet")
    else:
        _print(rollout)
        for alarm in cleaned(found["alarms"]):
            print(alarm)


@app.command()
def pause(url: Url = DEFAULT, credential: Credential = None, root: Root = None, as_json: AsJson = False) -> None:
    """Begin no further site. The one that is being changed is judged to its end."""
    _command("pause", Target(url, credential, root), as_json)


@app.command()
def resume(url: Url = DEFAULT, credential: Credential = None, root: Root = None, as_json: AsJson = False) -> None:
    """Go on with the next site."""
    _command("resume", Target(url, credential, root), as_json)


@app.command()
def abort(url: Url = DEFAULT, credential: Credential = None, root: Root = None, as_json: AsJson = False) -> None:
    """Stop, and return the sites that were changed to the content before."""
    _command("abort", Target(url, credential, root), as_json)


@app.command()
def override(
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why it is worth it; stays in the history.")],
    url: Url = DEFAULT,
    credential: Credential = None,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Go on where a step waits because it could be too much for another site (docs/what-if.md); of all that are left."""
    _command("override", Target(url, credential, root), as_json, reason=reason)


def _command(word: str, target: Target, as_json: bool, **more: str) -> None:
    rollout = ask(target, "POST", "/v1/rollouts/command", {"word": word, **more})
    if as_json:
        print(json.dumps(rollout, indent=1))
    else:
        _print(rollout)


def _print(rollout: dict[str, Any]) -> None:
    rollout = cleaned(rollout)
    print(f"rollout {rollout['id']} by {rollout['by']}: generation {rollout['generation']}, {headline(rollout)}")
    console = Console()
    if console.is_terminal and rollout["step"] not in ENDED:
        console.print(bar(rollout))
    table = Table("site", "", box=None, header_style="bold")
    for number, site in enumerate(rollout["sites"]):
        now = number == rollout["done"] and rollout["step"] not in ENDED
        table.add_row(site, "done" if number < rollout["done"] else rollout["step"] if now else "")
    console.print(table)
    for each in dict.fromkeys((rollout["reason"], rollout["waits_for"])):
        if each:
            print(each)
