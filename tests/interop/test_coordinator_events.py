"""Events at a real coordinator over real TLS, by whom it must not trust: unasked, another's, too many, no records."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from anycast import link_wire
from anycast.coordinator import event_keeper
from anycast.coordinator.service import Service
from anycast.event_wire import MOST_RECORDS
from anycast.events import ClockGapSeen, to_record
from anycast.link_stream import read_message
from anycast.link_wire import Ack, EventsKept, EventsTold, Hello, Message, Report, Welcome
from anycast.pki import tls
from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Identity, Role
from tests.support.coordinator import NAME, Coordinator
from tests.support.sync_pair import FLEET

pytestmark = pytest.mark.daemons

REPORT = Report(number=1, document="d", generation=0, serving=True, announced=2, routes=2, role="none")


def records(gateway: str, first: int, last: int, **more: Any) -> tuple[str, ...]:
    made = [
        to_record(ClockGapSeen(gap_s=1.5), wall=time.time(), boot_ns=1, gateway=gateway, stream="aa", seq=seq)
        for seq in range(first, last + 1)
    ]
    return tuple(json.dumps({**record, **more}) for record in made)


class World:
    """A coordinator in this process, its files, and agents' ends by hand."""

    def __init__(self, base: Path) -> None:
        self.files = Coordinator(base)
        self.base, self.folders = base, dict[str, MachineFolder]()
        self.service: Service

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Service]:
        me, folder = Identity(FLEET, Role.COORDINATOR, NAME), MachineFolder(self.base / "pki")
        self.service = Service(me, folder, self.base / "store.db", self.base / "operators.json")
        await self.service.start(["127.0.0.1"], 0)
        task = asyncio.create_task(self.service.run())
        try:
            yield self.service
        finally:
            task.cancel()
            await self.service.close()

    @contextlib.asynccontextmanager
    async def agent(self, name: str) -> AsyncIterator[End]:
        if name not in self.folders:
            self.folders[name] = self.files.gateway(name)
        context = tls.load(self.folders[name], Identity(FLEET, Role.GATEWAY, name), link_wire.ALPN).calling
        port = self.service.agents_port
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=NAME)
        end = End(reader, writer)
        end.say(Hello(protocols=(1,), fleet=FLEET, site="fra", gateway=name, agent="1", instance="x", boot="b"))
        assert isinstance(await end.next(Welcome), Welcome)
        try:
            yield end
        finally:
            writer.transport.abort()

    def kept(self, gateway: str) -> list[int]:
        with sqlite3.connect(f"file:{self.base}/events.db?mode=ro", uri=True) as db:
            rows = db.execute("SELECT body FROM events WHERE gateway = ? AND event = 'ClockGapSeen' ORDER BY id", (gateway,))
            return [json.loads(body)["seq"] for (body,) in rows]


class End:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def say(self, message: Message) -> None:
        self._writer.write(link_wire.encode(message))

    async def next(self, kind: type[Message]) -> Message:
        """The next of its kind; the others are passed over."""
        async with asyncio.timeout(10):
            while True:
                message = await read_message(self._reader, link_wire.LONGEST_OFFER)
                if isinstance(message, kind):
                    return message

    async def asked(self) -> EventsKept:
        found = await self.next(EventsKept)
        assert isinstance(found, EventsKept)
        return found

    async def ended(self) -> bool:
        async with asyncio.timeout(10):
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while await self._reader.read(65536):
                    pass
        return True


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield World(tmp_path)


def test_a_batch_is_stored_before_the_next_is_asked_for_and_goes_on_over_connections(world: World) -> None:
    async def test() -> None:
        async with world.serving():
            async with world.agent("fra-gw1") as end:
                assert await end.asked() == EventsKept(stream="", seq=0)
                end.say(EventsTold(records=records("fra-gw1", 1, 100)))
                assert await end.asked() == EventsKept(stream="aa", seq=100)
                assert world.kept("fra-gw1") == list(range(1, 101)), "on the disk, as another process reads it"
                end.say(EventsTold(records=records("fra-gw1", 101, 110)))  # and away, before it could be said
            async with world.agent("fra-gw1") as end:
                asked = await end.asked()
                assert asked.seq in (100, 110)
                end.say(EventsTold(records=records("fra-gw1", asked.seq + 1, 120)))
                assert (await end.asked()).seq == 120
            assert world.kept("fra-gw1") == list(range(1, 121))
        async with world.serving(), world.agent("fra-gw1") as end:
            assert await end.asked() == EventsKept(stream="aa", seq=120), "also over a restart"

    asyncio.run(test())


def test_an_older_agent_that_knows_no_events_is_served_as_before(world: World) -> None:
    async def test() -> None:
        async with world.serving() as service, world.agent("fra-gw1") as end:
            await end.asked()  # and does nothing
            for number in range(1, 4):
                end.say(REPORT.model_copy(update={"number": number}))
                assert await end.next(Ack) == Ack(number=number)
            assert service.status().sites[0].state == "announcing"
            found = await service.why("fra", None, None)
            assert (found.state, [step.what for step in found.trail]) == ("unknown", ["GatewayHeard"]), found

    asyncio.run(test())


BAD = {
    "another gateway's": records("sin-gw1", 1, 1),
    "no JSON": ("{",),
    "no record": ("{}",),
    "without a number": records("fra-gw1", 1, 1, seq=None),
    "one good and one bad": (*records("fra-gw1", 1, 1), "7"),
}


@pytest.mark.parametrize("case", BAD)
def test_of_who_sends_what_is_no_record_of_its_own_nothing_is_kept_and_its_link_stays(case: str, world: World) -> None:
    async def test() -> None:
        async with world.serving() as service:
            async with world.agent("fra-gw1") as end:
                await end.asked()
                end.say(EventsTold(records=BAD[case]))
                end.say(REPORT)
                await end.next(Ack)
                assert "fra-gw1: its events are refused: record" in service.status().alarms[0]
                assert service.status().sites[0].state == "announcing", "tokens and contents go over it"
            assert world.kept("fra-gw1") == [] and world.kept("sin-gw1") == []
            async with world.agent("fra-gw1") as end:
                assert await end.asked() == EventsKept(stream="", seq=0)
                assert service.status().alarms == ()

    asyncio.run(test())


def test_who_sends_without_being_asked_is_let_go(world: World) -> None:
    async def test() -> None:
        async with world.serving(), world.agent("fra-gw1") as end:
            await end.asked()
            for first in range(1, 1000, 100):  # a flood that waits for nobody
                end.say(EventsTold(records=records("fra-gw1", first, first + 99)))
            assert await end.ended()
        assert len(world.kept("fra-gw1")) <= 100

    asyncio.run(test())


def test_who_floods_as_fast_as_it_may_waits_and_nobody_else_does(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_keeper, "BURST", 1000.0)
    monkeypatch.setattr(event_keeper, "PACE", 200.0)

    async def flood(end: End, until: float) -> int:
        sent = 0
        while time.monotonic() < until:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.1, until - time.monotonic())):
                    await end.asked()
                    end.say(EventsTold(records=records("fra-gw1", sent + 1, sent + MOST_RECORDS)))
                    sent += MOST_RECORDS
            end.say(REPORT)
        return sent

    async def test() -> None:
        async with world.serving(), world.agent("fra-gw1") as loud, world.agent("fra-gw2") as calm:
            flooding = asyncio.create_task(flood(loud, time.monotonic() + 4))
            waits = []
            for seq in range(1, 16):
                await calm.asked()
                begun = time.monotonic()
                calm.say(EventsTold(records=records("fra-gw2", seq, seq)))
                calm.say(REPORT.model_copy(update={"number": seq}))
                await calm.next(Ack)
                waits.append(time.monotonic() - begun)
                await asyncio.sleep(0.2)
            sent = await flooding
            assert 1000 <= sent <= 1000 + 4 * 200 + 2 * MOST_RECORDS, "its burst, its pace, and what was under way"
            assert sorted(waits)[len(waits) // 2] < 0.5
        assert world.kept("fra-gw2")[:14] == list(range(1, 15))

    asyncio.run(test())


def test_a_store_that_fails_is_an_alarm_and_nothing_is_lost_by_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_keeper, "RETRY_S", 0.5)

    async def test() -> None:
        async with world.serving() as service, world.agent("fra-gw1") as end:
            await end.asked()
            end.say(EventsTold(records=records("fra-gw1", 1, 10)))
            assert (await end.asked()).seq == 10
            locked = sqlite3.connect(world.base / "events.db", isolation_level=None)
            locked.execute("BEGIN EXCLUSIVE")  # somebody else has the file; SQLite gives up after 5 s
            end.say(EventsTold(records=records("fra-gw1", 11, 20)))
            async with asyncio.timeout(20):
                while not service.status().alarms:
                    end.say(REPORT)
                    await asyncio.sleep(0.2)
            assert "the events cannot be kept" in service.status().alarms[0]
            locked.execute("ROLLBACK")
            locked.close()
            assert (await end.asked()).seq == 10, "it is asked once more"
            end.say(EventsTold(records=records("fra-gw1", 11, 20)))
            assert (await end.asked()).seq == 20
            assert service.status().alarms == () and world.kept("fra-gw1") == list(range(1, 21))

    asyncio.run(test())
