"""The lab's VPN clients run docs/clients.md's strongSwan profile; this renders it for one of them. Pure.

Where the lab puts certificates and keys is fixed here (`CERTIFICATE`, `KEY`, `GATEWAY_CA`); everything else comes from the
fleet, so that client and gateway cannot be made for different services.
"""

from __future__ import annotations

import jinja2

from anycast.fleet.lab import Client
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


def render_client(fleet: Fleet, client: Client, identity: str) -> dict[str, str]:
    """strongSwan's files of `client`, which calls itself `identity`, by their path below /etc/anycast.

    It connects to the VIP of the first family that the client and the service share. ValueError where they share none.
    """
    service = fleet.service
    shared = [family for family in client.families if family in service.vips.families]
    if not shared:
        raise ValueError(f"{identity} and the service share no address family")
    pools = {family for site in fleet.sites.values() for family in site.pools.families}
    values = {
        "service": service,
        "server": service.vips.of(shared[0]),
        "identity": identity,
        "esp": f"{client.esp}-curve25519",
        "inner": [_ANY[family] for family in FAMILIES if family in pools],
        "certificate": CERTIFICATE,
        "gateway_ca": GATEWAY_CA,
    }
    return {
        "strongswan.conf": _TEMPLATES.get_template("client-strongswan.conf.j2").render(**values),
        "swanctl/swanctl.conf": _TEMPLATES.get_template("client-swanctl.conf.j2").render(**values),
    }
