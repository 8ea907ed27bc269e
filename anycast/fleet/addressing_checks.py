"""Rules about the blocks that addresses are planned from, and about what was planned from them or written beside the plan.

They judge a fleet whose file and lock file have been put together. What the plan itself cannot give is said by the plan
(`anycast.prefixes.planner`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping

from anycast.fleet.address_checks import is_documentation, overlaps
from anycast.fleet.addressing import Block
from anycast.fleet.finding import Finding
from anycast.fleet.schema import Fleet
from anycast.fleet.section import DualStack
from anycast.fleet.values import FAMILIES
from anycast.fleet.yaml_text import Path, where
from anycast.prefixes.numbers import Ranges, read
from anycast.prefixes.sizes import visible_lengths

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MOST_HEADROOM = 900
_MOST_QUARANTINE = 3660
_ANNOUNCED = frozenset({"anycast", "unicast"})


_DEPRECATED: tuple[Network, ...] = (
    ipaddress.IPv4Network((192 << 24 | 88 << 16 | 99 << 8, 24)),  # 6to4 relays, RFC 7526
    ipaddress.IPv6Network((0x2002 << 112, 16)),  # 6to4, RFC 7526
    ipaddress.IPv6Network((0xFEC0 << 112, 10)),  # site-local, RFC 3879
)
_SPECIAL: tuple[Network, ...] = (
    *_DEPRECATED,
    ipaddress.IPv4Network((0, 8)),
    ipaddress.IPv4Network((10 << 24, 8)),  # RFC 1918
    ipaddress.IPv4Network((100 << 24 | 64 << 16, 10)),  # RFC 6598
    ipaddress.IPv4Network((127 << 24, 8)),
    ipaddress.IPv4Network((169 << 24 | 254 << 16, 16)),  # RFC 3927
    ipaddress.IPv4Network((172 << 24 | 16 << 16, 12)),  # RFC 1918
    ipaddress.IPv4Network((192 << 24, 24)),  # RFC 6890
    ipaddress.IPv4Network((192 << 24 | 168 << 16, 16)),  # RFC 1918
    ipaddress.IPv4Network((198 << 24 | 18 << 16, 15)),  # benchmarks, RFC 2544
    *(ipaddress.ip_network(each) for each in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")),
    ipaddress.IPv4Network((224 << 24, 4)),
    ipaddress.IPv4Network((240 << 24, 4)),
    ipaddress.IPv6Network((0xFC00 << 112, 7)),  # RFC 4193
    ipaddress.IPv6Network((0xFE80 << 112, 10)),
    ipaddress.IPv6Network((0xFF00 << 112, 8)),
)
"""Space that a block may lie in, or not, but that none can have a part of (RFC 6890)."""


def blocks_are_used_once(fleet: Fleet) -> Iterator[Finding]:
    """An address in two blocks could be given out twice."""
    if fleet.addressing is not None:
        yield from blocks_overlap(fleet.addressing.blocks)


def blocks_overlap(blocks: Mapping[str, Block]) -> Iterator[Finding]:
    """Also asked before anything is planned from them."""
    found: list[tuple[Network, Path]] = [
        (block.prefix, ("addressing", "blocks", name, "prefix")) for name, block in blocks.items()
    ]
    yield from overlaps(found, [])


def blocks_fit_their_use(fleet: Fleet) -> Iterator[Finding]:
    """What the Internet hears must be the Internet's; what a LAN or a client has must be an address that hosts take."""
    if fleet.addressing is None or fleet.environment == "lab":
        return
    for name, block in fleet.addressing.blocks.items():
        path: Path = ("addressing", "blocks", name, "prefix")
        prefix = block.prefix
        if prefix.is_loopback or prefix.is_link_local or prefix.is_multicast or prefix.is_reserved or prefix.is_unspecified:
            yield Finding(path, f"{prefix} is reserved (RFC 6890); no host has an address of it")
        elif any(_inside(prefix, each) for each in _DEPRECATED):
            yield Finding(path, f"{prefix} is deprecated (RFC 3879, RFC 7526); no host has an address of it")
        elif (mixed := next((each for each in _SPECIAL if prefix != each and _inside(each, prefix)), None)) is not None:
            what = f"{prefix} holds {mixed}, which is nobody's on the Internet (RFC 6890); write the fleet's part"
            yield Finding(path, what)
        elif is_documentation(prefix):
            continue  # said of every such address, and not to be said twice
        elif (announced := sorted(_ANNOUNCED & set(block.use))) and not prefix.is_global:
            what = f"{prefix} is private (RFC 6890), and the Internet hears nothing of it; {announced[0]} needs public space"
            yield Finding(path, what, judged=((*path[:-1], "use"),))


def _inside(one: Network, other: Network) -> bool:
    return one.version == other.version and other.prefixlen <= one.prefixlen and one.network_address in other


def visible_lengths_are_the_labs(fleet: Fleet) -> Iterator[Finding]:
    """In production it is not the fleet that says what is heard."""
    if fleet.addressing is not None and fleet.addressing.visible is not None and fleet.environment == "production":
        what = "is a lab's: in production /24 and /48 are heard everywhere, whatever a fleet says (RFC 7454 section 6.1.3)"
        yield Finding(("addressing", "visible"), what, at_key=True)


def quantities_are_bounded(fleet: Fleet) -> Iterator[Finding]:
    """A slip of the hand would ask for ten times the space, or keep it for ever."""
    if (addressing := fleet.addressing) is None:
        return
    if addressing.headroom > _MOST_HEADROOM:
        yield Finding(("addressing", "headroom"), f"{addressing.headroom} % is more than {_MOST_HEADROOM} %")
    if addressing.quarantine > _MOST_QUARANTINE:
        what = f"{addressing.quarantine} d is longer than ten years ({_MOST_QUARANTINE} d)"
        yield Finding(("addressing", "quarantine"), what)


def announced(fleet: Fleet) -> Iterator[tuple[Path, DualStack]]:
    """Every prefix of the fleet that the Internet hears, with the path of its holder."""
    yield ("service", "prefixes"), fleet.service.prefixes
    if fleet.addressing is not None:
        for name, service in fleet.addressing.services.items():
            yield ("addressing", "services", name, "prefixes"), service.prefixes
    for name, site in fleet.sites.items():
        yield ("sites", name, "unicast_prefix"), site.unicast_prefix


def announced_prefixes_are_heard(fleet: Fleet) -> Iterator[Finding]:
    """A prefix that most networks filter attracts nothing from them, and nobody sees an error."""
    if fleet.addressing is None:
        return
    lengths = visible_lengths(fleet.environment, fleet.addressing)
    says = "the Internet hears (RFC 7454 section 6.1.3)" if fleet.environment == "production" else "this lab's routers hear"
    for path, prefixes in announced(fleet):
        for family in prefixes.families:
            if (prefix := prefixes.of(family)).prefixlen > lengths[family]:
                yield Finding((*path, family), f"{prefix} is longer than /{lengths[family]}, the longest that {says}")


def nothing_is_taken_from_others(fleet: Fleet) -> Iterator[Finding]:
    """Who announces or hands out what is somebody else's cuts somebody off."""
    if fleet.addressing is None:
        return
    others = {
        found: (network, ("addressing", "foreign", name, i))
        for name, networks in fleet.addressing.foreign.items()
        for i, network in enumerate(networks)
        if (found := read(str(network))) is not None
    }
    foreign = Ranges(others)
    own = [*announced(fleet)]
    for name, site in fleet.sites.items():
        own.append((("sites", name, "pools"), site.pools))
        own += [(("sites", name, "more_pools", extra), more) for extra, more in site.more_pools.items()]
    for path, holder in own:
        for family in holder.families:
            value = holder.of(family)
            lying = read(str(value))
            if lying is not None and (meets := foreign.meeting(lying)) is not None:
                network, there = others[meets]
                what = f"{value} overlaps {network} of {where(there[:-1])}"
                yield Finding((*path, family), what, judged=(there,))


def other_services_are_whole(fleet: Fleet) -> Iterator[Finding]:
    """As for `service`: a VIP lies in what is announced for it."""
    for name, service in () if fleet.addressing is None else fleet.addressing.services.items():
        for family in FAMILIES:
            vip, prefix = service.vips.of(family), service.prefixes.of(family)
            path: Path = ("addressing", "services", name)
            if vip is not None and prefix is not None and vip not in prefix:
                what = f"{vip} is outside its prefix {prefix}"
                yield Finding((*path, "vips", family), what, judged=((*path, "prefixes", family),))
            elif vip is not None and prefix is None:
                what = f"{vip} has no prefix: write {where((*path, 'prefixes'))}, or a block with anycast in its use"
                yield Finding((*path, "vips", family), what)


def service_addresses_are_led_to(fleet: Fleet) -> Iterator[Finding]:
    """A site that has a prefix of its own for it answers there: elsewhere no route would lead to it."""
    for name, site in fleet.sites.items():
        if (addresses := site.service_address) is None:
            continue
        for family in addresses.families:
            own, prefix = addresses.of(family), site.unicast_prefix.of(family)
            if prefix is not None and own not in prefix:
                path: Path = ("sites", name, "service_address", family)
                what = f"{own} is outside this site's unicast_prefix {prefix}"
                yield Finding(path, what, judged=(("sites", name, "unicast_prefix", family),))


def labels_and_names_are_ones_own(fleet: Fleet) -> Iterator[Finding]:
    """By its label a packet finds its way home; by its former name a site keeps what it has."""
    labels: dict[int, str] = {}
    for name, site in fleet.sites.items():
        if site.spi_label is not None and (other := labels.setdefault(site.spi_label, name)) != name:
            yield Finding(("sites", name, "spi_label"), f"{site.spi_label} is also the label of sites.{other}")
    former: dict[str, str] = {}
    for name, site in fleet.sites.items():
        if site.formerly is None:
            continue
        path: Path = ("sites", name, "formerly")
        if site.formerly in fleet.sites:
            yield Finding(path, f"{site.formerly} is a site of this file; a site that has its name has what it had")
        elif (other := former.setdefault(site.formerly, name)) != name:
            yield Finding(path, f"{site.formerly} is also the former name of sites.{other}")


def sessions_carry_what_is_announced(fleet: Fleet) -> Iterator[Finding]:
    """A router that hears more than its limit ends the session, and the site is dark."""
    for name, site in fleet.sites.items():
        for router, upstream in site.upstreams.items():
            for family in upstream.address.families:
                told = [each for each in (fleet.service.prefixes.of(family), site.unicast_prefix.of(family)) if each]
                resorts = {} if fleet.announcements is None else fleet.announcements.last_resort
                told += [
                    each.prefix
                    for each in resorts.values()
                    if name in each.sites and f"ipv{each.prefix.version}" == family
                ]
                if upstream.max_prefixes is not None and len(told) > upstream.max_prefixes:
                    what = f"{upstream.max_prefixes}, but this site announces {len(told)}: {', '.join(map(str, told))}"
                    yield Finding(("sites", name, "upstreams", router, "max_prefixes"), what)


ADDRESSING_RULES: tuple[Callable[[Fleet], Iterator[Finding]], ...] = (
    blocks_are_used_once,
    blocks_fit_their_use,
    visible_lengths_are_the_labs,
    quantities_are_bounded,
    announced_prefixes_are_heard,
    nothing_is_taken_from_others,
    other_services_are_whole,
    service_addresses_are_led_to,
    labels_and_names_are_ones_own,
    sessions_carry_what_is_announced,
)
