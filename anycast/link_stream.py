"""Reading `link_wire` messages off a TLS stream, at both ends.

A way may be narrow: what ends a reading is that nothing comes any more, not how long a frame takes to come whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from anycast import link_wire
from anycast.link_wire import Message, OfferUnread

_PART = 64 * 1024
"""Bytes that are taken at once."""


async def read_message(
    reader: asyncio.StreamReader,
    longest: int | Callable[[], int] = link_wire.LONGEST_FRAME,
    *,
    silent_s: float | None = None,
) -> Message | None:
    """The next one; None for a kind that this version does not know. `longest` may change while nothing comes, which is for
    `silent_s` at most. Raises DecodeError, IncompleteReadError, TimeoutError."""
    head = await _read(reader, 4, silent_s)
    size = link_wire.length(head, longest if isinstance(longest, int) else longest())
    return link_wire.decode(await _read(reader, size, silent_s))


async def read_sent(reader: asyncio.StreamReader, silent_s: float) -> Message | OfferUnread | None:
    """The next one at an agent, in whose loop nothing longer than `LONGEST_FRAME` is decoded: 16 MiB of brackets take
    seconds, and a lease a sixth of one. Such a frame is an offer by its head, and comes as it is; or of a kind that this
    version does not know, and is passed over. Raises DecodeError, IncompleteReadError, TimeoutError."""
    size = link_wire.length(await _read(reader, 4, silent_s), link_wire.LONGEST_OFFER)
    if size <= link_wire.LONGEST_FRAME:
        return link_wire.decode(await _read(reader, size, silent_s))
    head = await _read(reader, link_wire.HEAD, silent_s)
    if link_wire.is_long_offer(head):
        return OfferUnread(await _read(reader, size, silent_s, head))
    left = size - len(head)
    while left:
        left -= len(await _read(reader, min(left, _PART), silent_s))
    return None


async def _read(reader: asyncio.StreamReader, size: int, silent_s: float | None, head: bytes = b"") -> bytes:
    """So many bytes, of which `head` has come already."""
    found = bytearray(head)
    while len(found) < size:
        async with asyncio.timeout(silent_s):
            part = await reader.read(min(size - len(found), _PART))
        if not part:
            raise asyncio.IncompleteReadError(bytes(found), size)
        found += part
    return bytes(found)
