"""The names of a fleet: forward (RFC 1035, 3596) and reverse records of its service, sites and gateways, by zone. Pure.

Names are absolute, in small letters, without the last dot. What no declared zone holds is not written, and said.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from anycast.fleet.name_zones import Zone
from anycast.fleet.schema import Fleet
from anycast.fleet.section import DualStack

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Key(NamedTuple):
    """One RRset of a zone."""

    name: str
    type: str
    """``A``, ``AAAA``, ``PTR``."""


Records = dict[Key, frozenset[str]]
"""Values as text: addresses in their canonical form, names without the last dot."""


class Names(NamedTuple):
    zones: dict[str, Records]
    """By the zone's key in `dns.zones`."""
    unplaced: tuple[str, ...]
    """A sentence for each group of names that no zone holds."""


def names(fleet: Fleet) -> Names:
    """Of a fleet that has `dns`."""
    assert fleet.dns is not None
    zones = fleet.dns.zones
    records: dict[str, dict[Key, set[str]]] = {key: defaultdict(set) for key in zones}
    outside: Counter[str] = Counter()
    for name, address in _owners(fleet):
        if (zone := zone_of(name, zones)) is None:
            outside[f"{name} lies in none of dns.zones: nothing is written at that name"] += 1
        else:
            records[zone][Key(name, "A" if address.version == 4 else "AAAA")].add(str(address))
        if (place := reverse_place(address, zones)) is None:
            outside[_no_reverse(address)] += 1
        else:
            records[place[0]][Key(place[1], "PTR")].add(name)
    return Names(
        {key: {name: frozenset(values) for name, values in sorted(found.items())} for key, found in records.items()},
        tuple(f"{what} ({count} addresses)" if count > 1 else what for what, count in sorted(outside.items())),
    )


def _owners(fleet: Fleet) -> Iterator[tuple[str, IpAddress]]:
    assert fleet.dns is not None
    domain = fleet.dns.domain
    yield from _each(fleet.service.identity, fleet.service.vips)
    if fleet.addressing is not None:
        for name, service in fleet.addressing.services.items():
            yield from _each(f"{name}.{domain}", service.vips)
    for name, site in fleet.sites.items():
        yield from _each(f"{name}.{domain}", site.service_address)
        yield from _each(f"tunnel.{name}.{domain}", site.tunnel)
        if site.vrrp is not None:
            if site.upstreams:  # else they are the VIPs
                yield from _each(f"outside.{name}.{domain}", site.vrrp.outside)
            yield from _each(f"inside.{name}.{domain}", site.vrrp.inside)
        for machine, gateway in site.gateways.items():
            # The machine itself is where it is managed, else where it is seen from outside.
            yield from _each(f"{machine}.{domain}", gateway.management or gateway.uplink)
            if gateway.management is not None:
                yield from _each(f"uplink.{machine}.{domain}", gateway.uplink)
            yield from _each(f"inside.{machine}.{domain}", gateway.inside)


def _each(name: str, holder: DualStack | None) -> Iterator[tuple[str, IpAddress]]:
    for family in () if holder is None else holder.families:
        yield name, holder.of(family)  # type: ignore[union-attr]


def zone_of(name: str, zones: dict[str, Zone]) -> str | None:
    """The key of the zone with the longest name that holds `name`; None: none does."""
    found = [(len(zone.name), key) for key, zone in zones.items() if name == zone.name or name.endswith(f".{zone.name}")]
    return max(found)[1] if found else None


def reverse_place(address: IpAddress, zones: dict[str, Zone]) -> tuple[str, str] | None:
    """Zone and name of the address's PTR record: where a zone was delegated within a /24 for it, there (RFC 2317), because a
    resolver comes to it by the CNAME that its parent has."""
    for key, zone in zones.items():
        if zone.prefix is not None and address in zone.prefix:
            return key, f"{address.packed[-1]}.{zone.name}"
    name = address.reverse_pointer
    key_of = zone_of(name, {key: zone for key, zone in zones.items() if zone.prefix is None})
    return None if key_of is None else (key_of, name)


def _no_reverse(address: IpAddress) -> str:
    labels = address.reverse_pointer.split(".")
    if address.version == 4:
        parent = ".".join(labels[1:])
        return (
            f"no reverse record in {parent}: it is none of dns.zones, and none has a prefix there; whoever has {parent} may"
            " delegate a part of it by CNAME (RFC 2317), to a zone with its prefix here"
        )
    return f"no reverse record in {'.'.join(labels[16:])} or above: it is none of dns.zones"
