"""The parts of fleet.yaml that make two gateways one site: their links, the virtual router between them, the mirror of
tunnels, and BFD.

docs/vrrp.md and docs/sync.md say what each setting does and what it costs.
"""

from __future__ import annotations

import datetime

from anycast.fleet.section import NO_PREFIXES, Addresses, DualStack, Prefixes, Section
from anycast.fleet.values import (
    Address4,
    Address6,
    Duration,
    Flag,
    InterfaceName,
    Interop,
    Multiplier,
    Path,
    SyncPort,
    Transport,
    Uplink,
    VirtualRouterId,
)


class Attachment(DualStack):
    """A gateway's own addresses in one of its site's subnets, on one interface."""

    interface: InterfaceName
    ipv4: Address4 | None = None
    ipv6: Address6 | None = None
    subnet: Prefixes = NO_PREFIXES
    """The gateway's own link, inside the site's subnet: with `vrrp.uplink: routed` only. Default: the site's subnet."""


class Bfd(Section):
    """Bidirectional forwarding detection towards one router (RFC 5880, 5881), single hop, asynchronous."""

    interval: Duration = datetime.timedelta(milliseconds=100)
    """Desired and required interval; 10 ms to 1 s. Default: 100 ms."""
    multiplier: Multiplier = 3
    """Packets in a row whose loss ends the session; 2 to 50. Default: 3."""


class Vrrp(Section):
    """The virtual router of a site (RFC 9568)."""

    outside: Addresses | None = None
    """The addresses that move on the uplink: the routes' next hop; without upstreams the VIPs themselves, which is then the
    default. Not with `uplink: routed`."""
    inside: Addresses
    """The addresses that move inside: the servers' way back to client pools."""
    vrid: VirtualRouterId = 51
    """Virtual router id, the same on all paths. Default: 51."""
    interval: Duration = datetime.timedelta(milliseconds=100)
    """Between two advertisements; 10 ms to 40 s in steps of 10 ms. Below 50 ms the gateway must be able to keep it
    (real-time priority, locked memory, a self-test). Default: 100 ms."""
    preempt: Flag = False
    """Whether a gateway with higher priority takes over from one that serves well. Default: no."""
    preempt_delay: Duration = datetime.timedelta(seconds=60)
    """How long it must have been there before it does. Default: 1 min."""
    uplink: Uplink = "shared"
    """``shared``: both gateways share a subnet with the upstream and announce the VRRP address as next hop, so BGP sees no
    failover. ``routed``: each has a link of its own and announces its own address, the Backup a worse path.
    Default: shared."""
    interop: Interop = "none"
    """``keepalived`` where the other router is keepalived (``keepalived_as_v2`` with its `v3_checksum_as_v2`): no seal, no
    word from a Backup, nothing made before it breaks. Default: none."""
    transport: Transport = "unicast"
    """``multicast`` only with `interop`. Default: unicast."""
    peer: Addresses | None = None
    """The other router's own address outside, where it is not a gateway of this fleet. Default: the other gateway's."""
    peer_inside: Addresses | None = None
    """The same router's own address inside; written with `peer`. Default: the other gateway's."""
    keys: Path = "/etc/anycast/secrets/vrrp.keys"
    """File on both gateways with the seal's keys (`site-agent keys new`). Default: /etc/anycast/secrets/vrrp.keys."""
    witnesses: Addresses | None = None
    """Routers on the uplink whose answer proves it. Default: the upstream routers."""


class Sync(Section):
    """The mirror between a site's two gateways, so that a tunnel outlives the one that it was built on. ``sync: {}`` is all
    defaults."""

    port: SyncPort = 4517
    """TCP port of the channel, at the gateways' management addresses; 1024 to 32767. Default: 4517."""
