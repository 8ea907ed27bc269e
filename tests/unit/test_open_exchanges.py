"""Before a planned handover: nothing more is begun, what is open ends, and no longer than a second is waited for it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from anycast.errors import PeerError
from site_agent.sync import open_exchanges
from site_agent.sync.open_exchanges import OpenExchanges


class Vici:
    """Answers each listing with the next of `looks`, and the last one for ever; None: not at all."""

    def __init__(self, *looks: dict[str, Any] | None) -> None:
        self.looks, self.asked = list(looks), 0

    async def stream(self, _command: str, _event: str, take: Callable[[Any], None], *_: Any, timeout_s: float) -> None:
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        self.asked += 1
        await asyncio.sleep(0)
        if look is None:
            raise PeerError("charon", "gone")
        take(look)


def busy(name: str = "vpn", **tasks: list[bytes]) -> dict[str, Any]:
    return {name: {"state": b"ESTABLISHED", **{key.replace("_", "-"): value for key, value in tasks.items()}}}


@dataclasses.dataclass
class Relay:
    """What charon says while its sockets are worked off, and when the other gateway has it."""

    says: int = 0
    waits: int = 0
    asked: int = 0

    @property
    def last(self) -> int:
        self.asked += 1
        return min(self.asked, self.says)

    @property
    def waiting(self) -> int:
        return int(self.asked < self.waits)


@dataclasses.dataclass
class Told:
    """What was done to door, segment and promotion, in order."""

    words: list[str] = dataclasses.field(default_factory=list)

    def hush(self) -> None:
        self.words.append("hush")

    def unhush(self) -> None:
        self.words.append("unhush")

    def switch(self, active: bool) -> None:
        self.words.append("+1" if active else "-1")

    def quiet(self, quiet: bool) -> None:
        self.words.append("quiet" if quiet else "over")


def end(vici: Vici, relay: Relay | None = None, told: Told | None = None, after_s: float = 0.0) -> int:
    async def run() -> int:
        all_ = told or Told()
        exchanges = OpenExchanges(
            vici, ["vpn"], doorkeeper=all_, segment=all_, relay=relay or Relay(), quiet=all_.quiet,  # type: ignore[arg-type]
        )  # fmt: skip
        left = await exchanges.end()
        await asyncio.sleep(after_s)
        return left

    return asyncio.run(run())


@pytest.mark.parametrize("tasks", [{"tasks_active": [b"CHILD_REKEY"]}, {"tasks_queued": [b"IKE_DPD"]}], ids=str)
def test_it_waits_for_what_is_open(tasks: dict[str, list[bytes]]) -> None:
    vici = Vici(busy(**tasks), busy(**tasks), busy())
    assert end(vici) == 0 and vici.asked == 3


def test_what_clients_have_begun_and_other_connections_are_not_waited_for() -> None:
    vici = Vici(busy(tasks_passive=[b"IKE_REKEY"]) | busy("own", tasks_active=[b"IKE_DPD"]))
    assert end(vici) == 0 and vici.asked == 1


def test_a_client_that_does_not_answer_is_waited_for_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_exchanges, "ENDED_WITHIN_S", 0.1)
    vici = Vici(busy(tasks_active=[b"IKE_DPD"]))
    assert end(vici) == 1 and vici.asked > 1


def test_a_charon_that_cannot_be_asked_keeps_nobody_waiting() -> None:
    assert end(Vici(None)) == -1



@pytest.mark.parametrize(("relay", "asked"), [(Relay(), 3), (Relay(says=6), 9), (Relay(waits=9), 10)], ids=str)
def test_clients_are_hushed_until_the_other_gateway_has_what_charon_said(relay: Relay, asked: int) -> None:
    assert end(Vici(busy()), relay) == 0
    assert abs(relay.asked - asked) <= 2


def test_who_never_acknowledges_is_waited_for_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_exchanges, "ACKNOWLEDGED_WITHIN_S", 0.1)
    relay = Relay(waits=10**9)
    assert end(Vici(busy()), relay) == 0 and relay.asked > 3


def test_charon_is_quiet_from_when_nothing_is_open_until_that_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_exchanges, "QUIET_S", 0.1)
    told = Told()
    assert end(Vici(busy()), told=told) == 0 and told.words == ["hush", "quiet", "-1"]
    told = Told()
    end(Vici(busy()), told=told, after_s=0.3)
    assert told.words == ["hush", "quiet", "-1", "unhush", "over"], "nobody said so"


def test_an_ike_sa_with_an_open_exchange_is_not_made_passive(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would throw the response away, and begin nothing ever again."""
    monkeypatch.setattr(open_exchanges, "ENDED_WITHIN_S", 0.1)
    for vici in (Vici(busy(tasks_active=[b"IKE_DPD"])), Vici(None)):
        told = Told()
        assert end(vici, told=told) != 0 and told.words == ["hush"]


def test_a_second_handover_is_not_ended_by_the_firsts_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_exchanges, "QUIET_S", 0.3)
    told = Told()

    async def run() -> None:
        exchanges = OpenExchanges(
            Vici(busy(), busy()), ["vpn"], doorkeeper=told, segment=told, relay=Relay(), quiet=told.quiet,  # type: ignore[arg-type]
        )  # fmt: skip
        await exchanges.end()
        exchanges.over()
        await exchanges.end()
        await asyncio.sleep(0.2)

    asyncio.run(run())
    assert told.words == ["hush", "quiet", "-1", "unhush", "over", "hush", "quiet", "-1"]
