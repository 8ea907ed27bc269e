"""Rules about addresses, prefixes and AS numbers of fleet.yaml."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from typing import Any

from anycast.fleet.finding import Finding
from anycast.fleet.schema import Fleet, Site
from anycast.fleet.section import DualStack
from anycast.fleet.values import FAMILIES, Family
from anycast.fleet.yaml_text import Path, where

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DOCUMENTATION: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "192.0.2.0/24",  # RFC 5737
        "198.51.100.0/24",
        "203.0.113.0/24",
        "2001:db8::/32",  # RFC 3849
        "3fff::/20",  # RFC 9637
    )
)
_DOCUMENTATION_ASNS = (range(64496, 64512), range(65536, 65552))  # RFC 5398
_PRIVATE_ASNS = (range(64512, 65535), range(4200000000, 4294967295))  # RFC 6996
_RESERVED_ASNS = (23456, 65535)  # RFC 6793 AS_TRANS, RFC 7300
_WORDS: dict[Family, str] = {"ipv4": "IPv4", "ipv6": "IPv6"}


def vips_are_covered(fleet: Fleet) -> Iterator[Finding]:
    """A VIP outside its announced prefix attracts nothing; a prefix without a VIP attracts into nothing."""
    vips, prefixes = fleet.service.vips, fleet.service.prefixes
    if not prefixes.families and not any(site.upstreams for site in fleet.sites.values()):
        return  # nothing is announced
    for family in FAMILIES:
        vip, prefix = vips.of(family), prefixes.of(family)
        if vip is None and prefix is not None:
            path: Path = ("service", "prefixes", family)
            yield Finding(path, f"{prefix} has no VIP: service.vips has no {family}", judged=(("service", "vips"),))
        elif vip is not None and prefix is None:
            path = ("service", "vips", family)
            yield Finding(path, f"{vip} has no prefix: service.prefixes has no {family}", judged=(("service", "prefixes"),))
        elif vip is not None and vip not in prefix:
            path = ("service", "vips", family)
            yield Finding(path, f"{vip} is outside its prefix {prefix}", judged=(("service", "prefixes", family),))


def unusable(address: Any, subnet: Any) -> bool:
    """Whether no host can have `address` of `subnet`. RFC 3021 and RFC 6164 leave point-to-point subnets all of theirs."""
    if subnet.prefixlen >= subnet.max_prefixlen - 1:
        return False
    return address in (subnet.network_address, *([subnet.broadcast_address] if address.version == 4 else []))


def in_subnet(
    path: Path, holder: DualStack, subnets: DualStack, subnets_path: Path, *, hosts: bool = True
) -> Iterator[Finding]:
    """Each address of `holder` lies in the subnet of its family; `hosts`: as a host's, which it is where that is one LAN."""
    for family in holder.families:
        address, subnet = holder.of(family), subnets.of(family)
        judged = (subnets_path,)
        if subnet is None:
            yield Finding((*path, family), f"{where(subnets_path)} has no {_WORDS[family]} subnet", judged=judged)
        elif address not in subnet:
            yield Finding((*path, family), f"{address} is outside {where(subnets_path)} {subnet}", judged=judged)
        elif hosts and unusable(address, subnet):
            yield Finding((*path, family), f"{address} is no host's address in {subnet}", judged=judged)


def _attachments(fleet: Fleet, name: str, site: Site) -> Iterator[tuple[Path, DualStack, str]]:
    """Everything that has an address in one of the site's subnets: its path, its addresses, the subnet's key.

    What moves comes last, so that it is at fault where it is somebody's own.
    """
    here: Path = ("sites", name)
    for router, upstream in site.upstreams.items():
        yield (*here, "upstreams", router, "address"), upstream.address, "uplink"
    for router, upstream in site.inside_routers.items():
        yield (*here, "inside_routers", router, "address"), upstream.address, "inside"
    for gateway_name, gateway in site.gateways.items():
        path: Path = (*here, "gateways", gateway_name)
        yield (*path, "uplink"), gateway.uplink, "uplink"
        yield (*path, "inside"), gateway.inside, "inside"
        if gateway.management is not None:
            yield (*path, "management"), gateway.management, "management"
    if (vrrp := site.vrrp) is None:
        return
    if vrrp.peer is not None:
        yield (*here, "vrrp", "peer"), vrrp.peer, "uplink"
    if vrrp.peer_inside is not None:
        yield (*here, "vrrp", "peer_inside"), vrrp.peer_inside, "inside"
    if vrrp.outside is not None:
        yield (*here, "vrrp", "outside"), vrrp.outside, "uplink"
    elif not site.upstreams:
        yield ("service", "vips"), fleet.service.vips, "uplink"
    yield (*here, "vrrp", "inside"), vrrp.inside, "inside"


def addresses_are_in_their_subnets(fleet: Fleet) -> Iterator[Finding]:
    """Gateways and upstreams share one subnet, so that one next hop serves both gateways of a site."""
    for name, site in fleet.sites.items():
        taken: dict[tuple[str, Any], Path] = {}
        for path, holder, subnet in _attachments(fleet, name, site):
            routed = subnet == "uplink" and site.vrrp is not None and site.vrrp.uplink == "routed"
            yield from in_subnet(path, holder, getattr(site, subnet), ("sites", name, subnet), hosts=not routed)
            for family in holder.families:
                here = (*path, family)
                other = taken.setdefault((subnet, holder.of(family)), here)
                if other != here:
                    yield Finding(here, f"{holder.of(family)} is also the address of {where(other[:-1])}", judged=(other,))


def gateways_have_their_families(fleet: Fleet) -> Iterator[Finding]:
    """A next hop is an address of the prefix's own family, and packets of each family need a way on both sides."""
    for name, site in fleet.sites.items():
        for gateway_name, gateway in site.gateways.items():
            for side in ("uplink", "inside", "management"):
                subnets, attachment = getattr(site, side), getattr(gateway, side)
                for family in subnets.families:
                    if attachment is not None and attachment.of(family) is None:
                        yield Finding(
                            ("sites", name, "gateways", gateway_name, side),
                            f"has no {family}, but sites.{name}.{side} has a subnet for it",
                            judged=(("sites", name, side),),
                        )


def every_prefix_is_announced_everywhere(fleet: Fleet) -> Iterator[Finding]:
    """A site that announces one family only would split a client's two families over two sites."""
    for family in fleet.service.prefixes.families:
        prefix = fleet.service.prefixes.of(family)
        for name, site in fleet.sites.items():
            if site.upstreams and all(upstream.address.of(family) is None for upstream in site.upstreams.values()):
                yield Finding(
                    ("sites", name, "upstreams"),
                    f"no upstream has an {family} address, so {prefix} would not be announced here: give one such an address"
                    f" (where it is planned, the site's `uplink` such a subnet), or the service no {family} prefix",
                    judged=(("service", "prefixes", family),),
                )


def pools_have_something_to_reach(fleet: Fleet) -> Iterator[Finding]:
    """An inner address of a family without anything inside would be a black hole in the client."""
    reached = {f"ipv{network.version}" for network in fleet.service.inside}
    for name, site in fleet.sites.items():
        for family in site.pools.families:
            if family not in reached:
                yield Finding(
                    ("sites", name, "pools", family),
                    f"service.inside has no {_WORDS[family]} prefix that its clients could reach",
                    judged=(("service", "inside"),),
                )


def service_addresses_are_the_vips_families(fleet: Fleet) -> Iterator[Finding]:
    """A client is redirected within its family: it may have no other."""
    for name, site in fleet.sites.items():
        for family in () if site.service_address is None else site.service_address.families:
            if fleet.service.vips.of(family) is None:
                yield Finding(
                    ("sites", name, "service_address", family),
                    f"service.vips has no {family}, so no client could be redirected here",
                    judged=(("service", "vips"),),
                )


def _dual(path: Path, prefixes: DualStack) -> Iterator[tuple[Network, Path]]:
    for family in prefixes.families:
        yield prefixes.of(family), (*path, family)


def prefixes_do_not_overlap(fleet: Fleet) -> Iterator[Finding]:
    """One address has one meaning. What only a site itself sees may repeat: the same servers' prefix behind several."""
    exclusive: list[tuple[Network, Path]] = [*_dual(("service", "prefixes"), fleet.service.prefixes)]
    for name, service in () if fleet.addressing is None else fleet.addressing.services.items():
        exclusive += _dual(("addressing", "services", name, "prefixes"), service.prefixes)
    repeating: list[tuple[Network, Path]] = [
        (network, ("service", "inside", i)) for i, network in enumerate(fleet.service.inside)
    ]
    for name, site in fleet.sites.items():
        if (own := site.service_address) is not None:  # one address a site: in the anycast prefix it would lead to any
            exclusive += _outside(site, ("sites", name, "service_address"), own)
        if site.tunnel is not None:
            exclusive += _outside(site, ("sites", name, "tunnel"), site.tunnel)
        exclusive += _dual(("sites", name, "unicast_prefix"), site.unicast_prefix)
        for extra, more in site.more_pools.items():
            exclusive += _dual(("sites", name, "more_pools", extra), more)
        for extra, subnet in site.subnets.items():
            exclusive += _dual(("sites", name, "subnets", extra), subnet)
        exclusive += [*_dual(("sites", name, "uplink"), site.uplink), *_dual(("sites", name, "pools"), site.pools)]
        repeating += _dual(("sites", name, "inside"), site.inside)
        repeating += _dual(("sites", name, "management"), site.management)
    yield from overlaps(exclusive, repeating)


def _outside(site: Site, path: Path, addresses: DualStack) -> Iterator[tuple[Network, Path]]:
    """Those of a site's addresses that do not lie in its own unicast prefix, where they belong."""
    for family in addresses.families:
        address, around = addresses.of(family), site.unicast_prefix.of(family)
        if around is None or address not in around:
            yield ipaddress.ip_network(address), (*path, family)


def overlaps(exclusive: list[tuple[Network, Path]], repeating: list[tuple[Network, Path]]) -> Iterator[Finding]:
    """What of `exclusive` overlaps anything else. Prefixes nest or are apart, so one sorted walk finds it."""
    entries = [(network, path, True) for network, path in exclusive]
    entries += [(network, path, False) for network, path in repeating]
    entries.sort(key=lambda e: (e[0].version, int(e[0].network_address), e[0].prefixlen))
    around: list[tuple[Network, Path, bool]] = []
    for network, path, alone in entries:
        while around and (around[-1][0].version != network.version or not _within(network, around[-1][0])):
            around.pop()
        for other, other_path, other_alone in around:
            if alone or other_alone:
                # The one that stands alone is at fault; of two, the one that is found later.
                here, there = (path, other_path) if alone else (other_path, path)
                mine, theirs = (network, other) if alone else (other, network)
                yield Finding(here, f"{mine} overlaps {where(there)} {theirs}", judged=(there,))
                break
        around.append((network, path, alone))


def _within(inner: Network, outer: Network) -> bool:
    return inner.prefixlen >= outer.prefixlen and inner.network_address in outer


_PLAIN = (ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network)
_INTERFACES = (ipaddress.IPv4Interface, ipaddress.IPv6Interface)


def _plain_addresses(fleet: Fleet) -> Iterator[tuple[Path, Any]]:
    """Every address and prefix that the network sees, with its path."""

    def walk(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
        kind = type(value)
        if kind is dict:
            for key, item in value.items():
                if item is not None:
                    yield from walk((*path, key), item)
        elif kind is tuple:
            for i, item in enumerate(value):
                yield from walk((*path, i), item)
        elif kind in _INTERFACES:
            yield path, value.ip
        elif kind in _PLAIN:
            yield path, value

    # `defaults` holds no address but that of the agent's own socket; outside a lab, `lab` has a rule of its own.
    yield from walk((), fleet.model_dump(exclude={"defaults"} if fleet.environment == "lab" else {"defaults", "lab"}))


def is_documentation(value: Any) -> bool:
    """An address or prefix that nobody on the Internet has."""
    spaces = (space for space in DOCUMENTATION if space.version == value.version)
    if isinstance(value, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
        return any(value in space for space in spaces)
    return any(_within(value, space) for space in spaces)


def addresses_fit_the_environment(fleet: Fleet) -> Iterator[Finding]:
    """A lab's addresses can never reach anybody, whatever leaks; production's can be reached."""
    for path, value in _plain_addresses(fleet):
        if fleet.environment == "lab" and not is_documentation(value):
            yield Finding(path, f"{value} is not documentation space (RFC 5737, 3849, 9637), which a lab must use")
        elif fleet.environment == "production" and is_documentation(value):
            yield Finding(path, f"{value} is documentation space (RFC 5737, 3849, 9637), which nobody can reach")


def _asns(fleet: Fleet) -> Iterator[tuple[Path, int]]:
    for name, site in fleet.sites.items():
        if site.asn is not None:
            yield ("sites", name, "asn"), site.asn
        for kind, routers in (("upstreams", site.upstreams), ("inside_routers", site.inside_routers)):
            for router, neighbor in routers.items():
                yield ("sites", name, kind, router, "asn"), neighbor.asn
    for name, observer in fleet.observers.items():
        yield ("observers", name, "asn"), observer.asn
        for i, peer in enumerate(observer.peers):
            yield ("observers", name, "peers", i, "asn"), peer.asn
    if fleet.lab is not None and fleet.environment == "lab":
        if fleet.lab.transit is not None:
            yield ("lab", "transit", "asn"), fleet.lab.transit.asn
        for name, carrier in fleet.lab.peers.items():
            yield ("lab", "peers", name, "asn"), carrier.asn


def asns_fit_the_environment(fleet: Fleet) -> Iterator[Finding]:
    """As for addresses; private AS numbers are at home in both, but for sites that announce to the Internet."""
    for path, asn in _asns(fleet):
        documentation = any(asn in numbers for numbers in _DOCUMENTATION_ASNS)
        if asn in _RESERVED_ASNS:
            yield Finding(path, f"{asn} is a reserved AS number (RFC 6793, RFC 7300)")
        elif fleet.environment == "lab" and not documentation and not any(asn in r for r in _PRIVATE_ASNS):
            yield Finding(path, f"{asn} is neither a documentation nor a private AS number (RFC 5398, RFC 6996)")
        elif fleet.environment == "production" and documentation:
            yield Finding(path, f"{asn} is a documentation AS number (RFC 5398)")
        elif (
            fleet.environment == "production"
            and path[2:] == ("asn",)
            and fleet.sites[str(path[1])].upstreams
            and any(asn in numbers for numbers in _PRIVATE_ASNS)
        ):
            what = f"{asn} is a private AS number (RFC 6996): the Internet filters what it originates"
            yield Finding(path, what)


ADDRESS_RULES: tuple[Callable[[Fleet], Iterator[Finding]], ...] = (
    vips_are_covered,
    addresses_are_in_their_subnets,
    gateways_have_their_families,
    every_prefix_is_announced_everywhere,
    pools_have_something_to_reach,
    prefixes_do_not_overlap,
    service_addresses_are_the_vips_families,
    addresses_fit_the_environment,
    asns_fit_the_environment,
)
