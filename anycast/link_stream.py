"""Reading `link_wire` messages off a TLS stream: the same at both ends, but for how long a frame may be."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from anycast import link_wire
from anycast.link_wire import Message


async def read_message(
    reader: asyncio.StreamReader, longest: int | Callable[[], int] = link_wire.LONGEST_FRAME
) -> Message | None:
    """The next one; None for a kind that this version does not know. `longest` may change while nothing comes. Raises
    DecodeError, IncompleteReadError."""
    head = await reader.readexactly(4)
    body = await reader.readexactly(link_wire.length(head, longest if isinstance(longest, int) else longest()))
    return link_wire.decode(body)
