"""The main job, shown to somebody who has never seen it: a charon dies, its clients move, and `why` explains it.

Nothing here is special to the demo: it asks a lab that is up for the same drill and the same commands as anybody could.
"""

from __future__ import annotations

import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape

from anycast.fleet.schema import Fleet
from anycast_lab import show
from anycast_lab.control.client import Client
from anycast_lab.runner import Progress

DRILL = "charon-sigkill"
VICTIM = "fra-gw1"
TRANSIT = "transit"


def tell(client: Client, fleet: Fleet, console: Console, progress: Progress) -> bool:
    """Show the fleet, run the drill, explain it. True where everything held that must."""
    chapter(console, "The fleet", "Two sites announce one anycast prefix. The transit router hears both and prefers fra.")
    command(client, console, TRANSIT, "birdc", "-s", "/run/bird.ctl", "show", "route", str(fleet.service.prefixes.ipv4))
    command(client, console, "direct", "swanctl", "--list-sas")
    chapter(console, "The fault", f"charon at {VICTIM} gets SIGKILL while both clients send a packet every 5 ms.")
    report: dict[str, Any] = client.ask("drill", names=[DRILL], progress=progress)[0]
    show.report(console, report)
    chapter(console, "Why", "The gateway explains itself from its own record, now and for the moment of the fault.")
    moment = datetime.datetime.fromtimestamp(report["fault_ns"] / 1e9 + 0.1, datetime.UTC).isoformat(timespec="milliseconds")
    command(client, console, VICTIM, "site-agent", "why", "--at", moment)
    command(client, console, VICTIM, "site-agent", "status")
    return bool(report["passed"])


def chapter(console: Console, title: str, text: str) -> None:
    """A heading and one sentence."""
    console.print()
    console.rule(f"[bold]{escape(title)}")
    console.print(escape(text))


def command(client: Client, console: Console, node: str, *argv: str) -> None:
    """Run a command in a node and show it as somebody would have typed it."""
    console.print(f"\n[bold cyan]{node}#[/bold cyan] {escape(' '.join(argv))}")

    complaints = bytearray()

    def output(fd: int, data: bytes) -> None:
        if fd == 2:
            complaints.extend(data)
        else:
            console.file.write(data.decode(errors="replace"))

    settings = {"COLUMNS": str(max(console.width, 100))}
    rc = client.ask("exec", node=node, argv=list(argv), output=output, env=settings)["rc"]
    if rc:  # a swanctl that does well names a dozen plugins that it can do without
        console.file.write(complaints.decode(errors="replace"))
    console.file.flush()
