"""fleet.yaml as people write it: what may stand where, in which unit, and what holds where nothing stands.

A section is a `Section`; unknown keys are refused. Every value is read by the field it stands in (`values.py`). Rules that
join several fields are in `checks.py`, so that a `Fleet` from `loading.load` has passed both. Nothing here names a file on
the machine that reads it: paths are paths on the gateways.
"""

from __future__ import annotations

import datetime

import pydantic

from anycast.fleet.addressing import Addressing
from anycast.fleet.announcements import Announce, Announcements
from anycast.fleet.budget import Budget
from anycast.fleet.irr import Irr
from anycast.fleet.lab import Lab
from anycast.fleet.monitoring import AlarmHook, ExecChecks, SharedChecks, Timings
from anycast.fleet.name_zones import Dns
from anycast.fleet.observer import Observer
from anycast.fleet.pair import Attachment, Bfd, Sync, Vrrp
from anycast.fleet.section import NO_PREFIXES, Addresses, Prefixes, Section
from anycast.fleet.values import (
    Account,
    Address,
    Address4,
    Asn,
    Clients,
    Domain,
    Duration,
    Encapsulation,
    Environment,
    Flag,
    FlapThreshold,
    Intent,
    Listen,
    MaxPrefixes,
    Name,
    Network,
    Path,
    Priority,
    Proposal,
    Size,
    SpiLabel,
    SyncPort,
    Tunnels,
    Version,
)

IKE_PROPOSALS = (
    "aes256gcm16-prfsha384-curve25519-ecp384",
    "chacha20poly1305-prfsha384-curve25519-ecp384",
)
"""AEAD only, two groups: curve25519 for speed, ecp384 because Windows and Apple know it."""
ESP_PROPOSALS = (
    "aes256gcm16-curve25519-ecp384",
    "chacha20poly1305-curve25519-ecp384",
)
"""The groups make a rekey a fresh exchange (PFS); the first CHILD_SA of an IKE_SA takes its keys from IKE_AUTH."""


class Certificates(Section):
    """Paths on every gateway. The files are installed by whoever runs the machines; the fleet file holds no secret."""

    gateway: Path = "/etc/anycast/secrets/gateway.crt"
    """The gateway's certificate (PEM, ECDSA), whose subjectAltName carries `service.identity`."""
    key: Path = "/etc/anycast/secrets/gateway.key"
    """Its private key (PEM), readable by root only."""
    client_ca: Path = "/etc/anycast/secrets/client-ca.crt"
    """The root (PEM) whose certificates are let in as clients."""


class Service(Section):
    """The anycast VPN service: one identity, answered at every site."""

    name: Name
    identity: Domain
    """IKE identity under which every site answers; clients check it against the certificate."""
    vips: Addresses
    """The anycast addresses that clients connect to."""
    prefixes: Prefixes = NO_PREFIXES
    """The prefixes that are announced, each around its VIP. Left out where no site has upstreams."""
    inside: tuple[Network, ...] = pydantic.Field(min_length=1)
    """What clients reach through the tunnel."""
    dns: tuple[Address, ...] = ()
    """Resolvers handed to clients. Default: none."""
    encapsulation: Encapsulation = "forced"
    """``forced``: ESP always in UDP/4500, so that one flow's packets hash alike on their way to a site.
    ``behind_nat``: only where a NAT is found, as IKEv2 does by itself. Default: forced."""
    dpd_delay: Duration = datetime.timedelta(seconds=30)
    """Quiet time after which the gateway asks a client whether it lives (whole seconds). Default: 30 s."""
    ike_proposals: tuple[Proposal, ...] = IKE_PROPOSALS
    """strongSwan's notation, in order of preference."""
    esp_proposals: tuple[Proposal, ...] = ESP_PROPOSALS
    certificates: Certificates = Certificates()
    checks: SharedChecks = SharedChecks()
    """What is watched that can fail everywhere at once. Default: the BGP sessions only."""


class BgpSettings(Section):
    """How gateways speak BGP."""

    hold_time: Duration = datetime.timedelta(seconds=9)
    """RFC 4271 hold time, whole seconds, at least 3 s. It bounds only a machine that is frozen or without power;
    everything else is bounded by the lease. Default: 9 s."""
    run_as: Account = "exabgp"
    """User that ExaBGP runs as; never root. Default: exabgp."""


class LeaseSettings(Section):
    """How long the route outlives the last proof that the gateway can serve."""

    duration: Duration = datetime.timedelta(seconds=1)
    """200 ms to 10 s. Default: 1 s."""
    grace: Duration = datetime.timedelta(seconds=15)
    """How long a *clean* stop of the agent leaves the route, once; at most 60 s. Default: 15 s."""


class AgentSettings(Section):
    """The agent itself."""

    metrics_listen: Listen = "127.0.0.1:9717"
    """Where /metrics is served. Default: 127.0.0.1:9717."""
    stop_limit: Duration = datetime.timedelta(seconds=1)
    """charon stopped (SIGSTOP, a debugger) for longer than this counts as a fact. Default: 1 s."""
    recovery: Duration = datetime.timedelta(milliseconds=750)
    """After a failure the facts must pass for this long before the route returns; what flaps is delayed by
    `flap_threshold`. Ten seconds or more let clients settle at another site first. Default: 750 ms."""
    flap_threshold: FlapThreshold = 6000
    """The lowest suppress threshold of any receiver that damps flapping routes; 1,000 counts for one withdrawal. A route
    waits before it returns while its next withdrawal would pass this. Default: 6000 (RFC 7196)."""
    log_max_size: Size = 16 << 20
    """Size at which the event log is rotated; one old file is kept. Default: 16 MiB."""
    timings: Timings = pydantic.Field(default_factory=dict)
    """How often and how patiently a check looks, by the check's name; facts have fixed timings. Default: as in the code."""
    exec: ExecChecks = pydantic.Field(default_factory=dict)
    """The operator's own checks, by name. Their evidence is `shared`: shown, alarmed, and without any effect in BGP."""
    alarms: AlarmHook = AlarmHook()


class Defaults(Section):
    """What holds at every site that does not say otherwise."""

    bgp: BgpSettings = BgpSettings()
    lease: LeaseSettings = LeaseSettings()
    agent: AgentSettings = AgentSettings()


class Upstream(Section):
    """A router that the site's gateways announce to: one BGP session for each of its addresses."""

    asn: Asn
    address: Addresses
    md5_key_file: Path | None = None
    """File on the gateway that holds the session's TCP MD5 key (RFC 2385). Default: no MD5."""
    gtsm: Flag = False
    """RFC 5082: send with TTL 255, accept nothing lower. Default: no."""
    max_prefixes: MaxPrefixes | None = None
    """How many prefixes a session may carry before this router ends it (its ``maximum-prefix``). Default: unknown."""
    announce: Announce | None = None
    """With which attributes it hears the site's prefixes. Default: none of its own."""
    bfd: Bfd | None = None
    """RFC 5881 beside each session, so that a machine without power leaves BGP in a fraction of a second. Default: none."""


class Gateway(Section):
    """One machine."""

    router_id: Address4 | None = None
    """BGP identifier (RFC 6286): unique in the fleet. Required where the site has upstreams."""
    uplink: Attachment
    """Towards the upstream routers; these addresses are the routes' next hops where the site has no `vrrp`."""
    inside: Attachment
    """Towards the servers."""
    management: Attachment | None = None
    """Where the site's two gateways hear each other besides, and the way to the `coordinator`; addresses in
    `sites.SITE.management`. Default: nowhere."""
    priority: Priority = 100
    """Of this gateway in its site's `vrrp`, while it can serve; 1 to 254. Default: 100."""


class Site(Section):
    """One location."""

    asn: Asn | None = None
    """Required where the site has upstreams."""
    intent: Intent = "announced"
    """What operators want of it: ``announced``; ``degraded`` and ``drained`` count as dark. Default: announced."""
    region: Name | None = None
    """Which floor of `budget.regions` it counts for, besides the fleet's. Default: none."""
    capacity: Tunnels | None = None
    """Tunnels that it can carry. Default: unknown."""
    uplink: Prefixes
    """Subnets shared by the site's gateways and its upstream routers."""
    inside: Prefixes
    """Subnets towards the servers. The same at several sites where the service inside is anycast too."""
    pools: Prefixes
    """Inner addresses handed to clients of this site; no two sites share any."""
    service_address: Addresses | None = None
    """Where this site's gateways answer clients besides, and no other site's do: same identity, reached by route. What other
    sites' drains redirect to. Default: nowhere."""
    management: Prefixes = NO_PREFIXES
    """Subnets between the site's gateways and the `coordinator` only. Default: none."""
    formerly: Name | None = None
    """The name that this site had before: what is planned for it stays its own. Default: none."""
    clients: Clients | None = None
    """How many clients its pools are planned for. Default: `addressing.clients`."""
    more_pools: dict[Name, Prefixes] = pydantic.Field(default_factory=dict)
    """Pools besides, where `pools` could not grow in its place. Default: none."""
    unicast_prefix: Prefixes = NO_PREFIXES
    """This site's own prefix that the Internet hears, around its `service_address`. Default: none."""
    tunnel: Addresses | None = None
    """Where tunnels from other sites end here. Default: nowhere."""
    spi_label: SpiLabel | None = None
    """What marks the SPIs that this site's gateways hand out. Default: none."""
    subnets: dict[Name, Prefixes] = pydantic.Field(default_factory=dict)
    """Subnets of this site besides, by their names in `addressing.subnets`. Default: none."""
    upstreams: dict[Name, Upstream] = pydantic.Field(default_factory=dict)
    """Without any the site speaks no BGP: its VRRP address outside is the VIP itself."""
    inside_routers: dict[Name, Upstream] = pydantic.Field(default_factory=dict)
    """Routers inside that hear the client pools by BGP, with the VRRP address inside as next hop. Default: none."""
    gateways: dict[Name, Gateway] = pydantic.Field(min_length=1, max_length=2)
    vrrp: Vrrp | None = None
    """How the site's gateways share its addresses. Required with two gateways, and without upstreams."""
    sync: Sync | None = None
    """Whether the Backup has a mirror of the Active's tunnels. Default: it has none, and clients connect anew."""
    bgp: BgpSettings = BgpSettings()
    """What differs from `defaults.bgp` here, key by key."""
    lease: LeaseSettings = LeaseSettings()
    """What differs from `defaults.lease` here, key by key."""
    agent: AgentSettings = AgentSettings()
    """What differs from `defaults.agent` here, key by key."""


class Coordinator(Section):
    """The machine that decides across sites. Without one each gateway stands alone (standalone)."""

    name: Name
    """In its management certificate."""
    addresses: Addresses
    """Where agents find it, on the management network."""
    port: SyncPort = 4518
    """TCP; 1024 to 32767. Default: 4518."""
    cold_start_max_age: Duration = datetime.timedelta(days=7)
    """A gateway that boots while no coordinator answers announces by the document that it has only if the coordinator knew
    of that not longer ago, or the site's other gateway holds the same. Default: 168 h."""


class Fleet(Section):
    """The whole file."""

    version: Version
    """Version of this format: 1."""
    fleet: Name
    environment: Environment
    """``lab``: documentation addresses and documentation or private AS numbers only. ``production``: none of those
    addresses, and no `lab` section."""
    service: Service
    addressing: Addressing | None = None
    """The blocks that addresses are planned from. Default: this file writes every address itself."""
    announcements: Announcements | None = None
    """What sites announce besides the service's prefixes. Default: nothing."""
    budget: Budget | None = None
    """How many sites must always attract traffic. Required by `anycast plan`; a fleet without a coordinator has none."""
    defaults: Defaults = Defaults()
    sites: dict[Name, Site] = pydantic.Field(min_length=1)
    coordinator: Coordinator | None = None
    """Who decides across sites. Default: nobody."""
    observers: dict[Name, Observer] = pydantic.Field(default_factory=dict)
    """Who looks from outside whether a site's routes are there. Default: nobody."""
    dns: Dns | None = None
    """Where the fleet's names are written. Default: nowhere."""
    irr: Irr | None = None
    """Where route objects stand. Default: none are made."""
    lab: Lab | None = None
    """The machines around the gateways, which only a lab has."""

    def site_of(self, gateway: str) -> str:
        """Name of the site that `gateway` stands in. KeyError where the fleet has no such gateway."""
        for name, site in self.sites.items():
            if gateway in site.gateways:
                return name
        raise KeyError(gateway)
