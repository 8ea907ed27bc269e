"""The `anycast` command: finds its groups by entry point, and says errors as sentences.

Groups of other packages (`anycast lab`) come in through the entry points "anycast.commands", so that this package
imports neither labs nor agents. A group is loaded only when it is asked for or listed.
"""

from __future__ import annotations

import importlib.metadata
import sys

import typer
from typer.main import get_command

from anycast.cli import (
    coordinator,
    diff,
    drain,
    fleet,
    observe,
    operator,
    pki,
    plan,
    prefixes,
    prefixes_dns,
    prefixes_export,
    prefixes_import,
    prefixes_leases,
    recover,
    rollout,
    simulate,
    store,
    why,
)
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

app = typer.Typer(
    help="Keeps IKEv2 VPN gateways reachable and their tunnels alive across machines and sites.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


app.command("check")(fleet.check)
app.command("compile")(fleet.compile_)
app.command("plan")(plan.plan)
app.command("apply")(plan.apply)
app.command("simulate")(simulate.simulate)
app.command("diff")(diff.diff)
app.command("drain")(drain.drain)
app.command("maintenance")(drain.maintenance)
app.command("degrade")(drain.degrade)
app.command("undrain")(drain.undrain)
app.add_typer(rollout.app, name="rollout")
app.add_typer(prefixes.app, name="prefixes")
prefixes.app.command("forecast")(prefixes_leases.forecast)
prefixes.app.command("export")(prefixes_export.export)
prefixes.app.command("import")(prefixes_import.import_)
prefixes.app.add_typer(prefixes_dns.app, name="dns")
app.add_typer(pki.app, name="pki")
app.command("serve")(coordinator.serve)
app.command("backup")(store.backup)
app.command("restore")(store.restore)
app.command("recover")(recover.recover)
app.command("observe")(observe.observe)
app.command("status")(coordinator.status)
app.command("watch")(coordinator.watch)
app.command("why")(why.why)
app.add_typer(coordinator.history_app, name="history")
app.add_typer(coordinator.access_app, name="access")
app.add_typer(operator.app, name="operator")


def _version(wanted: bool) -> None:
    if wanted:
        print(importlib.metadata.version("anycast-vpn"))
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and exit."),
) -> None:
    pass


def _add_groups() -> None:
    for entry in sorted(importlib.metadata.entry_points(group="anycast.commands"), key=lambda e: e.name):
        app.add_typer(entry.load(), name=entry.name)


def main() -> None:
    """Run the command line; ends the process."""
    _add_groups()
    try:
        get_command(app)(prog_name="anycast")
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
