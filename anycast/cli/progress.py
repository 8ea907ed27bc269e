"""How a rollout looks while it goes on: a line for each thing that happens, and in a terminal a bar besides."""

from __future__ import annotations

import functools
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.text import Text

from anycast.cli.coordinator_client import Denied, Target, Unreachable, stream
from anycast.cli.screen import cleaned

Wait = Annotated[
    bool,
    typer.Option("--wait", help="Stay until it has ended, and say what happens. Exit status 1 where it was stopped."),
]
ENDED = ("done", "stopped")
AWAY_LIMIT_S = 60.0
"""A coordinator that is started anew goes on with its rollout; who waits for it does, too."""
BAR_WIDTH = 40
COUNTED_DOWN = re.compile(r"\bfor \d+ s more\b")
"""In a reason: with each second another text, and nothing has happened."""


def headline(rollout: dict[str, Any]) -> str:
    """``baking fra, site 1 of 6, 42 s of its 60 s left``."""
    step, sites = rollout["step"], rollout["sites"]
    if step in ENDED:
        return f"{step}, {rollout['done']} of {len(sites)} sites"
    if step == "staging":
        return f"staging, 0 of {len(sites)} sites"
    if step == "returning":
        return f"returning {', '.join(rollout['changed'])}"
    words = f"{step} {rollout['site']}, site {rollout['done'] + 1} of {len(sites)}"
    if step == "baking" and (left := _left(rollout)) is not None:
        words += f", {left:.0f} s of its {rollout['bake_s']:.0f} s left" if left else ", waits for evidence"
    return words + (", paused" if rollout["paused"] else "")


def share(rollout: dict[str, Any]) -> float:
    """How much of it is done, from 0 to 1: a site that bakes counts by its time."""
    left = _left(rollout)
    part = 0.0 if rollout["step"] != "baking" or not left else 1 - left / rollout["bake_s"]
    return float(min(1.0, (rollout["done"] + part) / max(1, len(rollout["sites"]))))


def _left(rollout: dict[str, Any]) -> float | None:
    """Seconds; None: an older coordinator does not say."""
    bake_s = rollout.get("bake_s")
    return max(0.0, bake_s - rollout["for_s"]) if bake_s else None


def bar(rollout: dict[str, Any]) -> RenderableType:
    return ProgressBar(total=1.0, completed=share(rollout), width=BAR_WIDTH)


def follow(target: Target, rollout_id: str, console: Console, *, dark: str = "") -> bool:
    """Show it until it has ended; whether it was done. `dark`: a site that is to be dark then; it is waited for as well."""
    if not console.is_terminal:
        return _follow(
            target, rollout_id, lambda rollout, line: None, functools.partial(print, file=console.file, flush=True), dark
        )
    from rich.live import Live

    with Live(console=console, auto_refresh=False, transient=True) as live:

        def shown(rollout: dict[str, Any], line: str) -> None:
            live.update(Group(Text(line), bar(rollout)), refresh=True)

        return _follow(target, rollout_id, shown, live.console.print, dark)


def _follow(
    target: Target, rollout_id: str, shown: Callable[[dict[str, Any], str], None], say: Callable[[str], None], dark: str
) -> bool:
    said = ""
    for found in looks(target, on_stderr):
        status = cleaned(found)
        rollout = status["rollout"]
        if rollout is None or rollout["id"] != rollout_id:
            raise Denied(f"coordinator: rollout {rollout_id} is not the last one any more")
        line = headline(rollout)
        reasons = dict.fromkeys((rollout["reason"], rollout["waits_for"]))
        now = f"{steady(rollout)}{''.join(f': {each}' for each in reasons if each)}"
        left = _still(status, dark) if rollout["step"] == "done" else ""
        if (happened := COUNTED_DOWN.sub("", now := f"{now}{left}")) != said:
            say(f"rollout {rollout_id}: {now}")
            said = happened
        shown(rollout, f"rollout {rollout_id}: {line}{left}")
        if rollout["step"] in ENDED and not left:
            return bool(rollout["step"] == "done")
    return False


def steady(rollout: dict[str, Any]) -> str:
    """The same without what only the clock changes: whoever reads lines wants one for each thing that happens."""
    waits = ", waits for evidence" if rollout["step"] == "baking" and _left(rollout) == 0 else ""
    return headline({**rollout, "bake_s": 0.0}) + waits


def _still(status: dict[str, Any], dark: str) -> str:
    """Why a site that is to be dark is not."""
    for site in status["sites"]:
        if site["site"] == dark and site["state"] == "announcing":
            tunnels = "" if site.get("tunnels") is None else f", {site['tunnels']} tunnels"
            return f"; {dark} announces still{tunnels}"
    return ""


def looks(
    target: Target, tell: Callable[[str], None], *, first_s: float = AWAY_LIMIT_S, limit_s: float = AWAY_LIMIT_S
) -> Iterator[dict[str, Any]]:
    """The coordinator's word whenever it has one, over its restarts. `tell` is given one sentence for each absence; one of
    more than `limit_s`, or of `first_s` before the first word, is Unreachable."""
    until, told = time.monotonic() + first_s, ""
    while True:
        try:
            for found in stream(target, "/v1/watch"):
                until, told = time.monotonic() + limit_s, ""
                yield found
            said = f"{target.url}: the coordinator has gone"
        except Unreachable as exc:
            if time.monotonic() >= until:
                raise
            said = str(exc)
        if not told:
            tell(told := f"{said}; waiting for it")
        time.sleep(1.0)


def on_stderr(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
