"""Which addresses the canary has outside its tunnels, and what its namespace is furnished with. Pure.

One veth pair, point to point: the gateway's end carries no address at all, the canary's end one a family as a single host
(/32, /128). Neighbours are permanent entries at both ends, so no setting of ARP or NDP on the gateway matters. Where a
route but the default one, or an address of the gateway's own, covers one of the two hosts, there is no cable (`cable.py`).

* IPv4: RFC 3927 keeps the first 256 addresses of its link-local block from every host that picks one by itself. Who is
  configured by hand, or by a cloud's VPN, may use them.
* IPv6: a unique local address (RFC 4193) whose 40 random bits come from the gateway's name. Not a link-local one: an SA
  cannot name the interface that such an address needs (struct xfrm_id has no scope).

Nothing leaves the namespace but IKE and ESP. charon's own sockets bypass the policies; for everything else the least
important policy is `block`. So an echo that is answered came through a tunnel.
"""

from __future__ import annotations

import dataclasses
import hashlib
from ipaddress import IPv4Address, IPv6Address, ip_address

from anycast.document import Document

INTERFACE = "anycast-canary"
"""The gateway's end: what a firewall of the operator's must let in (UDP 500 and 4500 to the VIPs)."""
ALIAS = "site-agent's canary"
"""By which an interface of that name is known as ours."""
INNER_INTERFACE = "outside"
GATEWAY_MAC, CANARY_MAC = "02:ca:9a:00:00:01", "02:ca:9a:00:00:02"
"""Locally administered; nobody else is on this wire."""
OUTER_IPV4 = IPv4Address("169.254.0.213")
LEAST_IMPORTANT = 2**32 - 1
"""Of XFRM policies: charon's have small numbers."""

Address = IPv4Address | IPv6Address


@dataclasses.dataclass(frozen=True, slots=True)
class Outer:
    """One address family of the canary's way to the gateway."""

    vip: Address
    own: Address


def outer_addresses(document: Document) -> tuple[Outer, ...]:
    """One for each VIP."""
    vips = [ip_address(vip) for vip in document.service.vips]
    return tuple(Outer(vip, OUTER_IPV4 if vip.version == 4 else unique_local(document)) for vip in vips)


def unique_local(document: Document) -> IPv6Address:
    """RFC 4193 section 3.2.2, with a name in the place of the time of day: the same at every start."""
    name = f"site-agent canary/{document.fleet}/{document.gateway}"
    return IPv6Address(bytes([0xFD]) + hashlib.sha256(name.encode()).digest()[:5] + bytes(9) + b"\1")


def interface_batch(outer: tuple[Outer, ...]) -> str:
    """What ``ip -batch`` does inside the namespace."""
    lines = ["link set dev lo up", f"link set dev {INNER_INTERFACE} addrgenmode none", f"link set dev {INNER_INTERFACE} up"]
    for way in outer:
        anywhere = "0.0.0.0/0" if way.vip.version == 4 else "::/0"
        nodad = " nodad" if way.vip.version == 6 else ""
        lines += [
            f"address add {way.own}/{way.own.max_prefixlen} dev {INNER_INTERFACE}{nodad}",
            f"neighbour add {way.vip} lladdr {GATEWAY_MAC} dev {INNER_INTERFACE} nud permanent",
            f"route add {way.vip}/{way.vip.max_prefixlen} dev {INNER_INTERFACE} src {way.own}",
            # Where no tunnel is, the policy below stops the packet; where one is, a route must lead to its policy.
            f"route add {anywhere} dev {INNER_INTERFACE}",
        ]
    for anywhere in ("0.0.0.0/0", "::/0"):
        lines.append(f"xfrm policy add src {anywhere} dst {anywhere} dir out action block priority {LEAST_IMPORTANT}")
    return "".join(f"{line}\n" for line in lines)
