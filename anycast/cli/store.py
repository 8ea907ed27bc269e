"""`anycast backup` and `anycast restore`: the coordinator's store as one file, made and put back on its own machine.

Neither asks the coordinator: a backup is right while it writes, and a restore is for when it is stopped. Exit status: 0
done, 1 refused (a coordinator runs), 2 the command line or a file cannot be used.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from anycast.pki.machine_folder import MachineFolder

STORE = "coordinator.db"
EVENTS = "events.db"
State = Annotated[Path, typer.Option(help="The coordinator's folder, as of `anycast serve`.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of a sentence.")]


def backup(
    to: Annotated[Path, typer.Argument(metavar="FILE", help="A file that is not there yet.")],
    state: State = Path("/var/lib/anycast"),
    as_json: AsJson = False,
) -> None:
    """Copy everything that the coordinator decided, and its history, to one file; also while it runs.

    The file is its owner's alone: it holds the history and hashes of credentials. `restore FILE --dry-run` checks it.
    Gateways' events are not in it: nothing is decided by them, and what gateways' own logs still have they tell again.
    """
    from anycast.coordinator.backup import back_up

    with _progress("copied") as progress:
        head = back_up(state / STORE, to, progress)
    if as_json:
        print(json.dumps({**head.model_dump(), "left_out": [EVENTS]}, indent=1))
        return
    print(f"{to}: fleet {head.fleet}, revision {head.revision}, {head.history} lines of history, {head.size} bytes")
    print(
        f"not in it: gateways' events ({state / EVENTS}), which `anycast why` reads; nothing is decided by them, and what "
        "gateways' own logs still have they tell again"
    )


def restore(
    backup: Annotated[Path, typer.Argument(metavar="FILE", help="What `anycast backup` made.")],
    reason: Annotated[str, typer.Option(help="Why; for the history.")] = "",
    state: State = Path("/var/lib/anycast"),
    pki: Annotated[Path, typer.Option(help="This machine's certificate, which says its fleet.")] = Path("/etc/anycast/pki"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the file, and change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put a backup in place of the store, while no coordinator runs; the store that was there is kept beside it.

    Started again, the coordinator is read-only until it has heard that no gateway knows more than the backup does; where one
    does, `anycast recover` takes what the gateways have.
    """
    from anycast.coordinator import backup as made

    fleet = MachineFolder(pki).own().identity.fleet
    with _progress("read") as progress:
        if dry_run:
            head, aside = made.look(backup, fleet, progress), None
        else:
            done = made.restore(backup, state / STORE, fleet, who=_me(), reason=reason, progress=progress)
            head, aside = done.head, done.aside
    if as_json:
        print(json.dumps({"backup": head.model_dump(), "kept": None if aside is None else str(aside)}, indent=1))
        return
    at = datetime.datetime.fromtimestamp(head.at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    words = f"the store of {at}, revision {head.revision}, {head.history} lines of history"
    if dry_run:
        print(f"{backup} is whole: {words}")
        return
    kept = f"; what was there before is {aside}" if aside is not None else ""
    print(f"{state / STORE} is {words}{kept}")


def _me() -> str:
    return "root" if os.geteuid() == 0 else f"uid-{os.geteuid()}"


@contextlib.contextmanager
def _progress(verb: str) -> Iterator[Callable[[int, int], None]]:
    """A line that counts, where somebody looks."""
    shown = False

    def tell(done: int, of: int) -> None:
        nonlocal shown
        if sys.stderr.isatty():
            shown = True
            print(f"\r{verb} {done >> 20} of {of >> 20} MiB", end="", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        if shown:
            print(file=sys.stderr)
