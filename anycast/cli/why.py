"""`anycast why`: what led to a site's state, now or at a moment, also of a gateway that is dead by now."""

from __future__ import annotations

import datetime
import json
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from anycast.cli.coordinator import COLOURS
from anycast.cli.coordinator_client import DEFAULT, Target, ask
from anycast.cli.options import AsJson, Credential, Root, Url
from anycast.cli.screen import clean
from anycast.errors import ConfigError, Problem
from anycast.history import parse_moment
from anycast.model import NAME
from anycast.record_text import time_text


def why(
    what: Annotated[str, typer.Argument(metavar="SITE[/GATEWAY]", help="The site, or one gateway of it.")],
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="`2h ago`, `23:25` (today), or ISO 8601; now if not given.")
    ] = None,
    url: Url = DEFAULT,
    credential: Credential = None,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """What led to a site's state: reasons, verdicts, routes, drains, tokens and decisions, in one order of time.

    From the events that gateways sent and from the coordinator's history, so also where the gateway is dead by now. What is
    missing is shown where it is missing. Exit status: 0 shown; 1 nothing is known of it; 2 the command line cannot be used;
    3 the coordinator does not answer (then `site-agent why` at the gateway knows its own part).
    """
    found = ask(Target(url, credential, root), "GET", _path(what, at))
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        Console(highlight=False, soft_wrap=True).print(why_view(found))


def _path(what: str, at: str | None) -> str:
    names = what.split("/")
    if len(names) > 2 or not all(NAME.fullmatch(name) for name in names):
        raise ConfigError([Problem("SITE[/GATEWAY]", f"{what!r} is no name of a site, nor SITE/GATEWAY")])
    query = ""
    if at is not None:
        now = datetime.datetime.now(datetime.UTC)
        try:
            moment = parse_moment(at, now)
            query = f"?at={round(moment.timestamp() * 1000)}"
        except (ValueError, OverflowError) as exc:
            hint = "`2h ago`, `23:25` (today), or ISO 8601 as 2026-11-23T21:05:00Z"
            raise ConfigError([Problem("--at", f"{at!r} is no time; {hint}")]) from exc
        if moment > now:
            raise ConfigError([Problem("--at", f"{at} is in the future; for an earlier day write its date")])
    return f"/v1/why/{'/'.join(names)}{query}"


def why_view(found: dict[str, Any]) -> RenderableType:
    """A screen of /v1/why."""
    state = found["state"]
    head = Text.assemble((found["site"], "bold"), f" at {time_text(found['at'])}: ", (state, COLOURS[state]))
    if found["why"]:
        head.append(clean(f": {found['why']}"))
    parts: list[RenderableType] = [head]
    for each in found["gateways"]:
        parts.append(_gateway(each))
        parts += [
            Text(clean(f"    alarm {alarm['reason']}: {alarm.get('detail', '')}"), "yellow")
            for alarm in each["account"]["alarms"]
        ]
    parts.append(Text("What led to it:"))
    table = Table("when", "where", "what", "", box=None, show_header=False, padding=(0, 1, 0, 0))
    for step in found["trail"]:
        missing = step["what"] == "EventsMissing"
        where = Text(step["gateway"] or "coordinator", "dim" if step["gateway"] else "cyan")
        what = Text("GAP" if missing else step["what"], "yellow" if missing else "bold" if step["reason"] else "")
        table.add_row(Text(time_text(step["at"])), where, what, Text(clean(step["text"]), "yellow" if missing else ""))
    parts.append(table if found["trail"] else Text("  nothing is kept from then or before"))
    return Group(*parts)


def _gateway(each: dict[str, Any]) -> Text:
    account, role = each["account"], each["account"]["role"]
    line = Text(f"  {each['gateway']}: ")
    if not account["known"]:
        line.append("nothing of it is kept from then or before")
    else:
        serving = {True: "serving", False: "not serving", None: "no verdict"}[account["serving"]]
        line.append(f"{serving}, {each['announced']} of {each['routes']} routes")
        line.append("" if role is None else clean(f", {role.get('role')}"))
        line.append(clean(f", {each['why']}") if each["why"] else "")
        line.append(f"; last record {time_text(each['heard_until'])}")
    if not each["covered"]:
        line.append("; nothing tells of that moment", "yellow")
    if each["forgotten"] is not None:
        line.append(f"; older than {time_text(each['forgotten'])} is not kept", "dim")
    return line
