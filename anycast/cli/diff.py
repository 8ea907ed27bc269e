"""`anycast diff`: what differs between two contents, or between what runs and one of them or a fleet file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from anycast.cli.coordinator_client import DEFAULT, Target, ask
from anycast.cli.options import Credential, Root, Url
from anycast.cli.plan import known
from anycast.content.content import Content, decode_content
from anycast.content.state import in_force
from anycast.errors import ConfigError, DecodeError, PeerError, Problem
from anycast.fleet.compile import compile_fleet
from anycast.fleet.compile_content import compile_content
from anycast.fleet.loading import load
from anycast.policy.content_diff import differences, line

_NAMED = re.compile(r"[0-9]{1,11}|[0-9a-f]{12,64}")
RUNNING = "running"
_WHAT = (
    "A generation, 12 digits or more of a content's hash, `running` for what gateways run by, or a fleet file (a `.` or `/` "
    "is in its name). One alone is compared with what runs."
)


class _Side(NamedTuple):
    name: str
    content: Content
    documents: dict[str, str]


def diff(
    contents: Annotated[list[str], typer.Argument(metavar="[BEFORE] AFTER", help=_WHAT)],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
    url: Url = DEFAULT,
    credential: Credential = None,
    root: Root = None,
) -> None:
    """What differs, per site and key: `anycast diff 11 13`, `anycast diff fleet.yaml`.

    A line each: where, which key, before -> after. Documents of gateways are compared key by key. Changes nothing; for what
    would follow from a fleet file, `anycast plan`. Exit status: 0 shown, also where nothing differs; 1 there is no such
    content; 2 the fleet file or the command line cannot be used; 3 the coordinator does not answer.
    """
    target = Target(url, credential, root)
    if len(contents) > 2:
        raise ConfigError([Problem("[BEFORE] AFTER", f"{len(contents)} contents are named; two can be compared")])
    before, after = (_side(each, target) for each in (*([RUNNING] if len(contents) == 1 else []), *contents))
    found = differences(before.content, after.content, before.documents, after.documents)
    if as_json:
        rows = [each.model_dump(mode="json") for each in found]
        print(json.dumps({"v": 1, "before": before.name, "after": after.name, "differences": rows}, indent=1))
        return
    print(f"{before.name} -> {after.name}: {f'{len(found)} differences' if found else 'nothing differs'}")
    for each in found:
        print(f"  {line(each)}")


def _side(what: str, target: Target) -> _Side:
    if what == RUNNING:
        state, contents = known(None, target, "")
        content = in_force(state, contents)
        if content is None:
            raise PeerError("coordinator", "no gateway runs by a content yet")
        return _Side(RUNNING, content, ask(target, "GET", "/v1/documents")["documents"])
    if _NAMED.fullmatch(what):
        found = ask(target, "GET", f"/v1/contents/{what[:63]}")
        return _Side(_name(found), _decoded(found), found["documents"])
    if "." not in what and "/" not in what:
        raise ConfigError([Problem("", f"{what!r} is no generation, hash or fleet file", "")])
    fleet = load(Path(what))
    documents = compile_fleet(fleet)
    try:
        wanted = compile_content(fleet, documents)
    except ConfigError as exc:
        raise ConfigError([Problem(each.where, each.what, what) for each in exc.problems]) from exc
    return _Side(what, wanted, {name: each.canonical().decode() for name, each in documents.items()})


def _name(found: dict[str, Any]) -> str:
    numbers = ", ".join(map(str, found["generations"]))
    return f"content {found['hash'][:12]} (generation {numbers})" if numbers else f"content {found['hash'][:12]}"


def _decoded(found: dict[str, Any]) -> Content:
    try:
        return decode_content(found["text"])
    except DecodeError as exc:
        raise PeerError("coordinator", f"says what means nothing: {exc}") from exc
