"""`anycast simulate`: what becomes of the other sites when some go (docs/what-if.md)."""

from __future__ import annotations

import enum
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from anycast.cli.coordinator_client import DEFAULT, Target, Unreachable, ask
from anycast.cli.options import Credential, Root, Url
from anycast.cli.plan import Against, known
from anycast.cli.prefixes_table import table
from anycast.content.state import in_force
from anycast.errors import AnycastError, ConfigError, Problem
from anycast.pki import files
from anycast.policy.whatif import Verdict, WhatIf, what_if


class SimulateExit(enum.IntEnum):
    """Exit statuses of `anycast simulate`; also in its help and in docs/what-if.md."""

    HOLDS = 0
    BREAKS = 1
    UNUSABLE = 2
    UNKNOWN = 4
    """3 is a coordinator that does not answer."""


_LATEST = 253_402_300_800.0
"""The year 10000, as Unix time."""
_EXIT = {Verdict.HOLDS: SimulateExit.HOLDS, Verdict.BREAKS: SimulateExit.BREAKS, Verdict.UNKNOWN: SimulateExit.UNKNOWN}


def simulate(
    drain: Annotated[str, typer.Option(metavar="SITE[,SITE]", help="These sites are drained.")] = "",
    fail: Annotated[str, typer.Option(metavar="SITE[,SITE]", help="These sites fail at one time.")] = "",
    against: Against = None,
    history: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What `anycast history --json` printed, with --against.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
    url: Url = DEFAULT,
    credential: Credential = None,
    root: Root = None,
) -> None:
    """Say what the other sites would have to carry: bounds, not a forecast. Changes nothing.

    Exit status, by the worst case, in which everything lands on one site: 0 every site holds, 1 one breaks, 4 unknown (a
    capacity that nobody wrote, tunnels that nobody counts); 2 the command line or a file cannot be used, 3 the coordinator
    does not answer.
    """
    if bool(drain) == bool(fail):
        raise ConfigError([Problem("", "say either --drain or --fail, with the sites: anycast simulate --drain fra")])
    kind: Literal["drain", "fail"] = "drain" if drain else "fail"
    target = Target(url, credential, root)
    sites = [name for each in (drain or fail).split(",") if (name := each.strip())]
    if not sites:
        raise ConfigError([Problem(f"--{kind}", f"{drain or fail!r} names no site: anycast simulate --{kind} fra")])
    state, contents = known(against, target, "")
    content = in_force(state, contents)
    if content is None:
        raise ConfigError([Problem("", "no gateway runs by a content, so nobody's tunnels could move")])
    if unknown := sorted(set(sites) - content.sites.keys()):
        known_sites = ", ".join(sorted(content.sites))
        what = f"{', '.join(unknown)}: no site of the content in force; there are {known_sites}"
        raise ConfigError([Problem(f"--{kind}", what)])
    lines = _read(history) if history is not None else [] if against is not None else _asked(target)
    failed, days = (None, None) if against is not None else _failures(target)
    found = what_if(content, state, sites, kind, lines, failures=failed, now=time.time())
    if as_json:
        shown = {**found.model_dump(mode="json"), "worst": str(found.worst)}
        typer.echo(json.dumps(shown, indent=2, sort_keys=True))
    else:
        for line in _lines(found, days):
            typer.echo(line)
    raise typer.Exit(_EXIT[found.worst])


def _lines(found: WhatIf, days: float | None) -> Iterator[str]:
    what = "drained" if found.kind == "drain" else "failed"
    counted = f", and nobody counts those of {', '.join(found.uncounted)}" if found.uncounted else ""
    yield f"{', '.join(found.sites)} {what}: {found.moves} tunnels move{counted}"
    yield ""
    yield "worst case: all of them land on one site"
    rows = [
        (each.site, _number(each.now), _number(each.worst), _number(each.capacity), str(each.verdict))
        for each in found.landings
    ]
    if rows:
        yield from table(("site", "tunnels now", "at worst", "capacity", "verdict"), rows)
    else:
        yield "  no site is left to land on"
    best = "is unknown" if found.best is Verdict.UNKNOWN else str(found.best)
    yield f"best case: spread as the others have room, it {best}"
    for each in found.seen:
        if each.last_days is None:
            yield f"seen before: {each.site} was never dark on purpose"
        else:
            kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(each.times.items()))
            times = f"dark {sum(each.times.values())} times ({kinds}), the last time {each.last_days} days ago"
            yield f"seen before: {each.site} was {times}; where its tunnels landed is not recorded"
        if each.failed is None:
            yield f"seen before: whether {each.site} failed is unknown"
        else:
            times = f"{each.failed} times, the last time {each.failed_days} days ago" if each.failed else "never"
            kept = "" if days is None else f" in the {days:g} days that events are kept at most"
            yield f"seen before: {each.site} failed {times}, as its gateways told{kept}"
    for problem in found.budget:
        yield f"budget: {problem}"


def _number(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def _asked(target: Target) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    while page := ask(target, "GET", f"/v1/history?after={lines[-1]['seq'] if lines else 0}")["lines"]:
        lines += page
    return lines


def _failures(target: Target) -> tuple[dict[str, list[float]] | None, float | None]:
    """When each site failed, and so far back it is known. Of a coordinator of before this nothing is."""
    try:
        answer = ask(target, "GET", "/v1/failures")
        return {each["site"]: [float(at) for at in each["at"]] for each in answer["sites"]}, float(answer["days"])
    except Unreachable:
        raise
    except (AnycastError, KeyError, TypeError, ValueError):
        return None, None


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        lines = json.loads(path.read_bytes())["lines"]
        if not all(type(line["body"]) is dict and 0 <= float(line["at"]) < _LATEST for line in lines):
            raise ValueError
    except OSError as exc:
        raise files.refused(path, exc) from exc
    except (ValueError, OverflowError, KeyError, TypeError, RecursionError) as exc:
        raise ConfigError([Problem("", "is not what `anycast history --json` prints", str(path))]) from exc
    return list(lines)
