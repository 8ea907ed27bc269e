"""`anycast drain` and `undrain`: one site's intent, planned, shown, signed and rolled out in one command.

The same path as `plan` and `apply` (docs/coordinator.md): a drain is content that an operator signs on their own machine. A
coordinator alone can do nothing of it, and nothing of it depends on one once the site runs by it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from anycast.cli import operator
from anycast.cli.coordinator import Credential, Root, Url
from anycast.cli.coordinator_client import DEFAULT, Target, ask
from anycast.cli.plan import Bake, Blind, PlanExit, Reason, known, rollouts_path, shown
from anycast.cli.plan_table import lines
from anycast.content.content import Content, Intent, Moves
from anycast.content.state import in_force
from anycast.errors import ConfigError, PeerError, Problem
from anycast.policy.drain import Left
from anycast.policy.plan import make, submit

Site = Annotated[str, typer.Argument(help="The site.")]
Signer = Annotated[str, typer.Option("--operator", envvar="ANYCAST_OPERATOR_NAME", help="Whose key signs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would follow, and sign nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of tables; asks nothing.")]


def drain(
    site: Site,
    name: Signer = "",
    to: Annotated[
        str, typer.Option(metavar="SITE", help="Move its tunnels there first, by REDIRECT to that site's service_address.")
    ] = "",
    left: Annotated[
        Left, typer.Option(help="Clients that cannot follow: wait for them, or cut them once the route is worse.")
    ] = Left.WAIT,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
    bake: Bake = 60,
    blind: Blind = False,
    reason: Reason = "",
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
    how = _How(name, folder, passphrase_file, dry_run, yes or as_json, as_json, bake, blind, reason)
    _change(target, site, Intent.DRAINED, how, to, left)


def undrain(
    site: Site,
    name: Signer = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
    bake: Bake = 60,
    blind: Blind = False,
    reason: Reason = "",
    folder: operator.Keys = None,
    passphrase_file: operator.PassphraseFile = None,
    url: Url = DEFAULT,
    credential: Credential = None,
    root: Root = None,
) -> None:
    """Have a drained site attract traffic again. Exit status as of `drain`."""
    target = Target(url, credential, root)
    how = _How(name, folder, passphrase_file, dry_run, yes or as_json, as_json, bake, blind, reason)
    _change(target, site, Intent.ANNOUNCED, how)


@dataclasses.dataclass(frozen=True, slots=True)
class _How:
    """What both commands take."""

    name: str
    folder: Path | None
    passphrase_file: Path | None
    dry_run: bool
    yes: bool
    as_json: bool
    bake: int
    blind: bool
    reason: str


def _change(
    target: Target, site: str, intent: Intent, how: _How, to: str = "", left: Left = Left.WAIT
) -> None:
    if not how.dry_run and not how.name:
        raise ConfigError([Problem("--operator", "whose key is to sign? or ANYCAST_OPERATOR_NAME; --dry-run needs none")])
    state, contents = known(None, target, "")
    running = in_force(state, contents)
    if running is None:
        raise PeerError("coordinator", "no gateway runs by a content yet; `anycast plan` and `apply` make the first one")
    if site not in running.sites:
        raise ConfigError([Problem("site", f"there is no site {site}; there are {', '.join(sorted(running.sites))}")])
    documents = ask(target, "GET", "/v1/documents")["documents"]
    moves = _moves(running, site, to, left, documents) if to else None
    made = make(state, contents, running.with_intent(site, intent, moves), documents)
    if how.as_json:
        print(json.dumps(shown(made), indent=1, sort_keys=True))
    else:
        for line in lines(made):
            print(line)
    if made.problems:
        for problem in made.problems:
            print(f"refused: {problem}", file=sys.stderr)
        raise typer.Exit(PlanExit.REFUSED)
    if how.dry_run or made.empty:
        return
    if not how.yes and not typer.confirm(f"{'Drain' if intent.dark else 'Undrain'} {site}?", err=True):
        raise typer.Exit(PlanExit.REFUSED)
    submission = submit(made, operator.open_key(how.folder, how.name, how.passphrase_file))
    begun = ask(target, "POST", rollouts_path(how.bake, how.blind, how.reason), submission.data)
    print(f"rollout {begun['id']} has begun; `anycast rollout` shows it", file=sys.stderr)


def _moves(running: Content, site: str, to: str, left: Left, documents: Mapping[str, str]) -> Moves:
    """Raises ConfigError where there is no such place to move to."""
    if to == site or to not in running.sites or running.sites[to].intent.dark:
        others = [name for name, each in running.sites.items() if name != site and not each.intent.dark]
        raise ConfigError([Problem("--to", f"{to} is no other site that attracts; there are {', '.join(others) or 'none'}")])
    names = [name for name in running.sites[to].gateways if name in documents]
    addresses = json.loads(documents[names[0]])["service"].get("service_addresses", []) if names else []
    if not addresses:
        what = f"{to} has no service_address, so nobody can be sent there; fleet.yaml gives it one (docs/drain.md)"
        raise ConfigError([Problem("--to", what)])
    return Moves(site=to, to=tuple(addresses), left=left.value)
