"""Codec of what two gateways say to each other to compare their tables (Kind.DIGEST). Bounds-checked; pure.

Each message begins with its type (1), the table (1), and the round (4); numbers are in network order.

    SUMS      from the Active: entries in the table (4), then for each bucket a sum (8)
    ASK       from the Backup: buckets (2 each) whose records it needs
    RECORDS   from the Active: pieces of bucket (2), whether it is the bucket's last piece (1), count (2), records
    FINDINGS  from the Backup: cause (1), whether two looks agree (1), the Active's record
    DONE      from the Backup: flags (1), extras that only its kernel has (4), extras that its charon holds (4)

The channel's protocol number is the version. Any bytes decode or raise DecodeError; no message makes its reader hold more
than its own length.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence

from anycast.errors import DecodeError
from site_agent.sync.digest_compare import Cause, Finding
from site_agent.sync.digest_table import BUCKETS, RECORD_BYTES, SUM_BYTES, Of, Record

PIECE_BYTES = 96 * 1024
"""A message is cut at about this."""
MOST_ASKED = 64
"""Buckets in one ASK: two dozen messages for everything that two tables of 20,000 tunnels hold."""

_HEADER = struct.Struct("!BBI")
_COUNT = struct.Struct("!I")
_PIECE = struct.Struct("!HBH")
_FINDING = struct.Struct("!BB")
_DONE = struct.Struct("!BII")
_SUMS = BUCKETS * SUM_BYTES
_MOST_RECORDS = 0xFFFF


class Type(enum.IntEnum):
    SUMS = 1
    ASK = 2
    RECORDS = 3
    FINDINGS = 4
    DONE = 5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    round: int
    of: Of
    entries: int
    sums: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    round: int
    of: Of
    buckets: tuple[int, ...]
    """In their order, none twice."""


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    bucket: int
    last: bool
    records: tuple[Record, ...] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    round: int
    of: Of
    pieces: tuple[Piece, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    round: int
    of: Of
    findings: tuple[tuple[Finding, bool], ...]
    """With whether two looks agree."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """All of the round's findings were told before."""

    round: int
    kernel_seen: bool
    charon_seen: bool
    """Where the Backup could not look at one of them, it holds nothing for sure."""
    removes_nothing: bool
    """Most of what it has is extra: somebody is wrong, and it would rather keep it."""
    extra_in_kernel: int
    extra_in_charon: int


Message = Sums | Ask | Records | Findings | Done


def encode(message: Message) -> bytes:
    match message:
        case Sums(round=number, of=of, entries=entries, sums=sums):
            return _HEADER.pack(Type.SUMS, of, number) + _COUNT.pack(entries) + sums
        case Ask(round=number, of=of, buckets=buckets):
            return _HEADER.pack(Type.ASK, of, number) + struct.pack(f"!{len(buckets)}H", *buckets)
        case Records(round=number, of=of, pieces=pieces):
            body = (_PIECE.pack(p.bucket, p.last, len(p.records)) + b"".join(p.records) for p in pieces)
            return _HEADER.pack(Type.RECORDS, of, number) + b"".join(body)
        case Findings(round=number, of=of, findings=findings):
            told = (_FINDING.pack(finding.cause, stands) + finding.record for finding, stands in findings)
            return _HEADER.pack(Type.FINDINGS, of, number) + b"".join(told)
        case Done(round=number):
            flags = message.kernel_seen | message.charon_seen << 1 | message.removes_nothing << 2
            counts = min(message.extra_in_kernel, 0xFFFF_FFFF), min(message.extra_in_charon, 0xFFFF_FFFF)
            return _HEADER.pack(Type.DONE, 0, number) + _DONE.pack(flags, *counts)


def decode(data: bytes) -> Message:
    """Raises DecodeError."""
    if len(data) < _HEADER.size:
        raise DecodeError("digest", len(data), "truncated")
    type_, of_number, number = _HEADER.unpack_from(data)
    try:
        of = Of(of_number)
    except ValueError as exc:
        raise DecodeError("table", 1, f"unknown ({of_number})") from exc
    body = data[_HEADER.size :]
    match type_:
        case Type.SUMS:
            return _decode_sums(number, of, body)
        case Type.ASK:
            return Ask(round=number, of=of, buckets=_decode_buckets(body))
        case Type.RECORDS:
            return Records(round=number, of=of, pieces=tuple(_decode_pieces(of, body)))
        case Type.FINDINGS:
            return Findings(round=number, of=of, findings=tuple(_decode_findings(of, body)))
        case Type.DONE:
            return _decode_done(number, body)
    raise DecodeError("type", 0, f"unknown ({type_})")


def cut_records(number: int, of: Of, buckets: Iterable[tuple[int, Sequence[Record]]]) -> Iterator[Records]:
    """The messages that hold the buckets whole; each bucket ends in a piece that is its last, also where it is empty."""
    pieces, size = list[Piece](), 0
    most = min(PIECE_BYTES // RECORD_BYTES[of], _MOST_RECORDS)
    for bucket, records in buckets:
        for first in range(0, len(records) or 1, most):
            part = tuple(records[first : first + most])
            length = _PIECE.size + len(part) * RECORD_BYTES[of]
            if pieces and size + length > PIECE_BYTES:
                yield Records(round=number, of=of, pieces=tuple(pieces))
                pieces, size = [], 0
            pieces.append(Piece(bucket, first + most >= len(records), part))
            size += length
    if pieces:
        yield Records(round=number, of=of, pieces=tuple(pieces))


def cut_findings(number: int, of: Of, findings: Sequence[tuple[Finding, bool]]) -> Iterator[Findings]:
    most = PIECE_BYTES // (_FINDING.size + RECORD_BYTES[of])
    for first in range(0, len(findings), most):
        yield Findings(round=number, of=of, findings=tuple(findings[first : first + most]))


def _decode_sums(number: int, of: Of, body: bytes) -> Sums:
    if len(body) != _COUNT.size + _SUMS:
        raise DecodeError("sums", _HEADER.size, f"{len(body)} bytes, not {_COUNT.size + _SUMS}")
    entries: int = _COUNT.unpack_from(body)[0]
    return Sums(round=number, of=of, entries=entries, sums=body[_COUNT.size :])


def _decode_buckets(body: bytes) -> tuple[int, ...]:
    if not body or len(body) % 2 or len(body) > 2 * MOST_ASKED:
        raise DecodeError("buckets", _HEADER.size, f"{len(body)} bytes")
    buckets: tuple[int, ...] = struct.unpack(f"!{len(body) // 2}H", body)
    if any(later <= earlier for earlier, later in itertools.pairwise(buckets)) or buckets[-1] >= BUCKETS:
        raise DecodeError("buckets", _HEADER.size, "not in order, or beyond the last")
    return buckets


def _decode_pieces(of: Of, body: bytes) -> Iterator[Piece]:
    offset, width = 0, RECORD_BYTES[of]
    while offset < len(body):
        if len(body) - offset < _PIECE.size:
            raise DecodeError("piece", _HEADER.size + offset, "truncated")
        bucket, last, count = _PIECE.unpack_from(body, offset)
        begin = offset + _PIECE.size
        offset = begin + count * width
        if bucket >= BUCKETS or last > 1 or offset > len(body):
            raise DecodeError("piece", _HEADER.size + begin, f"{count} records of bucket {bucket}")
        yield Piece(bucket, bool(last), tuple(body[at : at + width] for at in range(begin, offset, width)))


def _decode_findings(of: Of, body: bytes) -> Iterator[tuple[Finding, bool]]:
    width = _FINDING.size + RECORD_BYTES[of]
    if len(body) % width:
        raise DecodeError("findings", _HEADER.size, f"{len(body)} bytes are not whole ones")
    for offset in range(0, len(body), width):
        number, stands = _FINDING.unpack_from(body, offset)
        try:
            cause = Cause(number)
        except ValueError as exc:
            raise DecodeError("cause", _HEADER.size + offset, f"unknown ({number})") from exc
        if stands > 1:
            raise DecodeError("stands", _HEADER.size + offset + 1, f"neither yes nor no ({stands})")
        yield Finding(of, body[offset + _FINDING.size : offset + width], cause), bool(stands)


def _decode_done(number: int, body: bytes) -> Done:
    if len(body) != _DONE.size:
        raise DecodeError("done", _HEADER.size, f"{len(body)} bytes")
    flags, in_kernel, in_charon = _DONE.unpack(body)
    return Done(
        round=number,
        kernel_seen=bool(flags & 1),
        charon_seen=bool(flags & 2),
        removes_nothing=bool(flags & 4),
        extra_in_kernel=in_kernel,
        extra_in_charon=in_charon,
    )
