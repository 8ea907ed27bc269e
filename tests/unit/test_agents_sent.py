"""What the coordinator sends to agents, and what it makes of one that takes it slowly or not at all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from anycast import link_wire
from anycast.coordinator.agents import UNSENT, Agents, _Connection
from anycast.coordinator.darkness import Darkness
from anycast.coordinator.fleet_view import FleetView
from anycast.coordinator.rollouts import Rollouts
from anycast.coordinator.traffic_log import TrafficLog
from anycast.link_offer import PACKED, OfferFrames
from anycast.link_wire import Ack, Hello, OfferPacked, OfferSent
from anycast.policy.behind import Word
from anycast.policy.rollout import Version
from tests.support.contents import envelope, made

CONTENT = made()


class Way:
    """A connection whose other end takes nothing."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.ended = False
        self.transport = self

    def write(self, data: bytes | memoryview) -> None:
        self.frames.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.frames))

    def abort(self) -> None:
        self.ended = True


def agents(way: Way, *takes: str) -> Agents:
    hello = Hello(
        protocols=(1,), fleet="example", site="fra", gateway="fra-gw1", agent="1", instance="i", boot="b", takes=takes
    )
    found = Agents.__new__(Agents)
    found._connections, found._offers = {"fra-gw1": _Connection(hello, 1, b"", way)}, {}  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(("takes", "kind"), [((PACKED, "newer"), OfferPacked), (("newer",), OfferSent), ((), OfferSent)])
def test_an_offer_is_packed_for_whom_takes_it_so(takes: tuple[str, ...], kind: type) -> None:
    way = Way()
    assert agents(way, *takes).offer("fra-gw1", OfferFrames(envelope(CONTENT.content, 1)), CONTENT.documents["fra-gw1"])
    assert type(link_wire.decode(b"".join(way.frames)[4:])) is kind


def test_a_long_offer_on_a_narrow_way_is_no_reason_to_end_the_connection() -> None:
    """It was: the next acknowledgement found more than `UNSENT` waiting, and the offer began anew for ever."""
    way = Way()
    found = agents(way)
    frames = OfferFrames(envelope("x" * 2 * UNSENT, 1))
    assert found.offer("fra-gw1", frames, "{}")
    assert found.send("fra-gw1", Ack(number=1)) and not way.ended
    assert not found.offer("fra-gw1", frames, "{}"), "the same again waits until this one is through"
    assert not way.ended
    acks = 0
    while found.send("fra-gw1", Ack(number=1)):
        acks += 1
    assert way.ended and acks > 1000, "who never reads is left all the same"
    assert way.get_write_buffer_size() < 4 * UNSENT


def test_what_a_thousand_gateways_have_is_one_write() -> None:
    writes: list[Any] = []

    async def test() -> None:
        async def write(*what: Any) -> None:
            writes.append(what)

        darkness = Darkness({}, "leader", write=write, send=lambda *_: None, strange=lambda *_: None)
        rollouts = Rollouts(
            "example", FleetView(), TrafficLog(), darkness, write=write, send=lambda *_: True, offer=lambda *_: True,
            changed=lambda: None, halted=lambda: "",
        )  # fmt: skip
        staged = Version(1, "0" * 64)
        told = {f"s{n}-gw1": Word(site=f"s{n}", staged=staged) for n in range(1000)}
        await rollouts.reported(told)
        await rollouts.reported(told)
        await rollouts.reported({**told, "s7-gw1": Word(site="s7")})

    asyncio.run(test())
    assert [len(decisions) for decisions, _ in writes] == [1000, 1], "and what is known already is none"
