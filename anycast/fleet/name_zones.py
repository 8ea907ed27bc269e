"""The `dns` section of fleet.yaml: the zones that the fleet's names are written into, and no others."""

from __future__ import annotations

import datetime

import pydantic

from anycast.fleet.section import Section
from anycast.fleet.values import Address, Domain, Duration, Name, Network4, Port, RpslName, ZoneName


class Zone(Section):
    name: ZoneName
    """``example.org``, ``2.0.192.in-addr.arpa``, ``0-26.2.0.192.in-addr.arpa``."""
    server: Address
    """The primary, which takes updates (RFC 2136)."""
    port: Port = 53
    key: RpslName | None = None
    """Name of the TSIG key (RFC 8945) in the operator's key file. Default: the only one there."""
    prefix: Network4 | None = None
    """What a reverse zone that is delegated within a /24 is for (RFC 2317): its name alone does not say it.
    Default: what its name says."""


class Dns(Section):
    domain: Domain
    """Under which sites, gateways and other services have their names: ``fra.DOMAIN``, ``fra-gw1.DOMAIN``."""
    zones: dict[Name, Zone] = pydantic.Field(min_length=1)
    ttl: Duration = datetime.timedelta(minutes=5)
    """Of every record, whole seconds. Default: 5 min."""
