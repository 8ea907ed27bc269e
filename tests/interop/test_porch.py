"""Strangers at a port, over real sockets: a fleet that comes all at once is let in, and who stands there silently is not."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from anycast.coordinator import porch
from anycast.coordinator.porch import Porch, listening

pytestmark = pytest.mark.daemons


class Guest(asyncio.Protocol):
    """Who says a word is known."""

    def __init__(self, house: House) -> None:
        self._house = house

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._house.transports.append(transport)

    def data_received(self, data: bytes) -> None:
        self._house.served += 1
        self._house.porch.know(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._house.porch.know(self)


class House:
    """A porch at a port of its own, which has not begun to take anybody."""

    def __init__(self, young_s: float) -> None:
        self.served = 0
        self.transports: list[asyncio.BaseTransport] = []
        self.socket = listening("127.0.0.1", 0)
        self.porch: Porch[Guest] = Porch("test", lambda: Guest(self), young_s=young_s)
        self.guests: list[socket.socket] = []

    def called(self, count: int, *, honest: bool) -> None:
        for _ in range(count):
            self.guests.append(guest := socket.create_connection(self.socket.getsockname(), 5))
            if honest:
                guest.sendall(b"x")

    async def close(self) -> None:
        self.porch.close()
        for each in self.transports:
            each.abort()  # type: ignore[attr-defined]
        for guest in self.guests:
            guest.close()
        await asyncio.sleep(0.05)


async def until(true: Callable[[], bool], within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("young_s", [0.0, 1.0], ids=["operators", "agents"])
def test_a_fleet_that_waits_in_the_backlog_is_served(young_s: float) -> None:
    """Of 900 there were 256 served and 644 put out, before any was listened to; and their names stayed for ever."""

    async def test() -> None:
        house = House(young_s)
        house.called(900, honest=True)
        house.porch.start(house.socket, None)
        await until(lambda: house.served == 900, 10)
        await until(lambda: not house.porch._strangers, 5)
        assert house.porch.put_out == 0
        assert not house.porch._known and not house.porch._since
        await house.close()

    asyncio.run(test())


@pytest.mark.alone
def test_the_young_are_not_put_out_and_the_old_are() -> None:
    """So many silent ones that none has room, and an honest one behind them."""

    async def test() -> None:
        house = House(young_s=0.5)
        house.called(2 * porch.MOST, honest=False)
        house.called(1, honest=True)
        house.porch.start(house.socket, None)
        await until(lambda: len(house.porch._strangers) == porch.MOST, 5)
        await asyncio.sleep(0.2)
        assert house.porch.put_out == 0
        await until(lambda: house.served == 1, 5)
        assert 0 < house.porch.put_out <= porch.MOST + 1
        assert len(house.porch._known) <= porch.MOST
        await house.close()

    asyncio.run(test())


def test_of_those_that_are_put_out_nothing_is_kept() -> None:
    async def test() -> None:
        house = House(young_s=0.0)
        house.called(3 * porch.MOST, honest=False)
        house.porch.start(house.socket, None)
        await until(lambda: house.porch.put_out == 2 * porch.MOST, 5)
        assert len(house.porch._known) == porch.MOST
        assert len(house.porch._strangers) == len(house.porch._since) == porch.MOST
        await house.close()

    asyncio.run(test())
