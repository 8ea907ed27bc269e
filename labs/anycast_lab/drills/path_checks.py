"""What was seen on clients' ways to the service and at the clients themselves. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from anycast_lab.capture.frames import Exchange, Ike, Sealed, Seen
from anycast_lab.capture.too_big import TooBig
from anycast_lab.drills.limits import Limit
from anycast_lab.drills.path_steps import (
    Balanced,
    Connects,
    Echoed,
    FamilyGone,
    Hangs,
    HasFetched,
    NobodyElses,
    PathCheck,
    PortsMoved,
    SameTunnels,
    SplitsApart,
    TooBigAt,
    TooBigCounted,
)
from anycast_lab.drills.report import Checked
from anycast_lab.drills.timeline import ROUTE_MOVES

if TYPE_CHECKING:
    from anycast.fleet.values import Family
    from anycast_lab.drills.checks import Observation

ECHOES = 5
"""Of each client, at one `echo_big`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """What one client's kernel and charon have at one moment."""

    ike: tuple[tuple[str, str], ...]
    """The SPIs of each IKE_SA that is established, the initiator's first."""
    spis_in: frozenset[int]
    """Of the ESP that it takes."""
    spis_out: frozenset[int]
    """Of the ESP that it sends."""
    inner: tuple[str, ...]
    """Its addresses from sites' pools, sorted."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What one client has fetched by TCP."""

    connected: bool
    bytes: int
    wrong: bool
    took_ms: float | None
    """Until it had all; None where it never had."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AtGateway:
    """About packets that were too big for their way, at one gateway."""

    came: tuple[TooBig, ...]
    spis: frozenset[int]
    """Of the ESP that it sends, before and after."""
    counted: float | None
    """By how much its /metrics say that those about other sites' tunnels grew; None where they do not say."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """One that connected when the drill said so, or did not."""

    up: bool
    """It has a tunnel."""
    address: str
    """That it came from."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PathSeen:
    """By client, or by the node that was captured."""

    before: Mapping[str, Ends]
    after: Mapping[str, Ends]
    came: Mapping[str, tuple[Seen, ...]]
    """What came to each client."""
    outside: tuple[Seen, ...] = ()
    """What passed outside their NAT, both ways."""
    paths: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """By carrier: by how many it sent to the service when the drill began."""
    guests: Mapping[str, Guest] = dataclasses.field(default_factory=dict)
    asked: Mapping[str, tuple[Ike, ...]] = dataclasses.field(default_factory=dict)
    """The IKE that came to each gateway."""
    fetched: Mapping[str, Fetched] = dataclasses.field(default_factory=dict)
    """By client, with ` clamped` behind its name where it was."""
    echoed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    at_gateways: Mapping[str, AtGateway] = dataclasses.field(default_factory=dict)
    problems: tuple[str, ...] = ()
    """Why captures cannot be trusted."""


def judge(check: PathCheck, observed: Observation, limits: Mapping[str, Limit]) -> Checked:
    seen, fault_ns, kernel = observed.paths, observed.fault_ns, observed.kernel
    if isinstance(check, FamilyGone):
        return _family_gone(observed, check.family, limits[check.limit].on(kernel))
    if seen is None:
        return Checked(f"{check.check} is watched", "nobody looked", "kernel: esp", False)
    match check:
        case Balanced(at=node, paths=paths):
            found = seen.paths.get(node, 0)
            return Checked(f"{node} balances over paths to the service", str(found), str(paths), found == paths)
        case Connects(client=client):
            return _guest(seen, client, split=False)
        case SplitsApart(client=client):
            return _guest(seen, client, split=True)
        case SameTunnels():
            return _same_tunnels(seen)
        case PortsMoved(clients=clients, swapped=swapped):
            return _ports_moved(seen, clients, fault_ns, swapped=swapped)
        case NobodyElses(limit=name):
            return _nobody_elses(seen, fault_ns, None if name is None else limits[name].on(kernel))
        case HasFetched(clients=clients, clamped=clamped, limit=name):
            return _fetched(seen, clients, limits[name].on(kernel), clamped=clamped)
        case Hangs(clients=clients):
            told = {client: seen.fetched.get(client) for client in clients}
            said = ", ".join(f"{client} {_words_of(one)}" for client, one in told.items())
            right = all(one is not None and one.connected and not one.bytes for one in told.values())
            return Checked(f"TCP of {' and '.join(clients)} hangs", said, "connected, 0 bytes", right)
        case Echoed(clients=clients, none=none):
            said = ", ".join(f"{client} {seen.echoed.get(client, 0)} of {ECHOES}" for client in clients)
            right = all(seen.echoed.get(client) == (0 if none else ECHOES) for client in clients)
            text = f"what may be fragmented inside the tunnel {'is lost' if none else 'comes back'}"
            return Checked(text, said, "none comes back" if none else "all", right)
        case TooBigAt(client=client, gateway=gateway):
            return _too_big_at(seen, client, gateway)
        case TooBigCounted(gateway=gateway, astray=astray):
            return _too_big_counted(seen, gateway, astray=astray)


def _same_tunnels(seen: PathSeen) -> Checked:
    text, told = "each client has the IKE_SA and the inner addresses that it had", []
    for client, before in seen.before.items():
        after = seen.after.get(client)
        if not before.ike or not before.inner:
            told.append(f"{client} had none before")
        elif after is None or after.ike != before.ike:
            told.append(f"{client} has another IKE_SA")
        elif after.inner != before.inner:
            told.append(f"{client} has {', '.join(after.inner) or 'no inner address'} instead of {', '.join(before.inner)}")
    said = "; ".join(told) or f"the same at {', '.join(seen.before)}"
    return Checked(text, said, "the same", bool(seen.before) and not told)


def _ports(seen: PathSeen, client: str, from_ns: int, to_ns: int) -> tuple[int, ...]:
    """Outside the NAT, the ports that the client's ESP came from, in order."""
    own = seen.before[client].spis_out
    packets = (one for one in seen.outside if isinstance(one, Sealed) and from_ns < one.at_ns <= to_ns and one.spi in own)
    return tuple(dict.fromkeys(one.ports[0] for one in packets))


def _ports_moved(seen: PathSeen, clients: tuple[str, ...], fault_ns: int, *, swapped: bool) -> Checked:
    last = max((one.at_ns for one in seen.outside), default=0)
    before = {client: _ports(seen, client, 0, fault_ns) for client in seen.before}
    after = {client: _ports(seen, client, fault_ns, last)[-1:] for client in seen.before}
    told = [f"{client} {_words(before[client])} → {_words(after[client])}" for client in before]
    others = [client for client in before if client not in clients]
    right = all(len(before[c]) == 1 == len(after[c]) for c in before) and set(clients) <= before.keys()
    right = right and all(before[c] == after[c] for c in others)
    if swapped:
        one, other = clients
        right = right and after[one] == before[other] != before[one] and after[other] == before[one]
    else:
        right = right and all(after[c] != before[c] for c in clients)
    text = f"the NAT {'swaps the ports' if swapped else 'changes the port'} of {' and '.join(clients)}, and no other's"
    told += seen.problems
    return Checked(text, ", ".join(told), "swapped" if swapped else "changed", right and not seen.problems)


def _words(ports: tuple[int, ...]) -> str:
    return " and ".join(map(str, ports)) or "nothing"


def _foreign(seen: PathSeen, client: str) -> Iterator[Seen]:
    """What came to a client that neither its kernel nor its charon had an SA for, before or after."""
    ends = [each[client] for each in (seen.before, seen.after) if client in each]
    spis = frozenset[int]().union(*(one.spis_in for one in ends))
    initiators = {int(spis[0], 16) for one in ends for spis in one.ike}
    for packet in seen.came.get(client, ()):
        foreign_esp = isinstance(packet, Sealed) and packet.spi not in spis
        if foreign_esp or (isinstance(packet, Ike) and packet.spis[0] not in initiators):
            yield packet


def _nobody_elses(seen: PathSeen, fault_ns: int, limit_ms: float | None) -> Checked:
    text = "no client is sent another's packets"
    told, right = list[str](), not seen.problems and bool(seen.before)
    for client in seen.before:
        came, foreign = len(seen.came.get(client, ())), [one.at_ns for one in _foreign(seen, client)]
        until = (max(foreign) - fault_ns) / 1e6 if foreign else 0.0
        told.append(f"{client} {len(foreign)} of {came}" + (f", until {until:.0f} ms" if foreign else ""))
        right = right and came > 0
        if limit_ms is None:
            right = right and not foreign
        else:
            right = right and until <= limit_ms and all(at >= fault_ns for at in foreign)
    if limit_ms is not None:
        text += ", but for the moment of the change"
    limit = "none" if limit_ms is None else f"none before it, none later than {limit_ms:g} ms"
    return Checked(text, "; ".join((*told, *seen.problems)), limit, right)


def _words_of(one: Fetched | None) -> str:
    if one is None:
        return "has fetched nothing"
    if not one.connected:
        return "has not connected"
    return f"{one.bytes} bytes{' (wrong ones)' if one.wrong else ''}, " + (
        "never all" if one.took_ms is None else f"all after {one.took_ms:.0f} ms"
    )


def _fetched(seen: PathSeen, clients: tuple[str, ...], limit_ms: float, *, clamped: bool) -> Checked:
    found = {client: seen.fetched.get(f"{client} clamped" if clamped else client) for client in clients}
    right = all(o is not None and o.took_ms is not None and o.took_ms <= limit_ms and not o.wrong for o in found.values())
    text = "TCP through the tunnel carries all" + (", with its MSS clamped" if clamped else "")
    return Checked(text, ", ".join(f"{c} {_words_of(one)}" for c, one in found.items()), f"{limit_ms:g} ms", right)


def _too_big_at(seen: PathSeen, client: str, gateway: str) -> Checked:
    """A tunnel's SPI is known from the client, whichever gateway its other end is at."""
    ends = [each[client] for each in (seen.before, seen.after) if client in each]
    spis = frozenset[int]().union(*(one.spis_in for one in ends))
    came = {name: [one for one in at.came if one.spi in spis] for name, at in seen.at_gateways.items()}
    said = [f"{len(found)} at {name}" + _sizes(found) for name, found in came.items()]
    right = bool(came.get(gateway)) and not any(found for name, found in came.items() if name != gateway)
    text = f"routers' \"too big\" about {client}'s tunnel comes to {gateway} alone"
    return Checked(text, ", ".join((*said, *seen.problems)), gateway, right and not seen.problems)


def _sizes(found: list[TooBig]) -> str:
    return f" ({' and '.join(str(mtu) for mtu in sorted({one.mtu for one in found}))} bytes)" if found else ""


def _too_big_counted(seen: PathSeen, gateway: str, *, astray: bool) -> Checked:
    text = f"{gateway} counts what is \"too big\" in other sites' tunnels"
    at = seen.at_gateways.get(gateway)
    if at is None or at.counted is None:
        return Checked(text, "it says nothing", "what was captured", False)
    captured = sum(one.spi not in at.spis for one in at.came)
    right = at.counted == captured and bool(captured) is astray and not seen.problems
    said = f"it counts {at.counted:g}, {captured} of {len(at.came)} captured are such"
    return Checked(text, ", ".join((said, *seen.problems)), "as many, at least one" if astray else "none", right)


def _family_gone(seen: Observation, family: Family, limit_ms: float) -> Checked:
    """By BIRD's word, as all of routes."""
    text = f"{seen.victim}'s {family} routes go, and no other family's anywhere"
    mine = [route for route in seen.routes if (":" in route.prefix) == (family == "ipv6")]
    told, worst = list[str](), 0.0
    for route in mine:
        gone = [m.at_ns for m in route.moments(seen.moments) if m.event == "route_removed" and m.at_ns >= seen.fault_ns]
        if not gone:
            told.append(f"{route} never went")
        else:
            worst = max(worst, (gone[0] - seen.fault_ns) / 1e6)
    told += [
        f"{m.subject} {m.event.removeprefix('route_')} at {m.source}"
        for m in seen.moments
        if m.event in ROUTE_MOVES and seen.fault_ns <= m.at_ns <= seen.end_ns
        and (":" in m.subject) != (family == "ipv6")
    ]  # fmt: skip
    said = "; ".join(told) or f"gone after {worst:.0f} ms, nothing else moved"
    return Checked(text, said, f"{limit_ms:g} ms", bool(mine) and not told and worst <= limit_ms)


def _guest(seen: PathSeen, client: str, *, split: bool) -> Checked:
    """Where its IKE_SA_INIT and what followed came to, by the address that it was given."""
    where = "two gateways, and it has no tunnel" if split else "one gateway, and it has a tunnel"
    text = f"{client}'s first message and those after it come to {where}"
    limit, guest = "no tunnel" if split else "a tunnel", seen.guests.get(client)
    if guest is None:
        return Checked(text, "it has not connected", limit, False)
    first, later = dict[str, int](), dict[str, int]()
    for gateway, messages in seen.asked.items():
        for one in messages:
            if str(one.source) == guest.address and not one.response:
                into = first if one.exchange == Exchange.IKE_SA_INIT else later
                into[gateway] = into.get(gateway, 0) + 1
    told = [f"{what} at {', '.join(found) or 'none'}" for what, found in (("IKE_SA_INIT", first), ("the rest", later))]
    apart = len(first) == 1 == len(later) and first.keys() != later.keys()
    right = (apart and not guest.up) if split else (len(first) == 1 and first.keys() == later.keys() and guest.up)
    said = f"{'; '.join(told)}; {'a tunnel' if guest.up else 'no tunnel'}"
    return Checked(text, "; ".join((said, *seen.problems)), limit, right and not seen.problems)
