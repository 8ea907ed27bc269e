"""Who looks at the service's routes from outside: one section an observer (docs/coordinator.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import pydantic

from anycast.fleet.finding import Finding
from anycast.fleet.section import Section
from anycast.fleet.values import Address, Address4, Asn

if TYPE_CHECKING:
    from anycast.fleet.schema import Fleet


class ObservedPeer(Section):
    """A router outside the sites that tells the observer its routes, and is told none."""

    asn: Asn
    address: Address
    local_address: Address
    """The observer's own end of the session."""
    families: tuple[Literal["ipv4", "ipv6"], ...] = pydantic.Field(default=("ipv4", "ipv6"), min_length=1, max_length=2)
    """What the router tells over this session. Default: both."""


class Observer(Section):
    """A machine that runs `anycast observe`: receive-only BGP sessions, so that "the site's route is gone" has a witness."""

    asn: Asn
    """Its own."""
    router_id: Address4
    peers: tuple[ObservedPeer, ...] = pydantic.Field(min_length=1)
    """With ADD-PATH (RFC 7911) a router tells every path that it has; without, its best one, and nothing of the others."""


def observers_can_hear(fleet: Fleet) -> Iterator[Finding]:
    """A session that cannot come up, or a router that is named twice, would leave every site unknown for ever."""
    for name, observer in fleet.observers.items():
        routers = [peer.address for peer in observer.peers]
        for i, peer in enumerate(observer.peers):
            path = ("observers", name, "peers", i)
            if peer.local_address.version != peer.address.version:
                yield Finding((*path, "local_address"), f"{peer.local_address} is of another family than {peer.address}")
            if peer.address in routers[:i]:
                yield Finding((*path, "address"), f"{peer.address} is a peer of this observer already")
        if not any(site.asn is not None for site in fleet.sites.values()):
            yield Finding(("observers", name), "no site speaks BGP, so there is nothing to see", at_key=True)
