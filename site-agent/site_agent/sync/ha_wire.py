"""Codec of what must be known of a message of strongSwan's `ha` plugin to carry it (ha_message.h); the rest is charon's.

    version (1 byte)  type (1 byte)  attributes: kind (1 byte), value

charon to charon over UDP port 4510, without number, length or acknowledgement. IKE_ADD and CHILD_ADD hold nonces and the
shared secret of the key exchange, from which the other charon derives the keys: the bytes are handed on and never kept in a
record. Only a header and, of CHILD_ADD, the two SPIs are read, which stand in front of everything secret.

The version is not checked here: a charon refuses another's by itself, and silently, so the sync session compares versions
before anything is carried. Any bytes decode or raise DecodeError.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from anycast.errors import DecodeError

PORT = 4510
MAX_BYTES = 8192
"""charon drops what is larger than its `ha.buflen`; rendered with this number."""


class MessageType(enum.IntEnum):
    IKE_ADD = 1
    IKE_UPDATE = 2
    IKE_MID_INITIATOR = 3
    IKE_MID_RESPONDER = 4
    IKE_DELETE = 5
    CHILD_ADD = 6
    CHILD_DELETE = 7
    SEGMENT_DROP = 8
    SEGMENT_TAKE = 9
    STATUS = 10
    RESYNC = 11
    IKE_IV = 12


CARRIED = frozenset(
    {
        MessageType.IKE_ADD,
        MessageType.IKE_UPDATE,
        MessageType.IKE_MID_INITIATOR,
        MessageType.IKE_MID_RESPONDER,
        MessageType.IKE_DELETE,
        MessageType.CHILD_ADD,
        MessageType.CHILD_DELETE,
    }
)
"""State of SAs. Not DROP, TAKE, STATUS and RESYNC: with them one charon makes the other active or has everything rekeyed,
and VRRP is the only authority. Not IKE_IV, which is IKEv1's. Not what a later charon invents."""

HA_IKE_ID, HA_IKE_REKEY_ID, HA_INITIATOR, HA_INBOUND_SPI, HA_OUTBOUND_SPI = 1, 2, 14, 27, 28
HA_IKE_VERSION = 36
IKE_ID_BYTES = 18
"""The IKE version, both IKE SPIs, and who was the initiator."""
_ID_AT = 3
_MID = struct.Struct(">BI")
"""An attribute of 32 bits."""


class Header(NamedTuple):
    version: int
    kind: int
    """A MessageType, or what a later charon invents."""


class ChildSpis(NamedTuple):
    """ESP SPIs of a CHILD_SA from the view of the gateway, in network order."""

    inbound: bytes
    outbound: bytes


class Said(NamedTuple):
    """What a message says of which IKE_SA, as far as `reunion` asks."""

    kind: int
    ike: bytes
    """Both SPIs, the initiator's first."""
    initiator: bool
    """The gateway began this IKE_SA."""
    mid: int | None = None
    """Of IKE_MID_INITIATOR and IKE_MID_RESPONDER: the message ID that comes next."""
    replaces: bytes | None = None
    """Of an IKE_ADD: the IKE_SA that was rekeyed."""
    began: bool = False
    """Of a CHILD_ADD: the gateway began the exchange."""


def decode_header(data: bytes | memoryview) -> Header:
    """Raises DecodeError."""
    if not 2 <= len(data) <= MAX_BYTES:
        raise DecodeError("ha message", min(len(data), MAX_BYTES), f"{len(data)} bytes")
    return Header(data[0], data[1])


def decode_child_spis(data: bytes | memoryview) -> ChildSpis:
    """Of CHILD_ADD. Raises DecodeError.

    charon writes the attributes in a fixed order (ha_child.c): IKE_ID, INITIATOR, INBOUND_SPI, OUTBOUND_SPI. It has SPIs in
    network order already and turns them once more, so on the machines we know they come in little-endian order (strongSwan
    5.9.8, `ha` version 3: compared with the SPIs of its kernel).
    """
    offset = 2
    found: dict[int, bytes] = {}
    for kind, size in ((HA_IKE_ID, IKE_ID_BYTES), (HA_INITIATOR, 1), (HA_INBOUND_SPI, 4), (HA_OUTBOUND_SPI, 4)):
        if len(data) < offset + 1 + size or data[offset] != kind:
            raise DecodeError(f"attribute {kind}", min(offset, len(data)), "not where charon writes it")
        found[kind] = bytes(data[offset + 1 : offset + 1 + size])
        offset += 1 + size
    return ChildSpis(found[HA_INBOUND_SPI][::-1], found[HA_OUTBOUND_SPI][::-1])


def decode_said(data: bytes | memoryview) -> Said | None:
    """None where it says nothing of one IKE_SA of IKEv2 that is read here. As charon writes it: HA_IKE_ID comes first, of an
    IKE_ADD HA_IKE_REKEY_ID second, of a CHILD_ADD HA_INITIATOR (ha_ike.c, ha_child.c); a message ID is all that follows."""
    data = bytes(data)
    kind = data[1] if len(data) > 1 else 0
    if kind == MessageType.IKE_ADD and data[2:3] == bytes([HA_IKE_VERSION]):  # a byte in front of everything else
        data = data[:2] + data[4:]
    after = _ID_AT + IKE_ID_BYTES
    if kind not in CARRIED or len(data) < after or data[2] != HA_IKE_ID:
        return None
    ike, initiator, rest = data[_ID_AT + 1 : after - 1], bool(data[after - 1]), data[after:]
    match kind:
        case MessageType.IKE_MID_INITIATOR | MessageType.IKE_MID_RESPONDER:
            if len(rest) != _MID.size:
                return None
            return Said(kind, ike, initiator, mid=_MID.unpack(rest)[1])
        case MessageType.IKE_ADD if rest[:1] == bytes([HA_IKE_REKEY_ID]) and len(rest) > IKE_ID_BYTES:
            return Said(kind, ike, initiator, replaces=rest[2:IKE_ID_BYTES])
        case MessageType.CHILD_ADD:
            return Said(kind, ike, initiator, began=rest[:2] == bytes([HA_INITIATOR, 1]))
    return Said(kind, ike, initiator)
