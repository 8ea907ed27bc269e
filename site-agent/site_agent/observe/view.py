"""How an observation looks to people who see this project for the first time: found, not seen, healthy, would have done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anycast.model import Cause
from site_agent.observe.decisions import Act, Decision
from site_agent.observe.discovery import Found
from site_agent.observe.observer import Change
from site_agent.views import local_time, show_hold

WORDS = {
    Act.ANNOUNCE: "[green]would have announced[/]",
    Act.CANNOT_TELL: "[yellow]cannot tell; as far as seen[/]",
    Act.WITHDRAW: "[bold red]would have withdrawn[/]",
    Act.STAY_WITHDRAWN: "[yellow]would have stayed withdrawn[/]",
    Act.REKEY: "[yellow]would have rekeyed tunnels[/]",
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
    _show_limits(found.limits)


def _show_limits(limits: Iterable[str]) -> None:
    for limit in limits:
        _console().print(f"  [yellow]not seen[/]: {escape(limit)}")


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
    _show_standing(account)
    console.print(f"\nWhat an agent would have done from {local_time(account['from'])} to {local_time(account['until'])}:")
    for decision in account["decisions"]:
        causes = tuple(Cause(**cause) for cause in decision["causes"])
        console.print(f"  {local_time(decision['at'])} {_decision(decision['act'], causes)}")
    if not account["decisions"]:
        console.print("  nothing: the checks have not all looked")
    if account["found"]["limits"]:
        console.print("[yellow]Facts that were not looked at[/], so nothing here says that all is well:")
        _show_limits(account["found"]["limits"])
    console.print("\nWhat of this machine's settings would hurt clients, and what mends it: [bold]site-agent doctor[/]")


def _show_standing(account: Mapping[str, Any]) -> None:
    """What would go before the checks' word."""
    if account["hold"] is not None:
        would = {"announce": "announce", "cannot_tell": "do what cannot be told"}.get(account["would"], "stay withdrawn")
        _console().print(f"\nAn operator's hold lies here; under it an agent would {would}:")
        show_hold(account["hold"])
    if account["hold_unreadable"]:
        _console().print(
            f"\n[yellow]alarm[/] hold_unreadable: {escape(account['hold_unreadable'])}; no hold would be in force"
        )
    flap = account["flap"]
    if flap is not None and flap["penalty"] >= 1:
        wait = f"a return would wait for {flap['left_s']:.0f} s" if flap["left_s"] > 0 else "no return would wait for it"
        _console().print(
            f"\nFlap control: the last agent left a penalty of {flap['penalty']:.0f} of {flap['threshold']:.0f}; {wait}"
        )


def _decision(act: Act, causes: tuple[Cause, ...]) -> str:
    return f"{WORDS[act]}: {escape(', '.join(map(str, causes)))}"
