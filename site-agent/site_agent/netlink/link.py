"""Codec of rtnetlink's link messages (linux/if_link.h, rtnetlink(7)): one interface, and whether it can carry packets.

Three things must agree. IFF_UP is the administrator's word. IFF_LOWER_UP is the driver's (carrier), true at the moment of
reading. The operational state (RFC 2863) is the kernel's conclusion, which knows of bonds, bridges and 802.1X too but may
come up to a second later. A driver that never reports a state says UNKNOWN, which is no objection.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from anycast.errors import DecodeError
from site_agent.netlink.messages import split_attributes

AF_UNSPEC = 0
RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTMGRP_LINK = 1

IFF_UP = 0x1
IFF_LOWER_UP = 0x10000

IFLA_IFNAME = 3
IFLA_OPERSTATE = 16
IFLA_EXT_MASK = 29
RTEXT_FILTER_SKIP_STATS = 1 << 3

_IFINFOMSG = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, type, index, flags, change mask."""
LONGEST_NAME = 15
"""IFNAMSIZ less its final zero."""

OPERATIONAL_STATES = ("unknown", "not present", "down", "lower layer down", "testing", "dormant", "up")
"""IF_OPER_*, RFC 2863 section 3.1.14."""
CARRYING = frozenset({"unknown", "up"})


class Link(NamedTuple):
    """One interface as the kernel describes it."""

    name: str
    flags: int
    operational: str
    """One of `OPERATIONAL_STATES`, or `state N` for one of tomorrow."""

    @property
    def trouble(self) -> str:
        """Why it cannot carry packets; empty where it can."""
        if not self.flags & IFF_UP:
            return "set down"
        if not self.flags & IFF_LOWER_UP:
            return "no carrier"
        return "" if self.operational in CARRYING else self.operational


def decode_link(payload: memoryview) -> Link:
    """Decode RTM_NEWLINK or RTM_DELLINK. Raises DecodeError."""
    if len(payload) < _IFINFOMSG.size:
        raise DecodeError("ifinfomsg", len(payload), f"shorter than {_IFINFOMSG.size} bytes")
    _family, _type, _index, flags, _change = _IFINFOMSG.unpack_from(payload)
    name, operational = "", OPERATIONAL_STATES[0]
    for kind, value in split_attributes(payload, _IFINFOMSG.size):
        if kind == IFLA_IFNAME:
            name = bytes(value).split(b"\0", 1)[0].decode("ascii", "backslashreplace")
        elif kind == IFLA_OPERSTATE:
            if len(value) != 1:
                raise DecodeError("IFLA_OPERSTATE", _IFINFOMSG.size, f"{len(value)} bytes")
            number = value[0]
            operational = OPERATIONAL_STATES[number] if number < len(OPERATIONAL_STATES) else f"state {number}"
    return Link(name, flags, operational)


def encode_get_link(name: str) -> bytes:
    """The payload of RTM_GETLINK for one interface by name, without its counters. Raises ValueError for no such name."""
    packed = name.encode("ascii")  # a UnicodeEncodeError is a ValueError
    if not 0 < len(packed) <= LONGEST_NAME or b"\0" in packed:
        raise ValueError(f"{name!r} cannot be an interface's name")
    body = packed + b"\0"
    attribute = struct.pack("=HH", 4 + len(body), IFLA_IFNAME) + body + bytes(-len(body) % 4)
    mask = struct.pack("=HHI", 8, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    return _IFINFOMSG.pack(AF_UNSPEC, 0, 0, 0, 0) + attribute + mask
