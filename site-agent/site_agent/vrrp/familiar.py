"""The last good advertisement of one sender, by which its next one is known: only the seal is proven anew. Pure.

An Active repeats the same bytes a hundred times a second, and a Backup answers them as often. What equals the last good one
in everything but the seal's boot, sequence and digest needs no decoding; whatever is odd is no repetition and goes the long
way (`voice_socket`), which is the only one that discards.
"""

from __future__ import annotations

import dataclasses
from hmac import compare_digest

from site_agent.vrrp.packet import TTL
from site_agent.vrrp.router_words import AdvertReceived
from site_agent.vrrp.seal import FIELDS_BYTES, SEAL_BYTES, Stamp, Window

_SHORTEST_HEADER = 0x45
_TTL_AT, _ADDRESSES_AT = 8, 12
"""In an IPv4 header; with the shortest one the payload follows the addresses."""
_SAID_BEFORE = 8
"""Bytes of the seal that one sender repeats: format, key id, flags, heard, router id."""
_TERM = slice(16, 18)
"""And it repeats its term."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Familiar:
    """Which bytes it was known by, and what it meant."""

    v4: bool
    head: bytes
    """Both addresses (IPv4 only) and the advertisement."""
    end: int
    """Of the head in what the socket gave."""
    beside: tuple[object, object]
    """IPv6: ancillary data and sender, which hold hop limit and addresses."""
    said: bytes
    """How its seal began."""
    term: bytes
    stamp: Stamp | None
    """None without a seal."""
    event: AdvertReceived

    def repeats(self, data: bytes, ancillary: object, sender: object, window: Window) -> bool:
        """`data` means what the last one meant, its seal is proven and its sequence later: nothing more is to be asked."""
        end = self.end
        if self.v4:
            if data[_ADDRESSES_AT:end] != self.head or data[0] != _SHORTEST_HEADER or data[_TTL_AT] != TTL:
                return False
        elif data[:end] != self.head or self.beside != (ancillary, sender):
            return False
        if self.stamp is None:
            return True
        fields = data[end : end + FIELDS_BYTES]
        return (
            fields[:_SAID_BEFORE] == self.said
            and fields[_TERM] == self.term
            and compare_digest(data[end + FIELDS_BYTES :], self.stamp.digest(fields))
            and window.take_fields(fields)
        )


def familiar(
    data: bytes, ancillary: object, sender: object, *, v4: bool, stamp: Stamp | None, event: AdvertReceived
) -> Familiar | None:
    """Of one that was found good; None where its IPv4 header has options: behind them the bytes mean something else."""
    if v4 and data[0] != _SHORTEST_HEADER:
        return None
    end = len(data) - (SEAL_BYTES if stamp else 0)
    return Familiar(
        v4=v4,
        head=data[_ADDRESSES_AT if v4 else 0 : end],
        end=end,
        beside=(ancillary, sender),
        said=data[end : end + _SAID_BEFORE],
        term=data[end:][_TERM],
        stamp=stamp,
        event=event,
    )
