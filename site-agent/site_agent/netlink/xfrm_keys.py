"""What must be in the kernel for a tunnel to work, as keys that are cheap to compare: SAs and policies of linux/xfrm.h.

A gateway with 20,000 tunnels has 40,000 SAs and up to 120,000 policies, and looks at them every few seconds. So a key is
cut out of the kernel's bytes and never parsed: what charon says is put into the same bytes instead, once a tunnel. (Who
needs an entry's addresses as addresses, to delete it, uses `xfrm`.) Any bytes give a key or raise DecodeError.

An SA is known by destination, SPI and protocol (RFC 4301, section 4.1). A policy is known here by direction, by the reqid
that binds its template to the SAs, and by its selector's networks. Ports and protocol are left out: charon rounds port
ranges to masks, and two policies that differ in nothing else belong to the same tunnel.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, NewType

from anycast.errors import DecodeError
from site_agent.netlink.messages import split_attributes
from site_agent.netlink.xfrm import AF_INET, AF_INET6, USER_TMPL_BYTES, USERPOLICY_INFO_BYTES, USERSA_INFO_BYTES, XFRMA_TMPL

SaKey = NewType("SaKey", bytes)
"""struct xfrm_id without its padding: destination (16 bytes), SPI and protocol."""
PolicyKey = NewType("PolicyKey", bytes)
"""Direction, reqid, and the selector's destination, source, family and prefix lengths."""
PackedAddress = bytes
"""xfrm_address_t: 16 bytes, an IPv4 address first."""

IN, OUT, FORWARD = 0, 1, 2
"""XFRM_POLICY_*; above are sockets' own policies."""

XFRMA_ALG_AUTH, XFRMA_ALG_CRYPT, XFRMA_ALG_AEAD, XFRMA_ALG_AUTH_TRUNC = 1, 2, 18, 20
_ATTRIBUTE = struct.Struct("=HH")
_ALGORITHMS = frozenset({XFRMA_ALG_AUTH, XFRMA_ALG_CRYPT, XFRMA_ALG_AEAD, XFRMA_ALG_AUTH_TRUNC})

_XFRM_ID = slice(56, 77)
_SA_DESTINATION, _SA_SOURCE = slice(56, 72), slice(80, 96)
_SELECTOR_ADDRESSES = slice(0, 32)
_SELECTOR_FAMILY = slice(40, 44)  # __u16 family, __u8 prefixlen_d, __u8 prefixlen_s
_DIRECTION = slice(160, 161)
_TMPL_DESTINATION, _TMPL_SOURCE, _TMPL_REQID = slice(0, 16), slice(28, 44), slice(44, 48)

Address = IPv4Address | IPv6Address


def pack_address(address: Address) -> PackedAddress:
    return address.packed.ljust(16, b"\0")


def make_sa_key(destination: Address, protocol: int, spi: int) -> SaKey:
    """Raises OverflowError for numbers that are no SPI or protocol."""
    return SaKey(pack_address(destination) + spi.to_bytes(4) + protocol.to_bytes(1))


class PackedNetwork(NamedTuple):
    """One side of a selector."""

    family: bytes
    """__u16, AF_INET or AF_INET6."""
    address: PackedAddress
    length: bytes
    """__u8."""


def pack_network(address: Address, length: int) -> PackedNetwork:
    """Raises ValueError for a length that the address does not have."""
    if not 0 <= length <= address.max_prefixlen:
        raise ValueError(f"{address} has no prefix of {length} bits")
    family = AF_INET if address.version == 4 else AF_INET6
    return PackedNetwork(struct.pack("=H", family), pack_address(address), length.to_bytes(1))


def make_policy_key(direction: int, reqid: bytes, source: PackedNetwork, destination: PackedNetwork) -> PolicyKey:
    """`reqid` as the kernel has it, __u32; both networks are of one family."""
    addresses = destination.address + source.address
    return PolicyKey(direction.to_bytes(1) + reqid + addresses + source.family + destination.length + source.length)


def sa_key(payload: memoryview) -> SaKey:
    """Of a message that begins with struct xfrm_usersa_info (XFRM_MSG_NEWSA, EXPIRE). Raises DecodeError."""
    if len(payload) < USERSA_INFO_BYTES:
        raise DecodeError("xfrm_usersa_info", len(payload), f"shorter than {USERSA_INFO_BYTES} bytes")
    return SaKey(bytes(payload[_XFRM_ID]))


def has_keys(payload: memoryview) -> bool:
    """Whether XFRM_MSG_NEWSA is of an SA with keys: without them it only reserves an SPI. Raises DecodeError.

    Asked of every SA in every look, so it walks the attributes itself: a fifth of what `split_attributes` takes.
    """
    at, end = USERSA_INFO_BYTES, len(payload)
    while at < end:
        if end - at < _ATTRIBUTE.size:
            raise DecodeError("nlattr", at, "truncated")
        length, kind = _ATTRIBUTE.unpack_from(payload, at)
        if length < _ATTRIBUTE.size or at + length > end:
            raise DecodeError("nla_len", at, f"{length} does not fit")
        if kind in _ALGORITHMS:
            return True
        at += (length + 3) & ~3
    return False


def is_settled_sa(payload: memoryview, ends: frozenset[PackedAddress]) -> bool:
    """Whether XFRM_MSG_NEWSA is of an SA that has an end in `ends`, and keys: without them it only reserves an SPI.

    Raises DecodeError.
    """
    if len(payload) < USERSA_INFO_BYTES:
        raise DecodeError("xfrm_usersa_info", len(payload), f"shorter than {USERSA_INFO_BYTES} bytes")
    if bytes(payload[_SA_DESTINATION]) not in ends and bytes(payload[_SA_SOURCE]) not in ends:
        return False
    return has_keys(payload)


def policy_key(payload: memoryview, ends: frozenset[PackedAddress]) -> PolicyKey | None:
    """Of XFRM_MSG_NEWPOLICY; None for one that has no template with an end in `ends`. Raises DecodeError."""
    if len(payload) < USERPOLICY_INFO_BYTES:
        raise DecodeError("xfrm_userpolicy_info", len(payload), f"shorter than {USERPOLICY_INFO_BYTES} bytes")
    direction = bytes(payload[_DIRECTION])
    if direction[0] > FORWARD:
        return None
    for kind, value in split_attributes(payload, USERPOLICY_INFO_BYTES):
        if kind != XFRMA_TMPL or len(value) == 0:
            continue
        if len(value) < USER_TMPL_BYTES:
            raise DecodeError("xfrm_user_tmpl", USERPOLICY_INFO_BYTES, f"shorter than {USER_TMPL_BYTES} bytes")
        if bytes(value[_TMPL_DESTINATION]) not in ends and bytes(value[_TMPL_SOURCE]) not in ends:
            return None
        selector = bytes(payload[_SELECTOR_ADDRESSES]) + bytes(payload[_SELECTOR_FAMILY])
        return PolicyKey(direction + bytes(value[_TMPL_REQID]) + selector)
    return None
