"""`site-agent hold` and `site-agent flap`: an operator's own word on this gateway's route.

They need no network, no configuration and, for a hold, no running agent: the file is written first, then the agent is told.
Where none answers, `hold withdraw` ends ExaBGP itself, because nobody else would take the route away now.
Like `status` they import nothing heavy.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
from pathlib import Path
from typing import Annotated

import typer

from anycast.errors import DecodeError, KernelError, PeerError
from anycast.policy.hold import LONGEST_S, NOT_SEEN, HoldKind, begin
from anycast.reasons import FACTS, Reason
from anycast.span import parse_span
from site_agent import control, hold_store, views
from site_agent.paths import Paths
from site_agent.route_intent import describe_hold

HANDOVER_PATIENCE_S = 8.0
"""Longer than all that one waits for (`handover`)."""

DEFAULTS = Paths()
SHORTEST_S = 1.0
UNREADABLE_S = 2 * 3600.0
"""How long a withdrawal lasts whose time span cannot be read: long enough to find out, and it ends by itself."""
FACT_WORDS = ", ".join(sorted(FACTS))

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
        list[str] | None,
        typer.Option(metavar="FACT", help=f"A fact to announce in spite of; repeatable. One of {FACT_WORDS}."),
    ] = None,
    run_dir: RunDir = DEFAULTS.run_dir,
    state_dir: StateDir = DEFAULTS.state_dir,
) -> None:
    """Announce in spite of everything that is no fact, of a recent failure and of flap control."""
    named = tuple(dict.fromkeys(despite or ()))
    if unseen := sorted(NOT_SEEN.intersection(named)):
        raise typer.BadParameter(f"{', '.join(unseen)} means that nothing was seen, and no hold overrides that")
    if others := [word for word in named if word not in FACTS]:
        raise typer.BadParameter(f"--despite: {', '.join(others)} is no fact that withdraws; the facts are {FACT_WORDS}")
    facts = tuple(Reason(word) for word in named)
    _begin(Paths(run_dir=run_dir, state_dir=state_dir), HoldKind.ANNOUNCE, for_, reason, facts)


@hold_app.command()
def end(run_dir: RunDir = DEFAULTS.run_dir, state_dir: StateDir = DEFAULTS.state_dir) -> None:
    """End the hold now."""
    paths = Paths(run_dir=run_dir, state_dir=state_dir)
    # As with a beginning: first without the disk, because one that hangs must not keep a hold in force.
    lay_on_tmpfs = paths.hold_for_this_boot.exists()
    ended = hold_store.end_for_this_boot(paths)
    told = ended and _tell(paths)
    lay_on_disk = hold_store.remove(paths)
    if not (told if ended else _tell(paths)):
        raise typer.Exit(1)
    _say("No hold is in force any more." if lay_on_tmpfs or lay_on_disk else "There was no hold.")


def handover(as_json: Json = False, run_dir: RunDir = DEFAULTS.run_dir) -> None:
    """Let the site's other gateway serve, without losing a packet. Refused where it says that it could not.

    Run it at the Active. The other gateway has the addresses before this one lets them go; BGP sees nothing of it. To keep
    this gateway from serving at all, for maintenance, use `hold withdraw`.
    """
    answer = control.ask(Paths(run_dir=run_dir).control_socket, "handover", patience_s=HANDOVER_PATIENCE_S)
    if as_json:
        typer.echo(views.to_json(answer))
    else:
        typer.echo(f"{answer['peer']} serves now; this gateway is Backup ({answer['cause']}, {answer['took_ms']} ms).")
        if answer.get("open_exchanges"):
            count = answer["open_exchanges"]
            many = "it is not known how many" if count < 0 else f"{count}"
            typer.echo(f"IKE_SAs with an exchange that had not ended within a second: {many}.")


def restart_vrrp(run_dir: RunDir = DEFAULTS.run_dir) -> None:
    """Replace the running vrrp process by a new one, which goes on in its role: not a packet is lost.

    A restart of the agent does it, too. `site-agent apply` is enough for changed keys.
    """
    answer = control.ask(Paths(run_dir=run_dir).control_socket, "vrrp-restart")
    typer.echo(f"A new vrrp process, pid {answer['pid']}, goes on as {answer['role']}.")


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
        if kind is not HoldKind.WITHDRAW:
            raise typer.BadParameter(f"--for: {for_!r} is no time span like 90 s, 30 min or 2h") from exc
        for_s = UNREADABLE_S  # never refused
        _say(
            f"--for: {for_!r} is no time span like 90 s, 30 min or 2h, so it lasts 2 h; say it again to change that.",
            err=True,
        )
    if not SHORTEST_S <= for_s <= LONGEST_S:
        if kind is not HoldKind.WITHDRAW:
            raise typer.BadParameter(f"--for: {for_!r} is not between 1 s and 30 days")
        for_s = min(max(for_s, SHORTEST_S), LONGEST_S)  # never refused
        lasts = "1 s" if for_s == SHORTEST_S else "30 days"
        _say(f"--for: {for_!r} is not between 1 s and 30 days, so it lasts {lasts}.", err=True)
    hold = begin(kind, for_s=for_s, reason=reason, despite=despite, clocks=hold_store.read_clocks())
    # First without the disk: one that hangs must not keep a hold from being in force. What follows may take its time.
    in_force = hold_store.store_for_this_boot(paths, hold)
    sentence = f"{hold}, until {views.local_time(datetime.datetime.fromtimestamp(hold.ends_wall, datetime.UTC))}"
    if in_force:
        _say(sentence)
    acted = in_force and _tell(paths, kind)
    try:
        outlives_boot = hold_store.store(paths, hold)
    except KernelError as exc:
        remedy = "; run as root" if exc.errno in (errno.EACCES, errno.EPERM) else ""
        _say(f"not held: {exc}{remedy}", err=True)
        raise typer.Exit(1) from exc
    if not in_force:
        _say(sentence)
    if not outlives_boot:
        _say(f"{paths.hold} cannot be written: this hold does not outlive a boot.", err=True)
    if not (acted if in_force else _tell(paths, kind)):
        raise typer.Exit(1)


def _say(sentence: str, *, err: bool = False) -> None:
    """A terminal that has gone, or that cannot show a letter, must not keep a command from acting."""
    with contextlib.suppress(OSError, UnicodeError):
        typer.echo(sentence, err=err)


def _tell(paths: Paths, kind: HoldKind | None = None) -> bool:
    """A running agent acts on it before it answers; False where it refuses. Without one the file waits for the next, and for
    a `withdraw` a route that is still there (a clean stop leaves it for a grace) goes with ExaBGP: its TCP close withdraws.
    """
    try:
        control.ask(paths.control_socket, "hold")
    except control.NobodyAnswers as exc:
        _say(f"No agent answers ({exc}): the next one to start goes by it.", err=True)
        return kind is not HoldKind.WITHDRAW or _end_exabgp(paths)
    except PeerError as exc:
        _say(f"The agent did not act on it: {exc}", err=True)
        return False
    return True


def _end_exabgp(paths: Paths) -> bool:
    from site_agent.announce.exabgp_process import end_recorded  # starts processes: heavier than the rest of this command

    try:
        pid = end_recorded(paths.run_dir)
    except PeerError as exc:
        _say(f"The route may still be there: {exc}", err=True)
        return False
    if pid is not None:
        _say(f"ExaBGP (pid {pid}) was ended: its sessions are closed, and what it announced is withdrawn.", err=True)
    return True
