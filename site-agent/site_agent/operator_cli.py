"""`site-agent hold` and `site-agent flap`: an operator's own word on this gateway's route.

They need no network, no configuration and, for a hold, no running agent: the file is written first, then the agent is told.
Like `status` they import nothing heavy.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

import typer

from anycast.errors import DecodeError, PeerError
from anycast.policy.hold import LONGEST_S, NOT_SEEN, HoldKind, begin
from anycast.reasons import Reason
from site_agent import control, hold_store, views
from site_agent.history import parse_span
from site_agent.paths import Paths
from site_agent.route_intent import describe_hold

DEFAULTS = Paths()
SHORTEST_S = 1.0

hold_app = typer.Typer(help="Break-glass: withdraw or announce by your own word, for a limited time.")
flap_app = typer.Typer(help="Flap control: what a receiver that damps may count against this route.")

RunDir = Annotated[Path, typer.Option(help="Where a running agent listens.")]
StateDir = Annotated[Path, typer.Option(help="Where the hold lies.")]
For = Annotated[str, typer.Option("--for", help="How long: `90 s`, `30 min`, `2h`; at most 30 days. It ends by itself.")]
Why = Annotated[str, typer.Option("--reason", help="For whoever reads `why` tomorrow.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of a sentence.")]


@hold_app.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    as_json: Json = False,
    run_dir: RunDir = DEFAULTS.run_dir,
    state_dir: StateDir = DEFAULTS.state_dir,
) -> None:
    """Show the hold in force. `hold withdraw` and `hold announce` begin one, `hold end` ends it."""
    if context.invoked_subcommand is not None:
        return
    hold = stored_hold(Paths(run_dir=run_dir, state_dir=state_dir))
    if as_json:
        typer.echo(views.to_json({"hold": hold}))
    else:
        views.show_hold(hold)
        if hold is None:
            typer.echo("No hold is in force.")


@hold_app.command()
def withdraw(for_: For, reason: Why, run_dir: RunDir = DEFAULTS.run_dir, state_dir: StateDir = DEFAULTS.state_dir) -> None:
    """Withdraw this gateway's routes, whatever the checks say. Never refused."""
    _begin(Paths(run_dir=run_dir, state_dir=state_dir), HoldKind.WITHDRAW, for_, reason, ())


@hold_app.command()
def announce(
    for_: For,
    reason: Why,
    despite: Annotated[
        list[Reason] | None, typer.Option(help="A fact to announce in spite of, by the word that `why` gives; repeatable.")
    ] = None,
    run_dir: RunDir = DEFAULTS.run_dir,
    state_dir: StateDir = DEFAULTS.state_dir,
) -> None:
    """Announce in spite of everything that is no fact, of a recent failure and of flap control."""
    named = tuple(dict.fromkeys(despite or ()))
    if unseen := NOT_SEEN.intersection(named):
        raise typer.BadParameter(f"{', '.join(sorted(unseen))} means that nothing was seen, and no hold overrides that")
    _begin(Paths(run_dir=run_dir, state_dir=state_dir), HoldKind.ANNOUNCE, for_, reason, named)


@hold_app.command()
def end(run_dir: RunDir = DEFAULTS.run_dir, state_dir: StateDir = DEFAULTS.state_dir) -> None:
    """End the hold now."""
    paths = Paths(run_dir=run_dir, state_dir=state_dir)
    hold_store.remove(paths)
    _tell(paths)
    typer.echo("No hold is in force any more.")


@flap_app.command()
def clear(run_dir: RunDir = DEFAULTS.run_dir) -> None:
    """Forget the penalty of the running agent; a route that waits for it returns at once."""
    answer = control.ask(Paths(run_dir=run_dir).control_socket, "flap-clear")
    typer.echo(f"A penalty of {answer['penalty']} is forgotten. Receivers may still count theirs.")


def show_stored_hold(paths: Paths) -> None:
    """For screens that must come whatever lies there: one that means nothing is said to mean nothing."""
    try:
        views.show_hold(stored_hold(paths))
    except DecodeError as exc:
        typer.echo(f"The hold's file means nothing ({exc}): no hold will be in force.")


def stored_hold(paths: Paths) -> dict[str, object] | None:
    """The hold that the file says is in force, as `status` gives it. Raises DecodeError."""
    hold = hold_store.load(paths)
    described = None if hold is None else describe_hold(hold)
    return described if described is not None and described["left_s"] > 0 else None


def _begin(paths: Paths, kind: HoldKind, for_: str, reason: str, despite: tuple[Reason, ...]) -> None:
    try:
        for_s = parse_span(for_)
    except ValueError as exc:
        raise typer.BadParameter(f"--for: {for_!r} is no time span like 90 s, 30 min or 2h") from exc
    if not SHORTEST_S <= for_s <= LONGEST_S:
        raise typer.BadParameter(f"--for: {for_!r} is not between 1 s and 30 days")
    hold = begin(kind, for_s=for_s, reason=reason, despite=despite, clocks=hold_store.read_clocks())
    lasting = hold_store.store(paths, hold)
    until = datetime.datetime.fromtimestamp(hold.ends_wall).astimezone().isoformat(sep=" ", timespec="seconds")
    typer.echo(f"{hold}, until {until}")
    if not lasting:
        typer.echo(f"{paths.hold} cannot be written: this hold does not outlive a boot.", err=True)
    _tell(paths)


def _tell(paths: Paths) -> None:
    """A running agent acts on it before it answers. Without one the file waits for the next."""
    try:
        control.ask(paths.control_socket, "hold")
    except PeerError as exc:
        typer.echo(f"No agent answers ({exc}): the next one to start goes by it.", err=True)
