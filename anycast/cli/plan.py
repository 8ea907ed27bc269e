"""`anycast plan` and `anycast apply`: what follows from a fleet file, and its signature (docs/content.md).

The coordinator does not serve yet: what it knows is read from a file (`--against`), and what it shall have is written to
one.
"""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from anycast.cli import operator
from anycast.cli.fleet import FleetFile
from anycast.cli.plan_table import lines
from anycast.content.content import Content
from anycast.content.state import State, decode_state, nothing_yet
from anycast.errors import ConfigError, DecodeError, PeerError, Problem
from anycast.fleet.compile import compile_fleet
from anycast.fleet.compile_content import compile_content
from anycast.fleet.loading import load
from anycast.pki import files
from anycast.policy.plan import Plan, decode_plan, make, obstacles, submit


class PlanExit(enum.IntEnum):
    """Exit statuses of `anycast plan`; also in its help and in docs/content.md."""

    NOTHING = 0
    REFUSED = 1
    UNUSABLE = 2
    CHANGES = 3


Against = Annotated[
    Path | None,
    typer.Option(metavar="STATE", help="What the coordinator knows. Without it: a fleet that has no content yet."),
]


def plan(
    file: FleetFile,
    against: Against = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="P", help="Write the plan, for `apply`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Show what follows from a fleet file: announcements, tunnels that move, capacity with a site lost, the ledger.

    Changes nothing. Exit status: 0 nothing to do (P is not written), 3 there is something to do and the budget allows it,
    1 refused (every reason is said, P is not written), 2 the fleet file, the state or the command line cannot be used.
    """
    fleet = load(file)
    documents = compile_fleet(fleet)
    try:
        wanted = compile_content(fleet, documents)
    except ConfigError as exc:
        raise ConfigError([Problem(each.where, each.what, str(file)) for each in exc.problems]) from exc
    state, contents = _state(against, fleet.fleet)
    made = make(state, contents, wanted, {name: each.canonical().decode() for name, each in documents.items()})
    status = PlanExit.REFUSED if made.problems else PlanExit.NOTHING if made.empty else PlanExit.CHANGES
    if as_json:
        typer.echo(json.dumps(shown(made), indent=2, sort_keys=True))
    else:
        for line in lines(made):
            typer.echo(line)
    if out is not None and status is PlanExit.CHANGES:
        files.write(out, made.text.encode() + b"\n", files.PUBLIC)
        typer.echo(f"{out}: plan {made.hash}", err=True)
    for problem in made.problems:
        typer.echo(f"refused: {problem}", err=True)
    raise typer.Exit(status)


def apply(
    file: Annotated[Path, typer.Argument(metavar="P", help="A plan, as `anycast plan -o P` wrote it.")],
    name: Annotated[str, typer.Option("--operator", envvar="ANYCAST_OPERATOR_NAME", help="Whose key signs.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where the signed submission goes.")],
    against: Against = None,
    expect: Annotated[str | None, typer.Option(metavar="HASH", help="The plan that was reviewed, and no other.")] = None,
    folder: operator.Keys = None,
    passphrase_file: operator.PassphraseFile = None,
) -> None:
    """Sign a plan with one's own key, if everything that it was made from still holds.

    Exit status: 0 signed; 1 refused, with every fact that changed and everything beyond the budget; 2 a file or the command
    line cannot be used. Nothing is written then.
    """
    try:
        made = decode_plan(_read(file))
    except DecodeError as exc:
        raise ConfigError([Problem("", exc.what, str(file))]) from exc
    if expect is not None and expect != made.hash:
        raise PeerError(str(file), f"is plan {made.hash}, not the one that was reviewed; nothing was signed")
    state, contents = _state(against, made.fleet)
    if found := obstacles(made, state, contents):
        for each in found:
            typer.echo(f"refused: {each}", err=True)
        raise typer.Exit(PlanExit.REFUSED)
    submission = submit(made, operator.open_key(folder, name, passphrase_file))
    files.write(out, submission.data, files.PUBLIC)
    typer.echo(f"{out}: plan {made.hash}, signed by {name}'s key {submission.signature.key}", err=True)


def shown(made: Plan) -> dict[str, Any]:
    """For programs: all but the texts that are signed."""
    return {
        **made.model_dump(mode="json", exclude={"content", "documents"}),
        "hash": made.hash,
        "moves_worst": made.moves.worst,
        "capacity_worst": made.capacity.worst,
    }


def _read(path: Path) -> bytes:
    """Whoever may write it: a plan is judged anew, and a state is the word of whoever gave it, like the fleet file."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise files.refused(path, exc) from exc


def _state(against: Path | None, fleet: str) -> tuple[State, dict[str, Content]]:
    if against is None:
        return nothing_yet(fleet), {}
    try:
        return decode_state(_read(against))
    except DecodeError as exc:
        raise ConfigError([Problem("", exc.what, str(against))]) from exc
