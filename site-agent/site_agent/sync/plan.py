"""What a sync process is to do, as the agent writes it for it: JSON on its standard input. Pure data, no secret in it."""

from __future__ import annotations

import dataclasses
import json
from ipaddress import ip_address, ip_network
from typing import Any

from anycast.errors import DecodeError
from site_agent.sync import versions
from site_agent.sync.versions import Versions

IKE_REKEY_S, IKE_OVER_S = 14_400.0, 1_440.0
"""`rekey_time = 4h`, as rendered, and charon's default for `over_time`, a tenth of it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    fleet: str
    gateway: str
    peer: str
    rank: int
    """0 for one gateway of the pair and 1 for the other (`numbers`)."""
    own_address: str
    peer_address: str
    """Both on the management network."""
    port: int
    vips: tuple[str, ...]
    """One end of every client's SA."""
    pools: tuple[str, ...]
    """What clients' inner addresses are taken of: the gate stands before them."""
    own: tuple[str, ...]
    """Addresses of the gateways themselves: their own flows are nobody else's."""
    connections: tuple[str, ...]
    """Names of the rendered connections: what charon has beside them is the operator's."""
    vici: str
    """Path of charon's socket."""
    fifo: str
    """Path of the `ha` plugin's FIFO."""
    pki: str
    """Path of this machine's folder (`anycast.pki.machine_folder`)."""
    pin: str
    """Path of the file of the peer's known key."""
    versions: Versions
    """`charon` and `ha` are found out by the process."""
    swanctl: str
    """Path of the rendered connections' folder: what a pool tells clients beside their address."""
    offers: str
    """Path of the record of what charon hands out from (`ike.pool_keeper`)."""
    clients: str
    """Path of the clients' log, and its longest size."""
    clients_max_bytes: int
    ike_rekey_s: float = IKE_REKEY_S
    ike_over_s: float = IKE_OVER_S
    """Of the rendered connection's IKE_SAs: rekeyed so long after they were made, ended so much later."""
    active: bool = False
    """The process before this one had settled as Active, and this gateway holds the addresses still."""


def encode(plan: Plan) -> bytes:
    return json.dumps({"v": 1, **dataclasses.asdict(plan)}).encode()


def decode(data: bytes) -> Plan:
    """Raises DecodeError."""
    try:
        fields: dict[str, Any] = json.loads(data)
        if fields.pop("v") != 1:
            raise DecodeError("v", 0, "another version")
        fields["versions"] = versions.from_json(fields["versions"])
        for name in ("vips", "pools", "own", "connections"):
            fields[name] = tuple(fields[name])
        plan = Plan(**fields)
        for address in (plan.own_address, plan.peer_address, *plan.vips, *plan.own):
            ip_address(address)
        for prefix in plan.pools:
            ip_network(prefix)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise DecodeError("plan", 0, repr(exc)[:200]) from exc
    return plan
