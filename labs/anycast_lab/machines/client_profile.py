"""The lab's VPN clients run docs/clients.md's strongSwan profile; this renders it for one of them, or for a crowd. Pure.

Where the lab puts certificates and keys is fixed here (`CERTIFICATE`, `KEY`, `GATEWAY_CA`); everything else comes from the
fleet, so that client and gateway cannot be made for different services.
"""

from __future__ import annotations

import dataclasses
import json

import jinja2

from anycast.fleet.lab import Client, Crowd
from anycast.fleet.schema import Fleet
from anycast.fleet.values import FAMILIES

CERTIFICATE = "/etc/anycast/secrets/client.crt"
KEY = "/etc/anycast/secrets/client.key"
GATEWAY_CA = "/etc/anycast/secrets/gateway-ca.crt"
KEY_LINK = ("swanctl/private/client.key", KEY)
"""swanctl takes private keys from its own folder only: the link beside the rendered files, and what it points to."""

_ANY = {"ipv4": "0.0.0.0", "ipv6": "::"}
_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("anycast_lab.machines"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,  # values come from a fleet, whose reader admits none that could end its place
)


CROWD_DPD_S = 10
CROWD_FILE = "crowd.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One client of a crowd."""

    name: str
    """Of its connection."""
    identity: str
    inner: tuple[str, ...]
    """What it asks for."""

    @property
    def certificate(self) -> str:
        return f"/etc/anycast/secrets/{self.name}.crt"

    @property
    def key(self) -> str:
        return f"/etc/anycast/secrets/{self.name}.key"


def member_name(crowd: str, number: int) -> str:
    """`number` counts from 1."""
    return f"{crowd}-{number:04d}"


def members(fleet: Fleet, node: str, crowd: Crowd) -> list[Member]:
    """All clients of the crowd on `node`."""
    both = tuple(_inner(fleet))
    found = []
    for number in range(1, crowd.members + 1):
        name = member_name(node, number)
        inner = both if number <= crowd.dual else (_ANY["ipv6"],)
        found.append(Member(name=name, identity=f"{name}.clients.{fleet.service.identity}", inner=inner))
    return found


def render_crowd(fleet: Fleet, node: str, crowd: Crowd) -> dict[str, str]:
    """charon's settings and `CROWD_FILE`, by their path below /etc/anycast.

    The file has for each member what VICI's `load-conn` takes, with paths where that takes certificates: who is to connect
    is loaded then, because hundreds would take a charon inside User Mode Linux half a minute. The profile is
    docs/clients.md's, but for two lines: nobody connects by himself (a drill says who), and dead peers are looked for every
    `CROWD_DPD_S`, because one processor carries both ends of all.
    """
    values = _values(fleet, crowd, node)
    child = {
        "remote_ts": list(map(str, fleet.service.inside)),
        "esp_proposals": [str(values["esp"])],
        "rekey_time": "1h",
        "replay_window": "2048",
        "start_action": "none",
        "dpd_action": "restart",
        "close_action": "start",
    }
    connections = {
        member.name: {
            "version": "2",
            "remote_addrs": [str(values["server"])],
            "local_port": "4500",
            "remote_port": "4500",
            "encap": "yes",
            "mobike": "yes",
            "fragmentation": "yes",
            "proposals": list(map(str, fleet.service.ike_proposals)),
            "vips": list(member.inner),
            "dpd_delay": f"{CROWD_DPD_S}s",
            "keyingtries": "0",
            "rekey_time": "4h",
            "reauth_time": "0s",
            "local": {"auth": "pubkey", "id": member.identity, "certs": member.certificate},
            "remote": {"auth": "pubkey", "id": fleet.service.identity, "cacerts": GATEWAY_CA},
            "children": {fleet.service.name: child},
        }
        for member in members(fleet, node, crowd)
    }
    return {
        "strongswan.conf": _TEMPLATES.get_template("client-strongswan.conf.j2").render(**values, crowd=True),
        "swanctl/swanctl.conf": "",
        CROWD_FILE: json.dumps(connections, indent=1),
    }


def _inner(fleet: Fleet) -> list[str]:
    pools = {family for site in fleet.sites.values() for family in site.pools.families}
    return [_ANY[family] for family in FAMILIES if family in pools]


def render_client(fleet: Fleet, client: Client, identity: str) -> dict[str, str]:
    """strongSwan's files of `client`, which calls itself `identity`, by their path below /etc/anycast.

    It connects to the VIP of the first family that the client and the service share. ValueError where they share none.
    """
    values = _values(fleet, client, identity)
    return {
        "strongswan.conf": _TEMPLATES.get_template("client-strongswan.conf.j2").render(**values, crowd=False),
        "swanctl/swanctl.conf": _TEMPLATES.get_template("client-swanctl.conf.j2").render(**values),
    }


def _values(fleet: Fleet, client: Client, identity: str) -> dict[str, object]:
    service = fleet.service
    shared = [family for family in client.families if family in service.vips.families]
    if not shared:
        raise ValueError(f"{identity} and the service share no address family")
    return {
        "service": service,
        "server": service.vips.of(shared[0]),
        "identity": identity,
        "esp": f"{client.esp}-curve25519",
        "follows": client.follows_redirects,
        "inner": _inner(fleet),
        "certificate": CERTIFICATE,
        "gateway_ca": GATEWAY_CA,
    }
