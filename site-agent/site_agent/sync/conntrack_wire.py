"""What two gateways tell each other about flows: the payloads of `Kind.CONNTRACK`. Bounds-checked; pure.

    type (1)  detail (1)  turn (2)  body

    EVENTS   from the Active: copies and deletions, in the kernel's order
    TABLE    copies: a piece of the whole table, in no order
    SUMS     the digest of the whole table, a number of eight bytes a bucket (little-endian)
    CONTENT  count (4), that many digests (8 each), that many copies: flows of the buckets that were asked for
    END      detail: the type that has ended; how many copies it had (4)
    WANT     from the Backup: detail 1: the whole table; else a bit a bucket, least significant first. No bit: sums, please

`turn` is the WANT's own, and of what answers it: an answer to an earlier one is no answer.

The copies are ctnetlink messages of this machine's byte order; both gateways are of one kind (`versions`).
"""

from __future__ import annotations

import array
import enum
import struct
import sys
from typing import NamedTuple

from anycast.errors import DecodeError
from site_agent.sync.conntrack_digest import BUCKETS

_HEAD = struct.Struct("<BBH")
_COUNT = struct.Struct("<I")


class Type(enum.IntEnum):
    EVENTS = 1
    TABLE = 2
    SUMS = 3
    CONTENT = 4
    END = 5
    WANT = 6


class Said(NamedTuple):
    type: Type
    detail: int
    turn: int
    body: bytes


def encode(type_: Type, body: bytes | bytearray = b"", *, detail: int = 0, turn: int = 0) -> bytes:
    return _HEAD.pack(type_, detail, turn) + body


def encode_sums(sums: array.array[int]) -> bytes:
    return encode(Type.SUMS, _little(sums).tobytes())


def encode_content(turn: int, digests: list[int], copies: bytes | bytearray) -> bytes:
    body = _COUNT.pack(len(digests)) + _little(array.array("Q", digests)).tobytes() + copies
    return encode(Type.CONTENT, body, turn=turn)


def encode_end(type_: Type, turn: int, flows: int) -> bytes:
    return encode(Type.END, _COUNT.pack(flows), detail=type_, turn=turn)


def encode_want(buckets: set[int], turn: int = 0) -> bytes:
    bits = bytearray(BUCKETS // 8)
    for bucket in buckets:
        bits[bucket >> 3] |= 1 << (bucket & 7)
    return encode(Type.WANT, bits, turn=turn)


def decode(payload: bytes) -> Said:
    """Raises DecodeError."""
    if len(payload) < _HEAD.size:
        raise DecodeError("conntrack", 0, "truncated")
    number, detail, turn = _HEAD.unpack_from(payload)
    if number not in list(Type):
        raise DecodeError("conntrack", 0, f"unknown type {number}")
    return Said(Type(number), detail, turn, payload[_HEAD.size :])


def decode_sums(body: bytes) -> array.array[int]:
    """Raises DecodeError."""
    if len(body) != 8 * BUCKETS:
        raise DecodeError("sums", 4, f"{len(body)} bytes")
    return _little(array.array("Q", body))


def decode_content(body: bytes) -> tuple[array.array[int], bytes]:
    """Raises DecodeError."""
    if len(body) < _COUNT.size:
        raise DecodeError("content", 4, "truncated")
    begin = _COUNT.size
    end = begin + 8 * _COUNT.unpack_from(body)[0]
    if end > len(body):
        raise DecodeError("content", 4, "more digests than bytes")
    return _little(array.array("Q", body[begin:end])), body[end:]


def decode_end(body: bytes) -> int:
    """How many copies there were. Raises DecodeError."""
    if len(body) != _COUNT.size:
        raise DecodeError("end", 4, f"{len(body)} bytes")
    flows: int = _COUNT.unpack(body)[0]
    return flows


def decode_want(body: bytes) -> set[int]:
    """Raises DecodeError."""
    if len(body) != BUCKETS // 8:
        raise DecodeError("want", 4, f"{len(body)} bytes")
    return {at * 8 + bit for at, byte in enumerate(body) if byte for bit in range(8) if byte >> bit & 1}


def _little(numbers: array.array[int]) -> array.array[int]:
    if sys.byteorder == "big":
        numbers = array.array("Q", numbers)
        numbers.byteswap()
    return numbers
