"""Which routers a document wants BFD with, as a vrrp process is told. Pure."""

from __future__ import annotations

from ipaddress import ip_address

from anycast.document import Document
from site_agent.vrrp.plan import BfdPeer


def bfd_peers(document: Document) -> tuple[BfdPeer, ...]:
    """One for each pair of addresses, however many BGP sessions are between them (RFC 5881 section 3)."""
    found: dict[tuple[str, str, str], BfdPeer] = {}
    for neighbor in document.bgp.neighbors:
        if neighbor.bfd is None:
            continue
        interface = document.uplink.name if neighbor.side == "outside" else document.inside.name
        names = {peer.name for peer in found.values()}  # a router may be outside and inside
        interval_us = neighbor.bfd.interval_ms * 1000
        found.setdefault(
            (neighbor.local_address, neighbor.address, interface),
            BfdPeer(
                name=neighbor.name if neighbor.name not in names else f"{neighbor.name}-{neighbor.side}",
                local=ip_address(neighbor.local_address),
                remote=ip_address(neighbor.address),
                interface=interface,
                desired_min_tx_us=interval_us,
                required_min_rx_us=interval_us,
                detect_mult=neighbor.bfd.multiplier,
            ),
        )
    return tuple(found.values())
