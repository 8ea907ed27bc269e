"""Who looks at the service's routes from outside: one section an observer (docs/coordinator.md)."""

from __future__ import annotations

from typing import Literal

import pydantic

from anycast.fleet.section import Section
from anycast.fleet.values import Address, Address4, Asn


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
