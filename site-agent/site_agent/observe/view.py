"""How an observation looks to people who see this project for the first time: found, not seen, healthy, would have done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anycast.model import Cause
from site_agent.observe.decisions import Act, Decision
from site_agent.observe.discovery import Found
from site_agent.observe.observer import Change
from site_agent.views import local_time

WORDS = {
    Act.ANNOUNCE: "[green]would have announced[/]",
    Act.WITHDRAW: "[bold red]would have withdrawn[/]",
    Act.STAY_WITHDRAWN: "[yellow]would have stayed withdrawn[/]",
}


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


def show_found(found: Found) -> None:
    """What will be observed, before anything is."""
    console = _console()
    charon = "no charon" if found.pid is None else f"charon pid {found.pid}"
    console.print(f"Observing [bold]{charon}[/]; nothing is installed, started or changed.")
    if found.vici is not None:
        console.print(
            f"  control socket {escape(found.vici)}, connections: {escape(', '.join(found.connections) or 'none')}"
        )
    if found.vips:
        source = "guessed from the connections' local_addrs" if found.guessed else "as given"
        console.print(f"  service addresses {escape(', '.join(found.vips))} ({source})")
    for limit in found.limits:
        console.print(f"  [yellow]not seen[/]: {escape(limit)}")


def show_news(news: Change | Decision) -> None:
    """One line, when it happens."""
    if isinstance(news, Decision):
        _console().print(f"{local_time(news.at)} {_decision(news.act, news.causes)}")
    else:
        seen = news.seen
        _console().print(
            f"{local_time(news.at)} {escape(seen.check)} {seen.status}: {seen.reason}"
            f"{f' ({escape(seen.detail)})' if seen.detail else ''}"
        )


def show_account(account: Mapping[str, Any]) -> None:
    """What it comes to."""
    console = _console()
    console.print()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("check", "class", "status", "reason", "detail"):
        table.add_column(column)
    styles = {"passing": "green", "failing": "red"}
    for check in account["checks"]:
        status = check["status"]
        style = styles.get(status, "yellow")
        table.add_row(check["check"], check["class"], f"[{style}]{status}[/]", check["reason"], escape(check["detail"]))
    console.print(table)
    for alarm in account["alarms"]:
        console.print(f"[yellow]alarm[/] {escape(alarm['reason'])}: {escape(alarm['detail'])}")
    console.print(f"\nWhat an agent would have done from {local_time(account['from'])} to {local_time(account['until'])}:")
    for decision in account["decisions"]:
        causes = tuple(Cause(**cause) for cause in decision["causes"])
        console.print(f"  {local_time(decision['at'])} {_decision(decision['act'], causes)}")
    if not account["decisions"]:
        console.print("  nothing: the checks have not all looked")


def _decision(act: Act, causes: tuple[Cause, ...]) -> str:
    return f"{WORDS[act]}: {escape(', '.join(map(str, causes)))}"
