"""The `anycast` command: finds its groups by entry point, and says errors as sentences.

Groups of other packages (`anycast lab`) come in through the entry points "anycast.commands", so that this package
imports neither labs nor agents. A command is imported only when it is asked for or listed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence

import typer
from typer.main import get_command

from anycast.cli.coordinator_client import Unreachable
from anycast.errors import AnycastError, BugError, ConfigError

EXIT_ERROR = 1
EXIT_USAGE = 2
"""Also typer's own: a command line or a file that cannot be used; nothing was changed."""
EXIT_UNREACHABLE = 3
"""The coordinator does not answer. The fleet goes on without it."""
EXIT_INTERRUPTED = 130
MOST_PROBLEMS = 1000
"""That are printed of a file; nobody reads more of them."""

COMMANDS = {
    "check": "fleet:check",
    "compile": "fleet:compile_",
    "plan": "plan:plan",
    "apply": "plan:apply",
    "simulate": "simulate:simulate",
    "diff": "diff:diff",
    "drain": "drain:drain",
    "maintenance": "drain:maintenance",
    "degrade": "drain:degrade",
    "undrain": "drain:undrain",
    "rollout": "rollout:app",
    "prefixes": "prefixes_group:app",
    "pki": "pki:app",
    "serve": "coordinator:serve",
    "backup": "store:backup",
    "restore": "store:restore",
    "recover": "recover:recover",
    "observe": "observe:observe",
    "status": "coordinator:status",
    "watch": "coordinator:watch",
    "why": "why:why",
    "history": "history:app",
    "access": "access:app",
    "operator": "operator:app",
}
"""Each command or group, in the order of `--help`: its module in this folder, and its name there."""


def _version(wanted: bool) -> None:
    if wanted:
        print(importlib.metadata.version("anycast-vpn"))
        raise typer.Exit


def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and exit."),
) -> None:
    pass


def app(words: Sequence[str] = ()) -> typer.Typer:
    """The command line; only the one command that `words` begin with, since all take half a second to import."""
    made = typer.Typer(
        help="Keeps IKEv2 VPN gateways reachable and their tunnels alive across machines and sites.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    made.callback()(_options)
    elsewhere = {entry.name: entry for entry in importlib.metadata.entry_points(group="anycast.commands")}
    known = [*COMMANDS, *sorted(elsewhere)]
    for name in words[:1] if words and words[0] in known else known:
        if name in elsewhere:
            found = elsewhere[name].load()
        else:
            module, _, attribute = COMMANDS[name].partition(":")
            found = getattr(importlib.import_module(f"anycast.cli.{module}"), attribute)
        if isinstance(found, typer.Typer):
            made.add_typer(found, name=name)
        else:
            made.command(name)(found)
    return made


def main() -> None:
    """Run the command line; ends the process."""
    try:
        get_command(app(sys.argv[1:]))(prog_name="anycast")
    except BugError as exc:
        print(f"anycast: a mistake of this program, please report it: {exc}", file=sys.stderr)
        sys.exit(EXIT_ERROR)
    except AnycastError as exc:
        print(f"anycast: {exc}" if not isinstance(exc, ConfigError) else _first(exc), file=sys.stderr)
        sys.exit(_status_of(exc))
    except KeyboardInterrupt:
        print("anycast: interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def _first(exc: ConfigError) -> str:
    """Every problem, but of a file that is something else altogether, with one for each of its lines."""
    more = len(exc.problems) - MOST_PROBLEMS
    said = [str(each) for each in exc.problems[:MOST_PROBLEMS]]
    return "\n".join([*said, f"and {more} more problems"] if more > 0 else said)


def _status_of(exc: AnycastError) -> int:
    match exc:
        case ConfigError():
            return EXIT_USAGE
        case Unreachable():
            return EXIT_UNREACHABLE
        case _:
            return EXIT_ERROR


if __name__ == "__main__":
    main()
