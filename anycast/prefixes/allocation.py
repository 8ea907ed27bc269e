"""What a plan gives out: one record for each address, prefix or number, under the name that it has in fleet.yaml.

A record's key is the path of the value in the fleet file (``sites.fra.pools.ipv4``), so that what the file leaves out can be
filled in from the records, and what it writes itself can be compared with them. Values are canonical text. Pure.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Kind(enum.StrEnum):
    """What a record is for."""

    COVERING = "covering"
    """A service's prefix, announced as one at every site: ``service.prefixes.ipv4``. If planned, of visible length."""
    VIP = "vip"
    """The address of a service in its covering prefix: ``service.vips.ipv4``."""
    UNICAST_PREFIX = "unicast_prefix"
    """A site's own visible prefix, announced there only: ``sites.fra.unicast_prefix.ipv4``."""
    SERVICE_ADDRESS = "service_address"
    """Where a site answers besides the VIP, in its unicast prefix: ``sites.fra.service_address.ipv4``."""
    TUNNEL = "tunnel"
    """Where tunnels from other sites end: ``sites.fra.tunnel.ipv4``."""
    POOL = "pool"
    """Inner addresses of a site's clients: ``sites.fra.pools.ipv4``, and ``sites.fra.more_pools.p2.ipv4``."""
    SUBNET = "subnet"
    """A LAN of a site: its ``management``, ``uplink``, ``inside``, or one of ``subnets``."""
    ADDRESS = "address"
    """A machine's address in one of its site's subnets: ``sites.fra.gateways.fra-gw1.management.ipv4``."""
    VRRP = "vrrp"
    """An address that moves between a site's gateways: ``sites.fra.vrrp.inside.ipv4``."""
    ROUTER_ID = "router_id"
    """A gateway's BGP identifier: its own IPv4 address, so no space of its own."""
    SPI_LABEL = "spi_label"
    """A site's number in the SPIs that it hands out (`spi.py`): ``sites.fra.spi_label``."""


PREFIXES = frozenset({Kind.COVERING, Kind.UNICAST_PREFIX, Kind.POOL, Kind.SUBNET})
"""Kinds whose value is a prefix."""
ADDRESSES = frozenset({Kind.VIP, Kind.SERVICE_ADDRESS, Kind.TUNNEL, Kind.ADDRESS, Kind.VRRP})
"""Kinds whose value is a single address."""


def site_of(key: str) -> str | None:
    """The site that a key is of; None where it is the fleet's."""
    return key.split(".")[1] if key.startswith("sites.") else None


class Allocation(NamedTuple):
    """One value that is somebody's."""

    key: str
    """Its path in fleet.yaml, which says whose it is."""
    kind: Kind
    value: str
    """A prefix, an address without length, or a decimal number; canonical."""
    source: str
    """The block that it was taken from (``anycast4``), the key of the prefix that it lies in
    (``sites.fra.management.ipv4``), or empty: the fleet file wrote it, and no block holds it."""
    pinned: bool
    """The fleet file writes it."""
    since: str
    """The day on which it became this, YYYY-MM-DD (UTC)."""
    why: str
    """One sentence for people."""

    @property
    def path(self) -> tuple[str, ...]:
        """No name of a fleet file has a dot in it."""
        return tuple(self.key.split("."))

    @property
    def site(self) -> str | None:
        """The site that it belongs to; None where it is the fleet's."""
        return site_of(self.key)

    @property
    def service(self) -> str | None:
        """Of `COVERING` and `VIP`: an empty name for the fleet's own `service`, else one of `addressing.services`."""
        if self.kind not in (Kind.COVERING, Kind.VIP):
            return None
        return "" if self.key.startswith("service.") else self.path[2]


class Resting(NamedTuple):
    """A value that was somebody's, and is nobody's until the quarantine is over."""

    key: str
    """Whose it was. The same key may have it back at once."""
    kind: Kind
    value: str
    source: str
    freed: str
    """The day on which it was given up, YYYY-MM-DD (UTC)."""

    @property
    def site(self) -> str | None:
        """The site whose it was; None where it was the fleet's."""
        return site_of(self.key)


class Lock(NamedTuple):
    """What `fleet.lock` says."""

    fleet: str
    held: dict[str, Allocation]
    """By key."""
    resting: tuple[Resting, ...]
    """By key and day."""

    def of(self, *kinds: Kind) -> list[Allocation]:
        """The records of some kinds, in order of their keys."""
        return [self.held[key] for key in sorted(self.held) if self.held[key].kind in kinds]


def nothing(fleet: str) -> Lock:
    """Before the first plan."""
    return Lock(fleet, {}, ())
