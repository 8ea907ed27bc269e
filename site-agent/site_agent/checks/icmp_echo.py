"""Echo request and reply of ICMP (RFC 792) and ICMPv6 (RFC 4443 section 4): a pure, bounds-checked codec.

What belongs to us is known by the payload, a token drawn for each request: a ping socket replaces the identifier, and
identifiers of 16 bits can be guessed.
"""

from __future__ import annotations

import dataclasses
import struct

from anycast.errors import DecodeError

HEADER = struct.Struct("!BBHHH")
"""Type, code, checksum, identifier, sequence number."""
REQUEST = {4: 8, 6: 128}
REPLY = {4: 0, 6: 129}
IP_HEADER_BYTES = 20
"""Of IPv4, the least (RFC 791 section 3.1)."""


@dataclasses.dataclass(frozen=True, slots=True)
class EchoReply:
    sequence: int
    payload: bytes


def encode_request(version: int, identifier: int, sequence: int, payload: bytes) -> bytes:
    """An echo request of IP `version`. ICMPv6's checksum covers addresses that only the kernel knows: it fills it in."""
    message = HEADER.pack(REQUEST[version], 0, 0, identifier, sequence) + payload
    if version == 6:
        return message
    return HEADER.pack(REQUEST[version], 0, checksum(message), identifier, sequence) + payload


def decode_reply(version: int, data: bytes, *, ip_header: bool) -> EchoReply | None:
    """The echo reply in `data`, None for any other message. Raises DecodeError.

    `ip_header`: a raw socket of IPv4 hands the packet's own header on (raw(7)); every other kind does not.
    """
    start = 0
    if ip_header:
        if len(data) < IP_HEADER_BYTES:
            raise DecodeError("IPv4 header", len(data), f"shorter than {IP_HEADER_BYTES} bytes")
        start = (data[0] & 0x0F) * 4
        if start < IP_HEADER_BYTES:
            raise DecodeError("IHL", 0, f"{start} bytes of header")
    if len(data) < start + HEADER.size:
        raise DecodeError("ICMP header", len(data), f"shorter than {HEADER.size} bytes")
    kind, code, _, _, sequence = HEADER.unpack_from(data, start)
    if kind != REPLY[version] or code != 0:
        return None
    return EchoReply(sequence, data[start + HEADER.size :])


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of `data`, whose own checksum field is zero."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
