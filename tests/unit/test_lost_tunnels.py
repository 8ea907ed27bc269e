"""The check and the last resort around a charon that answers, refuses, or hangs in the middle of a repair.

charon and kernel are stand-ins here, because what is tested is the time that passes, a fifth of the product's; the real
ones are in tests/lab and labs/drills.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from anycast.errors import PeerError
from anycast.events import Event, TunnelsForgotten, TunnelsRekeyed
from anycast.model import Status
from anycast.reasons import Reason
from site_agent.bulkhead import Bulkhead
from site_agent.checks import child_sas
from site_agent.checks.base import Finding
from site_agent.checks.child_sas import NAME, PARTIAL, ChildSaCheck
from site_agent.ike import tunnel_repair
from site_agent.ike.child_sa import client_child_sas
from site_agent.ike.lost_tunnels import LostTunnels
from site_agent.ike.rekeyer import CharonRekeyer, Rekeyer
from site_agent.netlink import xfrm
from site_agent.netlink.messages import Message
from site_agent.netlink.xfrm_keys import XFRMA_ALG_AEAD
from tests.support.tunnels import VIP, child, event
from tests.unit.test_netlink import usersa

BOUND_S, LIST_S = 0.4, 3.0
SLACK_S = 1.0
"""Two cores shared with other tests: what is shown is that nobody waits for the limit of a list."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel_repair, "REPAIR_LIMIT_S", BOUND_S)
    monkeypatch.setattr(tunnel_repair, "SECOND_LOOK_S", 0.06)
    monkeypatch.setattr(tunnel_repair, "REPAIR_LOOK_S", 0.04)
    monkeypatch.setattr(child_sas, "LIST_LIMIT_S", LIST_S)


class Charon:
    """Answers VICI as the plan says; its clients answer a rekey at once unless they are silent."""

    def __init__(self, *, silent: bool = False, refuses: bool = False, hangs_after: int | None = None) -> None:
        self.silent, self.refuses, self.hangs_after = silent, refuses, hangs_after
        self.tunnels = {"7": event(mode=b"TRANSPORT")}
        self.in_kernel: set[tuple[str, int]] = set()
        self.larval: set[tuple[str, int]] = set()
        """Without keys: a policy's SA was gone, and the kernel has asked for one of that SPI."""
        self.lists = 0
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def stream(
        self, command: str, kind: str, take: Callable[..., None], message: Any = None, *, timeout_s: float
    ) -> None:
        self.lists += 1
        if self.hangs_after is not None and self.lists > self.hangs_after:
            await asyncio.sleep(3600)
        for tunnel in self.tunnels.values():
            take(tunnel)

    async def request(self, command: str, message: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        self.asked.append((command, message))
        if self.refuses:
            raise PeerError("charon", "no")
        if command == "rekey" and not self.silent:
            self.tunnels = {"8": event(mode=b"TRANSPORT", uniqueid=b"8", spi_in=b"d1", spi_out=b"d2")}
            self.in_kernel = {(VIP, 0xD1), ("198.51.100.66", 0xD2)}
        return {}

    async def dump(self, protocol: int, kind: int, take: Callable[[Message], None]) -> bool:
        if kind == xfrm.XFRM_MSG_GETSA:
            keys = struct.pack("=HHI", 8, XFRMA_ALG_AEAD, 0)
            for known, attributes in ((self.in_kernel, keys), (self.larval, b"")):
                for daddr, spi in known:
                    saddr = "198.51.100.66" if daddr == VIP else VIP
                    take(Message(kind, 0, 0, memoryview(usersa(daddr, saddr, spi=spi) + attributes)))
        return True


def look(charon: Charon, patch: pytest.MonkeyPatch) -> tuple[dict[str, Finding], list[Event], float]:
    """One look of the check, and how long it took."""
    patch.setattr(child_sas, "dump", charon.dump)
    events: list[Event] = []
    rekeyer = CharonRekeyer(charon, Rekeyer(charon, charon), lambda: None)  # type: ignore[arg-type]
    check = ChildSaCheck(charon, [VIP], rekeyer=rekeyer, happened=events.append)  # type: ignore[arg-type]
    began = time.monotonic()
    found = asyncio.run(check.look())
    return {finding.name: finding for finding in found}, events, time.monotonic() - began


def test_what_a_rekey_mends_is_no_fact_and_one_request_did_it(monkeypatch: pytest.MonkeyPatch) -> None:
    charon = Charon()
    found, events, _ = look(charon, monkeypatch)
    assert {found[NAME].status, found[PARTIAL].status} == {Status.PASSING}
    assert charon.asked == [("rekey", {"ike": "vpn", "child": "c"})]
    (told,) = events
    assert isinstance(told, TunnelsRekeyed) and (told.count, told.reason) == (1, Reason.SA_STATE_LOST)


@pytest.mark.parametrize("charon", [Charon(silent=True), Charon(silent=True, hangs_after=2)], ids=["clients", "charon"])
def test_whoever_is_silent_the_look_ends_within_the_bound(charon: Charon, monkeypatch: pytest.MonkeyPatch) -> None:
    async def bounded_stream(*args: Any, **options: Any) -> None:
        async with asyncio.timeout(options["timeout_s"]):
            await Charon.stream(charon, *args, **options)

    monkeypatch.setattr(charon, "stream", bounded_stream)
    found, events, took = look(charon, monkeypatch)
    assert events == []
    assert (found[NAME].status, found[NAME].reason) == (Status.FAILING, Reason.SA_STATE_LOST)
    assert took < BOUND_S + SLACK_S


def test_a_refusal_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    charon = Charon(refuses=True)
    found, _, _ = look(charon, monkeypatch)
    assert (found[NAME].status, found[NAME].reason) == (Status.FAILING, Reason.SA_STATE_LOST)
    assert (charon.lists, len(charon.asked)) == (3, 1), "two looks, the refusal, and one look whether all is lost still"


def test_an_sa_without_keys_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It hid for minutes that two tunnels had no outbound SA (drill `mirror-thirty-failovers`)."""
    charon = Charon()
    charon.in_kernel, charon.larval = {(VIP, 0xC1)}, {("198.51.100.66", 0xC2)}
    found, events, _ = look(charon, monkeypatch)
    assert charon.asked == [("rekey", {"ike": "vpn", "child": "c"})] and len(events) == 1
    assert {found[NAME].status, found[PARTIAL].status} == {Status.PASSING}, "mended"


def test_policies_that_were_never_there_are_not_lost_unless_the_connection_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    charon = Charon(silent=True)
    charon.tunnels = {"7": event()}  # tunnel mode, so it should have policies; the kernel has none
    charon.in_kernel = {(VIP, 0xC1), ("198.51.100.66", 0xC2)}
    found, _, _ = look(charon, monkeypatch)
    assert found[NAME].status is Status.PASSING, "`policies = no` is somebody else's right"
    rekeyer = CharonRekeyer(charon, Rekeyer(charon, charon), lambda: None)  # type: ignore[arg-type]
    check = ChildSaCheck(charon, [VIP], rekeyer=rekeyer, happened=lambda event: None, rendered=frozenset({"vpn"}))  # type: ignore[arg-type]
    found = {finding.name: finding for finding in asyncio.run(check.look())}
    assert (found[NAME].status, found[NAME].reason) == (Status.FAILING, Reason.SA_STATE_LOST)


def test_only_what_was_lost_for_the_whole_time_is_ended() -> None:
    charon, events = Charon(), list[Event]()
    looks = [[child(1), child(2)], [child(2), child(3)], []]

    async def lost() -> list[Any]:
        return looks.pop(0) if looks else []

    async def run() -> None:
        last_resort = LostTunnels(charon, lost, events.append, Bulkhead("repair", events.append), patience_s=0.01)  # type: ignore[arg-type]
        last_resort.state_changed(PARTIAL, Status.FAILING)
        async with asyncio.timeout(5):
            while looks:
                await asyncio.sleep(0)
        last_resort.state_changed(NAME, Status.FAILING)
        last_resort.state_changed(PARTIAL, Status.PASSING)
        assert last_resort._task is not None, "the other one still fails"
        last_resort.state_changed(NAME, Status.PASSING)
        assert last_resort._task is None

    asyncio.run(run())
    assert charon.asked == [("terminate", {"ike-id": "2", "force": "yes", "timeout": "-1"})]
    assert events == [TunnelsForgotten(count=1)]


def test_the_stand_in_speaks_as_charon_does() -> None:
    (sa,) = client_child_sas(Charon().tunnels["7"], frozenset({VIP}))
    assert sa.sas[0][:4] == ip_address(VIP).packed
