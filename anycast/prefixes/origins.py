"""What a fleet announces to the Internet: which prefix, with which origin, at which site. Pure.

RPKI and IRR authorise exactly this, so a drain's prefixes belong to it: a site's unicast prefix is announced all the time,
and a last resort beside what it holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from anycast.document import Document
from anycast.fleet.schema import Fleet
from anycast.fleet.section import Prefixes
from anycast.prefixes.numbers import Range, read

Purpose = Literal["anycast", "unicast", "last_resort"]


class Announcement(NamedTuple):
    prefix: str
    origin: int
    """The site's AS, last in the path."""
    site: str
    key: str
    """What the fleet file says it by: ``service.prefixes.ipv4``."""
    purpose: Purpose

    @property
    def range(self) -> Range:
        found = read(self.prefix)
        assert found is not None
        return found


def public_announcements(fleet: Fleet) -> list[Announcement]:
    """Of a fleet with all its addresses, by site, then as the file has them."""
    return [
        Announcement(str(prefix), site.asn, name, key, purpose)
        for name, site in fleet.sites.items()
        if site.upstreams and site.asn is not None
        for key, prefix, purpose in _told(fleet, name)
    ]


def _told(fleet: Fleet, site: str) -> Iterator[tuple[str, object, Purpose]]:
    holders: list[tuple[str, Prefixes, Purpose]] = [("service.prefixes", fleet.service.prefixes, "anycast")]
    if fleet.addressing is not None:
        for name, service in fleet.addressing.services.items():
            holders.append((f"addressing.services.{name}.prefixes", service.prefixes, "anycast"))
    holders.append((f"sites.{site}.unicast_prefix", fleet.sites[site].unicast_prefix, "unicast"))
    for key, holder, purpose in holders:
        for family in holder.families:
            yield f"{key}.{family}", holder.of(family), purpose
    if fleet.announcements is not None:
        for name, each in fleet.announcements.last_resort.items():
            if site in each.sites:
                yield f"announcements.last_resort.{name}.prefix", each.prefix, "last_resort"


def told_outside(documents: Iterable[Document]) -> list[Announcement]:
    """What gateways announce by their documents."""
    kinds: tuple[Purpose, ...] = ("anycast", "unicast")
    found = {
        Announcement(prefix, document.bgp.asn, document.site, "", purpose)
        for document in documents
        for neighbor in document.bgp.neighbors
        if neighbor.side == "outside"
        for purpose, told in zip(kinds, (neighbor.announces or document.service.prefixes, neighbor.unicast), strict=True)
        for prefix in told
        if (":" in prefix) == ("ipv6" in neighbor.families)
    }
    return sorted(found, key=lambda each: (each.site, each.range))


class Origin(NamedTuple):
    """One prefix from one AS: what one ROA and one route object are about."""

    prefix: str
    asn: int
    keys: tuple[str, ...]
    sites: tuple[str, ...]


def origins(told: Iterable[Announcement]) -> list[Origin]:
    """Each prefix and origin once, in order of the prefixes."""
    found: dict[tuple[Range, int], list[Announcement]] = defaultdict(list)
    for each in told:
        found[each.range, each.origin].append(each)
    return [
        Origin(
            many[0].prefix,
            asn,
            tuple(sorted({each.key for each in many})),
            tuple(sorted({each.site for each in many})),
        )
        for (_, asn), many in sorted(found.items())
    ]


def public_space(fleet: Fleet) -> list[Range]:
    """Blocks that are announced from, and every announced prefix: where nobody else should announce."""
    texts = [each.prefix for each in public_announcements(fleet)]
    if fleet.addressing is not None:
        blocks = fleet.addressing.blocks.values()
        texts += [str(block.prefix) for block in blocks if {"anycast", "unicast"} & set(block.use)]
    return sorted({found for text in texts if (found := read(text)) is not None})
