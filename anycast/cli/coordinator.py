"""`anycast serve`, and what asks it: `status` and `watch` (docs/coordinator.md).

Exit status: 0 done, 1 refused, 2 the command line or a file cannot be used, 3 the coordinator does not answer, 4 (`status`)
it is read-only.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from anycast.cli.coordinator_client import DEFAULT, PORT, Target, ask
from anycast.cli.options import AsJson, Credential, Root, Url
from anycast.cli.progress import ENDED, headline, looks, on_stderr, steady
from anycast.cli.screen import cleaned, moment
from anycast.errors import ConfigError, Problem

EXIT_READ_ONLY = 4
COLOURS = {"announcing": "green", "dark": "red", "unknown": "yellow"}


def serve(
    pki: Annotated[Path, typer.Option(help="This machine's certificate and whom it believes.")] = Path("/etc/anycast/pki"),
    state: Annotated[Path, typer.Option(help="What it decided, and its history.")] = Path("/var/lib/anycast"),
    run: Annotated[Path, typer.Option(help="Its unix socket, for root.")] = Path("/run/anycast"),
    agents: Annotated[
        list[str] | None, typer.Option(metavar="ADDRESS[:PORT]", help="Where agents connect to, over TLS with certificates.")
    ] = None,
    operators: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS[:PORT]", help="Where operators connect to: plain on loopback, TLS elsewhere."),
    ] = None,
    keep_events_mib: Annotated[
        int, typer.Option(min=1, metavar="MIB", help="Of gateways' events, at most; those of who sent most go first.")
    ] = 1024,
    keep_events_days: Annotated[int, typer.Option(min=1, max=36500, metavar="DAYS", help="And for no longer.")] = 90,
    page: Annotated[
        Path | None,
        typer.Option(metavar="PROGRAM", help="Called when somebody must look: one JSON object on its standard input."),
    ] = None,
    detach: Annotated[
        bool,
        typer.Option("--detach", help="Return once it answers; what it says goes to coordinator.out beside the socket."),
    ] = False,
) -> None:
    """Run the coordinator until it is told to stop. Gateways go on as they are while it is away."""
    import asyncio

    from anycast.coordinator import detached, process
    from anycast.coordinator.event_store import Retention
    from anycast.link_wire import PORT as AGENTS_PORT

    listens = [process.read_listen(each, AGENTS_PORT) for each in agents or ["127.0.0.1"]]
    if len({each.port for each in listens}) > 1:
        raise ConfigError([Problem("agents", "one port for all addresses")])
    plan = process.Plan(
        pki=pki,
        state=state,
        run=run,
        agents=tuple(each.address for each in listens),
        agents_port=listens[0].port,
        operators=tuple(process.read_listen(each, PORT) for each in operators or []),
        retention=Retention(most_bytes=keep_events_mib << 20, longest_s=keep_events_days * 86_400.0),
        page=page,
    )
    if detach:
        raise typer.Exit(detached.start(lambda say: asyncio.run(process.serve(plan, say)), run / "coordinator.out"))
    asyncio.run(process.serve(plan, lambda line: typer.echo(line, err=True)))


def status(url: Url = DEFAULT, credential: Credential = None, root: Root = None, as_json: AsJson = False) -> None:
    """Every site and gateway as the coordinator hears it, and why a site that is dark is dark.

    Exit status: 0; 3 the coordinator does not answer; 4 it is read-only, because its store knows less than gateways do.
    """
    found = ask(Target(url, credential, root), "GET", "/v1/status")
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        Console().print(status_view(found))
    if found.get("read_only"):  # an older coordinator does not say
        raise typer.Exit(EXIT_READ_ONLY)


def watch(url: Url = DEFAULT, credential: Credential = None, root: Root = None, as_json: AsJson = False) -> None:
    """The same, live, until interrupted; with --json one object a line whenever something changes.

    A coordinator that goes away meanwhile is waited for, for as long as it takes. Exit status: 130 interrupted, 3 it did not
    answer to begin with.
    """
    target = Target(url, credential, root)
    if as_json or not sys.stdout.isatty():
        for found in looks(target, on_stderr, first_s=0, limit_s=math.inf):
            print(json.dumps(found) if as_json else _one_line(found), flush=True)
        return
    from rich.live import Live

    last: RenderableType = ""
    with Live(auto_refresh=False, screen=True) as live:

        def away(words: str) -> None:
            # What it said last is shown still, and is not news any more.
            live.update(Group(Text(f"{words}; this is what it said last", "red"), last), refresh=True)

        for found in looks(target, away, first_s=0, limit_s=math.inf):
            live.update(last := status_view(found), refresh=True)


def status_view(found: dict[str, Any]) -> RenderableType:
    """A screen of /v1/status."""
    found = cleaned(found)
    sites = _sites(found)
    counts = {state: sum(site["state"] == state for site in sites) for state in COLOURS}
    summary = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no gateway has been heard yet"
    head = Text.assemble((f"fleet {found['fleet']}", "bold"), f": {summary}; {found['ledger']}")
    seen = {"seen": "seen", "not_seen": "not seen", "unknown": "unknown"} if found["observers"] else {}
    outside = ["outside"] if seen else []
    columns = ("site", "state", *outside, "gateway", "role", "routes", "tunnels", "heard", "why")
    table = Table(*columns, box=None, header_style="bold")
    for site in sites:
        first = True
        for gateway in site["gateways"] or [None]:
            state = Text(site["state"], COLOURS[site["state"]]) if first else Text()
            name, witness, why = (site["site"], seen.get(site["seen"], ""), site["why"]) if first else ("", "", "")
            table.add_row(name, state, *([witness] if seen else []), *_gateway_cells(gateway), Text(why))
            first = False
    alarms = [Text(alarm, "red") for alarm in found["alarms"]]
    rollout, under_way = found["rollout"], []
    if rollout is not None and rollout["step"] not in ENDED:
        waits = f", waits: {rollout['waits_for']}" if rollout["waits_for"] else ""
        words = f"rollout {rollout['id']} by {rollout['by']}: {headline(rollout)}{waits}"
        under_way = [Text(words, "yellow")]
    return Group(head, *alarms, *under_way, *_observers(found["observers"]), table)


def _sites(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Also those that were not heard yet, which are as unknown as one that has fallen silent: a coordinator that has just
    begun has heard few of its fleet, and knows of all."""
    never = [{"site": name, "state": "unknown", "why": "", "seen": "", "gateways": []} for name in found.get("unheard", ())]
    return sorted((*found["sites"], *never), key=lambda site: str(site["site"]))


def _observers(found: list[dict[str, Any]]) -> list[Text]:
    """Those whose word does not count, or not of every router."""
    told = []
    for each in found:
        down = [router for router, up in each["routers"].items() if not up]
        if not each["fresh"]:
            told.append(Text(f"observer {each['observer']} was not heard for {each['age_s']:.0f} s", "yellow"))
        elif down:
            told.append(Text(f"observer {each['observer']} has no session with {', '.join(down)}", "yellow"))
    return told


def _gateway_cells(gateway: dict[str, Any] | None) -> tuple[str, ...]:
    if gateway is None:
        return "", "", "", "", "never"
    heard = f"{gateway['age_s']:.0f} s ago" if gateway["connected"] else f"away, {gateway['age_s']:.0f} s"
    report = gateway["report"]
    if report is None:
        return gateway["gateway"], "", "", "", heard
    tunnels = "" if report["tunnels"] is None else str(report["tunnels"])
    role = "" if report["role"] == "none" else report["role"]
    return gateway["gateway"], role, f"{report['announced']} of {report['routes']}", tunnels, heard


def _one_line(found: dict[str, Any]) -> str:
    found = cleaned(found)
    sites = ", ".join(f"{s['site']} {s['state']}{' (' + s['why'] + ')' if s['why'] else ''}" for s in _sites(found))
    sites = f"read-only; {sites}" if found.get("read_only") else sites
    rollout, under_way = found["rollout"], ""
    if rollout is not None and rollout["step"] not in ENDED:
        under_way = f"; rollout {rollout['id']}: {steady(rollout)}"
    return f"{moment(found['at'])} {sites or 'no gateway has been heard yet'}{under_way}"
