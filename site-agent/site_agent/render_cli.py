"""`site-agent render` and `site-agent apply`: what is rendered, and putting it to use in what already runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from site_agent import control
from site_agent.paths import Paths

DEFAULTS = Paths()
APPLY_LIMIT_S = 30.0
"""swanctl alone may take 10 s on a machine in trouble."""

RunDir = Annotated[Path, typer.Option(help="Sockets and process records.")]


def render(
    fleet: Annotated[Path | None, typer.Option(help="fleet.yaml, compiled for this gateway.")] = None,
    gateway: Annotated[str | None, typer.Option(help="Which gateway of the fleet; the host name if not given.")] = None,
    document: Annotated[Path | None, typer.Option(help="A compiled document instead of a fleet.")] = None,
    diff: Annotated[bool, typer.Option("--diff", help="Only how it differs from what is installed (unified).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object: text, state and diff of each file.")] = False,
    output: Annotated[
        Path | None, typer.Option(help="Also write the files below this folder, with their keys; the folder is made.")
    ] = None,
    run_dir: RunDir = DEFAULTS.run_dir,
    state_dir: Annotated[Path, typer.Option(help="Where the last good document lies.")] = DEFAULTS.state_dir,
    etc_dir: Annotated[Path, typer.Option(help="Where the rendered files are installed.")] = DEFAULTS.etc_dir,
) -> None:
    """Show the files that this gateway's document renders to, and what they need of your own. Changes nothing.

    Without --fleet or --document: the document that the agent runs by. MD5 keys are never shown.

    Exit status: 0 what is installed is the same (or no --diff), 1 it differs, 2 it cannot be rendered.

    A change, step by step:

    * site-agent render --fleet fleet.yaml --diff
    shows what would change

    * systemctl restart site-agent
    checks and installs the files, loads connections and nftables beside the old ones, ends no tunnel, withdraws nothing

    * site-agent apply
    has an ExaBGP that already runs read changed sessions

    * ln -s /etc/site-agent/sysctl.conf /etc/sysctl.d/60-site-agent.conf
    once: the agent changes no kernel setting; then `sysctl -p` that file

    Everything below /etc/site-agent is ours and overwritten, except strongswan.d, swanctl/conf.d and the folders beside it
    (x509crl, private, ...): what lies there is yours. docs/rendering.md has the table of all files.
    """
    if fleet is not None and document is not None:
        raise typer.BadParameter("give --fleet or --document, not both")
    from site_agent import rendering  # heavy: pydantic, jinja2

    paths = Paths(run_dir=run_dir.absolute(), state_dir=state_dir.absolute(), etc_dir=etc_dir.absolute())
    made = rendering.render(paths, fleet=fleet, document=document, gateway=gateway, output=output)
    if as_json:
        typer.echo(json.dumps(made.to_json(), ensure_ascii=False))
    elif diff:
        for file in made.files:
            typer.echo(file.diff, nl=False)
    else:
        for file in made.files:
            typer.echo(f"==> {file.path} ({file.state}) <==\n{file.text}")
        for need in made.needs:
            typer.echo(f"{'ok     ' if need.met else 'MISSING'} {need.what}")
            if not need.met:
                typer.echo(f"        {need.why}\n        {need.mend}")
    if diff and not made.same:
        raise typer.Exit(1)


def apply(run_dir: RunDir = DEFAULTS.run_dir) -> None:
    """Have the running agent put the installed files into force in what already runs. Ends no tunnel.

    charon: our connection and revocation lists, and your connections in swanctl/conf.d, are loaded again.
    nftables: our table is replaced.
    ExaBGP: if it runs by another file than the installed one, it reads it. A BGP session whose upstream, key, hold time or
    address changed goes down and comes back, which is one WITHDRAW there; the others stay.

    Exit status: 0 all is in force, 1 something was refused, or no agent answers.
    """
    answer = control.ask(Paths(run_dir=run_dir).control_socket, "apply", patience_s=APPLY_LIMIT_S)
    for name, said in answer["applied"].items():
        typer.echo(f"{name}: {said}")
    for name, said in answer["refused"].items():
        typer.echo(f"{name}: {said}", err=True)
    if answer["refused"]:
        raise typer.Exit(1)
