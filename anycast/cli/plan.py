"""`anycast plan` and `anycast apply`: what follows from a fleet file, and its signature (docs/content.md).

What the coordinator knows it is asked for, where the fleet file names one; or it is read from a file (`--against`). What was
signed goes to it, or into a file (`-o`).
"""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from anycast.cli import operator
from anycast.cli.coordinator_client import DEFAULT, Target, Unreachable, ask, fetch
from anycast.cli.fleet import FleetFile
from anycast.cli.options import Credential, Root, Url
from anycast.cli.origins import Vrps, refusals
from anycast.cli.plan_table import lines
from anycast.content.content import Content, decode_content
from anycast.content.state import State, decode_state, in_force, nothing_yet
from anycast.document import Document
from anycast.errors import ConfigError, DecodeError, PeerError, Problem
from anycast.fleet.compile import compile_fleet
from anycast.fleet.compile_content import compile_content
from anycast.fleet.loading import load
from anycast.pki import files
from anycast.policy import drain_target
from anycast.policy.plan import Plan, decode_plan, make, obstacles, submit
from anycast.policy.worst_case import DESPITE, WorstCase, worst_case
from anycast.policy.worst_case import refusals as worst_refusals
from anycast.prefixes.origins import told_outside


class PlanExit(enum.IntEnum):
    """Exit statuses of `anycast plan`; also in its help and in docs/content.md."""

    NOTHING = 0
    REFUSED = 1
    UNUSABLE = 2
    CHANGES = 3
    UNREACHABLE = 4
    """3 everywhere else; here a program would take that for a plan."""


Bake = Annotated[int, typer.Option(min=1, metavar="SECONDS", help="How long a changed site is watched before the next one.")]
Blind = Annotated[
    bool, typer.Option("--without-evidence", help="Go on where nothing shows how clients fare: a fleet without clients.")
]
Despite = Annotated[
    bool,
    typer.Option(DESPITE, help="Also where a step could be too much for another site (docs/what-if.md); say why: --reason."),
]
DespiteShown = Annotated[
    bool,
    typer.Option(DESPITE, help="Also where a step could be too much for another site (docs/what-if.md), as for `apply`."),
]
Reason = Annotated[
    str, typer.Option(metavar="TEXT", help="Why, for whoever reads `history` and `why` tomorrow.", show_default=False)
]
Against = Annotated[
    Path | None,
    typer.Option(metavar="STATE", help="What the coordinator knows, from a file. Without it the coordinator is asked."),
]


def plan(
    file: FleetFile,
    against: Against = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="P", help="Write the plan, for `apply`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
    url: Url = DEFAULT,
    credential: Credential = None,
    root: Root = None,
    vrps: Vrps = None,
    despite: DespiteShown = False,
) -> None:
    """Show what follows from a fleet file: announcements, tunnels that move, capacity with a site lost, the ledger.

    Changes nothing. Exit status: 0 nothing to do (P is not written), 3 there is something to do and nothing is against it,
    1 refused (every reason is said, P is not written): the budget does not allow it, or a step could be too much for another
    site; 2 the fleet file, the state or the command line cannot be used; 4 the coordinator does not answer.
    """
    fleet = load(file)
    documents = compile_fleet(fleet)
    try:
        wanted = compile_content(fleet, documents)
    except ConfigError as exc:
        raise ConfigError([Problem(each.where, each.what, str(file)) for each in exc.problems]) from exc
    asked = None if fleet.coordinator is None else Target(url, credential, root)
    try:
        state, contents = known(against, asked, fleet.fleet)
    except Unreachable as exc:
        typer.echo(f"anycast: {exc}", err=True)
        raise typer.Exit(PlanExit.UNREACHABLE) from exc
    made = make(state, contents, wanted, {name: each.canonical().decode() for name, each in documents.items()})
    worst = worst_case(in_force(state, contents), wanted, state)
    refused = [*made.problems, *too_much(worst, despite=despite), *refusals(vrps, told_outside(documents.values()))]
    status = PlanExit.REFUSED if refused else PlanExit.NOTHING if made.empty else PlanExit.CHANGES
    if as_json:
        typer.echo(json.dumps(shown(made, worst), indent=2, sort_keys=True))
    else:
        for line in lines(made, worst):
            typer.echo(line)
    if out is not None and status is PlanExit.CHANGES:
        files.write(out, made.text.encode() + b"\n", files.PUBLIC)
        typer.echo(f"{out}: plan {made.hash}", err=True)
    for problem in refused:
        typer.echo(f"refused: {problem}", err=True)
    raise typer.Exit(status)


def apply(
    file: Annotated[Path, typer.Argument(metavar="P", help="A plan, as `anycast plan -o P` wrote it.")],
    name: Annotated[str, typer.Option("--operator", envvar="ANYCAST_OPERATOR_NAME", help="Whose key signs.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the signed submission, and send nothing.")
    ] = None,
    bake: Bake = 60,
    blind: Blind = False,
    reason: Reason = "",
    against: Against = None,
    expect: Annotated[str | None, typer.Option(metavar="HASH", help="The plan that was reviewed, and no other.")] = None,
    folder: operator.Keys = None,
    passphrase_file: operator.PassphraseFile = None,
    url: Url = DEFAULT,
    credential: Credential = None,
    root: Root = None,
    vrps: Vrps = None,
    despite: Despite = False,
) -> None:
    """Sign a plan with one's own key, if everything that it was made from still holds, and hand it to the coordinator.

    Exit status: 0 signed, and its rollout has begun; 1 refused, with every fact that changed and everything beyond the
    budget; 2 a file or the command line cannot be used; 3 the coordinator does not answer. Nothing is written then.
    """
    try:
        made = decode_plan(_read(file))
    except DecodeError as exc:
        raise ConfigError([Problem("", exc.what, str(file))]) from exc
    if expect is not None and expect != made.hash:
        raise PeerError(str(file), f"is plan {made.hash}, not the one that was reviewed; nothing was signed")
    wants_reason(reason, despite=despite)
    target = Target(url, credential, root)
    # What is only written is judged against a file, or against a fleet that has no content yet.
    state, contents = known(against, None if out is not None else target, made.fleet)
    told = told_outside(Document.model_validate_json(text) for text in made.documents.values())
    worst = worst_case(in_force(state, contents), decode_content(made.content), state)
    if found := [*obstacles(made, state, contents), *too_much(worst, despite=despite), *refusals(vrps, told)]:
        for each in found:
            typer.echo(f"refused: {each}", err=True)
        raise typer.Exit(PlanExit.REFUSED)
    submission = submit(made, operator.open_key(folder, name, passphrase_file))
    if out is not None:
        files.write(out, submission.data, files.PUBLIC)
        typer.echo(f"{out}: plan {made.hash}, signed by {name}'s key {submission.signature.key}", err=True)
        return
    begun = ask(target, "POST", rollouts_path(bake, blind, reason, despite=despite), submission.data)
    typer.echo(f"rollout {begun['id']} has begun; `anycast rollout` shows it", err=True)


def rollouts_path(bake: int, blind: bool, reason: str, *, despite: bool, unannounced: bool = False) -> str:
    """Where a submission goes."""
    words = {"bake": bake, "blind": int(blind), **({"reason": reason} if reason else {})}
    words |= {"despite_worst_case": 1} if despite else {}
    words |= {"despite_unannounced": 1} if unannounced else {}
    return f"/v1/rollouts?{urlencode(words)}"


def too_much(worst: WorstCase, *, despite: bool) -> tuple[str, ...]:
    """What is refused of it."""
    return () if despite else worst_refusals(worst)


def wants_reason(reason: str, *, despite: bool, unannounced: bool = False) -> None:
    """Raises ConfigError."""
    if (despite or unannounced) and not reason.strip():
        option = DESPITE if despite else drain_target.DESPITE
        raise ConfigError([Problem("--reason", f"why is it worth it? {option} wants a reason, which stays in the history")])


def shown(made: Plan, worst: WorstCase) -> dict[str, Any]:
    """For programs: all but the texts that are signed."""
    return {
        **made.model_dump(mode="json", exclude={"content", "documents"}),
        "hash": made.hash,
        "moves_worst": made.moves.worst,
        "capacity_worst": made.capacity.worst,
        "worst_case": {"verdict": str(worst.verdict), "breaks": worst.breaks, "unknown": worst.unknown},
    }


def _read(path: Path) -> bytes:
    """Whoever may write it: a plan is judged anew, and a state is the word of whoever gave it, like the fleet file."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise files.refused(path, exc) from exc


def known(against: Path | None, target: Target | None, fleet: str) -> tuple[State, dict[str, Content]]:
    """What the coordinator knows: from a file, else by asking; nothing of a fleet that has none."""
    if against is None and target is None:
        return nothing_yet(fleet), {}
    try:
        if against is not None:
            return decode_state(_read(against))
        assert target is not None
        return decode_state(fetch(target, "/v1/state"))
    except DecodeError as exc:
        if against is None:
            raise PeerError("coordinator", f"says what means nothing: {exc}") from exc
        raise ConfigError([Problem("", exc.what, str(against))]) from exc
