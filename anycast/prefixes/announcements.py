"""Who announces what to whom, as a fleet file says it. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Literal, NamedTuple

from anycast.document import AnnouncementPolicy, Neighbor
from anycast.fleet.compile_pair import neighbors_of
from anycast.fleet.schema import Fleet
from anycast.prefixes.numbers import read
from anycast.prefixes.origins import Purpose


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
    purpose: Purpose | Literal["pool"]
    """``anycast``, ``last_resort``: while the site serves and nothing keeps it dark. ``unicast``, and inside ``pool``: while
    a gateway of the site can serve, also while the site is drained or degraded, or a token keeps it dark."""


def announcements(fleet: Fleet) -> Iterator[Announced]:
    """By site, side, router and prefix."""
    service = {str(fleet.service.prefixes.of(family)) for family in fleet.service.prefixes.families}
    for name, site in fleet.sites.items():
        policies: dict[tuple[str, str], str] = {}
        hops: dict[tuple[str, str, int, str, Purpose | Literal["pool"]], list[str]] = {}
        for gateway in site.gateways.values():
            for neighbor in neighbors_of(fleet, site, gateway):
                (family,) = neighbor.families
                router = neighbor.name.removesuffix(f"-{family}")
                policies[neighbor.side, router] = _said(neighbor.policy)
                for prefix in (*neighbor.announces, *neighbor.unicast):
                    purpose = _purpose(neighbor, prefix, service)
                    heard = hops.setdefault((neighbor.side, router, neighbor.asn, prefix, purpose), [])
                    if neighbor.next_hop[family] not in heard:
                        heard.append(neighbor.next_hop[family])
        rows = [
            Announced(name, side, router, asn, prefix, site.asn or 0, tuple(found), policies[side, router], purpose)
            for (side, router, asn, prefix, purpose), found in hops.items()
        ]
        yield from sorted(rows, key=lambda row: (row.side != "outside", row.router, read(row.prefix), row.purpose))


def _purpose(neighbor: Neighbor, prefix: str, service: Container[str]) -> Purpose | Literal["pool"]:
    if neighbor.side == "inside":
        return "pool"
    if prefix in neighbor.unicast:
        return "unicast"
    return "anycast" if prefix in service else "last_resort"


def _said(policy: AnnouncementPolicy | None) -> str:
    if policy is None:
        return ""
    words = [f"prepend {policy.prepend}"] if policy.prepend else []
    numbers = (("MED", policy.med), ("LOCAL_PREF", policy.local_pref))
    words += [f"{name} {value}" for name, value in numbers if value is not None]
    return ", ".join([*words, *policy.communities, *policy.large_communities])
