"""Reader of the classic capture file format as `tcpdump -w` writes it. Bounds-checked; pure.

A file that is still being written ends anywhere: what is not whole yet is left for the next reading.
"""

from __future__ import annotations

import dataclasses
import struct

from anycast.errors import DecodeError

_MAGIC = {0xA1B2C3D4: 1000, 0xA1B23C4D: 1}
"""Nanoseconds in one unit of a record's second field."""
_ETHERNET = 1
_HEADER_BYTES = 24
_RECORD_BYTES = 16
LONGEST = 262_144
"""tcpdump's own largest snapshot; a longer record means that we have lost our place."""


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """One captured Ethernet frame."""

    at_ns: int
    """CLOCK_REALTIME of the kernel that captured it."""
    data: bytes
    cut: bool
    """Longer than the snapshot: `data` is only its beginning."""


def read(data: bytes) -> list[Frame]:
    """All whole frames of a file, in order. Raises DecodeError for what is no capture of Ethernet."""
    if len(data) < _HEADER_BYTES:
        return []
    order = next((o for o in "<>" if struct.unpack_from(f"{o}I", data)[0] in _MAGIC), None)
    if order is None:
        raise DecodeError("magic", 0, "no classic capture file")
    unit = _MAGIC[struct.unpack_from(f"{order}I", data)[0]]
    if (kind := struct.unpack_from(f"{order}I", data, 20)[0] & 0xFFFF) != _ETHERNET:
        raise DecodeError("link type", 20, f"{kind} is not Ethernet")
    record, frames, at = struct.Struct(f"{order}IIII"), [], _HEADER_BYTES
    while at + _RECORD_BYTES <= len(data):
        seconds, fraction, kept, length = record.unpack_from(data, at)
        if kept > LONGEST:
            raise DecodeError("record length", at + 8, f"{kept} bytes")
        begin, end = at + _RECORD_BYTES, at + _RECORD_BYTES + kept
        if end > len(data):
            break
        frames.append(Frame(seconds * 10**9 + fraction * unit, data[begin:end], kept < length))
        at = end
    return frames
