"""`anycast serve`, and what asks it: `status`, `watch`, `history`, `access` (docs/coordinator.md).

Where to ask is the same for all: `--coordinator`, `--credential` and `--root`, or ANYCAST_COORDINATOR, ANYCAST_CREDENTIAL
and ANYCAST_ROOT. Without any, the unix socket of a coordinator on this machine, as root. Exit status: 0 done, 1 refused,
2 the command line or a file cannot be used, 3 the coordinator does not answer, 4 (`status`) it is read-only.
"""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from anycast.cli.coordinator_client import DEFAULT, PORT, Target, ask, stream
from anycast.cli.screen import clean, cleaned
from anycast.errors import ConfigError, Problem
from anycast.policy.content_diff import Difference
from anycast.policy.content_diff import line as diff_line

history_app = typer.Typer(no_args_is_help=False, help="Who did what, when and why, each line hashed over the one before it.")
access_app = typer.Typer(no_args_is_help=True, help="Credentials of operators and programs: add, list, remove.")

Url = Annotated[
    str,
    typer.Option("--coordinator", envvar="ANYCAST_COORDINATOR", metavar="URL", help="unix:PATH, or https://HOST:PORT."),
]
Credential = Annotated[
    Path | None, typer.Option(envvar="ANYCAST_CREDENTIAL", metavar="FILE", help="File with what `access add` printed.")
]
Root = Annotated[
    Path | None, typer.Option(envvar="ANYCAST_ROOT", metavar="FILE", help="root.pem of the management root; for https.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
EXIT_READ_ONLY = 4
SHOWN_DIFFERENCES = 4
"""Of one line of history; `--json` has 100, `anycast diff` all."""
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
    """The same, live, until interrupted; with --json one object a line whenever something changes."""
    target = Target(url, credential, root)
    if as_json or not sys.stdout.isatty():
        for found in stream(target, "/v1/watch"):
            print(json.dumps(found) if as_json else _one_line(found), flush=True)
        return
    from rich.live import Live

    with Live(auto_refresh=False, screen=True) as live:
        for found in stream(target, "/v1/watch"):
            live.update(status_view(found), refresh=True)


@history_app.callback(invoke_without_command=True)
def history(
    context: typer.Context,
    url: Url = DEFAULT,
    credential: Credential = None,
    root: Root = None,
    as_json: AsJson = False,
    after: Annotated[int, typer.Option(min=0, help="Only lines behind this one.")] = 0,
) -> None:
    """Who did what, when and why, and what each rollout changed (`anycast diff` has all of it); oldest first."""
    if context.invoked_subcommand is not None:
        return
    target, lines = Target(url, credential, root), list[dict[str, Any]]()
    while page := ask(target, "GET", f"/v1/history?diff=1&after={lines[-1]['seq'] if lines else after}")["lines"]:
        lines += page
    if as_json:
        print(json.dumps({"v": 1, "lines": lines}, indent=1))
        return
    Console().print(history_view(lines))


def history_view(lines: list[dict[str, Any]]) -> RenderableType:
    """A screen of /v1/history."""
    # A moment that is cut off is none, on however narrow a screen.
    head = (Column("#", no_wrap=True), Column("when", no_wrap=True, min_width=20), "who", "what", "reason", "with")
    table = Table(*head, box=None, header_style="bold")
    for line in cleaned(lines):
        words = (line["who"], line["action"], line["reason"], _with(line))
        table.add_row(str(line["seq"]), _when(line["at"]), *map(Text, words))
    return table


def _with(line: dict[str, Any]) -> str:
    body = ", ".join(f"{key} {value}" for key, value in line["body"].items() if value is not None)
    diff = [diff_line(Difference.model_validate(each)) for each in (line.get("diff") or ())[:SHOWN_DIFFERENCES]]
    more = line.get("differences", 0) - len(diff)
    return "\n".join([body, *diff, *([f"and {more} differences more: `anycast diff`"] if more else [])])


@history_app.command("verify")
def history_verify(
    kept: Annotated[
        str,
        typer.Option(
            metavar="N:HASH", help="What an earlier `verify` said of the last line: also that it is there still, as it was."
        ),
    ] = "",
    url: Url = DEFAULT,
    credential: Credential = None,
    root: Root = None,
) -> None:
    """Check that no line was changed, taken out or put in since it was written. Exit status 1 where one was.

    Lines that are missing at the end leave a whole chain: keep elsewhere what this says of the last one, for --kept.
    """
    number, hash_ = _kept_line(kept) if kept else (0, "")
    target = Target(url, credential, root)
    found = ask(target, "GET", f"/v1/history?limit=1&verify=1&after={max(0, number - 1)}")
    if (broken := found["first_broken"]) is not None:
        print(f"history is not whole from line {broken} on", file=sys.stderr)
        raise typer.Exit(1)
    if kept and [(line["seq"], line["hash"]) for line in found["lines"]] != [(number, hash_)]:
        print(f"line {number} is not there, or is another one: history was replaced, or lost its end", file=sys.stderr)
        raise typer.Exit(1)
    last = f"; the last line is {found['last']}:{found['last_hash']}" if found.get("last") else ""
    print(f"history is whole{last}")


def _kept_line(text: str) -> tuple[int, str]:
    """Raises ConfigError."""
    number, _, hash_ = text.partition(":")
    if not number.isascii() or not number.isdigit() or not 0 < int(number) < 2**53 or len(hash_) != 64:
        raise ConfigError([Problem("--kept", f"{clean(text[:80])!r} is no N:HASH as `anycast history verify` prints it")])
    return int(number), hash_


@access_app.command("add")
def access_add(
    name: Annotated[str, typer.Argument(help="Whose it is.")],
    role: Annotated[str, typer.Option(help="viewer, operator, admin or observer.")] = "viewer",
    sites: Annotated[str | None, typer.Option(help="Sites that it may act on, with commas between; all without.")] = None,
    url: Url = DEFAULT,
    credential: Credential = None,
    root: Root = None,
) -> None:
    """Make a credential and print it, this once: `anycast access add alice --role operator > alice.credential`."""
    body = {"name": name, "role": role, "sites": None if sites is None else sites.split(",")}
    print(ask(Target(url, credential, root), "POST", "/v1/access", body)["token"])
    if sys.stdout.isatty():
        print("keep it in a file that only its owner reads; it is not shown again", file=sys.stderr)


@access_app.command("list")
def access_list(url: Url = DEFAULT, credential: Credential = None, root: Root = None, as_json: AsJson = False) -> None:
    """All credentials; their secrets are known to their owners only."""
    found = ask(Target(url, credential, root), "GET", "/v1/access")
    if as_json:
        print(json.dumps(found, indent=1))
        return
    table = Table("name", "role", "sites", "made", "by", box=None, header_style="bold")
    for each in found["credentials"]:
        sites = "all" if each["sites"] is None else ", ".join(each["sites"]) or "none"
        table.add_row(each["name"], each["role"], sites, _when(each["made_at"]), each["made_by"])
    Console().print(table)


@access_app.command("remove")
def access_remove(
    name: Annotated[str, typer.Argument(help="Whose.")], url: Url = DEFAULT, credential: Credential = None, root: Root = None
) -> None:
    """Take a credential back; its next request is refused."""
    ask(Target(url, credential, root), "DELETE", f"/v1/access/{name}")
    print(f"{name} may ask nothing any more")


def status_view(found: dict[str, Any]) -> RenderableType:
    """A screen of /v1/status."""
    found = cleaned(found)
    sites = found["sites"]
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
    if rollout is not None and rollout["step"] not in ("done", "stopped"):
        waits = f", waits: {rollout['waits_for']}" if rollout["waits_for"] else ""
        words = f"rollout {rollout['id']} by {rollout['by']}: {rollout['step']} {rollout['site']}{waits}"
        under_way = [Text(words, "yellow")]
    return Group(head, *alarms, *under_way, *_observers(found["observers"]), table)


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
    sites = ", ".join(f"{s['site']} {s['state']}{' (' + s['why'] + ')' if s['why'] else ''}" for s in found["sites"])
    sites = f"read-only; {sites}" if found.get("read_only") else sites
    return f"{_when(found['at'])} {sites or 'no gateway has been heard yet'}"


def _when(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


