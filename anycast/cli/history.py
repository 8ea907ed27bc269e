"""`anycast history`: what the coordinator wrote down of who decided what, and whether all of it is still there."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.table import Column, Table
from rich.text import Text

from anycast.cli.coordinator_client import DEFAULT, Target, ask
from anycast.cli.options import AsJson, Credential, Root, Url
from anycast.cli.screen import clean, cleaned, moment
from anycast.errors import ConfigError, Problem
from anycast.policy.content_diff import Difference
from anycast.policy.content_diff import line as diff_line

app = typer.Typer(no_args_is_help=False, help="Who did what, when and why, each line hashed over the one before it.")

SHOWN_DIFFERENCES = 4
"""Of one line of history; `--json` has 100, `anycast diff` all."""


@app.callback(invoke_without_command=True)
def history(
    context: typer.Context,
    url: Url = DEFAULT,
    credential: Credential = None,
    root: Root = None,
    as_json: AsJson = False,
    after: Annotated[int, typer.Option(min=0, help="Only lines behind this one.")] = 0,
) -> None:
    """Who did what, when and why, and what each rollout changed (`anycast diff` has all of it); oldest first."""
    if context.invoked_subcommand is not None:
        return
    target, lines = Target(url, credential, root), list[dict[str, Any]]()
    while page := ask(target, "GET", f"/v1/history?diff=1&after={lines[-1]['seq'] if lines else after}")["lines"]:
        lines += page
    if as_json:
        print(json.dumps({"v": 1, "lines": lines}, indent=1))
        return
    Console().print(history_view(lines))


def history_view(lines: list[dict[str, Any]]) -> RenderableType:
    """A screen of /v1/history."""
    # A moment or a word of ours that is cut off is none, on however narrow a screen.
    when, what = Column("when", no_wrap=True, min_width=20), Column("what", min_width=16)
    head = (Column("#", no_wrap=True), when, "who", what, "reason", "with")
    table = Table(*head, box=None, header_style="bold")
    for line in cleaned(lines):
        words = (line["who"], line["action"], line["reason"], _with(line))
        table.add_row(str(line["seq"]), moment(line["at"]), *map(Text, words))
    return table


def _with(line: dict[str, Any]) -> str:
    body = ", ".join(f"{key} {value}" for key, value in line["body"].items() if value is not None)
    diff = [diff_line(Difference.model_validate(each)) for each in (line.get("diff") or ())[:SHOWN_DIFFERENCES]]
    more = line.get("differences", 0) - len(diff)
    return "\n".join([body, *diff, *([f"and {more} differences more: `anycast diff`"] if more else [])])


@app.command("verify")
def history_verify(
    kept: Annotated[
        str,
        typer.Option(
            metavar="N:HASH", help="What an earlier `verify` said of the last line: also that it is there still, as it was."
        ),
    ] = "",
    url: Url = DEFAULT,
    credential: Credential = None,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Check that no line was changed, taken out or put in since it was written. Exit status 1 where one was.

    Lines that are missing at the end leave a whole chain: keep elsewhere what this says of the last one, for --kept.
    """
    number, hash_ = _kept_line(kept) if kept else (0, "")
    target = Target(url, credential, root)
    found = ask(target, "GET", f"/v1/history?limit=1&verify=1&after={max(0, number - 1)}")
    broken, gone = found["first_broken"], False
    if kept and broken is None:
        gone = [(line["seq"], line["hash"]) for line in found["lines"]] != [(number, hash_)]
    if as_json:
        said = {"whole": broken is None and not gone, "first_broken": broken, "kept_is_gone": gone}
        print(json.dumps({"v": 1, **said, "last": found.get("last"), "last_hash": found.get("last_hash")}, indent=1))
    if broken is not None:
        print(f"history is not whole from line {broken} on", file=sys.stderr)
        raise typer.Exit(1)
    if gone:
        print(f"line {number} is not there, or is another one: history was replaced, or lost its end", file=sys.stderr)
        raise typer.Exit(1)
    if as_json:
        return
    last = f"; the last line is {found['last']}:{found['last_hash']}" if found.get("last") else ""
    print(f"history is whole{last}")


def _kept_line(text: str) -> tuple[int, str]:
    """Raises ConfigError."""
    number, _, hash_ = text.partition(":")
    if not number.isascii() or not number.isdigit() or not 0 < int(number) < 2**53 or len(hash_) != 64:
        raise ConfigError([Problem("--kept", f"{clean(text[:80])!r} is no N:HASH as `anycast history verify` prints it")])
    return int(number), hash_
