"""Codec of what the channel's messages hold for `ha_relay` and `numbers`: one byte says which record follows.

    HA       CARRY        epoch (8 bytes) number (8 bytes) the datagram, as charon sent it
             HAVE         epoch (8 bytes) number (8 bytes)
             LATE         as CARRY: what a Backup said as Active, and had no acknowledgement of
             SETTLED      epoch (8 bytes) number (8 bytes): the sender is Backup; so many LATE precede it, and 1
    NUMBERS  ASKED, TOLD  the records of `marks_wire`
    STATE    GAP          how many messages are missing (4 bytes)
             WORD         of inner addresses (`ike.inner_address_words`)
             AGES         of IKE_SAs: both SPIs (16 bytes), for how many seconds it has been up (4 bytes), for each

Bounds-checked: any bytes decode or raise DecodeError. A kind of record that is not known is refused and nothing else is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from anycast.errors import DecodeError
from site_agent.netlink.xfrm_keys import SaKey
from site_agent.sync import ha_wire, marks_wire

CARRY, HAVE, LATE, SETTLED = 1, 2, 3, 4
ASKED, TOLD = 1, 2
GAP, WORD, AGES = 1, 2, 3
MOST_AGES = 3000
"""In one message: 60 kB."""
_AGE = struct.Struct(">16sI")
_GAP = struct.Struct(">BI")
_PLACE = struct.Struct(">BQQ")


class Carried(NamedTuple):
    epoch: int
    number: int
    datagram: bytes


class Late(NamedTuple):
    epoch: int
    number: int
    datagram: bytes


class Settled(NamedTuple):
    late: int


class Has(NamedTuple):
    epoch: int
    number: int


def encode_carry(epoch: int, number: int, datagram: bytes) -> bytes:
    return _PLACE.pack(CARRY, epoch, number) + datagram


def encode_have(epoch: int, number: int) -> bytes:
    return _PLACE.pack(HAVE, epoch, number)


def encode_late(epoch: int, number: int, datagram: bytes) -> bytes:
    return _PLACE.pack(LATE, epoch, number) + datagram


def encode_settled(epoch: int, late: int) -> bytes:
    return _PLACE.pack(SETTLED, epoch, late + 1)


def decode_ha(body: bytes) -> Carried | Late | Has | Settled:
    """Raises DecodeError."""
    if len(body) < _PLACE.size:
        raise DecodeError("ha record", len(body), f"shorter than {_PLACE.size} bytes")
    kind, epoch, number = _PLACE.unpack_from(body)
    if number == 0:
        raise DecodeError("number", 9, "numbers begin at 1")
    rest = body[_PLACE.size :]
    if kind == HAVE and not rest:
        return Has(epoch, number)
    if kind == SETTLED and not rest:
        return Settled(number - 1)
    if kind in (CARRY, LATE):
        ha_wire.decode_header(rest)
        return (Carried if kind == CARRY else Late)(epoch, number, rest)
    raise DecodeError("kind", 0, f"{kind} with {len(rest)} bytes")


def encode_marks(kind: int, records: Iterable[tuple[SaKey, int]]) -> Iterator[bytes]:
    """`kind` is ASKED or TOLD."""
    for body in marks_wire.encode_records(records):
        yield bytes([kind]) + body


def decode_marks(body: bytes) -> tuple[int, list[tuple[SaKey, int]]]:
    """ASKED or TOLD, and what. Raises DecodeError."""
    if not body or body[0] not in (ASKED, TOLD):
        raise DecodeError("kind", 0, "neither asked nor told")
    return body[0], marks_wire.decode_records(body[1:])


def encode_gap(missing: int) -> bytes:
    return _GAP.pack(GAP, min(missing, 0xFFFF_FFFF))


def encode_word(word: bytes) -> bytes:
    return bytes([WORD]) + word


class Age(NamedTuple):
    spis: bytes
    """The initiator's and the responder's."""
    seconds: int


def encode_ages(ages: Sequence[Age]) -> Iterator[bytes]:
    for start in range(0, len(ages), MOST_AGES):
        yield bytes([AGES]) + b"".join(
            _AGE.pack(age.spis, min(max(age.seconds, 0), 0xFFFF_FFFF)) for age in ages[start : start + MOST_AGES]
        )


def decode_state(body: bytes) -> int | bytes | list[Age] | None:
    """How much is missing, a word, or ages; None for a kind of state that is not known: a later version's.

    Raises DecodeError.
    """
    if not body:
        raise DecodeError("kind", 0, "nothing")
    if body[0] == WORD:
        return body[1:]
    if body[0] == AGES:
        if (len(body) - 1) % _AGE.size or len(body) > 1 + MOST_AGES * _AGE.size:
            raise DecodeError("ages", len(body), f"not a number of records of {_AGE.size} bytes")
        return [Age(*record) for record in _AGE.iter_unpack(body[1:])]
    if body[0] != GAP:
        return None
    if len(body) != _GAP.size:
        raise DecodeError("gap", len(body), f"not {_GAP.size} bytes")
    missing: int = _GAP.unpack(body)[1]
    return missing
