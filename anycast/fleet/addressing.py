"""The `addressing` section of fleet.yaml: the blocks that a fleet's addresses are planned from, and by which rules.

docs/prefixes.md says what the plan makes of it. Whatever the file leaves out then stands in `fleet.lock` beside it; what the
file writes itself is a pin, which the plan respects.
"""

from __future__ import annotations

import ipaddress
import typing

import pydantic

from anycast.fleet.section import NO_ADDRESSES, NO_PREFIXES, Addresses, DualStack, Prefixes, Section
from anycast.fleet.values import Clients, Days, Length4, Length6, Name, Network, Percent, Use


class Block(Section):
    """Addresses that the fleet may use."""

    prefix: Network
    use: tuple[Use, ...] = pydantic.Field(min_length=1)
    """What is taken from it. What no block of a family is used for, is not planned in that family."""


class Lengths(DualStack):
    """Of a subnet, a family at a time."""

    ipv4: Length4 | None = None
    ipv6: Length6 | None = None


class AnycastService(Section):
    """An anycast service that other machines serve from this fleet's space: a VIP and a covering prefix a family."""

    vips: Addresses = NO_ADDRESSES
    """Default: planned."""
    prefixes: Prefixes = NO_PREFIXES
    """Default: planned."""


class Addressing(Section):
    blocks: dict[Name, Block] = pydantic.Field(min_length=1)
    foreign: dict[Name, tuple[Network, ...]] = pydantic.Field(default_factory=dict)
    """Networks of others, inside the blocks or not: nothing is taken from them. Default: none."""
    visible: Lengths | None = None
    """The longest prefix that a lab's routers hear. Default: /28 and /56. In production the Internet says it:
    /24 and /48."""
    clients: Clients | None = None
    """How many clients a site's pools are for, where the site says nothing. Default: each site says it."""
    headroom: Percent = 25
    """Added to the clients before a pool is sized. Default: 25 %."""
    quarantine: Days = 30
    """How long freed space rests before it is somebody else's. Default: 30 d."""
    services: dict[Name, AnycastService] = pydantic.Field(default_factory=dict)
    """Anycast services besides `service`. Default: none."""
    subnets: dict[Name, Lengths] = pydantic.Field(default_factory=dict)
    """Subnets that each site has besides, by name, with their lengths. Default: none."""


ALL_USES = Addressing(
    blocks={
        family: Block(prefix=ipaddress.ip_network(everything), use=typing.get_args(typing.get_args(Use)[0]))
        for family, everything in (("ipv4", "0.0.0.0/0"), ("ipv6", "::/0"))
    },
    clients=1,
)
"""As if everything that can be planned were, in both families."""
