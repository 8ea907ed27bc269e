"""Do packets find their way to clients, and do they fit? Pure.

A packet that has no route never reaches the IPsec policy that would encrypt it. charon adds a route for each client's inner
address in a table of its own (220), unless told not to; then the machine's routes must lead every pool out of the uplink.
"""

from __future__ import annotations

import dataclasses

from site_agent.doctor.finding import Finding, Kind, Severity

MISSING = Kind(
    id="interface_missing",
    looks_at="whether the interfaces that the fleet names for this gateway exist",
    why="what is planned for that interface cannot be there: addresses, routes, settings, and with it no client is served",
    worst=Severity.WRONG,
)
POOL = Kind(
    id="pool_route",
    looks_at="the kernel's answer which way an address of each client pool goes",
    why="servers' answers to clients have no route, never meet the tunnel's policy, and are dropped or sent elsewhere",
    worst=Severity.WRONG,
)
DEFAULT = Kind(
    id="default_route",
    looks_at="a default route for each family of the service addresses",
    why="clients connect from anywhere, and those without a route get no answer",
    worst=Severity.RISKY,
)
MTU = Kind(
    id="mtu",
    looks_at="the uplink's MTU against 1,280 bytes of IPv6 and the tunnel's own overhead",
    why="IPv6 inside the tunnel needs 1,280 bytes; else every large packet is sent in fragments, which many paths drop",
    worst=Severity.RISKY,
)
KINDS = (MISSING, POOL, DEFAULT, MTU)

OVERHEAD = 106
"""Bytes around an inner packet at most: IPv6 40, UDP 8, ESP 8, IV 16, padding and trailer 18, ICV 16."""
LEAST_INNER = 1280
"""RFC 8200 section 5."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PoolReading:
    """Where an address of a pool goes that no client has."""

    pool: str
    prefix: str
    interface: str | None
    """None: no route, or one that rejects."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoutesReading:
    pools: tuple[PoolReading, ...]
    charon_installs: bool
    """`charon.install_routes`."""
    uplink: str
    uplink_mtu: int
    missing: tuple[str, ...]
    """Names of the document's interfaces that do not exist. No command is given that names one of them."""
    inside: str
    """Empty where it is not known which it is."""
    families: tuple[int, ...]
    """4, 6: of the service addresses."""
    default_routes: frozenset[int]
    """Families that have one."""


def judge(reading: RoutesReading) -> list[Finding]:
    found = [_missing(name) for name in reading.missing] or ([MISSING.ok("all there")] if reading.inside else [])
    found += [_pool(reading, pool) for pool in reading.pools]
    if reading.uplink in reading.missing:
        return [finding for finding in found if finding.id == MISSING.id or not finding.mend]
    for family in reading.families:
        if family in reading.default_routes:
            found.append(DEFAULT.ok(f"IPv{family}"))
        else:
            option = "-6 " if family == 6 else ""
            way = f"ip {option}route add default dev {reading.uplink}"
            mend = f"{way}  # via ROUTER where the uplink is a network; keep it in its file"
            found.append(DEFAULT.found(Severity.RISKY, f"none for IPv{family}", mend))
    if reading.uplink_mtu:
        found.append(_mtu(reading))
    return found


def _missing(name: str) -> Finding:
    look = "ip -brief link show  # which is it? name it in the fleet file, or make it (ip-link(8), its network file)"
    return MISSING.found(Severity.WRONG, f"{name} is in the fleet file and not on this machine", look)


def _pool(reading: RoutesReading, pool: PoolReading) -> Finding:
    family = "-6 " if ":" in pool.prefix else ""
    mend = f"ip {family}route replace {pool.prefix} dev {reading.uplink}  # keep it in the uplink's file"
    if pool.interface is None:
        seen = f"{pool.pool} ({pool.prefix}) has no route"
        if reading.charon_installs:
            return POOL.found(Severity.NOTE, f"{seen} of its own; charon adds one for each client that is connected")
        return POOL.found(Severity.WRONG, f"{seen}, and charon.install_routes is no", mend)
    if reading.inside and pool.interface == reading.inside:
        return POOL.found(Severity.RISKY, f"{pool.pool} ({pool.prefix}) leads back inside, by {pool.interface}", mend)
    return POOL.ok(f"{pool.pool} ({pool.prefix}) leaves by {pool.interface}")


def _mtu(reading: RoutesReading) -> Finding:
    least = LEAST_INNER + OVERHEAD
    if reading.uplink_mtu < least:
        seen = f"{reading.uplink} has {reading.uplink_mtu}; {least} are needed"
        return MTU.found(
            Severity.RISKY, seen, f"ip link set dev {reading.uplink} mtu 1500  # if the path carries it; keep it in its file"
        )
    return MTU.ok(f"{reading.uplink} has {reading.uplink_mtu}")
