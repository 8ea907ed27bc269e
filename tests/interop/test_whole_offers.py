"""Whole offers of a large fleet to agents that take none packed (N-1), over real TLS: so much at once and no more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from anycast import link_wire
from anycast.coordinator import agents
from anycast.coordinator.agents import Agents
from anycast.coordinator.contents import Kept
from anycast.coordinator.fleet_view import FleetView
from anycast.coordinator.rollouts import Rollouts
from anycast.link_offer import OfferFrames
from anycast.link_stream import read_message
from anycast.link_wire import Hello, Welcome
from anycast.pki import tls
from anycast.pki.names import Identity, Role
from anycast.policy.rollout import Stage, Version
from tests.support.contents import envelope
from tests.support.coordinator import NAME
from tests.support.sync_pair import FLEET, Root

pytestmark = pytest.mark.daemons

SIZE = 12 << 20
"""Of a frame: more than the kernel keeps of a connection that nobody reads."""
COUNT = 5


class Old:
    """An agent of the version before `offer_packed`. It reads when it is told to."""

    def __init__(self, root: Root, base: Path, number: int) -> None:
        self.name = f"s{number}-gw1"
        self._folder = root.equip(base / self.name, self.name)

    async def connect(self, port: int) -> None:
        context = tls.load(self._folder, Identity(FLEET, Role.GATEWAY, self.name), link_wire.ALPN).calling
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=NAME)
        site = self.name.partition("-")[0]
        hello = Hello(protocols=(1,), fleet=FLEET, site=site, gateway=self.name, agent="1", instance="i", boot="b")
        self.writer.write(link_wire.encode(hello))
        assert isinstance(await read_message(self.reader), Welcome)

    async def takes(self) -> None:
        size = link_wire.length(await self.reader.readexactly(4), link_wire.LONGEST_OFFER)
        assert size > SIZE
        await self.reader.readexactly(size)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.02)


def test_so_many_bytes_are_under_way_to_all_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "OFFERS_AT_ONCE", 2 * SIZE)
    monkeypatch.setattr(agents, "SILENT_LIMIT_S", 60.0)
    root, frames = Root(tmp_path / "root"), OfferFrames(envelope("x" * SIZE, 1))
    machine = root.equip(tmp_path / "pki", NAME, role=Role.COORDINATOR)
    me = Identity(FLEET, Role.COORDINATOR, NAME)
    old = [Old(root, tmp_path, number) for number in range(COUNT)]

    async def test() -> None:
        ours = Agents(
            FleetView(), machine, me, instance="i", epoch=1, may_be_at=lambda *_: True, happened=lambda _: None
        )
        await ours.start(["127.0.0.1"], 0)

        def offered() -> list[bool]:
            return [ours.offer(each.name, frames, "{}") for each in old]

        try:
            for each in old:
                await each.connect(ours.port)
            assert offered() == [True, True, False, False, False]
            await asyncio.sleep(0.3)
            assert offered() == [False] * COUNT, "neither is there room, nor is one sent it twice"
            await old[1].takes()
            await until(lambda: ours.offer(old[2].name, frames, "{}"))
            assert not ours.offer(old[3].name, frames, "{}"), "the room of one, and no more"
            await old[0].takes()
            await until(lambda: ours.offer(old[3].name, frames, "{}"))
            assert not ours.offer(old[4].name, frames, "{}")
            monkeypatch.setattr(agents, "UNDER_WAY_S", 0.2)
            await asyncio.sleep(0.3)
            assert ours.offer(old[4].name, frames, "{}"), "who does not read holds up nobody for long"
            assert not ours.offer(old[3].name, frames, "{}"), "and is not sent it once more"
        finally:
            ours.close()
            for each in old:
                each.writer.transport.abort()
            await asyncio.sleep(0.1)

    asyncio.run(test())


def test_between_two_offers_others_are_heard() -> None:
    """A thousand of 5 MB were one piece of work: 20 s and more without an acknowledgement."""
    names, longest = tuple(f"s{n}-gw1" for n in range(40)), 0.0

    def offer(*_: object) -> bool:
        time.sleep(0.01)  # the encryption of some megabytes
        return True

    async def look() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - before)

    async def test() -> None:
        found = Rollouts.__new__(Rollouts)
        found._contents = {"0": Kept("{}", envelope("{}", 1).signature, dict.fromkeys(names, "{}"))}  # type: ignore[arg-type]
        found._frames, found._sent, found._offer = None, {}, offer
        looking = asyncio.create_task(look())
        await asyncio.sleep(0.01)
        await found._perform(Stage(Version(1, "0"), names))
        await asyncio.sleep(0.01)
        looking.cancel()

    asyncio.run(test())
    assert longest < 0.1 < 0.01 * len(names)
