"""What this charon process has said so far, kept for the next agent. Pure.

A silence is believed only where the process that is silent was heard before (`checks/silence.py`). An agent that is started
over a charon that hangs already hears nothing any more, so what an earlier agent heard has to outlive it: else a restart of
the agent would make a hanging charon look healthy for ever. It is about one process, by pid and start time; a later one
begins unheard. And it is no evidence by itself: it lets silence count, and says nothing of whether there is silence now.
"""

from __future__ import annotations

import dataclasses
import json
from ipaddress import ip_address

from anycast.errors import DecodeError

VERSION = 1
LONGEST = 64 * 1024
"""Of the record, in bytes: four ends and a hundred plugins take 2 KiB."""

End = tuple[str, int]
"""Address and port that were asked."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HeardBefore:
    """Of one charon process."""

    pid: int
    start_ticks: int
    plugins: frozenset[str]
    """As its control socket named them."""
    ends: frozenset[End]
    """Where a worker of it answered IKE."""


def encode(heard: HeardBefore) -> bytes:
    return json.dumps(
        {
            "v": VERSION,
            "pid": heard.pid,
            "start_ticks": heard.start_ticks,
            "plugins": sorted(heard.plugins),
            "ends": [list(end) for end in sorted(heard.ends)],
        }
    ).encode()


def decode(data: bytes) -> HeardBefore:
    """Unknown fields are passed over. Raises DecodeError."""
    try:
        record = json.loads(data[: LONGEST + 1].decode())
        if len(data) > LONGEST or record["v"] != VERSION:
            raise DecodeError("heard_before", 0, "longer than it can be, or another version's")
        return HeardBefore(
            pid=_whole(record["pid"]),
            start_ticks=_whole(record["start_ticks"]),
            plugins=frozenset(_word(name) for name in record["plugins"]),
            ends=frozenset((str(ip_address(_word(address))), _whole(port)) for address, port in record["ends"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise DecodeError("heard_before", 0, f"not understood: {exc!r}") from exc


def _whole(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"{value!r} is no whole number")


def _word(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"{value!r} is no text")
