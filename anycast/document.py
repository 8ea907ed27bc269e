"""The compiled, versioned configuration of one gateway: the only configuration an agent reads.

`fleet.yaml` is for people; this is what `anycast compile` makes of it for one gateway. It is a machine's message: unknown
optional fields are ignored, unknown names in `requires` are refused, so N and N-1 work together. It holds no secret, only
the paths of files that do.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal

import pydantic

DOCUMENT_VERSION: Literal[1] = 1
KNOWN_REQUIREMENTS: frozenset[str] = frozenset()
"""Features that a document may demand of its reader by name in `requires`."""


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")


class Pool(_Part):
    """Inner addresses handed to clients of this site."""

    name: str
    prefix: str


class Service(_Part):
    """The anycast VPN service as this gateway serves it."""

    name: str
    identity: str
    """IKE identity (FQDN) under which every site answers."""
    vips: tuple[str, ...]
    """Anycast addresses, one a family, without length."""
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


class Interface(_Part):
    """A data interface and the addresses it must carry, with their lengths (``198.51.100.2/28``)."""

    name: str
    addresses: tuple[str, ...]


class Neighbor(_Part):
    """One BGP session to an upstream."""

    name: str
    address: str
    local_address: str
    asn: int
    families: tuple[Literal["ipv4", "ipv6"], ...]
    next_hop: dict[Literal["ipv4", "ipv6"], str]
    """Own address of each family on the uplink; the VRRP address once a site has two gateways."""
    md5_key_file: str | None = None
    gtsm: bool = False
    """RFC 5082: send with TTL 255 and accept nothing lower than 255."""


class Bgp(_Part):
    asn: int
    router_id: str
    hold_time_s: int
    run_as: str
    """User name or numeric uid that ExaBGP and its bridge run as."""
    neighbors: tuple[Neighbor, ...]


class Lease(_Part):
    duration_ms: int
    grace_ms: int
    """How long a clean stop leaves the route; single use."""


class Agent(_Part):
    metrics_listen: str
    """``address:port`` of /metrics."""
    stop_limit_ms: int
    """charon in state T for longer than this counts as a fact."""
    recovery_ms: int = 10_000
    """After a failure the facts must pass for this long before the route returns."""
    flap_threshold: int = 6000
    """The lowest suppress threshold of any receiver that damps flapping routes (RFC 7196)."""
    log_max_bytes: int
    """Size at which the event log is rotated; one old file is kept."""


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
    bgp: Bgp
    lease: Lease
    agent: Agent

    def canonical(self) -> bytes:
        """The bytes that are hashed, signed and stored: sorted keys, no white space, UTF-8."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @property
    def hash(self) -> str:
        """SHA-256 of `canonical`, hex."""
        return hashlib.sha256(self.canonical()).hexdigest()
