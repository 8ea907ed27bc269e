"""What `inner_addresses` is told and what it says, and how its word to the other gateway travels. Pure.

    version (1)  active (1)  serial (8)  heard (8)  ranges in each of three sets (4 each)  the ranges (32 each)

Any bytes decode or raise DecodeError.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping

from anycast.errors import DecodeError
from anycast.timer import TimerExpired
from site_agent.ike.address_ranges import EMPTY, RANGE_BYTES, Range, Ranges, decode_ranges, encode_ranges

_HEADER = struct.Struct("!BBQQIII")
VERSION = 1
MOST_RANGES = 2000
"""In one set: 64 kB. A larger set of used addresses is told too large, the others too small; both are safe."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What one gateway tells the other: whole sets, so a lost one costs nothing but time."""

    serial: int = 0
    """Of the sender's words, ascending, also over its restarts."""
    heard: int = 0
    """The last serial of the receiver's that the sender had taken."""
    active: bool
    uses: Ranges = EMPTY
    """Addresses that the receiver may hand out, in its share or lent to it, and that an SA here has, or may have."""
    asks: Ranges = EMPTY
    """Ranges of the receiver's share that the sender hands out from, or would like to."""
    lends: Ranges = EMPTY
    """Ranges of the sender's own share that it leaves to the receiver."""


@dataclasses.dataclass(frozen=True, slots=True)
class RoleIs:
    """The promotion's word, repeated or new. True before charon is told `+1`."""

    active: bool


@dataclasses.dataclass(frozen=True, slots=True)
class CharonStarted:
    """It has no SA, no lease and no pool."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """All that this charon has: addresses in CHILD_SAs' remote selectors, IKE_SAs' virtual addresses, leases in force."""

    began: float
    """The look sees at least what was so then."""
    uses: Ranges
    listed: tuple[Range, ...] = ()
    """Ranges that charon may hand out from: what a process before this one had offered."""
    loaded: tuple[Range, ...] = ()
    """All that have a pool. A handshake in flight may take an address of one that is off the list."""


@dataclasses.dataclass(frozen=True, slots=True)
class PoolsSeen:
    """How many addresses of each loaded range charon has handed out, ever."""

    taken: Mapping[Range, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Applied:
    """charon hands out from these ranges and no other from now on."""

    offer: tuple[Range, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class PeerConnected:
    """A channel is up; nothing has been said on it."""


@dataclasses.dataclass(frozen=True, slots=True)
class PeerSaid:
    word: Word


@dataclasses.dataclass(frozen=True, slots=True)
class PeerLost:
    """The channel to the other gateway is down."""


Input = RoleIs | CharonStarted | Looked | PoolsSeen | Applied | PeerConnected | PeerSaid | PeerLost | TimerExpired


@dataclasses.dataclass(frozen=True, slots=True)
class Offer:
    """Everything that charon may hand out from. Answered by `Applied`; a newer one replaces it."""

    ranges: tuple[Range, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class TellPeer:
    word: Word


@dataclasses.dataclass(frozen=True, slots=True)
class PoolExhausted:
    """No address of this prefix is left for a new client. Told once, until `PoolRecovered`."""

    prefix: str


@dataclasses.dataclass(frozen=True, slots=True)
class PoolRecovered:
    prefix: str


Action = Offer | TellPeer | PoolExhausted | PoolRecovered


def encode_word(word: Word) -> bytes:
    """At most 192 kB."""
    sets = (_wider(word.uses), _first(word.asks), _first(word.lends))
    header = _HEADER.pack(VERSION, word.active, word.serial, word.heard, *(len(one.ranges) for one in sets))
    return header + b"".join(map(encode_ranges, sets))


def decode_word(data: bytes) -> Word:
    """Raises DecodeError."""
    if len(data) < _HEADER.size:
        raise DecodeError("addresses", len(data), "too short")
    version, active, serial, heard, *counts = _HEADER.unpack_from(data)
    if version != VERSION or active > 1 or max(counts) > MOST_RANGES:
        raise DecodeError("addresses", 0, "a version or a number that nobody says")
    if len(data) != _HEADER.size + RANGE_BYTES * sum(counts):
        raise DecodeError("addresses", len(data), "another length than it says")
    at, sets = _HEADER.size, []
    for name, count in zip(("uses", "asks", "lends"), counts, strict=True):
        sets.append(decode_ranges(data[at : at + RANGE_BYTES * count], name))
        at += RANGE_BYTES * count
    return Word(serial=serial, heard=heard, active=bool(active), uses=sets[0], asks=sets[1], lends=sets[2])


def _first(ranges: Ranges) -> Ranges:
    return Ranges(ranges.ranges[:MOST_RANGES])


def _wider(ranges: Ranges) -> Ranges:
    """At most MOST_RANGES ranges that hold them all: the smallest gaps are filled."""
    surplus = len(ranges.ranges) - MOST_RANGES
    if surplus <= 0:
        return ranges
    neighbours = zip(ranges.ranges, ranges.ranges[1:], strict=False)
    gaps = [Range(one.last + 1, other.first - 1) for one, other in neighbours]
    gaps.sort(key=lambda gap: gap.last - gap.first)
    return ranges | Ranges(gaps[:surplus])
