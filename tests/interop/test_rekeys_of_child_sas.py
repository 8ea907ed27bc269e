"""CHILD_SAs after a takeover, by real charons (kernel-libipsec does ESP): order, answers by their events, nobody twice, and
what becomes of a client that has none."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import socket
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest

from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.ike.address_ranges import parse_range
from site_agent.ike.mirror_view import CharonView
from site_agent.ike.rekey_queue import PER_SECOND, Ask, SaId, Wish, Wished
from site_agent.ike.rekeyer import Rekeyer
from site_agent.ike.vici_client import ViciClient
from site_agent.sync import rekey_wishes
from site_agent.sync.ages import Ages
from site_agent.sync.ha_wire import PORT, MessageType
from site_agent.sync.rekeys import Rekeys
from tests.interop.test_inner_addresses import with_pair
from tests.support.charons import CONNECTION, VIP, Gateway, Pair
from tests.support.namespace import in_namespace
from tests.support.vrrp_pair import inside

pytestmark = [pytest.mark.root, pytest.mark.alone]

CLIENTS, MANY = 24, 200


async def look(gateway: Gateway) -> CharonView:
    view = CharonView(frozenset({VIP}))
    await gateway.vici.stream("list-sas", "list-sa", view.take, timeout_s=10)
    return view


async def nothing() -> None:
    pass


async def take_over(pair: Pair, clients: int, before: Callable[[], Awaitable[None]] = nothing) -> None:
    """All of them at the second gateway, whose charon is Active since this moment; nothing is rekeyed yet. `before` is done
    once they are mirrored."""
    one, two = pair.gateways
    pair.move_vip(one)
    one.switch("+1")
    await one.keeper.apply(tuple(map(parse_range, ("203.0.113.1-203.0.113.126", "2001:db8:c::1-2001:db8:c::fff0"))))
    for number in range(clients):
        await pair.connect(f"c{number}")

    async def mirrored() -> bool:
        return sum(tunnel.carrying for tunnel in (await look(two)).tunnels) == clients

    await pair.until("mirrored", mirrored)
    await before()
    one.switch("-1")
    pair.move_vip(two)
    two.switch("+1")

    async def active() -> bool:
        return all(ike_sa.established_s is not None for ike_sa in (await look(two)).ike.values())

    await pair.until("charon is active", active)


@in_namespace
def test_a_takeover_makes_every_child_sa_anew_the_moved_client_first() -> None:
    async def run(pair: Pair) -> None:
        await take_over(pair, CLIENTS)
        two = pair.gateways[1]
        asks: list[tuple[float, Ask]] = []
        path = two.vici.path
        rekeyer = Rekeyer(ViciClient(path), ViciClient(path), asked=lambda ask: asks.append((boottime(), ask)))
        running = asyncio.create_task(rekeyer.run())
        await asyncio.sleep(0.3)
        began, before = boottime(), await look(two)
        rekeyer.feed(rekey_wishes.looked_of(before, began))
        spis = [rekey_wishes.spi_out(tunnel) for tunnel in before.tunnels]
        moved, overdue = before.tunnels[-1], before.tunnels[-2]
        rekeyer.feed(rekey_wishes.taken_over(before, spis, began))
        limits = {"rekey_s": 14_400.0, "over_s": 1_440.0}
        rekeyer.feed(rekey_wishes.overdue(before, [rekey_wishes.spi_out(overdue)], Ages(), began, **limits))
        for sa in (SaId("ike", moved.ike_id), rekey_wishes.sa_of(moved)):
            rekeyer.feed(Wished(reason=Reason.CLIENT_MOVED, wishes=(Wish(sa=sa, ike=moved.ike_id),), more=True))

        async def done() -> bool:
            return rekeyer.queue.progress(boottime()).done == CLIENTS + 1

        await pair.until("each CHILD_SA and one IKE_SA rekeyed, by charon's word", done)
        running.cancel()
        order = [ask.sa for _at, ask in asks]
        assert len(order) == len(set(order)) == CLIENTS + 1, "nobody twice"
        at = {ask.sa: when for when, ask in asks}
        # The very first one was alone when it was wished for.
        assert set(order[1:3]) == {SaId("ike", moved.ike_id), rekey_wishes.sa_of(overdue)}
        assert at[rekey_wishes.sa_of(moved)] > at[SaId("ike", moved.ike_id)], "IKE_SA first"
        assert at[rekey_wishes.sa_of(moved)] - began < 1.0, "both within a second"
        times = sorted(at.values())
        assert all(later >= earlier + 0.9 / PER_SECOND for earlier, later in itertools.pairwise(times))
        after = await look(two)
        new = {rekey_wishes.spi_out(tunnel) for tunnel in after.tunnels if tunnel.carrying}
        assert len(new) == CLIENTS and not new & set(spis), "every tunnel has another SA"
        print(f"{len(times)} rekeys asked for in {times[-1] - times[0]:.2f} s")

    with_pair(run)


@in_namespace
def test_who_has_no_child_sa_after_a_takeover_is_ended_and_nobody_else() -> None:
    not_whole(MessageType.CHILD_ADD)


@in_namespace
def test_who_is_nothing_but_keys_after_a_takeover_is_ended_and_nobody_else() -> None:
    not_whole(MessageType.CHILD_ADD, MessageType.IKE_UPDATE)


def not_whole(*lost: MessageType) -> None:
    """One client of four connects while these messages are lost, as power leaves it that goes amid an IKE_AUTH."""

    async def run(pair: Pair) -> None:
        async def lose_some() -> None:
            kinds = ", ".join(str(int(kind)) for kind in lost)
            drop = f"udp dport {PORT} @th,72,8 {{ {kinds} }} drop"
            rules = f"table inet lost {{ chain in {{ type filter hook input priority 0; {drop}; }}; }}"
            subprocess.run(["ip", "netns", "exec", "g2", "nft", rules], check=True)
            await pair.connect("c9")

        await take_over(pair, 3, lose_some)
        two = pair.gateways[1]
        assert len((await look(two)).ike) + len((await look(two)).stubs) == 4
        ended = list[str]()
        rekeys = Rekeys(
            two.vici.path, [next(iter(CONNECTION))], taken_over=list, spent=list, refused=lambda refused: None,
            tell_ages=lambda body: None, ike_rekey_s=14_400, ike_over_s=1_440, ended=ended.append,
        )  # fmt: skip
        looks = set[asyncio.Task[None]]()

        async def one_look() -> None:
            began = boottime()
            rekeys.looked(await look(two), began)

        rekeys.look = lambda: looks.add(asyncio.create_task(one_look()))
        running = asyncio.create_task(rekeys.run())
        rekeys.begin()

        async def gone() -> bool:
            view = await look(two)
            return len(view.ike) == 3 and not view.stubs

        await pair.until("who is not whole is ended", gone)
        await asyncio.sleep(3.0)
        running.cancel()
        whole = await look(two)
        assert len(ended) == 1 and len(whole.ike) == len(whole.tunnels) == 3

    with_pair(run)


@pytest.mark.long
@in_namespace
def test_dead_peer_detection_is_spread_as_the_rekeys_are() -> None:
    """charon has no jitter: of 200 IKE_SAs that are taken over and left alone 197 ask within 0.1 s (measured)."""

    async def run(pair: Pair) -> None:
        await take_over(pair, MANY)
        two, began = pair.gateways[1], boottime()
        rekeyer = Rekeyer(ViciClient(two.vici.path), ViciClient(two.vici.path))
        running = asyncio.create_task(rekeyer.run())
        await asyncio.sleep(0.3)
        before = await look(two)
        spis = [rekey_wishes.spi_out(tunnel) for tunnel in before.tunnels]
        with informational() as times:
            rekeyer.feed(rekey_wishes.looked_of(before, began))
            rekeyer.feed(rekey_wishes.taken_over(before, spis, began))
            await asyncio.sleep(18.0)
        running.cancel()
        asked = [at - began for at in times if at - began > 8.0]  # before that the old CHILD_SAs' ends are told
        assert len(asked) == MANY, "each is asked once"
        by_second = collections.Counter(map(int, asked))
        assert max(by_second.values()) <= 1.2 * PER_SECOND and len(by_second) >= MANY // PER_SECOND, by_second

    CONNECTION["vpn"]["dpd_delay"] = "10s"
    try:
        with_pair(run)
    finally:
        del CONNECTION["vpn"]["dpd_delay"]


@contextlib.contextmanager
def informational() -> Iterator[list[float]]:
    """When the clients were sent a request of this exchange (RFC 7296 section 3.1: 37)."""
    times: list[float] = []
    ended = threading.Event()
    with inside("c"):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    sock.settimeout(0.2)

    def listen() -> None:
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                packet, address = sock.recvfrom(4096)
                if address[2] == socket.PACKET_OUTGOING or packet[9] != socket.IPPROTO_UDP:
                    continue
                message = packet[(packet[0] & 15) * 4 + 8 :]
                if packet[12:16] == socket.inet_aton(VIP) and message[:4] == bytes(4):  # IKE on port 4500 (RFC 3948)
                    exchange, flags = message[4 + 18], message[4 + 19]
                    if exchange == 37 and not flags & 0x20:
                        times.append(boottime())

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield times
    finally:
        ended.set()
        thread.join()
        sock.close()
