"""The agent tells events when it is asked, one batch each time, and never anybody who did not ask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from anycast.event_wire import Position
from anycast.link_wire import EventsKept, EventsTold
from site_agent import event_teller
from site_agent.event_spool import EventSpool
from site_agent.event_teller import EventTeller


class Spool(EventSpool):
    """`has` is what there is; a place is its number."""

    def __init__(self) -> None:
        self.has, self.asked, self.last_seq = list[str](), list[Position](), 0

    async def batch(self, after: Position) -> tuple[str, ...]:
        self.asked.append(after)
        return tuple(self.has[after.seq : after.seq + 2])


def run(test: Callable[[Spool, EventTeller, list[EventsTold]], Awaitable[None]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_teller, "GATHER_S", 0.01)

    async def body() -> None:
        spool, said = Spool(), list[EventsTold]()
        teller = EventTeller(spool, said.append)
        task = asyncio.create_task(teller.run())
        await test(spool, teller, said)
        task.cancel()

    asyncio.run(body())


async def a_while() -> None:
    await asyncio.sleep(0.1)


def test_a_coordinator_that_asks_for_none_is_told_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the version before, or one that cannot keep them now."""

    async def test(spool: Spool, teller: EventTeller, said: list[EventsTold]) -> None:
        spool.has = ["a", "b", "c"]
        teller.connected(1)
        teller.news()
        await a_while()
        assert said == [] and spool.asked == [] and teller.describe()["kept"] is None

    run(test, monkeypatch)


def test_each_word_is_answered_once_and_what_comes_later_answers_it_then(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(spool: Spool, teller: EventTeller, said: list[EventsTold]) -> None:
        spool.has = ["a", "b", "c"]
        teller.connected(1)
        teller.kept(EventsKept(stream="", seq=0))
        teller.news()
        await a_while()
        assert [each.records for each in said] == [("a", "b")], "one batch, however much there is"
        teller.kept(EventsKept(stream="x", seq=2))
        await a_while()
        teller.kept(EventsKept(stream="x", seq=3))
        await a_while()
        assert [each.records for each in said] == [("a", "b"), ("c",)], "there is no more"
        spool.has.append("d")
        teller.news()
        await a_while()
        assert said[-1].records == ("d",)
        teller.news()
        await a_while()
        assert len(said) == 3, "and not again"

    run(test, monkeypatch)


def test_over_another_connection_nothing_is_told_before_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(spool: Spool, teller: EventTeller, said: list[EventsTold]) -> None:
        teller.connected(1)
        teller.kept(EventsKept(stream="", seq=0))
        await a_while()
        teller.connected(None)
        spool.has = ["a"]
        teller.news()
        teller.connected(2)
        await a_while()
        assert said == []
        teller.kept(EventsKept(stream="", seq=0))
        await a_while()
        assert [each.records for each in said] == [("a",)]

    run(test, monkeypatch)
