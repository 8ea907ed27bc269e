"""Rules about the zones that the fleet's names are written into."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator

from anycast.fleet.finding import Finding
from anycast.fleet.name_zones import Zone
from anycast.fleet.schema import Fleet
from anycast.fleet.yaml_text import Path, where

REVERSE4, REVERSE6 = ".in-addr.arpa", ".ip6.arpa"
_OCTETS = re.compile(r"(?:(?:0|[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5])\.){1,4}in-addr\.arpa")
_NIBBLES = re.compile(r"(?:[0-9a-f]\.){1,32}ip6\.arpa")
_LONGEST = 253 - len("outside.")
"""RFC 1035 section 2.3.4, with the longest of the labels that stand before a machine's or a site's name."""
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def zones_are_what_they_say(fleet: Fleet) -> Iterator[Finding]:
    if fleet.dns is None:
        return
    seen: dict[str, str] = {}
    for key, zone in fleet.dns.zones.items():
        path: Path = ("dns", "zones", key)
        if (other := seen.setdefault(zone.name, key)) != key:
            yield Finding((*path, "name"), f"{zone.name} is also dns.zones.{other}")
        yield from _reverse(zone, path)


def _reverse(zone: Zone, path: Path) -> Iterator[Finding]:
    name = zone.name
    if zone.prefix is not None:
        parent = ".".join(reversed(str(zone.prefix.network_address).split(".")[:3])) + REVERSE4
        if zone.prefix.prefixlen <= 24:
            what = f"{zone.prefix} is no part of a /24: leave it out, and write one zone for each octet boundary"
            yield Finding((*path, "prefix"), what)
        elif not name.endswith(f".{parent}") or name.count(".") != parent.count(".") + 1:
            first, last = zone.prefix.network_address.packed[3], zone.prefix.broadcast_address.packed[3]
            what = f"{name} is not a zone of {zone.prefix}: one label below {parent}, {first}-{last}.{parent} for instance"
            yield Finding((*path, "name"), what, judged=((*path, "prefix"),))
    elif name.endswith(REVERSE4):
        if not _OCTETS.fullmatch(name):
            what = f"{name} does not say which addresses it is for: write its prefix (RFC 2317)"
            yield Finding((*path, "name"), what, judged=((*path, "prefix"),))
    elif name.endswith(REVERSE6):
        if not _NIBBLES.fullmatch(name):
            yield Finding((*path, "name"), f"{name} is no reverse zone of IPv6: one hexadecimal digit a label (RFC 3596)")
    elif not all(_LABEL.fullmatch(label) for label in name.split(".")):
        yield Finding((*path, "name"), f"{name} is not a domain name in lower case (example.org)")


def names_have_a_zone_and_one_owner(fleet: Fleet) -> Iterator[Finding]:
    if fleet.dns is None:
        return
    dns = fleet.dns
    if not any(dns.domain == zone.name or dns.domain.endswith(f".{zone.name}") for zone in dns.zones.values()):
        named = ", ".join(zone.name for zone in dns.zones.values())
        what = f"{dns.domain} lies in none of this fleet's zones ({named})"
        yield Finding(("dns", "domain"), what, judged=(("dns", "zones"),))
    if dns.ttl % datetime.timedelta(seconds=1) or not 1 <= dns.ttl.total_seconds() <= 604800:
        yield Finding(("dns", "ttl"), "is not whole seconds from 1 s to a week (168 h)")
    taken: dict[str, Path] = {fleet.service.identity: ("service", "identity")}
    owners: list[tuple[str, Path]] = [(name, ("sites", name)) for name in fleet.sites]
    owners += [(name, ("sites", site, "gateways", name)) for site in fleet.sites for name in fleet.sites[site].gateways]
    if fleet.addressing is not None:
        owners += [(name, ("addressing", "services", name)) for name in fleet.addressing.services]
    for name, path in owners:
        full = f"{name}.{dns.domain}"
        if len(full) > _LONGEST:
            yield Finding(path, f"{full} is longer than {_LONGEST} characters", at_key=True, judged=(("dns", "domain"),))
        if (other := taken.setdefault(full, path)) != path:
            yield Finding(path, f"{full} would also be the name of {where(other)}", at_key=True, judged=(("dns", "domain"),))


NAME_ZONE_RULES: tuple[Callable[[Fleet], Iterator[Finding]], ...] = (
    zones_are_what_they_say,
    names_have_a_zone_and_one_owner,
)
