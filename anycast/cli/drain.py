"""`anycast drain`, `maintenance`, `degrade` and `undrain`: one site's intent, planned, shown, signed and rolled out in one
command.

The same path as `plan` and `apply` (docs/coordinator.md): what darkens a site is content that an operator signs on their own
machine. A coordinator alone can do nothing of it, and nothing of it depends on one once the site runs by it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import pydantic
import typer
from rich.console import Console

from anycast.cli import operator
from anycast.cli.coordinator_client import DEFAULT, Target, ask
from anycast.cli.options import Credential, Root, Url
from anycast.cli.plan import Bake, Blind, Despite, PlanExit, Reason, known, rollouts_path, shown, too_much, wants_reason
from anycast.cli.plan_table import lines
from anycast.cli.progress import Wait, follow
from anycast.content.content import LONGEST_MOVE_S, MOST_PREPEND, Because, Content, Intent, Moves
from anycast.content.state import in_force
from anycast.errors import ConfigError, PeerError, Problem
from anycast.policy.drain import FOLLOW_S, MOVE_LIMIT_S, Left
from anycast.policy.drain_target import DESPITE, refusals, way_of
from anycast.policy.plan import make, submit
from anycast.policy.worst_case import worst_case
from anycast.span import parse_span

Site = Annotated[str, typer.Argument(help="The site.")]
Signer = Annotated[str, typer.Option("--operator", envvar="ANYCAST_OPERATOR_NAME", help="Whose key signs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would follow, and sign nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of tables; asks nothing.")]
For = Annotated[
    str,
    typer.Option("--for", metavar="TIME", help="How long it is meant to last: `2h`. Then it is an alarm, not an end."),
]
Why = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Signed: for whoever reads ledger, `history` and `why` tomorrow.")
]
To = Annotated[
    str, typer.Option(metavar="SITE", help="Move its tunnels there first, by REDIRECT to that site's service_address.")
]
LeftThere = Annotated[
    Left, typer.Option(help="Clients that cannot follow: wait for them, or cut them once the route is worse.")
]
Limit = Annotated[
    str,
    typer.Option(metavar="TIME", help="With --to: how long tunnels may take to move, before --left's word (10 min)."),
]
Unannounced = Annotated[
    bool,
    typer.Option(DESPITE, help="With --to, also where no upstream has the prefix that leads there; say why: --reason."),
]
LONGEST_S = 366 * 86400


def drain(
    site: Site,
    to: To = "",
    left: LeftThere = Left.WAIT,
    limit: Limit = "",
    for_: For = "",
    reason: Why = "",
    name: Signer = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
    bake: Bake = 60,
    blind: Blind = False,
    wait: Wait = False,
    despite: Despite = False,
    unannounced: Unannounced = False,
    folder: operator.Keys = None,
    passphrase_file: operator.PassphraseFile = None,
    url: Url = DEFAULT,
    credential: Credential = None,
    root: Root = None,
) -> None:
    """Have a site attract no traffic, on purpose: shown first, within the budget or not at all.

    Exit status: 0 its rollout has begun, or there was nothing to do; 1 refused, every reason is said; 2 the command line or
    a file cannot be used; 3 the coordinator does not answer.
    """
    target = Target(url, credential, root)
    how = _How(
        name, folder, passphrase_file, dry_run, yes or as_json, as_json, bake, blind, reason, wait, despite, unannounced
    )
    because = _because("drain", for_, reason)
    _change(target, site, _Wanted(Intent.DRAINED, "Drain", because, to, left, _limit(to, limit)), how)


def maintenance(
    site: Site,
    for_: For,
    reason: Why,
    to: To = "",
    left: LeftThere = Left.WAIT,
    limit: Limit = "",
    name: Signer = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
    bake: Bake = 60,
    blind: Blind = False,
    wait: Wait = False,
    despite: Despite = False,
    unannounced: Unannounced = False,
    folder: operator.Keys = None,
    passphrase_file: operator.PassphraseFile = None,
    url: Url = DEFAULT,
    credential: Credential = None,
    root: Root = None,
) -> None:
    """A drain for somebody's work on a site, with its end and its reason: both are signed, and stand in the ledger.

    When the time is over and the site is dark still, that is an alarm; nothing returns by a clock, as nobody knows whether
    the rack is closed. `undrain` ends it. Exit status as of `drain`.
    """
    target = Target(url, credential, root)
    how = _How(
        name, folder, passphrase_file, dry_run, yes or as_json, as_json, bake, blind, reason, wait, despite, unannounced
    )
    because = _because("maintenance", for_, reason)
    _change(target, site, _Wanted(Intent.DRAINED, "Darken", because, to, left, _limit(to, limit)), how)


def degrade(
    site: Site,
    for_: For = "",
    reason: Why = "",
    prepend: Annotated[
        int, typer.Option(min=0, max=MOST_PREPEND, metavar="N", help="Also so many more copies of the site's AS number.")
    ] = 0,
    name: Signer = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
    bake: Bake = 60,
    blind: Blind = False,
    wait: Wait = False,
    despite: Despite = False,
    folder: operator.Keys = None,
    passphrase_file: operator.PassphraseFile = None,
    url: Url = DEFAULT,
    credential: Credential = None,
    root: Root = None,
) -> None:
    """Have a site's route look worse than the other sites', and stay: GRACEFUL_SHUTDOWN (RFC 8326), and a longer path.

    It attracts whoever finds no better one. That moves clients, so it takes a slot of the ledger as a drain does. `undrain`
    ends it. Exit status as of `drain`.
    """
    target = Target(url, credential, root)
    how = _How(name, folder, passphrase_file, dry_run, yes or as_json, as_json, bake, blind, reason, wait, despite)
    _change(target, site, _Wanted(Intent.DEGRADED, "Degrade", _because("degrade", for_, reason), prepend=prepend), how)


def undrain(
    site: Site,
    name: Signer = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
    bake: Bake = 60,
    blind: Blind = False,
    wait: Wait = False,
    reason: Reason = "",
    folder: operator.Keys = None,
    passphrase_file: operator.PassphraseFile = None,
    url: Url = DEFAULT,
    credential: Credential = None,
    root: Root = None,
) -> None:
    """Have a site attract traffic again, whatever of these three darkened it. Exit status as of `drain`."""
    target = Target(url, credential, root)
    how = _How(name, folder, passphrase_file, dry_run, yes or as_json, as_json, bake, blind, reason, wait)
    _change(target, site, _Wanted(Intent.ANNOUNCED, "Undrain"), how)


@dataclasses.dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to become of a site."""

    intent: Intent
    verb: str
    because: Because | None = None
    to: str = ""
    left: Left = Left.WAIT
    limit_s: int | None = None
    prepend: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class _How:
    """What all of them take."""

    name: str
    folder: Path | None
    passphrase_file: Path | None
    dry_run: bool
    yes: bool
    as_json: bool
    bake: int
    blind: bool
    reason: str
    wait: bool = False
    despite: bool = False
    unannounced: bool = False


def _because(kind: Literal["drain", "maintenance", "degrade"], for_: str, reason: str) -> Because | None:
    """Raises ConfigError. None: a drain of which nobody said anything more."""
    problems, until = list[Problem](), None
    if for_:
        try:
            seconds = parse_span(for_)
            if not 0 < seconds <= LONGEST_S:
                raise ValueError(f"{for_!r} is not between a second and a year")
            until = int(time.time() + seconds)
        except ValueError as exc:
            problems.append(Problem("--for", f"{exc}; `2h`, `90 min`, `3 days`"))
    elif kind == "maintenance":
        problems.append(Problem("--for", "how long will it take? `2h`, `90 min`, `3 days`"))
    if kind == "maintenance" and not reason.strip():
        problems.append(Problem("--reason", "what is it for? Whoever finds the site dark will ask"))
    try:
        because = Because(kind=kind, why=reason.strip(), until=until)
    except pydantic.ValidationError as exc:
        problems.append(Problem("--reason", "at most 200 characters, and none that moves a terminal's cursor"))
        raise ConfigError(problems) from exc
    if problems:
        raise ConfigError(problems)
    return None if kind == "drain" and not because.why and until is None else because


def _change(target: Target, site: str, wanted: _Wanted, how: _How) -> None:
    wants_reason(how.reason, despite=how.despite, unannounced=how.unannounced)
    if not how.dry_run and not how.name:
        raise ConfigError([Problem("--operator", "whose key is to sign? or ANYCAST_OPERATOR_NAME; --dry-run needs none")])
    if not how.dry_run:
        operator.has_key(how.folder, how.name)
    state, contents = known(None, target, "")
    running = in_force(state, contents)
    if running is None:
        raise PeerError("coordinator", "no gateway runs by a content yet; `anycast plan` and `apply` make the first one")
    if site not in running.sites:
        raise ConfigError([Problem("site", f"there is no site {site}; there are {', '.join(sorted(running.sites))}")])
    documents = ask(target, "GET", "/v1/documents")["documents"]
    moves = _moves(running, site, wanted, documents) if wanted.to else None
    content = running.with_intent(site, wanted.intent, moves, wanted.because, wanted.prepend)
    made = make(state, contents, content, documents)
    said = foreseen(site, state.tunnels.get(site), content.sites[site].moves) if wanted.intent is Intent.DRAINED else ""
    worst, way = worst_case(running, content, state), way_of(running, content, state)
    if how.as_json:
        way_told = {"missing": way.missing, "unsure": way.unsure}
        print(json.dumps({**shown(made, worst), "way": way_told}, indent=1, sort_keys=True))
    else:
        for line in lines(made, worst):
            print(line)
        if said and not made.empty:
            print(said)
        for each in (*way.missing, *way.unsure):
            print(f"way      {each}")
    no_way = () if how.unannounced else refusals(way)
    if refused := [*made.problems, *too_much(worst, despite=how.despite), *no_way]:
        for problem in refused:
            print(f"refused: {problem}", file=sys.stderr)
        raise typer.Exit(PlanExit.REFUSED)
    if how.dry_run or made.empty:
        return
    if not how.yes and not typer.confirm(f"{wanted.verb} {site}?", err=True):
        raise typer.Exit(PlanExit.REFUSED)
    submission = submit(made, operator.open_key(how.folder, how.name, how.passphrase_file))
    path = rollouts_path(how.bake, how.blind, how.reason, despite=how.despite, unannounced=how.unannounced)
    begun = ask(target, "POST", path, submission.data)
    print(f"rollout {begun['id']} has begun; `anycast rollout` shows it", file=sys.stderr)
    dark = site if wanted.intent is Intent.DRAINED else ""
    if how.wait and not follow(target, begun["id"], Console(stderr=how.as_json), dark=dark):
        raise typer.Exit(PlanExit.REFUSED)


def foreseen(site: str, tunnels: int | None, moves: Moves | None) -> str:
    """What becomes of a drained site's clients, beforehand."""
    how_many = "an unknown number of tunnels" if tunnels is None else f"{tunnels} tunnel{'' if tunnels == 1 else 's'}"
    if moves is None:
        return f"clients  {how_many} at {site}: nobody is moved first, each finds another site by its dead peer detection"
    most = "all of them" if tunnels is None else str(tunnels)
    limit = f"{moves.limit_s or MOVE_LIMIT_S:.0f} s after it began"
    if moves.left == "delete":
        left = f", or {limit}; of those at most {most} are cut, once the route is worse"
    else:
        left = f"; nobody is cut: the route waits, and {limit} says so by an alarm"
    return (
        f"clients  {how_many} at {site}: each is redirected to {moves.site} ({', '.join(moves.to)}), at most {most} follow. "
        f"Who cannot, shows only by being there still after {FOLLOW_S:.0f} s{left}"
    )


def _limit(to: str, limit: str) -> int | None:
    """Raises ConfigError."""
    if not limit:
        return None
    if not to:
        raise ConfigError([Problem("--limit", "without --to nobody is moved, so there is nothing to wait for")])
    try:
        seconds = round(parse_span(limit))
        if not 1 <= seconds <= LONGEST_MOVE_S:
            raise ValueError(f"{limit!r} is not between a second and a day")
    except ValueError as exc:
        raise ConfigError([Problem("--limit", f"{exc}; `90 s`, `10 min`")]) from exc
    return seconds


def _moves(running: Content, site: str, wanted: _Wanted, documents: Mapping[str, str]) -> Moves:
    """Raises ConfigError where there is no such place to move to."""
    to = wanted.to
    if to == site or to not in running.sites or running.sites[to].intent.dark:
        others = [name for name, each in running.sites.items() if name != site and not each.intent.dark]
        raise ConfigError([Problem("--to", f"{to} is no other site that attracts; there are {', '.join(others) or 'none'}")])
    names = [name for name in running.sites[to].gateways if name in documents]
    addresses = json.loads(documents[names[0]])["service"].get("service_addresses", []) if names else []
    if not addresses:
        what = f"{to} has no service_address, so nobody can be sent there; fleet.yaml gives it one (docs/drain.md)"
        raise ConfigError([Problem("--to", what)])
    return Moves(site=to, to=tuple(addresses), left=wanted.left.value, limit_s=wanted.limit_s)
