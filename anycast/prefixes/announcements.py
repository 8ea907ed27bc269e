"""Who announces what to whom, as a fleet file says it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from anycast.document import AnnouncementPolicy
from anycast.fleet.compile_pair import neighbors_of
from anycast.fleet.schema import Fleet
from anycast.fleet.values import FAMILIES


class Announced(NamedTuple):
    """One prefix that one router hears from one site."""

    site: str
    side: str
    """``outside`` or ``inside``."""
    router: str
    asn: int
    """The router's."""
    prefix: str
    origin: int
    """The site's AS number."""
    next_hops: tuple[str, ...]
    """The VRRP address, or each gateway's own."""
    attributes: str
    """Those beside the path: ``prepend 2, MED 50, 64511:90``; empty: none of their own."""
    by: str
    """``gateways``, by their leases; ``routers``: the site's own, by a static route of the operator's."""


def announcements(fleet: Fleet) -> Iterator[Announced]:
    """By site, side, router and prefix."""
    for name, site in fleet.sites.items():
        policies: dict[tuple[str, str], str] = {}
        hops: dict[tuple[str, str, int, str], list[str]] = {}
        for gateway in site.gateways.values():
            for neighbor in neighbors_of(fleet, site, gateway):
                (family,) = neighbor.families
                router = neighbor.name.removesuffix(f"-{family}")
                policies[neighbor.side, router] = _said(neighbor.policy)
                for prefix in neighbor.announces:
                    heard = hops.setdefault((neighbor.side, router, neighbor.asn, prefix), [])
                    if neighbor.next_hop[family] not in heard:
                        heard.append(neighbor.next_hop[family])
        rows = [
            Announced(name, side, router, asn, prefix, site.asn or 0, tuple(found), policies[side, router], "gateways")
            for (side, router, asn, prefix), found in hops.items()
        ]
        own = site.unicast_prefix
        rows += [
            Announced(name, "outside", router, upstream.asn, str(own.of(family)), site.asn or 0, (), "", "routers")
            for router, upstream in site.upstreams.items()
            for family in FAMILIES
            if family in own.families and family in upstream.address.families
        ]
        yield from sorted(rows, key=lambda row: (row.side != "outside", row.router, ":" in row.prefix, row.prefix))


def _said(policy: AnnouncementPolicy | None) -> str:
    if policy is None:
        return ""
    words = [f"prepend {policy.prepend}"] if policy.prepend else []
    numbers = (("MED", policy.med), ("LOCAL_PREF", policy.local_pref))
    words += [f"{name} {value}" for name, value in numbers if value is not None]
    return ", ".join([*words, *policy.communities, *policy.large_communities])
