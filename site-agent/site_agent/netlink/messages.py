"""Codec of netlink's own layer (netlink(7), RFC 3549): messages in a datagram, attributes in a message. Bounds-checked."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from anycast.errors import DecodeError

NETLINK_XFRM = 6
HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence number, port id."""

NLM_F_REQUEST = 0x001
NLM_F_ACK = 0x004
NLM_F_DUMP_INTR = 0x010
NLM_F_DUMP = 0x300

NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3


class Message(NamedTuple):
    kind: int
    flags: int
    sequence: int
    payload: memoryview


def split_messages(data: bytes | memoryview) -> Iterator[Message]:
    """The messages of one datagram. Raises DecodeError where a length does not fit."""
    view = memoryview(data)
    offset = 0
    while offset < len(view):
        if len(view) - offset < HEADER.size:
            raise DecodeError("nlmsghdr", offset, "truncated")
        length, kind, flags, sequence, _port = HEADER.unpack_from(view, offset)
        if length < HEADER.size or offset + length > len(view):
            raise DecodeError("nlmsg_len", offset, f"{length} does not fit")
        yield Message(kind, flags, sequence, view[offset + HEADER.size : offset + length])
        offset += (length + 3) & ~3  # NLMSG_ALIGN


def split_attributes(data: memoryview, start: int) -> Iterator[tuple[int, memoryview]]:
    """The (type, value) pairs of the attributes from `start` on. Raises DecodeError where a length does not fit."""
    offset = start
    while offset < len(data):
        if len(data) - offset < 4:
            raise DecodeError("nlattr", offset, "truncated")
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4 or offset + length > len(data):
            raise DecodeError("nla_len", offset, f"{length} does not fit")
        yield kind & 0x3FFF, data[offset + 4 : offset + length]  # without NLA_F_NESTED, NLA_F_NET_BYTEORDER
        offset += (length + 3) & ~3


def answer_code(payload: memoryview) -> int:
    """The (negated) errno of NLMSG_ERROR and NLMSG_DONE; 0 is success. Raises DecodeError."""
    if len(payload) < 4:
        raise DecodeError("nlmsgerr", 0, "truncated")
    code: int = struct.unpack_from("=i", payload)[0]
    return code
