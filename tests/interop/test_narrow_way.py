"""Frames over a way that is narrow, or goes dead: what comes is waited for, however long it takes; silence is not."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable

import pytest

from anycast import link_wire
from anycast.link_stream import read_message
from anycast.link_wire import ContentHad, OfferSent, OfferUnread
from site_agent import coordinator_link
from site_agent.coordinator_link import CoordinatorLink, Sent

SILENT_S = 0.5
PARTS, EVERY_S = 20, 0.1
"""A frame comes in so many parts: four times as long as nothing may come."""

pytestmark = pytest.mark.alone
Listen = Callable[[asyncio.StreamReader], Awaitable[None]]


async def over(frame: bytes, listen: Listen) -> None:
    """`listen` to a frame that comes in parts, and then to nothing, which ends it by TimeoutError, and not before."""
    here, there = socket.socketpair()
    there.setblocking(False)
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection(sock=here)
    listening = asyncio.create_task(listen(reader))  # type: ignore[arg-type]
    try:
        size = -(-len(frame) // PARTS)
        for at in range(0, len(frame), size):
            await loop.sock_sendall(there, frame[at : at + size])
            await asyncio.sleep(EVERY_S)
            assert not listening.done(), listening.exception()
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await listening
        assert time.monotonic() - began <= SILENT_S + 0.3
    finally:
        listening.cancel()
        writer.transport.abort()
        there.close()


@pytest.mark.parametrize(("size", "found"), [(1000, OfferSent), (1 << 20, OfferUnread)])
def test_an_agent_takes_an_offer_over_a_narrow_way(monkeypatch: pytest.MonkeyPatch, size: int, found: type) -> None:
    """It called such a coordinator away after 10 s, and was sent the same offer again, for ever."""
    sent: list[Sent] = []
    monkeypatch.setattr(coordinator_link, "SILENT_LIMIT_S", SILENT_S)
    link = CoordinatorLink.__new__(CoordinatorLink)
    link._sent = sent.append
    asyncio.run(over(link_wire.encode(OfferSent(data="x" * size)), link._listen))
    assert [type(each) for each in sent] == [found]


def test_a_coordinator_takes_a_content_over_a_narrow_way() -> None:
    """What `anycast recover` asks for."""
    message, found = ContentHad(hash="0" * 64, data="x" * (1 << 20)), []

    async def listen(reader: asyncio.StreamReader) -> None:
        while True:
            found.append(await read_message(reader, link_wire.LONGEST_OFFER, silent_s=SILENT_S))

    asyncio.run(over(link_wire.encode(message), listen))
    assert found == [message]


def test_half_a_frame_and_nothing_more_is_not_waited_for() -> None:
    frame = link_wire.encode(OfferSent(data="x" * 1000))

    async def listen(reader: asyncio.StreamReader) -> None:
        assert await read_message(reader, silent_s=SILENT_S) is None

    asyncio.run(over(frame[:500], listen))
