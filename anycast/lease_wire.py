"""The route lease's wire: what the agent and the ExaBGP bridge say to each other, version 1.

Theory of operation: one JSON object is one packet of a SOCK_SEQPACKET socket, so there is no framing to get wrong. The
agent sends whole sets (`Renew`), never deltas, and the bridge answers with what ExaBGP acknowledged (`Ack`), so that losing
a message costs nothing. A renewal carries its absolute expiry on CLOCK_BOOTTIME: ten of them in a buffer extend nothing.

Everything that becomes part of an ExaBGP command is checked here and again where the command is written: addresses and
numbers only, in canonical form. Unknown fields are ignored (a newer peer may send more), unknown types and values are
refused with `DecodeError`. Imports only the standard library and the model, because the bridge must start in milliseconds.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from anycast.errors import DecodeError
from anycast.model import Route, SessionState
from anycast.reasons import Reason

VERSION = 1
MAX_PACKET = 32 * 1024
"""Bytes. A SEQPACKET larger than the reader's buffer would be cut silently, so both ends agree on a bound."""
MAX_ROUTES = 64
MAX_PREPEND = 16
"""More copies of one AS than this are dropped by common import filters (maxas-limit) and move nobody further."""

_INT63 = 2**63 - 1
_LARGE_COMMUNITY = re.compile(r"(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,9})", re.ASCII)
_COMMUNITY = re.compile(r"(0|[1-9][0-9]{0,4}):(0|[1-9][0-9]{0,4})", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A BGP session as the bridge sees it."""

    neighbor: str
    state: SessionState


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Bridge to agent, first on every connection: who it is and what it holds."""

    pid: int
    exabgp_pid: int
    exabgp_version: str
    announced: tuple[Route, ...]
    sessions: tuple[Session, ...]
    grace_ns: int
    """How much of a restart grace is left; 0 without one."""
    lease_ns: int = 0
    """The lease that it was started with; 0 from one that does not say."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Renew:
    """Agent to bridge: these routes and no others may be announced until `expires_ns`."""

    seq: int
    instance: str
    """The agent's run, so that a new agent ends its predecessor's grace."""
    expires_ns: int
    """CLOCK_BOOTTIME; the verdict's time plus the lease."""
    reason: Reason
    routes: tuple[Route, ...]
    """Empty: withdraw everything now."""
    candidates: tuple[Route, ...] = ()
    """Every route this agent's document could ever announce. A bridge that ExaBGP started while a session was up does
    not know what its predecessor left there; it withdraws these where `routes` does not have them."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grace:
    """Agent to bridge, once, before a clean stop: keep what is announced until `expires_ns`."""

    seq: int
    instance: str
    expires_ns: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Agent to bridge: answer with an `Ack`, change nothing. What an agent sends that has no verdict to renew from."""

    seq: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """Bridge to agent: every ExaBGP command that message `seq` and all before it caused has been answered."""

    seq: int
    announced: tuple[Route, ...]
    """What ExaBGP acknowledged on sessions that are up."""
    exabgp_answered_ns: int
    """CLOCK_BOOTTIME of ExaBGP's last answer to anything."""
    sessions: tuple[Session, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Bridge to agent, unasked: a session changed, the lease lapsed, or ExaBGP refused a command."""

    cause: Reason
    announced: tuple[Route, ...]
    exabgp_answered_ns: int
    sessions: tuple[Session, ...]


FromAgent = Renew | Grace | Query
FromBridge = Hello | Ack | Report
Message = FromAgent | FromBridge


def check_route(route: Route) -> Route:
    """Return `route` if each of its parts is numeric, canonical and consistent. Raises ValueError, naming the part."""
    _address(route.neighbor)
    if "%" in route.prefix or "/" not in route.prefix:
        raise ValueError("prefix")
    network = ipaddress.ip_network(route.prefix)
    if str(network) != route.prefix:
        raise ValueError("prefix")
    if _address(route.next_hop).version != network.version:
        raise ValueError("next_hop")
    for community in route.communities:
        match = _COMMUNITY.fullmatch(community)
        if match is None or any(int(part) > 0xFFFF for part in match.groups()):
            raise ValueError("communities")
    for community in route.large_communities:
        match = _LARGE_COMMUNITY.fullmatch(community)
        if match is None or any(int(part) > 0xFFFF_FFFF for part in match.groups()):
            raise ValueError("large_communities")
    if route.local_pref is not None and not 0 <= route.local_pref <= 0xFFFF_FFFF:
        raise ValueError("local_pref")
    if route.med is not None and not 0 <= route.med <= 0xFFFF_FFFF:
        raise ValueError("med")
    if not 0 <= route.prepend <= MAX_PREPEND:
        raise ValueError("prepend")
    return route


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    # A scope id is free text to `ipaddress` ("fe80::1%a b"), and free text must not reach a command.
    if "%" in text:
        raise ValueError("address")
    address = ipaddress.ip_address(text)
    if str(address) != text:
        raise ValueError("address")
    return address


def encode(message: Message) -> bytes:
    """The packet of a message."""
    body = dataclasses.asdict(message)
    return json.dumps({"v": VERSION, "type": _TYPE_NAMES[type(message)], **body}, separators=(",", ":")).encode()


def decode_from_agent(packet: bytes) -> FromAgent:
    """Decode what an agent may send. Raises DecodeError for any other bytes."""
    message = _decode(packet)
    if isinstance(message, Renew | Grace | Query):
        return message
    raise DecodeError("type", 0, "not a message of an agent")


def decode_from_bridge(packet: bytes) -> FromBridge:
    """Decode what a bridge may send. Raises DecodeError for any other bytes."""
    message = _decode(packet)
    if isinstance(message, Hello | Ack | Report):
        return message
    raise DecodeError("type", 0, "not a message of a bridge")


def _decode(packet: bytes) -> Message:
    if len(packet) > MAX_PACKET:
        raise DecodeError("packet", MAX_PACKET, "too long")
    try:
        body = json.loads(packet)
    except (ValueError, RecursionError) as exc:  # UnicodeDecodeError is a ValueError
        raise DecodeError("packet", getattr(exc, "pos", 0), "not JSON") from exc
    if not isinstance(body, dict):
        raise DecodeError("packet", 0, "not an object")
    if body.get("v") != VERSION or isinstance(body.get("v"), bool):
        raise DecodeError("v", 0, "unknown version")
    name = body.get("type")
    if not isinstance(name, str) or name not in _DECODERS:
        raise DecodeError("type", 0, "unknown")
    return _DECODERS[name](_Fields(body))


class _Fields:
    """Typed access to one object; each method raises DecodeError with the field's name."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._body = body

    def integer(self, name: str, low: int = 0, high: int = _INT63, *, default: int | None = None) -> int:
        value = self._body.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise DecodeError(name, 0, "not an integer in range")
        return value

    def name(self, name: str) -> str:
        value = self._body.get(name)
        if not isinstance(value, str) or _NAME.fullmatch(value) is None:
            raise DecodeError(name, 0, "not a name")
        return value

    def reason(self, name: str) -> Reason:
        try:
            return Reason(str(self._body.get(name)))
        except ValueError as exc:
            raise DecodeError(name, 0, "not a reason") from exc

    def routes(self, name: str, *, optional: bool = False) -> tuple[Route, ...]:
        routes = self._items(name, _route, optional)
        if len({route.key for route in routes}) != len(routes):
            raise DecodeError(name, 0, "two routes with one key")
        return routes

    def sessions(self, name: str) -> tuple[Session, ...]:
        return self._items(name, _session, False)

    def _items(self, name: str, decode: Callable[[Any], _T], optional: bool) -> tuple[_T, ...]:
        value = self._body.get(name, [] if optional else None)
        if not isinstance(value, list) or len(value) > MAX_ROUTES:
            raise DecodeError(name, 0, "not a list of a permitted length")
        try:
            return tuple(decode(item) for item in value)
        except (ValueError, TypeError, KeyError) as exc:
            raise DecodeError(name, 0, str(exc)) from exc


def _route(item: Any) -> Route:
    texts = [item["neighbor"], item["prefix"], item["next_hop"], *item.get("communities", [])]
    large = item.get("large_communities", [])  # of a bridge or an agent before these: none
    med, prepend, local_pref = item.get("med"), item.get("prepend", 0), item.get("local_pref")
    if not all(isinstance(text, str) for text in [*texts, *large]):
        raise ValueError("route: not text")
    if type(prepend) is not int or any(value is not None and type(value) is not int for value in (med, local_pref)):
        raise ValueError("route: not a number")
    neighbor, prefix, next_hop, *communities = texts
    return check_route(
        Route(
            neighbor=neighbor,
            prefix=prefix,
            next_hop=next_hop,
            communities=tuple(communities),
            large_communities=tuple(large),
            med=med,
            prepend=prepend,
            local_pref=local_pref,
        )
    )


def _session(item: Any) -> Session:
    neighbor = item["neighbor"]
    if not isinstance(neighbor, str):
        raise ValueError("neighbor")
    return Session(neighbor=str(_address(neighbor)), state=SessionState(item["state"]))


def _decode_hello(f: _Fields) -> Hello:
    return Hello(
        pid=f.integer("pid", 1),
        exabgp_pid=f.integer("exabgp_pid", 1),
        exabgp_version=f.name("exabgp_version"),
        announced=f.routes("announced"),
        sessions=f.sessions("sessions"),
        grace_ns=f.integer("grace_ns"),
        lease_ns=f.integer("lease_ns", default=0),
    )


def _decode_renew(f: _Fields) -> Renew:
    return Renew(
        seq=f.integer("seq"),
        instance=f.name("instance"),
        expires_ns=f.integer("expires_ns"),
        reason=f.reason("reason"),
        routes=f.routes("routes"),
        candidates=f.routes("candidates", optional=True),
    )


def _decode_grace(f: _Fields) -> Grace:
    return Grace(seq=f.integer("seq"), instance=f.name("instance"), expires_ns=f.integer("expires_ns"))


def _decode_query(f: _Fields) -> Query:
    return Query(seq=f.integer("seq"))


def _decode_ack(f: _Fields) -> Ack:
    return Ack(
        seq=f.integer("seq"),
        announced=f.routes("announced"),
        exabgp_answered_ns=f.integer("exabgp_answered_ns"),
        sessions=f.sessions("sessions"),
    )


def _decode_report(f: _Fields) -> Report:
    return Report(
        cause=f.reason("cause"),
        announced=f.routes("announced"),
        exabgp_answered_ns=f.integer("exabgp_answered_ns"),
        sessions=f.sessions("sessions"),
    )


_DECODERS: dict[str, Callable[[_Fields], Message]] = {
    "hello": _decode_hello,
    "renew": _decode_renew,
    "grace": _decode_grace,
    "query": _decode_query,
    "ack": _decode_ack,
    "report": _decode_report,
}
_TYPE_NAMES: dict[type, str] = {Hello: "hello", Renew: "renew", Grace: "grace", Query: "query", Ack: "ack", Report: "report"}
