"""A drill's report for eyes: its timeline, its clients, its checks. Takes the report's JSON, prints with rich."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_WORDS = {
    "route_added": "route here",
    "route_removed": "route gone",
    "protocol_down": "BGP session down",
    "protocol_up": "BGP session up",
    "last_good_packet": "last good packet",
    "first_good_packet": "good packets again",
    "EvidenceChanged": "evidence",
    "SiteVerdictChanged": "verdict",
    "VrrpStateChanged": "virtual router",
    "PromotionStepTaken": "promotion",
    "PromotionSettled": "mirror settled",
    "PrefixAnnounced": "announcement acknowledged",
    "PrefixWithdrawn": "withdrawal acknowledged",
    "OwnRouteAnnounced": "announcement of the site's own route acknowledged",
    "OwnRouteWithdrawn": "withdrawal of the site's own route acknowledged",
    "HolderKilled": "killed",
    "HolderStarted": "started",
    "HolderExited": "exited",
    "ClockGapSeen": "own clock gap",
    "AgentStarted": "agent started",
    "AgentStopping": "agent stopping",
}


def report(console: Console, data: dict[str, Any]) -> None:
    """Print one drill's report."""
    expected = data["as_expected"]
    verdict = "passed" if data["passed"] else "failed"
    if data["must_fail"]:
        verdict += " (as it must)" if expected else " (every check must fail)"
    style = "green" if expected else "red"
    console.print()
    console.print(
        f"[bold]{escape(data['drill'])}[/bold]  [{style}]{verdict}[/{style}]  kernel {data['kernel']}"
        f"{'' if data['esp'] else ', no ESP'}"
    )
    console.print(escape(data["message"]), style="dim")
    console.print(_timeline(data))
    if data["clients"]:
        console.print(_packets("client", data["clients"]))
    if data.get("probes"):
        console.print(_packets("service by", data["probes"]))
    console.print(_checks(data))
    for note in data["notes"]:
        console.print(f"note: {escape(note)}", style="yellow")


def _timeline(data: dict[str, Any]) -> Table:
    table = Table("ms", "seen by", "what", "", box=None, title="timeline, 0 = the fault", title_justify="left")
    table.columns[0].justify = "right"
    for moment in data["timeline"]:
        # What came before the fault is health; what holds for two families is one line for each.
        text = f"{moment['subject']} {moment['detail']}".strip()
        row = (f"{moment['t_ms']:.1f}", moment["source"], _WORDS.get(moment["event"], moment["event"]), text)
        table.add_row(*(escape(cell) for cell in row), style="bold" if moment["source"] == "drill" else "")
    return table


def _packets(who: str, counted: dict[str, Any]) -> Table:
    table = Table(who, "probes sent", "lost", "sent late", "longest gap", box=None)
    for name, client in counted.items():
        table.add_row(
            name, str(client["sent"]), str(client["lost"]), str(client["late"]), f"{client['longest_gap_ms']:.0f} ms"
        )
    return table


def _checks(data: dict[str, Any]) -> Table:
    table = Table("", "what must hold", "seen", "bound", box=None)
    for check in data["checks"]:
        mark = "[green]✓[/green]" if check["passed"] else "[red]✗[/red]"
        table.add_row(mark, escape(check["assert"]), escape(check["seen"]), escape(check["limit"]))
    return table
