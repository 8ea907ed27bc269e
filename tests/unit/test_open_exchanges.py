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


class Quiet:
    """Doorkeeper and segment."""

    def hush(self, span_s: float) -> None:
        assert span_s == open_exchanges.QUIET_S

    def switch(self, active: bool) -> None:
        assert not active


def end(vici: Vici, relay: Relay | None = None) -> int:
    async def run() -> int:
        return await OpenExchanges(
            vici, ["vpn"], doorkeeper=Quiet(), segment=Quiet(), relay=relay or Relay(), over=lambda: None,  # type: ignore[arg-type]
        ).end()  # fmt: skip

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
