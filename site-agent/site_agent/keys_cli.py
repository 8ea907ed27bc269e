"""`site-agent keys`: the keys that the two gateways of a pair seal their VRRP advertisements with.

A key stands in its file and nowhere else: not in an argument, in the environment, in a log or on a screen.
"""

from __future__ import annotations

import datetime
import secrets
import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from anycast.errors import PeerError
from site_agent import control, views
from site_agent.paths import Paths
from site_agent.vrrp import key_file, pair_keys
from site_agent.vrrp.pair_keys import PairKeys, Step
from site_agent.vrrp.seal import KEY_BYTES

DEFAULTS = Paths()
REPORT_S = 2.0
"""A vrrp process reports once a second, and what was done a moment ago on the other gateway shall not be an obstacle."""

keys_app = typer.Typer(
    no_args_is_help=True,
    help="The keys of a pair: what its two gateways seal their VRRP advertisements with (docs/vrrp.md).",
)

File = Annotated[Path, typer.Argument(help="The pair's key file.")]


@keys_app.command()
def new(
    file: Annotated[Path, typer.Argument(help="The file, or the folder it is to lie in.")] = key_file.DEFAULT,
) -> None:
    """Make the first key file of a pair, for both its gateways. Replaces none.

    Exit status: 0 made, 2 one lies there already, or there is no such folder.
    """
    path = file / key_file.DEFAULT.name if file.is_dir() else file
    keys = pair_keys.first(secrets.token_bytes(KEY_BYTES), _now())
    key_file.make(path, keys)
    typer.echo(f"{path}: made, with key {_named(keys, keys.in_use)} in use.")
    _say_what_comes(path, "Name it in fleet.yaml, and start both agents. `site-agent keys show` tells the same on both")


@keys_app.command()
def rotate(
    file: File = key_file.DEFAULT,
    step: Annotated[Step | None, typer.Option(help="Only if this is the next one: for a script that may run twice.")] = None,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Also where a gateway has not taken the step before, or the other one is not heard."),
    ] = False,
    run_dir: Annotated[Path, typer.Option(help="Where a running agent listens.")] = DEFAULTS.run_dir,
) -> None:
    """Take the next of the three steps that change a pair's key: add a new one, use it, drop the old one.

    After each step both gateways must have the file and have taken it (`site-agent apply`); then no advertisement is
    refused in between. Where an agent runs here, a step is refused until that is so, as far as this gateway can tell.

    Exit status: 0 the file has changed, 1 it is not the time for this step, 2 the file cannot be used.
    """
    before = key_file.load(file)
    if step is not None and step is not before.next_step:
        raise PeerError(str(file), f"the next step is {before.next_step}, not {step}; nothing was changed")
    status = _running(run_dir)
    until = time.monotonic() + REPORT_S
    while not anyway and (why := pair_keys.obstacle(before, status)) is not None:
        if time.monotonic() >= until:
            raise PeerError(str(file), f"{why}; nothing was changed (--anyway does it all the same)")
        time.sleep(0.1)
        status = _running(run_dir) or status  # who does not answer now takes back nothing
    if key_file.load(file) != before:
        raise PeerError(str(file), "was changed meanwhile by somebody else, and nothing was changed here; ask again")
    secret = secrets.token_bytes(KEY_BYTES)
    while before.next_step is Step.ADD and not pair_keys.tells_apart(before, secret):
        secret = secrets.token_bytes(KEY_BYTES)
    keys = pair_keys.rotated(before, secret, _now())
    key_file.replace(file, keys)
    match before.next_step:
        case Step.ADD:
            done = f"key {_named(keys, keys.keys[-1].id)} is added, and key {keys.in_use} seals as before"
        case Step.USE:
            done = f"key {_named(keys, keys.in_use)} seals from now on, and {_listed(keys, keys.in_use)} is still accepted"
        case Step.DROP:
            done = f"{_listed(before, keys.in_use)} is dropped, and key {keys.in_use} is the only one"
    typer.echo(f"{file}: step {list(Step).index(before.next_step) + 1} of 3: {done}.")
    if not status:
        typer.echo("No running agent told how the pair stands, so nothing was compared.", err=True)
    last = "That was the last step" if before.next_step is Step.DROP else f"Then: site-agent keys rotate {_quoted(file)}"
    _say_what_comes(file, last)


@keys_app.command()
def show(
    file: File = key_file.DEFAULT,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Which keys the file has, how old they are, and which one seals; never a key itself.

    A fingerprint tells whether two gateways have the same key, and nothing else.
    """
    keys = key_file.load(file)
    now = _now()
    listed = [
        {
            "id": key.id,
            "in_use": key.id == keys.in_use,
            "fingerprint": key.fingerprint,
            "made": pair_keys.utc(key.made),
            "age_days": (now - key.made).days,
        }
        for key in keys.keys
    ]
    if as_json:
        typer.echo(views.to_json({"file": str(file), "in_use": keys.in_use, "next_step": keys.next_step, "keys": listed}))
        return
    for key in listed:
        typer.echo(
            f"key {key['id']:<3} {key['fingerprint']}  {'in use' if key['in_use'] else 'accepted':8}  made {key['made']}"
            f" ({key['age_days']} days ago)"
        )
    typer.echo(f"next step of a rotation: {keys.next_step}")


def _running(run_dir: Path) -> dict[str, Any]:
    """What the vrrp process of the agent here reports; empty where nobody tells."""
    try:
        found = control.ask(Paths(run_dir=run_dir).control_socket, "status").get("vrrp")
    except PeerError:
        return {}
    return found if isinstance(found, dict) else {}


def _say_what_comes(path: Path, then: str) -> None:
    typer.echo("Now both gateways need this same file, and have to take it:")
    typer.echo(f"    scp -p {_quoted(path)} root@OTHER-GATEWAY:{_quoted(path)}")
    typer.echo("    site-agent apply    # on both")
    typer.echo(f"{then}.")


def _named(keys: PairKeys, key_id: int) -> str:
    (key,) = (key for key in keys.keys if key.id == key_id)
    return f"{key.id} ({key.fingerprint})"


def _listed(keys: PairKeys, but: int) -> str:
    return ", ".join(f"key {key.id}" for key in keys.keys if key.id != but)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path.absolute()))


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
