"""Codec of what two gateways tell each other about sequence numbers: many records of one kind in the body of a message.

    SA (21 bytes: destination, SPI, protocol, as in the kernel)  number (8 bytes, network order)

The kind of the records is the message's, which belongs to the session. Bounds-checked: any bytes decode or raise.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from anycast.errors import DecodeError
from site_agent.netlink.xfrm_keys import SaKey

RECORD = struct.Struct(">21sQ")
MAX_RECORDS = 2000
"""In one message: 58 kB, so that a table of 20,000 SAs is ten messages and none delays an urgent one for long."""


def encode_records(records: Iterable[tuple[SaKey, int]]) -> Iterator[bytes]:
    """The bodies that hold them all."""
    body = bytearray()
    for key, number in records:
        body += RECORD.pack(key, number)
        if len(body) == MAX_RECORDS * RECORD.size:
            yield bytes(body)
            body.clear()
    if body:
        yield bytes(body)


def decode_records(body: bytes | memoryview) -> list[tuple[SaKey, int]]:
    """Raises DecodeError."""
    if len(body) % RECORD.size or len(body) > MAX_RECORDS * RECORD.size:
        raise DecodeError("records", len(body) - len(body) % RECORD.size, f"{len(body)} bytes")
    return [(SaKey(key), number) for key, number in RECORD.iter_unpack(body)]
