"""How the agent's answers look to people: tables with rich, one sentence first, then what it rests on."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anycast.errors import PeerError
from anycast.history import Account, FirstCause
from anycast.record_text import local_time as local_time
from anycast.record_text import plain, plain_cause, time_text
from anycast.record_text import record_line as record_line
from site_agent.control import NobodyAnswers
from site_agent.sync import view as sync_view
from site_agent.vrrp import view as vrrp_view

Answer = Mapping[str, Any]

_ROUTE_STYLES = {"announced": "green", "withdrawn": "red", "lapsed": "red", "left": "yellow", "unknown": "yellow"}


def _console() -> Console:
    """Made at each use: it asks then whether standard output is a terminal and how wide."""
    return Console(highlight=False)


def to_json(value: Any) -> str:
    """`value` with its dataclasses and times as one indented JSON object."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False)


def show_silence(error: PeerError) -> None:
    """No agent answers, or it may not be asked: say so before anything that the log says."""
    what = "No agent answers" if isinstance(error, NobodyAnswers) else "The agent did not answer this"
    _console().print(f"[bold red]{what}[/] ({escape(str(error))}). What follows is from the event log.", soft_wrap=True)


def show_verdict(answer: Answer) -> None:
    """The one sentence, then its causes."""
    serving, hold = answer["verdict"]["serving"], answer["hold"]
    announced = [route for route in answer["routes"] if route["announced"]]
    style, word = ("green", "serving") if serving else ("red", "not serving")
    says = f"is [bold {style}]{word}[/]"
    if hold is not None:  # an operator's word goes before the checks', so it does here
        says = f"is under [bold yellow]hold {escape(hold['kind'])}[/]"
    routes = f"{len(announced)} of {len(answer['routes'])} routes announced" if answer["routes"] else "speaks no BGP"
    _console().print(f"[bold]{escape(answer['gateway'])}[/] ({escape(answer['site'])}) {says}; {routes}")
    if own := answer.get("own_routes", ()):
        out = sum(route["announced"] for route in own)
        _console().print(f"  routes that only this site has, also while it is drained: {out} of {len(own)} announced")
    show_hold(hold)
    if hold is not None:
        _console().print(f"  the checks, for themselves, say [bold {style}]{word}[/]")
    for cause in answer["verdict"]["causes"]:
        _console().print(f"  {'  ' if hold is not None else ''}{_cause(cause)}")
    route, flap = answer["route"], answer["flap"]
    if route["announce"] != serving:
        _console().print(
            f"  the route shall {'stay [bold green]announced' if route['announce'] else 'stay [bold red]withdrawn'}[/]"
        )
        for cause in route["causes"]:
            _console().print(f"    {_cause(cause)}")
    if flap["left_s"] > 0:
        _console().print(
            f"  [yellow]flap control[/]: a return waits for {_span(flap['left_s'])} more "
            f"(penalty {flap['penalty']:.0f} of {flap['threshold']:.0f}; `site-agent flap clear` ends the wait)"
        )
    show_drain(answer.get("drain"))
    show_vrrp(answer.get("vrrp"))
    show_sync(answer.get("sync"))
    for sign in answer["protection"]:
        _console().print(f"  [yellow]protection[/]: cookies demanded ({escape(sign['detail'])}): {escape(sign['reason'])}")
    for alarm in answer["alarms"]:
        _console().print(f"  [yellow]alarm[/] {escape(alarm['reason'])}: {escape(alarm['detail'])}")


def show_drain(drain: Mapping[str, Any] | None) -> None:
    """The drain that goes on, if there is one."""
    if drain is None:
        return
    tunnels = "charon does not list its tunnels"
    if drain["left"] is not None:
        tunnels = f"{drain['left']} tunnels left: {drain['unasked']} not asked yet, {drain['moving']} on their way, "
        tunnels += f"{drain['cannot']} cannot follow"
    left_s = drain["time_left_s"]
    limit = "; [bold yellow]overdue[/]" if drain["overdue"] else "" if left_s is None else f"; {_span(left_s)} left for this"
    _console().print(
        f"  [bold yellow]drain[/] by {escape(drain['by'])} ({escape(drain['why'])}): [bold]{drain['step']}[/] for "
        f"{_span(drain['for_s'])}; {tunnels}{limit}",
        soft_wrap=True,
    )
    if drain["waits_for"]:
        _console().print(f"    waits for: {escape(drain['waits_for'])}", soft_wrap=True)


def show_vrrp(vrrp: Mapping[str, Any] | None) -> None:
    """This gateway's part in its site's virtual router, if the site has one."""
    if vrrp is None:
        return
    for name, session in vrrp["bfd"].items():
        style = "green" if session["state"] == "up" else "yellow"
        _console().print(f"  BFD {escape(name)}: [{style}]{escape(str(session['state']))}[/]")
    if not vrrp["router"]:
        return
    if vrrp["role"] == "none":
        _console().print("  [bold red]no vrrp process has spoken[/]: this gateway holds no VRRP address")
        return
    style, because = "green" if vrrp["role"] == "active" else "cyan", vrrp_view.why(vrrp["cause"])
    _console().print(
        f"  [bold {style}]{vrrp['role'].capitalize()}[/] for {_span(vrrp['since_s'])}: {escape(because)}; "
        f"priority {vrrp['priority']} of {vrrp['configured_priority']}; {escape(vrrp_view.peer(vrrp))}",
        soft_wrap=True,
    )
    if vrrp["role"] == "active":
        _console().print(f"  becoming Active cost: {vrrp_view.cost(vrrp)}", soft_wrap=True)
    if asked := vrrp.get("witnesses"):
        proof = {True: "[green]proven[/]", False: "[bold red]not proven[/]: takes nothing, gives way", None: "not told yet"}
        _console().print(f"  uplink: {proof[vrrp['uplink_proven']]} (asked: {escape(', '.join(asked))})", soft_wrap=True)
    for fault in vrrp["faults"]:
        _console().print(f"  [yellow]vrrp[/] {escape(fault)}")


def show_sync(sync: Mapping[str, Any] | None) -> None:
    """The mirror between the two gateways, if there is one."""
    for well, line in () if sync is None else sync_view.lines(sync):
        _console().print(f"  {escape(line)}" if well else f"  [yellow]{escape(line)}[/]", soft_wrap=True)


def show_hold(hold: Mapping[str, Any] | None) -> None:
    """The operator's hold in force, if there is one."""
    if hold is not None:
        despite = f" despite {', '.join(hold['despite'])}" if hold["despite"] else ""
        _console().print(
            f"  [bold yellow]hold {escape(hold['kind'])}[/]{despite} for {_span(hold['left_s'])} more: "
            f"{escape(hold['reason'])}"
        )


def show_status(answer: Answer) -> None:
    """Everything `status` knows."""
    show_verdict(answer)
    _print(
        _table("check", "class", "status", "reason", "age", "detail"),
        (
            (c["check"], c["class"], _status(c["status"]), escape(c["reason"]), _span(c["age_s"]), escape(c["detail"]))
            for c in answer["checks"]
        ),
    )
    if answer["routes"] or answer.get("own_routes", ()):
        _print(
            _table("upstream", "AS", "session", "prefix", "next hop", "announced"),
            (
                (
                    f"{session['name']} {session['neighbor']}",
                    str(session["asn"]),
                    session["state"] + (f", BFD {session['bfd']}" if session.get("bfd") else ""),
                    route["prefix"],
                    route["next_hop"],
                    "[green]yes[/]" if route["announced"] else "[red]no[/]",
                )
                for session in answer["sessions"]
                for route in (*answer["routes"], *answer.get("own_routes", ()))
                if route["neighbor"] == session["neighbor"]
            ),
        )
    _print(
        _table("process", "pid", "since", "how"),
        (
            (
                holder["name"],
                str(holder["pid"] or "-"),
                _span(holder["since_s"]),
                "" if holder["pid"] is None else "found running" if holder["adopted"] else "started by this agent",
            )
            for holder in answer["holders"]
        ),
    )
    lease = answer["lease"]
    frozen = "hold time", f"{lease['hold_time_s']} s", "a machine that is frozen or without power"
    bgp = [frozen] if answer["routes"] else []  # where there is none, its time bounds nothing
    _print(
        _table("bound", "value", "what it bounds"),
        [
            ("a failing fact", "at once", "charon's exit, a missing address, SAs lost: withdrawn in milliseconds"),
            (
                "lease",
                f"{lease['duration_s']:g} s, {lease['left_s']:.2f} s left",
                "an agent that is killed, stopped or starved; twice that for a bridge or ExaBGP that does not answer",
            ),
            ("restart grace", f"{lease['grace_s']:g} s", "a clean stop of the agent: what attracts traffic stays that long"),
            *bgp,
        ],
    )


def show_account(account: Account) -> None:
    """What the log says of one moment."""
    if not account.known:
        _console().print(f"The log has no record up to {local_time(account.at)}.")
        return
    said = {True: "[bold green]serving[/]", False: "[bold red]not serving[/]", None: "[bold]no verdict[/]"}
    since = f" since {local_time(account.verdict_since)}" if account.verdict_since is not None else ""
    where = f"[bold]{escape(account.gateway)}[/] at {local_time(account.at)}"
    _console().print(f"{where}: {said[account.serving]}{since} ({_agent(account)})", soft_wrap=True)
    for cause in account.causes:
        _console().print(f"  {_cause(cause)}")
    if account.role is not None:
        role, because = str(account.role.get("role", "")).capitalize(), vrrp_view.why(str(account.role.get("cause", "")))
        when = time_text(str(account.role["at"]))
        _console().print(f"  [bold]{escape(role)}[/] since {when}: {escape(because)}", soft_wrap=True)
    if account.mirror is not None:
        role, took_us = str(account.mirror.get("role", "")), account.mirror.get("took_us", 0)
        when = time_text(str(account.mirror["at"]))
        _console().print(f"  tunnels follow as {escape(role)} since {when}: it took {took_us / 1000:.1f} ms", soft_wrap=True)
    if account.rekeys is not None:
        told = account.rekeys
        text = sync_view.rekeys_text(told["waiting"], told.get("done", 0), told.get("left_s", 0))
        _console().print(f"  {escape(text)}, at {time_text(str(told['at']))}", soft_wrap=True)
    if account.hold is not None:
        _console().print(
            f"  [bold yellow]hold {escape(str(account.hold['kind']))}[/] in force: {escape(str(account.hold['detail']))}"
        )
    if account.intent is not None and account.intent.get("announce") != account.serving:
        _console().print(f"  the route: {'announced' if account.intent.get('announce') else 'withdrawn'}")
        for cause in account.intent.get("causes", ()):
            _console().print(f"    {_cause(cause)}")
    if account.protection is not None:
        detail, reason = account.protection.get("detail", ""), account.protection.get("reason", "")
        _console().print(f"  [yellow]protection[/]: cookies demanded since ({escape(str(detail))}): {escape(str(reason))}")
    for alarm in account.alarms:
        _console().print(f"  [yellow]alarm[/] {escape(str(alarm['reason']))}: {escape(str(alarm.get('detail', '')))}")
    _print(
        _table("upstream", "prefix", "route", "since", "reason"),
        (
            (
                route.neighbor,
                route.prefix,
                f"[{_ROUTE_STYLES[route.state]}]{route.state}[/]",
                local_time(route.since) if route.until is None else f"gone at the latest {local_time(route.until)}",
                route.reason,
            )
            for route in account.routes
        ),
    )
    if account.away is not None:
        until = "now" if account.away.until is None else local_time(account.away.until)
        _console().print(
            f"Last away: {local_time(account.away.since)} to {until}, [bold]{escape(account.away.reason)}[/]", soft_wrap=True
        )
    _console().print("What led to it:")
    for record in account.trail:
        _console().print(f"  {escape(record_line(record))}", soft_wrap=True)
    if account.raised:
        counts = ", ".join(f"{reason} {count} time{'' if count == 1 else 's'}" for reason, count in account.raised)
        _console().print(f"  alarms raised meanwhile, none of which moves a route: {escape(counts)}", soft_wrap=True)


def show_first(first: FirstCause | None) -> None:
    """What went wrong first after the time that was asked about."""
    if first is None:
        _console().print("Nothing went wrong since then.")
    else:
        detail = f" ({escape(first.detail)})" if first.detail else ""
        _console().print(f"First: [bold]{escape(first.reason)}[/]{detail} at {time_text(first.at)}, by {first.event}")


def _agent(account: Account) -> str:
    """Who was there to say so, in one clause."""
    heard = f"last record at {local_time(account.heard_until)}"
    match account.agent:
        case "running" if account.answers_now:
            return f"agent answers now, {heard}"
        case "running" if account.ended_before is not None:
            return f"{heard}; that agent ended without a farewell before {local_time(account.ended_before)}"
        case "running":
            return heard
        case "gone":
            lease = "one lease" if account.lease_s is None else f"one lease of {account.lease_s:g} s"
            gone = "gone" if account.ended_before is not None else "gone or frozen"
            return (
                f"agent {gone} since at the latest {local_time(account.gone_by)}, {heard}; "
                f"routes lapsed with the lease, at most {lease} after the last sign of life"
            )
        case "stopped" if account.stopped_at is not None and account.grace_s:
            limit = account.stopped_at + datetime.timedelta(seconds=account.grace_s)
            return (
                f"agent stopped at {local_time(account.stopped_at)}; routes left for at most the grace of "
                f"{account.grace_s:g} s, withdrawn at the latest at {local_time(limit)}"
            )
        case "stopped":
            return f"agent stopped at {local_time(account.stopped_at)}, leaving no grace"
        case _:
            return "no agent had started"


def _cause(cause: Mapping[str, Any]) -> str:
    return f"because [bold]{escape(plain_cause(cause))}[/]"


def _status(word: str) -> str:
    style = {"passing": "green", "failing": "red"}.get(word, "yellow")
    return f"[{style}]{escape(word)}[/]"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds < 120 else str(datetime.timedelta(seconds=round(seconds)))


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column)
    return table


def _print(table: Table, rows: Iterable[Sequence[str]]) -> None:
    for row in rows:
        table.add_row(*row)
    _console().print()
    _console().print(table)
