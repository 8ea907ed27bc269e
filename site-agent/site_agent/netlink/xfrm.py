"""Codec of the XFRM messages that the agent needs (linux/xfrm.h): which SAs and policies are there, and their deletion.

Everything needed stands at fixed offsets, so an SA costs one `unpack_from` and one slice, however many
attributes it carries. Any bytes decode or raise DecodeError. Keys stay in the message: nothing here reads them.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from anycast.errors import DecodeError
from site_agent.netlink.messages import split_attributes

AF_INET, AF_INET6 = 2, 10
XFRM_MSG_NEWSA = 0x10
XFRM_MSG_DELSA = 0x11
XFRM_MSG_GETSA = 0x12
XFRM_MSG_NEWPOLICY = 0x13
XFRM_MSG_DELPOLICY = 0x14
XFRM_MSG_GETPOLICY = 0x15
XFRM_MSG_EXPIRE = 0x18
XFRM_MSG_UPDPOLICY = 0x19
XFRM_MSG_FLUSHSA = 0x1C
XFRM_MSG_FLUSHPOLICY = 0x1D

XFRMGRP_EXPIRE = 0x2
XFRMGRP_SA = 0x4
XFRMGRP_POLICY = 0x8
"""Multicast groups as bits of nl_groups. A flush is one message there, whatever the number of entries that went."""

XFRMA_TMPL = 5

USERSA_INFO_BYTES = 224
"""sizeof(struct xfrm_usersa_info) on 64-bit machines; daddr is at 56, saddr at 80, reqid at 208, family at 212."""
USERPOLICY_INFO_BYTES = 168
"""sizeof(struct xfrm_userpolicy_info); the selector fills 0..56, index is at 156 and dir at 160."""
USER_TMPL_BYTES = 64
"""sizeof(struct xfrm_user_tmpl): id (daddr, spi, proto) at 0, family at 24, saddr at 28."""

_SA_ID = struct.Struct(">16sIB3x16s")  # xfrm_id and the source address behind it; the SPI is in network order
_SA_TAIL = struct.Struct("=IHB")  # reqid, family, mode
_POLICY_TAIL = struct.Struct("=IB")  # index, dir
_TEMPLATE = struct.Struct("=16s8xH2x16s")

Address = IPv4Address | IPv6Address


class SaId(NamedTuple):
    """One SA of the SAD, as far as it must be known to be found again (RFC 4301 section 4.4.2)."""

    daddr: Address
    saddr: Address
    spi: int
    """As a number, as in VICI; 0 for a larval SA of an acquire."""
    proto: int
    """IP protocol: 50 ESP, 51 AH, 108 IPComp."""
    reqid: int
    mode: int


class PolicyId(NamedTuple):
    """One policy of the SPD with the tunnel ends of its first template."""

    selector: bytes
    """struct xfrm_selector as the kernel gave it: handed back unchanged to delete the policy."""
    number: int
    """The kernel's index of it."""
    direction: int
    """0 in, 1 out, 2 forward; above 2 a socket's own policy, which is nobody else's."""
    ends: tuple[Address, Address] | None
    """Source and destination of the tunnel; None for a policy without template."""


def decode_sa(payload: memoryview) -> SaId:
    """Decode XFRM_MSG_NEWSA. Raises DecodeError."""
    if len(payload) < USERSA_INFO_BYTES:
        raise DecodeError("xfrm_usersa_info", len(payload), f"shorter than {USERSA_INFO_BYTES} bytes")
    daddr, spi, proto, saddr = _SA_ID.unpack_from(payload, 56)
    reqid, family, mode = _SA_TAIL.unpack_from(payload, 208)
    return SaId(
        _address(family, daddr, 212), _address(family, saddr, 212), spi, proto, reqid, mode
    )  # fmt: skip


def encode_sa_id(sa: SaId) -> bytes:
    """The payload of XFRM_MSG_DELSA, and of XFRM_MSG_GETSA for one: struct xfrm_usersa_id."""
    return struct.pack("=16s4sHBx", sa.daddr.packed, sa.spi.to_bytes(4), _family(sa.daddr), sa.proto)


def decode_policy(payload: memoryview) -> PolicyId:
    """Decode XFRM_MSG_NEWPOLICY. Raises DecodeError."""
    if len(payload) < USERPOLICY_INFO_BYTES:
        raise DecodeError("xfrm_userpolicy_info", len(payload), f"shorter than {USERPOLICY_INFO_BYTES} bytes")
    number, direction = _POLICY_TAIL.unpack_from(payload, 156)
    ends = None
    for kind, value in split_attributes(payload, USERPOLICY_INFO_BYTES):
        if kind == XFRMA_TMPL and len(value) > 0:
            if len(value) < USER_TMPL_BYTES:
                raise DecodeError("xfrm_user_tmpl", USERPOLICY_INFO_BYTES, f"shorter than {USER_TMPL_BYTES} bytes")
            daddr, family, saddr = _TEMPLATE.unpack_from(value)
            ends = _address(family, saddr, 24), _address(family, daddr, 24)
    return PolicyId(bytes(payload[:56]), number, direction, ends)


def encode_delete_policy(policy: PolicyId) -> bytes:
    """The payload of XFRM_MSG_DELPOLICY: struct xfrm_userpolicy_id."""
    return policy.selector + struct.pack("=IB3x", policy.number, policy.direction)


def _address(family: int, packed: bytes, offset: int) -> Address:
    if family == AF_INET:
        return IPv4Address(packed[:4])
    if family == AF_INET6:
        return IPv6Address(packed)
    raise DecodeError("family", offset, f"{family} is neither IPv4 nor IPv6")


def _family(address: Address) -> int:
    return AF_INET if address.version == 4 else AF_INET6
