"""Who has the queue, and what becomes of it in `clients` and `why`. charon is a script here."""

from __future__ import annotations

import asyncio
import datetime

import pytest

from anycast import history
from anycast.errors import PeerError
from site_agent import client_history
from site_agent.ike.rekey_queue import Ask, SaId, Wish
from site_agent.ike.rekeyer import CharonRekeyer, Rekeyer
from site_agent.ike.tunnel_repair import Judgement, State
from site_agent.ike.vici_client import Section, ViciClient
from site_agent.sync import agent_wire
from tests.support.tunnels import child


class Vici(ViciClient):
    """Notes what is asked. `knows` nobody but these."""

    def __init__(self, *knows: str) -> None:
        super().__init__("/nowhere")
        self.asked: list[tuple[str, Section]] = []
        self.knows = knows

    async def request(self, command: str, message: Section | None = None, *, timeout_s: float) -> Section:
        self.asked.append((command, message or {}))
        if message is not None and self.knows and message.get("child-id") not in self.knows:
            raise PeerError("charon", "rekey: no matching SAs to rekey found")
        return {}


class Sync:
    def __init__(self, *, speaks: bool) -> None:
        self.speaks, self.wishes, self.sweeps = speaks, list[Wish](), 0

    def wish(self, wishes: tuple[Wish, ...]) -> bool:
        self.wishes += wishes if self.speaks else ()
        return self.speaks

    def swept(self) -> None:
        self.sweeps += 1


LOST = Judgement(state=State.PARTIAL, listed=9, rekey=(child(1), child(2)))


@pytest.mark.parametrize("sync", [None, Sync(speaks=False), Sync(speaks=True)], ids=["no mirror", "silent", "speaks"])
def test_lost_tunnels_go_to_the_gateways_one_queue(sync: Sync | None) -> None:
    async def run() -> None:
        vici, asks = Vici(), list[Ask]()
        own = Rekeyer(Vici(), vici, asked=asks.append)
        await CharonRekeyer(Vici(), own, lambda: sync).rekey(LOST)
        await asyncio.sleep(0.1)
        own.close()
        elsewhere = sync is not None and sync.speaks
        assert [ask.sa for ask in asks] == ([] if elsewhere else [SaId("child", "1"), SaId("child", "2")])
        assert [message for _command, message in vici.asked] == [{"child-id": ask.sa.unique} for ask in asks]
        if elsewhere:
            assert sync is not None and [wish.sa.unique for wish in sync.wishes] == ["1", "2"]
            message = agent_wire.LostTunnels.of(sync.wishes)
            decoded = agent_wire.decode(agent_wire.encode(message))
            assert isinstance(decoded, agent_wire.LostTunnels) and decoded.wishes == tuple(sync.wishes)

    asyncio.run(run())


def test_everything_goes_at_once_and_every_queue_waits_meanwhile() -> None:
    async def run() -> None:
        direct, vici, sync = Vici(), Vici(), Sync(speaks=True)
        own = Rekeyer(Vici(), vici)
        rekeyer = CharonRekeyer(direct, own, lambda: sync)
        await rekeyer.rekey(Judgement(state=State.UNSETTLED, listed=2, rekey=(child(1), child(2)), everything=True))
        assert direct.asked == [("rekey", {"ike": "vpn", "child": "vpn"})] and sync.sweeps == 1
        sync.speaks = False
        await rekeyer.rekey(LOST)
        await asyncio.sleep(0.1)
        assert vici.asked == []
        own.close()

    asyncio.run(run())


def test_what_charon_does_not_know_is_no_wish_any_more() -> None:
    async def run() -> None:
        own = Rekeyer(Vici(), Vici("2"))
        await CharonRekeyer(Vici(), own, lambda: None).rekey(LOST)
        await asyncio.sleep(0.1)
        assert own.queue.progress(0.0).unanswered == 1
        own._child_rekeyed({"vpn": {"child-sas": {"vpn": {"old": {"uniqueid": b"2"}, "new": {"uniqueid": b"3"}}}}})
        own._child_rekeyed({"vpn": b"nonsense", "other": {"child-sas": {"x": b"?", "y": {"old": b"?"}}}})
        progress = own.queue.progress(0.0)
        assert (progress.unanswered, progress.done, progress.total) == (0, 1, 1)
        own.close()

    asyncio.run(run())


def test_a_client_that_refused_is_marked_until_it_has_gone() -> None:
    def at(second: int, event: str, **fields: object) -> dict[str, object]:
        return {"at": f"2026-11-29T12:00:{second:02}+00:00", "event": event, "gateway": "gw1", **fields}

    both = [
        at(1, "ClientConnected", session=name, identity=name, inner=[f"203.0.113.{number}"], outer="192.0.2.1:1", since_s=0)
        for number, name in enumerate("ab")
    ]
    refused = at(5, "ClientRefusedRekey", identity="a", sa="vpn{7} of a", reason="taken_over")
    moment = datetime.datetime.fromisoformat("2026-11-29T12:00:30+00:00")
    found = {each.identity: each.refused_rekey for each in client_history.account_at([*both, refused], moment).clients}
    assert found == {"a": datetime.datetime.fromisoformat("2026-11-29T12:00:05+00:00"), "b": None}
    gone = at(6, "ClientGone", identity="a", inner=["203.0.113.0"])
    again = client_history.account_at([*both, refused, gone, {**both[0], "at": "2026-11-29T12:00:07+00:00"}], moment)
    assert [each.refused_rekey for each in again.clients] == [None, None]


def test_why_tells_of_rekeys_that_waited_at_its_moment() -> None:
    records = [
        {"at": f"2026-11-29T12:00:0{second}+00:00", **record}
        for second, record in (
            (1, {"event": "RekeysProgressed", "waiting": {"taken_over": 4}, "done": 1, "left_s": 1}),
            (3, {"event": "RekeysProgressed", "waiting": {}, "done": 5, "left_s": 0}),
            (5, {"event": "RekeysProgressed", "waiting": {"client_moved": 1}, "done": 5, "left_s": 1}),
            (7, {"event": "HolderStarted", "name": "sync"}),
        )
    ]
    for second, waiting in ((0, None), (2, {"taken_over": 4}), (4, None), (6, {"client_moved": 1}), (8, None)):
        moment = datetime.datetime.fromisoformat(f"2026-11-29T12:00:{second:02}+00:00")
        told = history.account_at(records, moment).rekeys
        assert (told and told["waiting"]) == waiting
