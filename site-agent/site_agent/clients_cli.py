"""`site-agent clients`: who has, or had, which inner address, from the clients' log."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anycast import history
from anycast.errors import ConfigError, PeerError, Problem
from site_agent import client_history
from site_agent.client_history import ClientsAccount
from site_agent.paths import Paths
from site_agent.views import local_time, to_json

DEFAULTS = Paths()


def clients(
    who: Annotated[
        str | None, typer.Argument(help="An address, inside or outside, or a part of an identity; all if not given.")
    ] = None,
    at: Annotated[str | None, typer.Option(help="A time: `2h ago`, `23:25` (today), or ISO 8601; now if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
    state_dir: Annotated[
        Path, typer.Option(help="Where the clients' log is; the same as the agent's.")
    ] = DEFAULTS.state_dir,
) -> None:
    """Who has which inner address, from where: now, or at an earlier time, also with everything down.

    \b
    site-agent clients                              all clients now
    site-agent clients 203.0.113.77                 who has this address
    site-agent clients 203.0.113.77 --at 23:25      who had it at 23:25 today
    site-agent clients phone1 --at "2h ago" --json  as a program reads it

    Both gateways of a pair have the whole list, because each watches its own charon's copy: after a failover ask either. A
    client keeps its line over failovers, rekeys and moves; SINCE is when its tunnel was made, as far as this gateway knows.

    The log behind it (clients.jsonl) has one line for each client that came, moved or went, for accounting: docs/clients.md.
    Exit status: 0 told, 1 the log says nothing of that time, 2 a wrong command line.
    """
    now = datetime.datetime.now(datetime.UTC)
    moment = now if at is None else _moment(at, now)
    account = client_history.account_at(history.read_records(_lines(Paths(state_dir=state_dir).clients)), moment)
    if who is not None:
        account = client_history.selected(account, who)
    if as_json:
        typer.echo(to_json(account))
    else:
        _show(account, who)
    if account.known_since is None:
        raise typer.Exit(1)


def _moment(text: str, now: datetime.datetime) -> datetime.datetime:
    try:
        moment = history.parse_moment(text, now)
    except (ValueError, OverflowError) as exc:
        what = f"{text!r} is no time; write `2h ago`, `23:25` (today), or an ISO 8601 time, as 2026-11-23T21:05:00Z"
        raise ConfigError([Problem("--at", what)]) from exc
    if moment > now:
        raise ConfigError([Problem("--at", f"{text} is in the future; for an earlier day write its date")])
    return moment


def _lines(path: Path) -> Iterator[bytes]:
    """The log and its predecessor, oldest first. A missing file is an empty one."""
    for part in (path.with_name(path.name + ".1"), path):
        try:
            with open(part, "rb") as file:
                yield from file
        except FileNotFoundError:
            continue
        except OSError as exc:
            remedy = "; run as root" if isinstance(exc, PermissionError) else ""
            raise PeerError("clients' log", f"{part}: {exc.strerror}{remedy}") from exc


def _show(account: ClientsAccount, who: str | None) -> None:
    console = Console(highlight=False)
    if account.known_since is None:
        console.print(f"Nothing is known of {local_time(account.at)}: the clients' log begins later, or is not there.")
        return
    role = {True: "served by", False: "served by the other gateway, copies on", None: "last seen by"}[account.serving]
    asked = "" if who is None else f" with {escape(who)}"
    count = len(account.clients)
    console.print(
        f"[bold]{count} client{'' if count == 1 else 's'}[/]{asked} at {local_time(account.at)}, {role}"
        f" [bold]{escape(account.gateway)}[/]",
        soft_wrap=True,
    )
    if not account.clients:
        return
    table = Table(box=None, pad_edge=False)
    refusing = any(client.refused_rekey is not None for client in account.clients)
    for heading in ("INNER ADDRESS", "CLIENT", "FROM", "SINCE", *(["REFUSED A REKEY"] if refusing else [])):
        table.add_column(heading, overflow="fold")
    for client in account.clients:
        name = client.identity if not client.eap_identity else f"{client.eap_identity} ({client.identity})"
        refused = [local_time(client.refused_rekey)] if refusing else []
        table.add_row("\n".join(client.inner), escape(name), escape(client.outer), local_time(client.since), *refused)
    console.print(table)
