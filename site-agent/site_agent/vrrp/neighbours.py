"""Frames that tell a link's neighbours whose address it is now (RFC 9568 sections 8.1.2 and 8.2.2). Pure codec.

Virtual addresses move to another MAC address, so every neighbour's cache must change at a takeover: by a gratuitous ARP
(RFC 826, RFC 5227 section 3) or an unsolicited Neighbor Advertisement with the override flag (RFC 4861 section 7.2.6).
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

BROADCAST = b"\xff" * 6
ALL_NODES = IPv6Address("ff02::1")
ALL_NODES_MAC = bytes.fromhex("333300000001")

ETH_P_IP, ETH_P_ARP, ETH_P_IPV6 = 0x0800, 0x0806, 0x86DD
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ARP_REQUEST = 1
_ICMPV6 = 58
_NEIGHBOR_ADVERTISEMENT = 136
_ROUTER_OVERRIDE = 0xA0000000
"""R and O; S is clear, because nobody asked."""
_TARGET_LINK_LAYER_ADDRESS = 2
_HOP_LIMIT = 255


def gratuitous_arp(address: IPv4Address, mac: bytes) -> bytes:
    """The Ethernet frame: a request for `address` from `address`, which every cache takes as news."""
    body = _ARP.pack(1, ETH_P_IP, 6, 4, _ARP_REQUEST, mac, address.packed, bytes(6), address.packed)
    return BROADCAST + mac + struct.pack("!H", ETH_P_ARP) + body


def unsolicited_na(address: IPv6Address, mac: bytes) -> bytes:
    """The Ethernet frame to all nodes, from `address` itself."""
    option = struct.pack("!BB6s", _TARGET_LINK_LAYER_ADDRESS, 1, mac)
    body = struct.pack("!I16s", _ROUTER_OVERRIDE, address.packed) + option
    pseudo = address.packed + ALL_NODES.packed + struct.pack("!I3xB", len(body) + 4, _ICMPV6)
    head = struct.pack("!BBH", _NEIGHBOR_ADVERTISEMENT, 0, 0)
    total = sum(struct.unpack(f"!{len(pseudo + head + body) // 2}H", pseudo + head + body))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    icmp = struct.pack("!BBH", _NEIGHBOR_ADVERTISEMENT, 0, ~total & 0xFFFF) + body
    ip = struct.pack("!IHBB", 6 << 28, len(icmp), _ICMPV6, _HOP_LIMIT) + address.packed + ALL_NODES.packed
    return ALL_NODES_MAC + mac + struct.pack("!H", ETH_P_IPV6) + ip + icmp
