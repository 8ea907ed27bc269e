"""The compiled, versioned configuration of one gateway: the only configuration an agent reads.

`fleet.yaml` is for people; this is what `anycast compile` makes of it for one gateway. It is a machine's message: unknown
optional fields are ignored, unknown names in `requires` are refused, so N and N-1 work together. It holds no secret, only
the paths of files that do.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal, Self

import pydantic

DOCUMENT_VERSION: Literal[1] = 1
ANNOUNCEMENT_POLICY = "announcement_policy"
"""A neighbor hears more than prefixes: an agent that does not know it would announce without."""
KNOWN_REQUIREMENTS: frozenset[str] = frozenset({ANNOUNCEMENT_POLICY})
"""Features that a document may demand of its reader by name in `requires`."""


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")


class Pool(_Part):
    """Inner addresses handed to clients of this site."""

    name: str
    prefix: str


class Canary(_Part):
    """A VPN client of our own on every gateway."""

    identity: str
    """Its IKE identity, which its certificate carries."""
    certificate: str
    """Path of its certificate (PEM), signed by the clients' root."""
    private_key: str
    gateway_ca: str
    """Path of the root (PEM) that signed the gateways' certificates: it trusts what a stranger trusts."""
    targets: tuple[str, ...]
    """Inside addresses that must answer an ICMP echo through its tunnel."""


class SharedChecks(_Part):
    """What is looked at that can fail everywhere at once."""

    dns_servers: tuple[str, ...] = ()
    """Authoritative servers that must give the VIPs for `Service.identity`; none: not checked."""
    reachability: tuple[str, ...] = ()
    """Addresses that must answer an ICMP echo; none: not checked."""
    canary: Canary | None = None


class Service(_Part):
    """The anycast VPN service as this gateway serves it."""

    name: str
    identity: str
    """IKE identity (FQDN) under which every site answers."""
    vips: tuple[str, ...]
    """Anycast addresses, one a family, without length."""
    service_addresses: tuple[str, ...] = pydantic.Field(default=(), exclude_if=lambda addresses: not addresses)
    """Unicast addresses of this site, one a family, where charon answers as at the VIPs; not written where none are."""
    prefixes: tuple[str, ...]
    """Covering prefixes as announced, one a family."""
    inside: tuple[str, ...]
    """What clients reach through the tunnel: the gateway's local traffic selectors."""
    pools: tuple[Pool, ...]
    dns: tuple[str, ...] = ()
    ike_proposals: tuple[str, ...]
    esp_proposals: tuple[str, ...]
    force_encapsulation: bool = True
    """ESP always in UDP/4500, also without a NAT on the way."""
    dpd_delay_s: int
    certificate: str
    """Path of the gateway's certificate (PEM). Its key and roots lie beside it."""
    private_key: str
    client_ca: str
    checks: SharedChecks = SharedChecks()

    @property
    def ends(self) -> tuple[str, ...]:
        """Every address that clients' tunnels may end at."""
        return (*self.vips, *self.service_addresses)


class Interface(_Part):
    """A data interface and the addresses it must carry, with their lengths (``198.51.100.2/28``)."""

    name: str
    addresses: tuple[str, ...]


class Bfd(_Part):
    """BFD beside a session (RFC 5881)."""

    interval_ms: int
    multiplier: int


class AnnouncementPolicy(_Part):
    """Attributes of all that a neighbor hears, as its operator understands them."""

    prepend: int = 0
    med: int | None = None
    communities: tuple[str, ...] = ()
    """``high:low``."""
    large_communities: tuple[str, ...] = ()
    """RFC 8092."""
    local_pref: int | None = None
    """Inside one AS only."""


class Neighbor(_Part):
    """One BGP session, to an upstream or to a router inside."""

    name: str
    address: str
    local_address: str
    asn: int
    families: tuple[Literal["ipv4", "ipv6"], ...]
    next_hop: dict[Literal["ipv4", "ipv6"], str]
    """Of each family: the VRRP address on that side, or where there is none the gateway's own."""
    md5_key_file: str | None = None
    gtsm: bool = False
    """RFC 5082: send with TTL 255 and accept nothing lower than 255."""
    side: Literal["outside", "inside"] = "outside"
    announces: tuple[str, ...] = ()
    """Prefixes that it hears while the site serves; none written: the service's, of its families."""
    unicast: tuple[str, ...] = pydantic.Field(default=(), exclude_if=lambda prefixes: not prefixes)
    """The site's own prefixes around its `Service.service_addresses`: it hears them while the gateway could serve, also
    while drain, token or content keep the service's route away. Not written where there are none."""
    bfd: Bfd | None = None
    policy: AnnouncementPolicy | None = pydantic.Field(default=None, exclude_if=lambda policy: policy is None)
    """None, and not written: no attributes beside those that the route's role has."""


class Bgp(_Part):
    asn: int
    """0 where the site speaks no BGP; then there are no neighbors and no ExaBGP."""
    router_id: str
    hold_time_s: int
    run_as: str
    """User name or numeric uid that ExaBGP and its bridge run as."""
    neighbors: tuple[Neighbor, ...]


class VrrpVoice(_Part):
    """One family on one path: where advertisements are sent from and to, and what they announce."""

    source: str
    """Own address; empty: the interface's link-local one, which the agent finds (IPv6 multicast needs it)."""
    destination: str
    """The other gateway's address on this path, or the group."""
    addresses: tuple[str, ...] = ()
    """Virtual addresses to put on the interface, without length; none on the management path."""
    announced: tuple[str, ...]
    """As the advertisement lists them: in IPv6 the link-local one first."""


class VrrpPath(_Part):
    path: Literal["outside", "inside", "management"]
    interface: str
    voices: tuple[VrrpVoice, ...]


class Vrrp(_Part):
    """This gateway's part in its site's virtual router (RFC 9568)."""

    peer: str | None
    """The other gateway of this fleet; None where there is none."""
    vrid: int
    interval_cs: int
    """Centiseconds between two advertisements."""
    priority: int
    preempt: bool
    preempt_delay_ms: int
    router_id: int
    """Breaks ties; unique between the two."""
    uplink: Literal["shared", "routed"] = "shared"
    interop: Literal["none", "keepalived", "keepalived_as_v2"] = "none"
    keys_file: str | None
    """None: without a seal."""
    witnesses: tuple[str, ...] = ()
    """Routers on the uplink whose answer proves it; none: nobody is asked."""
    paths: tuple[VrrpPath, ...]

    @property
    def virtual_addresses(self) -> tuple[str, ...]:
        """Everything that moves, without length, link-local addresses among them."""
        return tuple(address for path in self.paths for voice in path.voices for address in voice.addresses)


class Sync(_Part):
    """This gateway's end of the mirror between the two of its site."""

    peer: str
    """The other gateway of this fleet."""
    rank: Literal[0, 1]
    """0 for the gateway whose name comes first in the alphabet, which calls; 1 for the other one, which listens. It also
    says whose ESP sequence numbers are whose, so it is never the same at both."""
    own_address: str
    peer_address: str
    """On the management network, of one family, without length."""
    port: int
    """TCP, of who listens."""


COLD_START_MAX_AGE_S = 7 * 86_400.0


class Coordinator(_Part):
    """Who decides across sites, and where the agent finds it."""

    name: str
    """In its management certificate."""
    addresses: tuple[str, ...]
    port: int
    cold_start_max_age_s: float = pydantic.Field(
        default=COLD_START_MAX_AGE_S, exclude_if=lambda age_s: age_s == COLD_START_MAX_AGE_S
    )
    """After a boot without it, a document that it knew of longer ago is not announced by; not written where it is the
    default."""


class Lease(_Part):
    duration_ms: int
    grace_ms: int
    """How long a clean stop leaves the route; single use."""


class Timing(_Part):
    """How often and how patiently a check looks; what is None is as the check's code has it."""

    interval_ms: int | None = None
    timeout_ms: int | None = None
    rise: int | None = None
    """Passing looks in a row that end a failure."""
    fall: int | None = None
    """Failing looks in a row that make one."""


class ExecCheck(_Part):
    """An operator's own check: exit status 0 passes. Its evidence is of class `shared`."""

    name: str
    command: tuple[str, ...]
    """Program by absolute path, and its arguments; no shell."""
    run_as: str = "nobody"
    """User name or numeric uid."""
    timing: Timing = Timing()


class Webhook(_Part):
    url: str
    token_file: str | None = None
    """File on the gateway with the bearer token."""


class AlarmHook(_Part):
    """Where alarms go besides log and metrics."""

    command: tuple[str, ...] = ()
    webhook: Webhook | None = None


class Agent(_Part):
    metrics_listen: str
    """``address:port`` of /metrics."""
    stop_limit_ms: int
    """charon in state T for longer than this counts as a fact."""
    recovery_ms: int = 750
    """After a failure the facts must pass for this long before the route returns."""
    flap_threshold: int = 6000
    """The lowest suppress threshold of any receiver that damps flapping routes (RFC 7196)."""
    log_max_bytes: int
    """Size at which the event log is rotated; one old file is kept."""
    timings: dict[str, Timing] = pydantic.Field(default_factory=dict)
    """By check. A fact's timing is part of its code and cannot be set."""
    exec_checks: tuple[ExecCheck, ...] = ()
    alarm_hook: AlarmHook = AlarmHook()


class Document(_Part):
    version: Literal[1]
    requires: tuple[str, ...] = ()
    fleet: str
    environment: Literal["lab", "production"]
    site: str
    gateway: str
    generation: int
    """0 when the agent compiled it itself (standalone)."""
    service: Service
    uplink: Interface
    inside: Interface
    management: Interface | None = None
    bgp: Bgp
    vrrp: Vrrp | None = None
    """None where the site has one gateway and speaks BGP."""
    sync: Sync | None = pydantic.Field(default=None, exclude_if=lambda sync: sync is None)
    """None where tunnels are not mirrored; not written then, so that such a document keeps the hash that it always had."""
    coordinator: Coordinator | None = pydantic.Field(default=None, exclude_if=lambda coordinator: coordinator is None)
    """None: the gateway stands alone; not written then."""
    lease: Lease
    agent: Agent

    @pydantic.model_validator(mode="after")
    def _ranks_are_two(self) -> Self:
        """Two gateways of one rank would use one ESP sequence number twice with one key: never on a compiler's word."""
        if (sync := self.sync) is not None and (self.gateway == sync.peer or sync.rank != int(self.gateway > sync.peer)):
            raise ValueError(f"sync.rank {sync.rank} is not that of {self.gateway} beside {sync.peer}")
        return self

    @pydantic.model_validator(mode="after")
    def _unicast_is_nobody_elses(self) -> Self:
        """What is announced whatever the fleet decides is never what the budget counts: not on a compiler's word either."""
        shared = {*self.service.prefixes, *(prefix for each in self.bgp.neighbors for prefix in each.announces)}
        for neighbor in self.bgp.neighbors:
            if both := shared.intersection(neighbor.unicast):
                raise ValueError(f"bgp.neighbors {neighbor.name}: {min(both)} is unicast, and the service's")
        return self

    def canonical(self) -> bytes:
        """The bytes that are hashed, signed and stored: sorted keys, no white space, UTF-8."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @property
    def vip_moves(self) -> bool:
        """The VIPs themselves are VRRP addresses: only the Active has them."""
        return self.vrrp is not None and not set(self.service.vips).isdisjoint(self.vrrp.virtual_addresses)

    @property
    def hash(self) -> str:
        """SHA-256 of `canonical`, hex."""
        return hashlib.sha256(self.canonical()).hexdigest()
