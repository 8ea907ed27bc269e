"""An authoritative name server behind a site: what Knot DNS is given so that the service's name leads to the VIPs. Pure.

The zone is the identity itself, so that nothing else has to be made up. Knot keeps no state: the zone file is the truth,
`knotc zone-reload` reads it anew, and a drill that wants a wrong answer writes a wrong file.
"""

from __future__ import annotations

import ipaddress

from anycast.fleet.schema import Fleet

ZONE_FILE = "/etc/anycast/zone"
CONTROL_SOCKET = "/run/knot.sock"
RELOAD = ("knotc", "-s", CONTROL_SOCKET, "zone-reload")
TTL_S = 5
"""Nobody caches in a lab; a resolver that somebody adds shall not hide a drill."""


def configuration(identity: str) -> str:
    """Knot's. One worker each: every thread costs in User Mode Linux."""
    return f"""# Written by `anycast lab up` from the fleet file.
server:
  rundir: /run
  listen: [0.0.0.0@53, "::@53"]
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
control:
  listen: {CONTROL_SOCKET}
log:
  - target: /etc/anycast/out/knot.log
    any: info
zone:
  - domain: {identity}
    file: {ZONE_FILE}
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: none
"""


def zone(fleet: Fleet, server: str, *, serial: int = 1, wrong: bool = False) -> str:
    """The zone as the server at `server` has it. `wrong`: its IPv4 record, or its only one, is an address beside the VIP."""
    name, vips = fleet.service.identity, fleet.service.vips
    records = [
        f"SOA ns.{name}. hostmaster.{name}. {serial} 3600 600 86400 {TTL_S}",
        f"NS ns.{name}.",
        *(f"{_type(vip)} {vip + (wrong and i == 0)}" for i, vip in enumerate(vips.of(f) for f in vips.families)),
    ]
    lines = [f"{name}. {TTL_S} IN {record}" for record in records]
    return "\n".join([*lines, f"ns.{name}. {TTL_S} IN {_type(ipaddress.ip_address(server))} {server}"]) + "\n"


def _type(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return "A" if address.version == 4 else "AAAA"
