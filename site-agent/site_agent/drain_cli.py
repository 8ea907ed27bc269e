"""`site-agent drain`: move this gateway's clients to another site before its route goes, by hand, without a coordinator.

Other than `hold withdraw` it needs a running agent, because most of it is the agent's to do.

Like `status` it imports nothing heavy.
"""

from __future__ import annotations

import getpass
import secrets
from pathlib import Path
from typing import Annotated, Any

import typer

from anycast.errors import ConfigError, PeerError, Problem
from anycast.history import parse_span
from anycast.policy import drain_record
from anycast.policy.drain import Drain, Left, Plan
from anycast.runtime import boottime
from site_agent import control, drain_store, views
from site_agent.paths import Paths

DEFAULTS = Paths()
drain_app = typer.Typer(help="Move this gateway's clients to another site, then its route. docs/drain.md.")

RunDir = Annotated[Path, typer.Option(help="Where a running agent listens.")]
StateDir = Annotated[Path, typer.Option(help="Where the drain lies.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of a sentence.")]


@drain_app.callback(invoke_without_command=True)
def show(context: typer.Context, as_json: Json = False, run_dir: RunDir = DEFAULTS.run_dir) -> None:
    """Show the drain that goes on. `drain start` begins one, `drain abort` undoes it."""
    if context.invoked_subcommand is not None:
        return
    drain = control.ask(Paths(run_dir=run_dir).control_socket, "status")["drain"]
    if as_json:
        typer.echo(views.to_json({"drain": drain}))
    else:
        views.show_drain(drain)
        if drain is None:
            typer.echo("No drain goes on.")


@drain_app.command()
def start(
    reason: Annotated[str, typer.Option(help="For whoever reads `why` tomorrow.")],
    to: Annotated[
        list[str] | None,
        typer.Option(help="Another site's unicast service address; one a family. None: nobody is redirected."),
    ] = None,
    left: Annotated[
        Left,
        typer.Option(help="Who cannot follow: `wait` keeps the route until the last has gone, `delete` cuts them."),
    ] = Left.WAIT,
    limit: Annotated[
        str, typer.Option(help="How long clients may take to move, before the route goes (or you are told).")
    ] = "10 min",
    settle: Annotated[str, typer.Option(help="How long BGP takes to carry a change everywhere.")] = "10 s",
    rate: Annotated[float, typer.Option(help="Redirects, and DELETEs, a second.")] = 20.0,
    prepend: Annotated[
        int, typer.Option(help="More copies of the own AS number, besides GRACEFUL_SHUTDOWN (RFC 8326).")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would do, as far as that can be known.")] = False,
    as_json: Json = False,
    run_dir: RunDir = DEFAULTS.run_dir,
    state_dir: StateDir = DEFAULTS.state_dir,
) -> None:
    """Redirect the clients, then make the route worse, withdraw it, and refuse new clients. `drain abort` undoes all of it.

    In a site of two gateways start it at both: the Active moves the clients, and a failover in the middle goes on.
    """
    paths = Paths(run_dir=run_dir, state_dir=state_dir)
    try:
        plan = drain_record.check(
            Plan(
                id=secrets.token_hex(4), by=getpass.getuser(), why=reason, to=tuple(to or ()), left=left, prepend=prepend,
                redirects_per_s=rate, deletes_per_s=rate, move_limit_s=parse_span(limit), settle_s=parse_span(settle),
            )
        )  # fmt: skip
    except ValueError as exc:
        raise ConfigError([Problem("drain", str(exc))]) from exc
    if dry_run:
        _foresee(control.ask(paths.control_socket, "drain-foresee", patience_s=10), plan, as_json=as_json)
        return
    if (now := control.ask(paths.control_socket, "status")["drain"]) is not None:
        raise PeerError("drain", f"one goes on already ({now['step']}, by {now['by']}); `site-agent drain abort` undoes it")
    drain_store.store(paths, Drain(plan=plan, since=boottime()))
    try:
        answer = control.ask(paths.control_socket, "drain")
    except PeerError:
        drain_store.remove(paths)  # nobody has begun it, and no agent shall later by surprise
        raise
    if as_json:
        typer.echo(views.to_json(answer))
    else:
        views.show_drain(answer["drain"])


@drain_app.command()
def abort(as_json: Json = False, run_dir: RunDir = DEFAULTS.run_dir) -> None:
    """Undo the drain from whatever step: open the door, announce as before. Who has moved stays where he is."""
    answer = control.ask(Paths(run_dir=run_dir).control_socket, "drain-abort")
    if as_json:
        typer.echo(views.to_json(answer))
    elif answer["drain"] is None:
        typer.echo("The drain is undone.")
    else:
        views.show_drain(answer["drain"])


def _foresee(found: dict[str, Any], plan: Plan, *, as_json: bool) -> None:
    cannot = found["cannot"] if plan.to else found["tunnels"]
    maybe = found["tunnels"] - cannot
    takes_s = maybe / plan.redirects_per_s
    if as_json:
        told = {**found, "cannot": cannot, "redirected": maybe, "takes_s": takes_s, "left": plan.left.value}
        typer.echo(views.to_json(told))
        return
    typer.echo(
        f"{found['tunnels']} tunnels: {maybe} would be redirected, over {takes_s:.0f} s; {cannot} certainly cannot follow."
    )
    typer.echo("How many do follow is known when they have: charon tells nobody which clients understand a REDIRECT.")
    cut = f"between {cannot} and {found['tunnels']} would be cut" if plan.left is Left.DELETE else "nobody would be cut"
    typer.echo(f"Of who is left, {cut}.")
    if not found["active"]:
        typer.echo("This gateway is Backup: these are copies, and the Active moves them.")
