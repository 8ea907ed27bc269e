"""Codec of the connection tracking messages (linux/netfilter/nfnetlink_conntrack.h): what a message looks like.

Theory of operation
-------------------
A table of 200,000 flows may cost a microsecond an entry, so no entry becomes an object. But there are few *shapes*: all UDP
flows that the kernel tells over IPv4 have the same attributes at the same offsets and differ in their values only. So one
message of a shape is walked, attribute by attribute, and the others are proved to be of the same shape, many at once: a
copy of the first with their values in its place must be what they are, byte for byte. Every attribute begins at a multiple
of four bytes, so values are moved as words, one column of many messages at a time (`columns`).

    nlmsghdr (16)  nfgenmsg (4: family, version, res_id)  CTA_TUPLE_ORIG  CTA_TUPLE_REPLY  [CTA_ZONE]  CTA_STATUS  ...

Any bytes decode or raise DecodeError. Sequence number, port id and res_id mean nothing here and are not compared.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator

from anycast.errors import DecodeError
from site_agent.netlink.messages import HEADER, NLMSG_DONE, NLMSG_ERROR

NETLINK_NETFILTER = 12
CT_NEW, CT_GET, CT_DELETE = 0x100, 0x101, 0x102
"""NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_*. CT_NEW tells a new flow, a change of one, and a dump's entry."""
GROUP_NEW, GROUP_UPDATE, GROUP_DESTROY = 1, 2, 3
"""NFNLGRP_CONNTRACK_*."""
NLM_F_EXCL, NLM_F_CREATE = 0x200, 0x400

CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_PROTOINFO, CTA_HELP, CTA_NAT_SRC, CTA_TIMEOUT, CTA_MARK = range(1, 9)
CTA_NAT_DST, CTA_TUPLE_MASTER, CTA_ZONE, CTA_LABELS, CTA_SYNPROXY = 13, 14, 18, 22, 24
CTA_TUPLE_IP, CTA_TUPLE_PROTO, CTA_TUPLE_ZONE = 1, 2, 3
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT, CTA_PROTO_ICMP_ID, CTA_PROTO_ICMPV6_ID = 1, 2, 3, 4, 7
CTA_PROTOINFO_TCP = 1
TCP_STATE, TCP_WSCALE_ORIGINAL, TCP_WSCALE_REPLY, TCP_FLAGS_ORIGINAL, TCP_FLAGS_REPLY = range(1, 6)
NLA_F_NESTED = 0x8000

IPS_EXPECTED, IPS_SEEN_REPLY, IPS_ASSURED, IPS_CONFIRMED, IPS_SRC_NAT, IPS_DST_NAT = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20

AF_INET, AF_INET6 = 2, 10
UNTOLD_PROTOCOLS = frozenset({50, 51, 112})
"""ESP, AH and VRRP are the gateway's own or have no state that is worth a copy."""
FIRST = 20
"""Where the attributes begin."""
LONGEST = 2048
"""Bytes of one message: the kernel's have 150 to 500."""
MOST_SHAPES = 256
"""Kept; a real table has a dozen. A peer that invents more pays for the walk."""

_ATTRIBUTE = struct.Struct("=HH")
_UNCOMPARED = (8, 12)
"""Sequence number and port id. res_id shares its word with the family: it is zero in all that the kernel says."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tuple:
    """One direction of a flow: offsets of its values within the message."""

    start: int
    end: int
    source: int
    destination: int
    width: int
    """Bytes of an address."""
    protocol: int
    source_port: int
    destination_port: int
    """Both 0 where the protocol has none."""
    identifier: int
    """ICMP's and ICMPv6's; else 0."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What messages of one form have in common: all but the values."""

    head: bytes
    """The message's first eight bytes: length, type, flags."""
    first: bytes
    """A message of this shape."""
    attributes: dict[int, tuple[int, int]]
    """Start and end (with padding) of each, by type."""
    orig: Tuple
    reply: Tuple
    tcp: dict[int, int]
    """Offsets of CTA_PROTOINFO_TCP's values, by type."""
    helper: str
    """Of an application layer helper (CTA_HELP); empty where the flow has none."""
    values: tuple[int, ...]
    """Offsets of the words that may differ."""
    recipes: dict[object, object] = dataclasses.field(default_factory=dict)
    """What was made of this shape already (`columns.Recipe` by its name)."""

    @property
    def length(self) -> int:
        return len(self.first)

    @property
    def kind(self) -> int:
        return int.from_bytes(self.head[4:6], "little")

    @property
    def flags(self) -> int:
        return int.from_bytes(self.head[6:8], "little")

    def value(self, attribute: int) -> int | None:
        """Offset of a top-level attribute's value."""
        found = self.attributes.get(attribute)
        return None if found is None else found[0] + 4


def shape_of(message: bytes) -> Shape:
    """Walk one message. Raises DecodeError."""
    if len(message) < FIRST or len(message) % 4 or len(message) > LONGEST:
        raise DecodeError("nlmsg_len", 0, f"{len(message)} bytes")
    kind, family = int.from_bytes(message[4:6], "little"), message[16]
    if kind not in (CT_NEW, CT_DELETE):
        raise DecodeError("nlmsg_type", 4, f"{kind:#x} is not a flow's")
    attributes: dict[int, tuple[int, int]] = {}
    values = set(_UNCOMPARED)
    tcp: dict[int, int] = {}
    helper = ""
    for type_, start, end in _attributes(message, FIRST, len(message)):
        if type_ in attributes:
            raise DecodeError("attribute", start, f"type {type_} twice")
        attributes[type_] = start, end
        size = _ATTRIBUTE.unpack_from(message, start)[0] - 4
        match type_:
            case _ if type_ in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY):
                pass
            case _ if type_ in (CTA_STATUS, CTA_TIMEOUT, CTA_MARK):
                if size != 4:
                    raise DecodeError("attribute", start, f"type {type_} has {size} bytes")
                values.add(start + 4)
            case _ if type_ == CTA_PROTOINFO:
                tcp = _protoinfo(message, start, end, values)
            case _ if type_ == CTA_HELP:
                helper = _helper(message, start, end)
            case _ if type_ in (CTA_NAT_SRC, CTA_NAT_DST):
                _nested_values(message, start, end, values)
            case _ if type_ == CTA_ZONE and size != 2:
                raise DecodeError("CTA_ZONE", start, f"{size} bytes")
            case _ if type_ == CTA_LABELS and size != 16:
                raise DecodeError("CTA_LABELS", start, f"{size} bytes")
            case _:
                values.update(range(start + 4, end, 4))
    if CTA_TUPLE_ORIG not in attributes or CTA_TUPLE_REPLY not in attributes:
        raise DecodeError("attribute", FIRST, "without its two tuples")
    orig, reply = (_tuple(message, *attributes[each], family, values) for each in (CTA_TUPLE_ORIG, CTA_TUPLE_REPLY))
    if orig.end - orig.start != reply.end - reply.start or orig.protocol != reply.protocol:
        raise DecodeError("CTA_TUPLE_REPLY", reply.start, "is not of the other one's form")
    if (orig.source_port == 0) != (reply.source_port == 0) or (orig.identifier == 0) != (reply.identifier == 0):
        raise DecodeError("CTA_TUPLE_REPLY", reply.start, "is not of the other one's form")
    return Shape(message[:8], message, attributes, orig, reply, tcp, helper, tuple(sorted(values)))


def _attributes(message: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Type, start and padded end of each attribute between two offsets, which are multiples of four."""
    while start < end:
        if end - start < 4:
            raise DecodeError("nlattr", start, "truncated")
        length, type_ = _ATTRIBUTE.unpack_from(message, start)
        after = start + ((length + 3) & ~3)
        if length < 4 or after > end:
            raise DecodeError("nla_len", start, f"{length} does not fit")
        yield type_ & 0x3FFF, start, after
        start = after


def _nested_values(message: bytes, start: int, end: int, values: set[int]) -> None:
    """The addresses and ports of CTA_NAT_SRC and CTA_NAT_DST."""
    for type_, begin, after in _attributes(message, start + 4, end):
        if type_ == 3:  # CTA_NAT_PROTO
            for _, inner, inner_end in _attributes(message, begin + 4, after):
                values.update(range(inner + 4, inner_end, 4))
        else:
            values.update(range(begin + 4, after, 4))


def _tuple(message: bytes, start: int, end: int, family: int, values: set[int]) -> Tuple:
    addresses: dict[int, int] = {}
    ports: dict[int, int] = {}
    protocol = None
    width, source, destination = {AF_INET: (4, 1, 2), AF_INET6: (16, 3, 4)}.get(family, (0, 0, 0))
    if not width:
        raise DecodeError("nfgen_family", 16, f"unknown ({family})")
    for type_, begin, after in _attributes(message, start + 4, end):
        if type_ == CTA_TUPLE_IP:
            for inner, at, _ in _attributes(message, begin + 4, after):
                if inner not in (source, destination) or inner in addresses:
                    raise DecodeError("CTA_TUPLE_IP", at, f"type {inner}")
                if _ATTRIBUTE.unpack_from(message, at)[0] != 4 + width:
                    raise DecodeError("CTA_TUPLE_IP", at, "not an address")
                addresses[inner] = at + 4
        elif type_ == CTA_TUPLE_PROTO:
            for inner, at, inner_end in _attributes(message, begin + 4, after):
                size = _ATTRIBUTE.unpack_from(message, at)[0] - 4
                if inner in ports or size != (1 if inner in (1, 5, 6, 8, 9) else 2):
                    raise DecodeError("CTA_TUPLE_PROTO", at, f"type {inner} has {size} bytes")
                ports[inner] = at + 4
                if inner == CTA_PROTO_NUM:
                    protocol = message[at + 4]  # the same in all of a shape
                else:
                    values.update(range(at + 4, inner_end, 4))
        elif type_ != CTA_TUPLE_ZONE:  # whose two bytes are the same in all of a shape
            raise DecodeError("CTA_TUPLE", begin, f"type {type_}")
    if protocol is None or len(addresses) != 2:
        raise DecodeError("CTA_TUPLE", start, "without protocol or addresses")
    for at in addresses.values():
        values.update(range(at, at + width, 4))
    if (CTA_PROTO_SRC_PORT in ports) != (CTA_PROTO_DST_PORT in ports):
        raise DecodeError("CTA_TUPLE_PROTO", start, "one port without the other")
    return Tuple(
        start, end, addresses[source], addresses[destination], width, protocol, ports.get(CTA_PROTO_SRC_PORT, 0),
        ports.get(CTA_PROTO_DST_PORT, 0), ports.get(CTA_PROTO_ICMP_ID, 0) or ports.get(CTA_PROTO_ICMPV6_ID, 0),
    )  # fmt: skip


def _protoinfo(message: bytes, start: int, end: int, values: set[int]) -> dict[int, int]:
    """CTA_PROTOINFO's values may differ; where those of TCP are is returned."""
    found: dict[int, int] = {}
    for type_, begin, after in _attributes(message, start + 4, end):
        for inner, at, inner_end in _attributes(message, begin + 4, after):
            values.update(range(at + 4, inner_end, 4))
            if type_ == CTA_PROTOINFO_TCP:
                size = _ATTRIBUTE.unpack_from(message, at)[0] - 4
                if inner in found or size != (2 if inner in (TCP_FLAGS_ORIGINAL, TCP_FLAGS_REPLY) else 1):
                    raise DecodeError("CTA_PROTOINFO_TCP", at, f"type {inner} has {size} bytes")
                found[inner] = at + 4
    return found


def _helper(message: bytes, start: int, end: int) -> str:
    """CTA_HELP_NAME. It is shown to people."""
    for type_, begin, _ in _attributes(message, start + 4, end):
        if type_ == 1:
            length = _ATTRIBUTE.unpack_from(message, begin)[0]
            name = message[begin + 4 : begin + length].partition(b"\0")[0][:16]
            return "".join(chr(each) if 32 < each < 127 else "?" for each in name) or "?"
    return "?"


@dataclasses.dataclass(slots=True)
class Gathered:
    """A buffer's messages, sorted by their first eight bytes."""

    groups: dict[bytes, tuple[int, list[int], list[bytes]]]
    """By length, type and flags: their length, each one's index in the buffer, each one's bytes."""
    count: int
    done: bool
    """NLMSG_DONE was among them: a dump's end."""
    error: int
    """Of NLMSG_ERROR or NLMSG_DONE: an errno, else 0."""


def gather(buffer: bytes) -> Gathered:
    """The messages of a dump, of events, or of a peer. Raises DecodeError."""
    groups: dict[bytes, tuple[int, list[int], list[bytes]]] = {}
    found = Gathered(groups, 0, False, 0)
    offset = index = 0
    end = len(buffer)
    while offset < end:
        head = buffer[offset : offset + 8]
        group = groups.get(head)
        if group is None:
            if end - offset < HEADER.size:
                raise DecodeError("nlmsghdr", offset, "truncated")
            length, kind = struct.unpack_from("=IH", head)
            if length < HEADER.size or offset + length > end:
                raise DecodeError("nlmsg_len", offset, f"{length} does not fit")
            if kind in (NLMSG_DONE, NLMSG_ERROR):
                found.done = True
                if length >= HEADER.size + 4:
                    found.error = -struct.unpack_from("=i", buffer, offset + HEADER.size)[0]
                offset += (length + 3) & ~3
                continue
            if length % 4 or length > LONGEST or kind not in (CT_NEW, CT_DELETE):
                raise DecodeError("nlmsg_type", offset, f"{length} bytes of type {kind:#x}")
            group = groups[head] = length, [], []
        length, indices, messages = group
        indices.append(index)
        messages.append(buffer[offset : offset + length])
        offset += length
        index += 1
    if offset > end and not found.done:
        raise DecodeError("nlmsg_len", end, "does not fit")
    found.count = index
    return found
