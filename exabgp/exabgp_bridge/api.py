"""Codec of the ExaBGP 5 helper API: bytes in, typed events out, validated commands out as bytes.

Theory of operation (measured with 5.0.15): ExaBGP interleaves two languages on the helper's standard input. An answer to a
command is a bare line, `done` or `error`, preceded by whatever the command prints; an event is a JSON object on a line of
its own and may come between any two of those lines. So the first byte decides: `{` is an event, `[` or anything else is
output of the command in flight, and the two bare words end it. There is no number on an answer, hence one command in flight.

Commands are dispatched by *substring*: a community written `graceful-shutdown ` executes `shutdown`, and a newline is a
second command. So a command is composed here and nowhere else, only from parsed addresses and numbers. A withdrawal names
exactly the attributes of the announcement it revokes: ExaBGP keys its queue by attributes, and while a session is down a
withdrawal with other attributes does not replace a queued announcement, which is then sent at session-up (see
tests/interop/test_exabgp_lease.py).
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
from typing import Any

from anycast.errors import DecodeError
from anycast.lease_wire import check_route
from anycast.model import Route, SessionState

MAX_LINE = 1 << 20
"""ExaBGP's own limit for one command; nothing that we subscribe to comes near it."""


class NeedData:
    """The stream holds no complete line."""


NEED_DATA = NeedData()


@dataclasses.dataclass(frozen=True, slots=True)
class CommandDone:
    """`done`: the change is in ExaBGP's queue for the session, which may be down. Never "on the wire"."""


@dataclasses.dataclass(frozen=True, slots=True)
class CommandRefused:
    """`error`. The cause is only in ExaBGP's log."""


@dataclasses.dataclass(frozen=True, slots=True)
class OutputLine:
    """A line that the command in flight printed."""

    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NeighborState:
    """A session's state, from an event or from `show neighbor json`."""

    neighbor: str
    state: SessionState
    local_asn: int


@dataclasses.dataclass(frozen=True, slots=True)
class OtherEvent:
    """A JSON event of a kind that moves nothing here, e.g. ``notification``."""

    kind: str


ApiEvent = CommandDone | CommandRefused | OutputLine | NeighborState | OtherEvent


@dataclasses.dataclass(frozen=True, slots=True)
class AskVersion:
    """Also the probe: the cheapest question with an answer."""


@dataclasses.dataclass(frozen=True, slots=True)
class AskNeighbors:
    """All neighbors with their state; nothing of it is replayed to a restarted helper."""


@dataclasses.dataclass(frozen=True, slots=True)
class Announce:
    route: Route
    local_asn: int
    """Needed only to prepend: ExaBGP sends a given AS_PATH verbatim."""


@dataclasses.dataclass(frozen=True, slots=True)
class Withdraw:
    route: Route
    local_asn: int


Command = AskVersion | AskNeighbors | Announce | Withdraw


class ApiStream:
    """The receiving half, in h11's shape: feed bytes, take events until `NEED_DATA`."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> None:
        self._buffer += data

    def next_event(self) -> ApiEvent | NeedData:
        """The next complete line. Raises DecodeError for one that ExaBGP cannot have written; the stream is then over."""
        end = self._buffer.find(b"\n")
        if end < 0:
            if len(self._buffer) > MAX_LINE:
                raise DecodeError("line", MAX_LINE, "too long")
            return NEED_DATA
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return decode_line(line)


def decode_line(line: bytes) -> ApiEvent:
    """Decode one line without its newline. Raises DecodeError."""
    match line:
        case b"done":
            return CommandDone()
        case b"error":
            return CommandRefused()
    if not line.startswith(b"{"):
        return OutputLine(line.decode("ascii", "backslashreplace"))
    body = _json(line)
    if not isinstance(body, dict):
        raise DecodeError("event", 0, "not an object")
    kind = body.get("type")
    if not isinstance(kind, str):
        raise DecodeError("type", 0)
    if kind != "state":
        return OtherEvent(kind)
    try:
        neighbor = body["neighbor"]
        return _neighbor_state(neighbor["address"]["peer"], neighbor["asn"]["local"], neighbor["state"])
    except (KeyError, TypeError, ValueError) as exc:
        raise DecodeError("neighbor", 0, str(exc)) from exc


def decode_neighbors(text: str) -> list[NeighborState]:
    """Decode the output of `AskNeighbors`. Raises DecodeError."""
    body = _json(text.encode())
    if not isinstance(body, list):
        raise DecodeError("neighbors", 0, "not a list")
    try:
        return [
            _neighbor_state(item["peer"]["address"], item["local"]["as"], "up" if item["fsm"] == "ESTABLISHED" else "down")
            for item in body
        ]
    except (KeyError, TypeError, ValueError) as exc:
        raise DecodeError("neighbors", 0, str(exc)) from exc


def encode_command(command: Command) -> bytes:
    """One line. Raises ValueError for a route that is not made of canonical addresses and numbers."""
    match command:
        case AskVersion():
            return b"version\n"
        case AskNeighbors():
            return b"show neighbor json\n"
        case Announce(route, local_asn):
            return _route_command("announce", route, local_asn)
        case Withdraw(route, local_asn):
            return _route_command("withdraw", route, local_asn)


def _route_command(verb: str, route: Route, local_asn: int) -> bytes:
    check_route(route)
    words = ["neighbor", route.neighbor, verb, "route", route.prefix, "next-hop", route.next_hop]
    if route.med is not None:
        words += ["med", f"{route.med:d}"]
    if route.communities:
        words += ["community", "[", *route.communities, "]"]
    if route.large_communities:
        words += ["large-community", "[", *route.large_communities, "]"]
    if route.local_pref is not None:
        words += ["local-preference", f"{route.local_pref:d}"]
    if route.prepend:
        words += ["as-path", "[", *[f"{local_asn:d}"] * (route.prepend + 1), "]"]
    return (" ".join(words) + "\n").encode("ascii")


def _neighbor_state(address: Any, local_asn: Any, state: Any) -> NeighborState:
    if not isinstance(address, str) or "%" in address:
        raise ValueError("address")
    if type(local_asn) is not int or not 0 < local_asn <= 0xFFFF_FFFF:
        raise ValueError("asn")
    return NeighborState(
        neighbor=str(ipaddress.ip_address(address)),
        state=SessionState(state),
        local_asn=local_asn,
    )


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise DecodeError("line", getattr(exc, "pos", 0), "not JSON") from exc
