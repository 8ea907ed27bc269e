"""What one capture of a drill holds. Pure."""

from __future__ import annotations

import dataclasses

from anycast.errors import DecodeError
from anycast_lab.capture import frames, pcap
from anycast_lab.capture.frames import Seen


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """All that was of concern, in order."""

    seen: tuple[Seen, ...]
    problems: tuple[str, ...]
    """Why it cannot be trusted as a whole; none where all is well."""


def decoded(data: bytes) -> Captured:
    """A capture file, also one that is still written."""
    try:
        records = pcap.read(data)
    except DecodeError as error:
        return Captured(seen=(), problems=(str(error),))
    seen, damaged = [], 0
    for record in records:
        try:
            if (one := frames.decode(record)) is not None:
                seen.append(one)
        except DecodeError:
            damaged += 1
    problems = (f"{damaged} frames could not be read",) if damaged else ()
    return Captured(seen=tuple(seen), problems=problems)
