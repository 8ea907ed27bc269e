"""Codec of rtnetlink's address requests (linux/if_addr.h): an address with a life that the kernel itself ends. Pure."""

from __future__ import annotations

import struct
from ipaddress import IPv4Interface, IPv6Interface

from site_agent.netlink.messages import HEADER, NLM_F_ACK, NLM_F_REQUEST

RTM_NEWADDR = 20
RTM_DELADDR = 21
NLM_F_REPLACE = 0x100
NLM_F_CREATE = 0x400
AF_INET = 2
AF_INET6 = 10

_IFADDRMSG = struct.Struct("=BBBBI")
_CACHEINFO = struct.Struct("=IIII")
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS = 1, 2, 6, 8
_IFA_F_NODAD = 0x02
"""Duplicate address detection would keep the address unused for a second; its other owner is dead or releases it."""
_IFA_F_NOPREFIXROUTE = 0x200
"""A prefix's route would share the address's life, also where a permanent address needs it, and outlive its removal."""

Interface = IPv4Interface | IPv6Interface


def put_address(address: Interface, index: int, *, life_s: int, sequence: int) -> bytes:
    """RTM_NEWADDR that adds `address` to the interface with `index`, or begins its life of `life_s` seconds anew.

    The kernel removes it 1.0 to 1.3 times that later (measured). An IPv6 address is deprecated from the start (RFC 4862
    section 5.5.4): it answers, but nothing of the machine's own chooses it as source and breaks when it moves on.
    """
    preferred_s = 0 if address.version == 6 else life_s
    cache = _attribute(_IFA_CACHEINFO, _CACHEINFO.pack(preferred_s, life_s, 0, 0))
    flags = _attribute(_IFA_FLAGS, struct.pack("=I", _IFA_F_NODAD | _IFA_F_NOPREFIXROUTE if address.version == 6 else 0))
    return _request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, address, index, sequence, cache + flags)


def remove_address(address: Interface, index: int, *, sequence: int) -> bytes:
    """RTM_DELADDR."""
    return _request(RTM_DELADDR, 0, address, index, sequence, b"")


def _request(kind: int, flags: int, address: Interface, index: int, sequence: int, more: bytes) -> bytes:
    family = AF_INET if address.version == 4 else AF_INET6
    body = _IFADDRMSG.pack(family, address.network.prefixlen, 0, 0, index)
    body += _attribute(_IFA_LOCAL, address.ip.packed) + _attribute(_IFA_ADDRESS, address.ip.packed) + more
    return HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_ACK | flags, sequence, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
