"""What a receive-only ExaBGP says: one JSON object a line, as `encoder json` writes it (ExaBGP 5). Pure.

Only what tells of routes and sessions is read; everything else is nothing. An update carries several routes, so a line is
several events.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from anycast.errors import DecodeError

LONGEST_LINE = 1 << 20
"""Bytes: an UPDATE of 4 KiB has at most 4,000 NLRI, of some 60 characters each as JSON."""


@dataclasses.dataclass(frozen=True, slots=True)
class SessionUp:
    peer: str


@dataclasses.dataclass(frozen=True, slots=True)
class SessionDown:
    peer: str
    why: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class PathHeard:
    """The peer has this path."""

    peer: str
    prefix: str
    path_id: str | None
    """Of ADD-PATH (RFC 7911); None: the session has none, and this is the peer's best path."""
    origin: int | None
    """The AS number that the path ends in; None where that is none (an AS_SET, an empty path)."""


@dataclasses.dataclass(frozen=True, slots=True)
class PathGone:
    peer: str
    prefix: str
    path_id: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class EndOfRib:
    """The peer has told all that it had of this family (RFC 4724, section 2)."""

    peer: str
    family: str
    """``ipv4`` or ``ipv6``."""


Event = SessionUp | SessionDown | PathHeard | PathGone | EndOfRib


def decode_line(line: bytes) -> list[Event]:
    """Raises DecodeError where it is not what ExaBGP writes."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise DecodeError("line", 0, "is not JSON") from exc
    if not isinstance(told, dict):
        raise DecodeError("line", 0, "is no object")
    try:
        if told.get("type") == "state":
            return list(_state(str(told["neighbor"]["address"]["peer"]), told["neighbor"]))
        if told.get("type") == "update":
            return list(_message(str(told["neighbor"]["address"]["peer"]), told["neighbor"]["message"]))
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise DecodeError("line", 0, f"{told.get('type')} means nothing: {exc!r}") from exc
    return []


def _state(peer: str, told: dict[str, Any]) -> Iterator[Event]:
    if told["state"] == "up":
        yield SessionUp(peer)
    elif told["state"] == "down":
        yield SessionDown(peer, str(told.get("reason", ""))[:200])


def _message(peer: str, told: dict[str, Any]) -> Iterator[Event]:
    if (end := told.get("eor")) is not None:
        if end["safi"] == "unicast":
            yield EndOfRib(peer, str(end["afi"]))
        return
    update = told.get("update", {})
    # Withdrawals first, as RFC 4271 has them: a prefix that stands in both is there.
    for family, routes in update.get("withdraw", {}).items():
        if family.endswith(" unicast"):
            for route in routes:
                yield PathGone(peer, *_nlri(route))
    origin = _origin(update.get("attribute", {}).get("as-path", {}))
    for family, by_next_hop in update.get("announce", {}).items():
        if family.endswith(" unicast"):
            for routes in by_next_hop.values():
                for route in routes:
                    yield PathHeard(peer, *_nlri(route), origin)


def _nlri(told: dict[str, Any]) -> tuple[str, str | None]:
    path_id = told.get("path-information")
    return str(told["nlri"]), None if path_id is None else str(path_id)


def _origin(told: dict[str, Any]) -> int | None:
    if not told:
        return None
    last = told[max(told, key=int)]
    return int(last["value"][-1]) if last["element"] == "as-sequence" and last["value"] else None
