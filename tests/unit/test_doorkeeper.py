"""The keeper of charon's door: what is wanted is said again, and what cannot be done is an alarm and stops nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from anycast.errors import PeerError
from anycast.events import AlarmCleared, AlarmRaised, Event
from anycast.reasons import Reason
from site_agent.ike.door import Door
from site_agent.sync.doorkeeper import LOOK_PERIOD_S, Doorkeeper


class Recorder(Door):
    """A door of no process: what was done to it, and how many sockets it is said to have had then."""

    def __init__(self, counts: Iterable[int] = ()) -> None:
        super().__init__(lambda: "", [])
        self.done: list[str] = []
        self.refuses = False
        self._counts = iter(counts)

    def close(self) -> int:
        return self._note("close")

    def open(self) -> int:
        return self._note("open")

    def hush(self) -> int:
        return self._note("hush")

    def _note(self, what: str) -> int:
        if self.refuses:
            raise PeerError("charon", "not permitted")
        self.done.append(what)
        return next(self._counts, 4)


def keep(
    test: Callable[[Doorkeeper], Awaitable[None]], door: Door, *, events: list[Event] | None = None
) -> None:
    async def run() -> None:
        keeper = Doorkeeper(door, happened=(events if events is not None else []).append)
        task = asyncio.create_task(keeper.run())
        await test(keeper)
        task.cancel()

    asyncio.run(run())


async def waited_for(event: asyncio.Event) -> None:
    await event.wait()


async def until(what: Callable[[], bool], within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while not what():
            await asyncio.sleep(0.001)


def test_it_opens_when_charon_has_addresses() -> None:
    door, has_addresses = Recorder(), asyncio.Event()

    async def test(keeper: Doorkeeper) -> None:
        keeper.open_when(lambda: waited_for(has_addresses))
        await until(lambda: len(door.done) == 2, 2 * LOOK_PERIOD_S)
        assert set(door.done) == {"close"}
        has_addresses.set()
        await until(lambda: door.done[-1] == "open", LOOK_PERIOD_S / 2)

    keep(test, door)


def test_who_ceases_before_charon_has_addresses_stays_closed() -> None:
    door, has_addresses = Recorder(), asyncio.Event()

    async def test(keeper: Doorkeeper) -> None:
        keeper.open_when(lambda: waited_for(has_addresses))
        await asyncio.sleep(0)
        keeper.close()
        has_addresses.set()
        await until(lambda: len(door.done) == 3, 3 * LOOK_PERIOD_S)
        assert set(door.done) == {"close"}

    keep(test, door)


def test_it_is_closed_until_something_is_said() -> None:
    """The process before this one may have left it hushed."""
    door = Recorder()

    async def test(keeper: Doorkeeper) -> None:
        keeper.charon_is_new()
        await asyncio.sleep(0.01)
        assert set(door.done) == {"close"}
        keeper.open()
        assert door.done.count("open") == 1
        keeper.close()
        count = door.done.count("close")
        keeper.close()
        assert door.done.count("close") == count, "said with each role, done once"

    keep(test, door)


def test_a_charon_without_sockets_is_looked_at_often_and_then_each_second() -> None:
    door = Recorder([4, 0, 0, 0, 4])

    async def test(keeper: Doorkeeper) -> None:
        await until(lambda: len(door.done) == 1, 1)
        keeper.charon_is_new()
        await until(lambda: len(door.done) == 6, LOOK_PERIOD_S / 2)
        began = asyncio.get_running_loop().time()
        await until(lambda: len(door.done) == 7, 2 * LOOK_PERIOD_S)
        assert asyncio.get_running_loop().time() - began > LOOK_PERIOD_S / 2

    keep(test, door)


def test_what_is_not_permitted_is_an_alarm_and_is_tried_again() -> None:
    door, events = Recorder(), list[Event]()

    async def test(keeper: Doorkeeper) -> None:
        door.refuses = True
        keeper.charon_is_new()
        keeper.charon_is_new()
        assert events == [AlarmRaised(reason=Reason.DOOR_OPEN, detail="charon: not permitted")]
        events.clear()
        keeper.open()  # does not raise: who is promoted does not wait for it
        assert events == [
            AlarmCleared(reason=Reason.DOOR_OPEN), AlarmRaised(reason=Reason.DOOR_CLOSED, detail="charon: not permitted")
        ]  # fmt: skip
        door.refuses = False
        await until(lambda: events[-1] == AlarmCleared(reason=Reason.DOOR_CLOSED), 2 * LOOK_PERIOD_S)
        assert door.done == ["open"]

    keep(test, door, events=events)


def test_a_hushed_door_is_as_before_when_that_is_over_and_when_the_role_has_changed() -> None:
    door = Recorder()

    async def test(keeper: Doorkeeper) -> None:
        keeper.open()
        keeper.hush()
        assert door.done[-1] == "hush"
        keeper.unhush()
        assert door.done[-1] == "open"
        keeper.hush()
        keeper.close()
        assert door.done[-2:] == ["hush", "close"]
        keeper.unhush()
        assert door.done[-1] == "close", "it is a Backup now"

    keep(test, door)


def test_a_door_that_cannot_be_hushed_is_as_it_is_wanted_at_every_socket() -> None:
    class Half(Recorder):
        def hush(self) -> int:
            self._note("hush")
            raise PeerError("charon", "the second socket")

    door, events = Half(), list[Event]()

    async def test(keeper: Doorkeeper) -> None:
        keeper.open()
        keeper.hush()
        assert door.done[-2:] == ["hush", "open"]

    keep(test, door, events=events)
    assert not events
