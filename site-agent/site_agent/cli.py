"""`site-agent`: run the agent, ask it, and ask its log.

`status`, `why` and `events` import neither the agent nor its libraries: they must answer quickly on a machine in
trouble. Exit status: 0 done, 1 could not (nobody answers, nothing known), 2 the configuration or the command line is
wrong.
"""

from __future__ import annotations

import datetime
import errno
import ipaddress
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from anycast import history
from anycast.errors import AnycastError, ConfigError, KernelError, PeerError, Problem
from site_agent import control, views
from site_agent.clients_cli import clients
from site_agent.drain_cli import drain_app
from site_agent.keys_cli import keys_app
from site_agent.operator_cli import flap_app, handover, hold_app, restart_vrrp, show_stored_hold
from site_agent.paths import Paths
from site_agent.render_cli import apply, render

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(hold_app, name="hold")
app.add_typer(drain_app, name="drain")
app.add_typer(flap_app, name="flap")
app.add_typer(keys_app, name="keys")
app.command()(render)
app.command()(apply)
app.command()(handover)
app.command()(clients)
app.command("restart-vrrp")(restart_vrrp)

DEFAULTS = Paths()
_EXAMPLE = "as 2026-11-23T21:05:00Z"
FOLLOW_S = 0.2
"""How often `events --follow` looks for more."""

RunDir = Annotated[Path, typer.Option(help="Sockets and process records; the same as the agent's.")]
StateDir = Annotated[Path, typer.Option(help="The event log, the hold and the last good document; the same as the agent's.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")]


def main() -> None:
    """Entry point. Errors of ours become one line and an exit status, never a traceback."""
    try:
        app(prog_name="site-agent")  # however it was started: a lab's nodes fork it
    except AnycastError as exc:
        refused = isinstance(exc, KernelError) and exc.errno in (errno.EACCES, errno.EPERM)
        typer.echo(f"site-agent: {exc}{'; run as root' if refused else ''}", err=True)
        sys.exit(2 if isinstance(exc, ConfigError) else 1)


@app.command()
def run(
    fleet: Annotated[Path | None, typer.Option(help="fleet.yaml; this gateway's document is compiled here.")] = None,
    gateway: Annotated[
        str | None, typer.Option(help="Which gateway of the fleet this is; the host name if not given.")
    ] = None,
    document: Annotated[Path | None, typer.Option(help="A compiled document instead of a fleet.")] = None,
    detach: Annotated[
        bool, typer.Option(help="Return when the configuration is in place; run on in the background.")
    ] = False,
    run_dir: RunDir = DEFAULTS.run_dir,
    state_dir: StateDir = DEFAULTS.state_dir,
    etc_dir: Annotated[Path, typer.Option(help="Rendered files of charon and ExaBGP.")] = DEFAULTS.etc_dir,
    pki_dir: Annotated[Path, typer.Option(help="This machine's management certificate.")] = DEFAULTS.pki_dir,
) -> None:
    """Run this gateway's agent. charon and ExaBGP are started, or found running, and outlive it."""
    if fleet is not None and document is not None:
        raise typer.BadParameter("give --fleet or --document, not both")
    from site_agent.service import run_agent  # heavy: pydantic, pyroute2, jinja2

    paths = Paths(
        run_dir=run_dir.absolute(),
        state_dir=state_dir.absolute(),
        etc_dir=etc_dir.absolute(),
        pki_dir=pki_dir.absolute(),
    )
    run_agent(paths, fleet=fleet, gateway=gateway, document=document, detach=detach)


@app.command()
def status(as_json: Json = False, run_dir: RunDir = DEFAULTS.run_dir, state_dir: StateDir = DEFAULTS.state_dir) -> None:
    """Verdict, causes, checks, routes, leases and what bounds each fault. Without an agent: what the log knows."""
    paths = Paths(run_dir=run_dir, state_dir=state_dir)
    try:
        answer = control.ask(paths.control_socket, "status")
    except PeerError as exc:
        now = _now()
        account = _settled(history.account_at(_records(paths), now), now, exc)
        if as_json:
            typer.echo(views.to_json({"agent": None, "error": str(exc), "log": account}))
        else:
            views.show_silence(exc)
            show_stored_hold(paths)
            views.show_account(account)
        raise typer.Exit(1) from exc
    if as_json:
        typer.echo(views.to_json(answer))
    else:
        views.show_status(answer)


@app.command()
def why(
    at: Annotated[str | None, typer.Option(help="A time: `2h ago`, `90 s ago`, `23:25` (today), or ISO 8601.")] = None,
    since: Annotated[str | None, typer.Option(help="Also name what went wrong first after this time.")] = None,
    as_json: Json = False,
    run_dir: RunDir = DEFAULTS.run_dir,
    state_dir: StateDir = DEFAULTS.state_dir,
) -> None:
    """Why is the route announced, or not? Now or at an earlier time, from the log, also with everything down."""
    paths = Paths(run_dir=run_dir, state_dir=state_dir)
    now = _now()
    moment = now if at is None else _moment(at, now)
    if moment > now:
        raise ConfigError([Problem("--at", f"{at} is in the future; for an earlier day write its date, {_EXAMPLE}")])
    live, silence = None, None
    account = history.account_at(_records(paths), moment)
    if at is None or account.last_word:
        try:
            live = control.ask(paths.control_socket, "status")
        except PeerError as exc:
            silence = exc
        account = _settled(account, now, silence)
    first = None if since is None else history.first_cause(_records(paths), _moment(since, now))
    if as_json:
        typer.echo(
            views.to_json(
                {
                    "agent": live if at is None else None,
                    "error": None if silence is None else str(silence),
                    "log": account,
                    "first": first,
                }
            )
        )
    else:
        if silence is not None:
            views.show_silence(silence)
            show_stored_hold(paths)
        if live is not None and at is None:
            views.show_verdict(live)
        views.show_account(account)
        if since is not None:
            views.show_first(first)
    if not account.known:
        raise typer.Exit(1)


@app.command()
def observe(
    vici: Annotated[str | None, typer.Option(help="charon's control socket, where it cannot be found.")] = None,
    vip: Annotated[list[str] | None, typer.Option(help="A service address; guessed from the connections if none.")] = None,
    link: Annotated[list[str] | None, typer.Option(help="An interface it cannot serve without; none is guessed.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Let every check look once.")] = False,
    for_: Annotated[str | None, typer.Option("--for", help="How long, e.g. `60s`; until Ctrl-C if not given.")] = None,
    as_json: Json = False,
    run_dir: RunDir = DEFAULTS.run_dir,
    state_dir: StateDir = DEFAULTS.state_dir,
) -> None:
    """On any strongSwan gateway, without fleet file or ExaBGP: what is healthy, and what an agent would have done and when.

    Installs, starts and changes nothing. Run it as root: others cannot open charon's socket (connections, SAs, half-open
    handshakes) and without CAP_NET_ADMIN cannot see the kernel's SAs; what is not seen is named, and where a fact could not
    be looked at it is never said that all is well.

    Exit status with --once: 0 an agent would announce, 1 it would not, 2 that cannot be told (or a wrong command line).
    Otherwise 0.
    """
    if once and for_ is not None:
        raise typer.BadParameter("give --once or --for, not both")
    from site_agent.netlink.link import encode_get_link
    from site_agent.observe.command import observe as run_observe  # heavy: pyroute2, vici

    try:
        for_s = None if for_ is None else history.parse_span(for_)
        vips = [str(ipaddress.ip_address(text)) for text in vip or ()]
        for name in link or ():
            encode_get_link(name)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    status = run_observe(
        vici=vici,
        vips=vips,
        links=link or (),
        once=once or (as_json and for_s is None),
        for_s=for_s,
        as_json=as_json,
        paths=Paths(run_dir=run_dir, state_dir=state_dir),
    )
    raise typer.Exit(status)


@app.command()
def doctor(
    fleet: Annotated[Path | None, typer.Option(help="fleet.yaml: also judge by what it plans for this gateway.")] = None,
    gateway: Annotated[
        str | None, typer.Option(help="Which gateway of the fleet this is; the host name if not given.")
    ] = None,
    document: Annotated[Path | None, typer.Option(help="A compiled document instead of a fleet.")] = None,
    vici: Annotated[str | None, typer.Option(help="charon's control socket, where it cannot be found.")] = None,
    as_json: Json = False,
    etc_dir: Annotated[Path, typer.Option(help="Rendered files of charon and ExaBGP.")] = DEFAULTS.etc_dir,
    state_dir: StateDir = DEFAULTS.state_dir,
    run_dir: RunDir = DEFAULTS.run_dir,
) -> None:
    """What of this machine's settings would hurt clients, why, and the command that mends it.

    Works on any strongSwan gateway; with a fleet or a document it knows which interfaces, pools, certificates and BGP
    sessions are meant, and judges more strictly. Without either it takes the document that this machine's agent runs by,
    where there is one. It changes nothing and runs none of its commands.

    \b
    wrong   clients are refused or lose tunnels by it, now or at the next foreseeable event
    risky   holds until load, an attack, an upgrade or a failure meets it
    note    worth knowing; may be meant so

    Run it as root. Others see the kernel's settings, but neither charon's answers and files nor the firewall; what is not
    seen is named with the privilege that would show it.

    Exit status: 0 nothing is wrong, 1 something is, 2 nothing wrong was seen but not all could be looked at.
    The table of all findings: docs/doctor.md.
    """
    if fleet is not None and document is not None:
        raise typer.BadParameter("give --fleet or --document, not both")
    from site_agent.doctor.command import doctor as run_doctor  # heavy: cryptography, pydantic, pyroute2

    status = run_doctor(
        fleet=fleet,
        gateway=gateway,
        document=document,
        vici=vici,
        paths=Paths(run_dir=run_dir, state_dir=state_dir, etc_dir=etc_dir),
        as_json=as_json,
    )
    raise typer.Exit(status)


@app.command()
def events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as more happens.")] = False,
    as_json: Json = False,
    state_dir: StateDir = DEFAULTS.state_dir,
) -> None:
    """The event log, oldest first; without what only says that the agent is alive, unless --json."""
    paths = Paths(state_dir=state_dir)
    lines = _follow(paths.events) if follow else _lines(paths)
    for record in history.read_records(lines):
        if as_json or record["event"] != "AgentAlive":
            typer.echo(json.dumps(record, ensure_ascii=False) if as_json else views.record_line(record))


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _moment(text: str, now: datetime.datetime) -> datetime.datetime:
    try:
        return history.parse_moment(text, now)
    except ValueError as exc:
        what = f"{text!r} is no time; write `2h ago`, `23:25` (today), or an ISO 8601 time, {_EXAMPLE}"
        raise ConfigError([Problem("", what)]) from exc


def _settled(account: history.Account, now: datetime.datetime, silence: PeerError | None) -> history.Account:
    """`account` with what it adds that an agent answers now, or that nobody does. A refusal or a mistake adds nothing."""
    if silence is not None and not isinstance(silence, control.NobodyAnswers):
        return account
    return history.settled(account, now, answers=silence is None)


def _records(paths: Paths) -> Iterator[history.Record]:
    return history.read_records(_lines(paths))


def _lines(paths: Paths) -> Iterator[bytes]:
    """The log and its predecessor, oldest first. A missing file is an empty one."""
    for path in (paths.events.with_name(paths.events.name + ".1"), paths.events):
        try:
            with open(path, "rb") as file:
                yield from file
        except FileNotFoundError:
            continue
        except OSError as exc:
            remedy = "; run as root" if isinstance(exc, PermissionError) else ""
            raise PeerError("event log", f"{path}: {exc.strerror}{remedy}") from exc


def _follow(path: Path) -> Iterator[bytes]:
    """The log from its beginning, then whatever is appended, across rotations, until interrupted."""
    while True:
        try:
            with open(path, "rb") as file:
                while True:
                    if line := file.readline():
                        yield line
                    elif not path.exists() or path.stat().st_ino != _inode(file.fileno()):
                        break
                    else:
                        time.sleep(FOLLOW_S)
        except FileNotFoundError:
            time.sleep(FOLLOW_S)


def _inode(fd: int) -> int:
    import os

    return os.fstat(fd).st_ino


if __name__ == "__main__":
    main()
