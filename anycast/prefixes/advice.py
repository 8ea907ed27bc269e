"""What is allowed and yet worth knowing of a plan: origins, common fates, reverse zones, space that runs out. Pure.

Errors are elsewhere (`anycast.fleet.addressing_checks`, the planner): none of this stops anybody.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from anycast.fleet.addressing import Addressing
from anycast.fleet.schema import Fleet
from anycast.prefixes.allocation import PREFIXES, Allocation, Kind, Lock, Resting
from anycast.prefixes.blocks import Blocks
from anycast.prefixes.intervals import Intervals
from anycast.prefixes.numbers import WIDTH, Range, read

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Note(NamedTuple):
    about: str
    """``moas``, ``shared_fate``, ``reverse_zone``, ``max_prefix``."""
    key: str
    """What in the fleet file it is about."""
    what: str


def notes(fleet: Fleet) -> list[Note]:
    """Everything worth knowing of a fleet with all its addresses, by subject."""
    return [*origins(fleet), *fates(fleet), *reverse_delegations(fleet), *nearly_too_many(fleet)]


def covering(fleet: Fleet) -> Iterator[tuple[str, Network]]:
    """Every prefix that several sites announce, with its key."""
    holders = [("service.prefixes", fleet.service.prefixes)]
    if fleet.addressing is not None:
        holders += [
            (f"addressing.services.{name}.prefixes", each.prefixes) for name, each in fleet.addressing.services.items()
        ]
    for key, holder in holders:
        for family in holder.families:
            yield f"{key}.{family}", holder.of(family)


def origins(fleet: Fleet) -> Iterator[Note]:
    """A prefix of several origins (MOAS, RFC 1930 section 7) looks like a hijack, unless each is authorised."""
    asns = sorted({site.asn for site in fleet.sites.values() if site.asn is not None and site.upstreams})
    if len(asns) > 1:
        named = ", ".join(map(str, asns[:6])) + (f" and {len(asns) - 6} more" if len(asns) > 6 else "")
        for key, prefix in covering(fleet):
            what = f"{prefix} has {len(asns)} origins ({named}): each needs a ROA and a route object of its own"
            yield Note("moas", key, what)


def fates(fleet: Fleet) -> Iterator[Note]:
    """What hangs on one network, or in one prefix with another, falls with it."""
    sites = {name: {each.asn for each in site.upstreams.values()} for name, site in fleet.sites.items() if site.upstreams}
    if len(sites) > 1:
        for asn in sorted(set.intersection(*sites.values())):
            if all(len(asns) == 1 for asns in sites.values()):
                what = f"all {len(sites)} sites have AS {asn} as their only upstream: what takes it takes every prefix"
                yield Note("shared_fate", "sites", what)
    by_prefix: dict[Network, list[str]] = defaultdict(list)
    for key, prefix in covering(fleet):
        by_prefix[prefix].append(key)
    for prefix, keys in by_prefix.items():
        if len(keys) > 1:
            yield Note(
                "shared_fate", keys[0], f"{prefix} is also that of {', '.join(keys[1:])}: a withdrawal takes all of them"
            )


def reverse_zones(network: Network) -> list[str]:
    """The zones that hold the reverse names of `network`: whole octets of IPv4, whole nibbles of IPv6 (RFC 3596).

    One that is longer than a /24 is part of one zone, from which its own would be delegated as RFC 2317 has it.
    """
    step = 8 if network.version == 4 else 4
    most = 24 if network.version == 4 else 124
    whole = min(-(-network.prefixlen // step) * step, most)
    if whole <= network.prefixlen:
        parts: list[Network] = [network.supernet(new_prefix=whole)]
    else:
        parts = list(network.subnets(new_prefix=whole))
    found = []
    for part in parts:
        name = part.network_address.reverse_pointer.split(".")
        kept = len(name) - 2 - whole // step
        found.append(".".join(name[kept:]))
    return found


def reverse_delegations(fleet: Fleet) -> Iterator[Note]:
    """A block that begins or ends within a zone shares it with somebody, who has to delegate."""
    for name, block in () if fleet.addressing is None else fleet.addressing.blocks.items():
        zones = reverse_zones(block.prefix)
        key = f"addressing.blocks.{name}.prefix"
        if block.prefix.version == 4 and block.prefix.prefixlen > 24:
            what = f"{block.prefix} is part of the zone {zones[0]}: whoever has that delegates by CNAME (RFC 2317)"
            yield Note("reverse_zone", key, what)
        elif len(zones) > 1:
            what = f"{block.prefix} needs {len(zones)} reverse zones, {zones[0]} to {zones[-1]}"
            yield Note("reverse_zone", key, what)


def nearly_too_many(fleet: Fleet) -> Iterator[Note]:
    """One more prefix, a last resort for instance, would end these sessions."""
    for name, site in fleet.sites.items():
        for router, upstream in site.upstreams.items():
            for family in upstream.address.families:
                told = sum(each.of(family) is not None for each in (fleet.service.prefixes, site.unicast_prefix))
                if told and told == upstream.max_prefixes:
                    key = f"sites.{name}.upstreams.{router}.max_prefixes"
                    yield Note("max_prefix", key, f"{told} {family} prefixes are announced, and {told} is the limit")


class Fill(NamedTuple):
    """How full a block is."""

    block: str
    prefix: str
    uses: tuple[str, ...]
    taken: int
    """Addresses that are somebody's, rest, are others', or are what clients reach inside, but for inside LANs."""
    size: int
    largest: int | None
    """The length of the largest free piece; None: nothing is free."""


def fills(addressing: Addressing, inside: Iterable[Range], lock: Lock) -> list[Fill]:
    """Each block, in order of the file. `inside`: what clients reach through their tunnels."""
    records: list[Allocation | Resting] = [*lock.held.values(), *lock.resting]
    taken = [
        found
        for each in records
        if each.kind in PREFIXES or each.kind is Kind.TUNNEL
        if (found := read(each.value)) is not None
    ]
    taken += [found for many in addressing.foreign.values() for each in many if (found := read(str(each))) is not None]
    reached = list(inside)
    rows = []
    for name, block in addressing.blocks.items():
        # Alone, so that its free pieces are its own.
        alone = Blocks(addressing.model_copy(update={"blocks": {name: block}}))
        found = read(str(block.prefix))
        assert found is not None
        spaces = list(alone.spaces(Intervals(_within(taken, found)), (), _within(reached, found)).values())
        size = 1 << (WIDTH[found.family] - found.length)
        free = sum(space.free() for space in spaces)
        largest = min((length for space in spaces if (length := space.largest()) is not None), default=None)
        rows.append(Fill(name, str(block.prefix), tuple(block.use), size - free, size, largest))
    return rows


def _within(ranges: list[Range], around: Range) -> list[Range]:
    return [
        each for each in ranges if each.family == around.family and each.start < around.behind and around.start < each.behind
    ]
