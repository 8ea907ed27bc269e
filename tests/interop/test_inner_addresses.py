"""No inner address is given twice, with real charons and their real `ha` plugin: failover, rekey, restart, failback."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable

import pytest

from anycast.errors import PeerError
from anycast.events import ClientConnected, ClientGone, ClientsServed, Event
from site_agent.ike.address_keeper import AddressKeeper
from site_agent.ike.address_ranges import Ranges, parse_address, parse_range
from site_agent.ike.client_watch import ClientWatch
from site_agent.ike.clients import Client, client_of
from site_agent.ike.inner_address_words import PeerConnected, PeerLost, PeerSaid, RoleIs
from site_agent.ike.inner_addresses import InnerAddresses, Limits
from site_agent.ike.own_connections import OwnConnections, read_messages, read_tree
from site_agent.ike.pool_counts import counted
from site_agent.ike.pool_keeper import PoolKeeper, pool_name
from site_agent.ike.swanctl_text import pool_attributes
from tests.support.charons import CONNECTION, Gateway, Pair
from tests.support.namespace import in_namespace

pytestmark = pytest.mark.root

POOLS = ("203.0.113.0/25", "2001:db8:c::/112")
LIMITS = Limits(reserve=24, longest_range=8)
CLIENTS = 20


def with_pair(test: Callable[[Pair], Awaitable[None]]) -> None:
    async def run() -> None:
        pair = Pair(POOLS, LIMITS)
        await pair.boot()
        await test(pair)

    asyncio.run(run())


async def promote(pair: Pair, new: Gateway, old: Gateway) -> None:
    """In the order of architecture.md; the other one may know nothing of it."""
    await new.tell(RoleIs(True))
    pair.move_vip(new)
    new.switch("+1")
    old.switch("-1")

    async def active() -> bool:
        return all(ike_sa["state"] == b"ESTABLISHED" for ike_sa in await new.sas())

    await pair.until("charon is active", active)


async def rekey_all(gateway: Gateway, **what: str) -> None:
    for ike_sa in await gateway.sas():
        await gateway.ask("rekey", {"ike-id": ike_sa["uniqueid"], **what})


@in_namespace
def test_twenty_clients_a_rekey_a_restart_of_the_standby_a_failover_and_twenty_more_clients_are_forty_addresses() -> None:
    async def run(pair: Pair) -> None:
        one, two = pair.gateways
        for gateway in pair.gateways:
            await gateway.look()
            await gateway.tell(PeerConnected())
        await one.tell(PeerSaid(two.word))
        await two.tell(PeerSaid(one.word))
        await promote(pair, one, two)
        given = {}
        for number in range(CLIENTS):
            given[f"c{number}"] = await pair.connect(f"c{number}")
            if number % 8 == 7:
                one.now += 1
                await one.look()
        assert all(len(addresses) == 2 for addresses in given.values()), "one of each family"

        # The trap: the standby comes back, and what the rekeys tell it has no virtual address.
        await two.restart()
        await rekey_all(one)

        async def mirrored() -> bool:
            return len(await two.sas()) == CLIENTS

        await pair.until("IKE_SAs are mirrored anew", mirrored)
        assert not any(ike_sa.get("remote-vips") for ike_sa in await two.sas()), "the fault is there to be met"
        await rekey_all(one, child="vpn")

        async def carried() -> bool:
            return len(await pair.carried(two)) == 2 * CLIENTS

        await pair.until("CHILD_SAs are mirrored anew", carried)
        everything = Ranges.of(parse_address(address) for addresses in given.values() for address in addresses)
        assert (await two.keeper.look(0.0)).uses == everything, "known from the selectors"
        for gateway in pair.gateways:
            counts = InnerAddresses(POOLS, 0, now=0.0)  # the gateways' own are in the middle of something
            counts.handle(await gateway.keeper.look(0.0), 0.0)
            assert counts.in_use == dict.fromkeys(POOLS, CLIENTS), "both count the same clients"

        for gateway in pair.gateways:
            await gateway.tell(PeerLost())
        await promote(pair, two, one)
        for number in range(CLIENTS, 2 * CLIENTS):
            given[f"c{number}"] = await pair.connect(f"c{number}")
            if number % 8 == 7:
                two.now += 1
                await two.look()
        everything = [address for addresses in given.values() for address in addresses]
        assert len(set(everything)) == 2 * 2 * CLIENTS
        carried_by_two = await pair.carried(two)
        assert set(carried_by_two) == set(everything) and max(carried_by_two.values()) == 1

        # Back to the first one, whose charon remembers leases of its own: some ended meanwhile, on the other one.
        gone = [f"c{number}" for number in range(0, CLIENTS, 2)]
        for identity in gone:
            await pair.clients.ask("terminate", {"ike": identity})
            del given[identity]
        await one.tell(RoleIs(False))
        one.now += 1
        looked = await one.look()
        assert looked.uses, "it has the mirror"
        await two.tell(RoleIs(False))
        await promote(pair, one, two)
        for identity in [*gone, *(f"d{number}" for number in range(10))]:
            given[identity] = await pair.connect(identity)
            one.now += 1
            await one.look()
        everything = [address for addresses in given.values() for address in addresses]
        assert len(set(everything)) == len(everything) == 2 * (2 * CLIENTS + 10)

    with_pair(run)


@in_namespace
def test_charon_gives_what_is_offered_and_never_what_a_closed_range_remembers() -> None:
    async def run(pair: Pair) -> None:
        one, _ = pair.gateways
        pair.move_vip(one)
        one.switch("+1")
        first = tuple(map(parse_range, ("203.0.113.10-203.0.113.11", "2001:db8:c::10-2001:db8:c::1f")))
        other = tuple(map(parse_range, ("203.0.113.40-203.0.113.41", "2001:db8:c::40-2001:db8:c::4f")))
        await one.keeper.apply(first)
        assert await pair.connect("a") == ["2001:db8:c::10", "203.0.113.10"]
        assert await pair.connect("b") == ["2001:db8:c::11", "203.0.113.11"]
        seen = await one.keeper.seen()
        assert [seen.taken[part] for part in first] == [2, 2]
        names = {pool_name(first[0]): "203.0.113.10/31", pool_name(first[1]): "2001:db8:c::10/124"}
        in_use = counted(await one.ask("get-pools"), names)
        assert in_use == {"203.0.113.10/31": 2, "2001:db8:c::10/124": 2}, "as an agent without a mirror counts"
        await one.keeper.apply(other)
        await pair.clients.ask("terminate", {"ike": "a"})

        async def back() -> bool:
            return parse_range("203.0.113.10").first not in (await one.keeper.look(0.0)).uses

        await pair.until("a closed range takes its leases back", back)
        assert await pair.connect("a") == ["2001:db8:c::40", "203.0.113.40"], "not what its identity once had"
        looked = await one.keeper.look(0.0)
        assert looked.uses == Ranges(map(parse_range, ("203.0.113.11", "2001:db8:c::11", "203.0.113.40", "2001:db8:c::40")))
        assert looked.listed == other and set(looked.loaded) == {*first, *other}, "b has an address of the first still"
        await pair.clients.ask("terminate", {"ike": "b"})

        async def unloaded() -> bool:
            await one.keeper.apply(other)
            return set((await one.keeper.look(0.0)).loaded) == set(other)

        await pair.until("and goes when nobody has one", unloaded)
        await one.keeper.apply(())
        with pytest.raises(PeerError):
            await pair.connect("c")
        assert (await one.keeper.look(0.0)).listed == ()

    with_pair(run)


@in_namespace
def test_a_range_that_is_offered_again_remembers_nobody_and_a_record_is_one_charons() -> None:
    async def run(pair: Pair) -> None:
        one, _ = pair.gateways
        pair.move_vip(one)
        one.switch("+1")
        span = tuple(map(parse_range, ("203.0.113.10-203.0.113.12", "2001:db8:c::10-2001:db8:c::1f")))
        await one.keeper.apply(span)
        await pair.connect("a")
        await one.keeper.apply(())
        await pair.clients.ask("terminate", {"ike": "a"})

        async def back() -> bool:
            return not (await one.keeper.look(0.0)).uses

        await pair.until("the client has left", back)
        assert (await one.keeper.seen()).taken[span[0]] == 1, "closed while it was in use, and remembers"
        await one.keeper.apply(span)
        assert (await one.keeper.seen()).taken[span[0]] == 0
        # Its process dies here; the next one finds what charon hands out from.
        assert (await one.keeper.look(0.0)).listed == span
        await one.restart()
        assert (await one.keeper.look(0.0)).listed == (), "the record is another charon's"
        await one.keeper.apply(span)
        assert (await one.keeper.look(0.0)).listed == span

    with_pair(run)


@in_namespace
def test_either_gateway_tells_who_has_which_address_over_rekeys_and_a_failover() -> None:
    async def run(pair: Pair) -> None:
        one, two = pair.gateways
        pair.move_vip(one)
        one.switch("+1")
        await one.keeper.apply(tuple(map(parse_range, ("203.0.113.10-203.0.113.19", "2001:db8:c::10-2001:db8:c::1f"))))
        watches = {gateway: ClientWatch() for gateway in pair.gateways}
        told: dict[Gateway, list[Event]] = {gateway: [] for gateway in pair.gateways}

        async def look(serving: Gateway) -> None:
            for gateway in pair.gateways:
                seen: list[Client | None] = []
                await gateway.keeper.look(0.0, also=lambda _, ike_sa, seen=seen: seen.append(client_of(ike_sa)))  # type: ignore[misc]
                clients = [client for client in seen if client is not None]
                told[gateway] += watches[gateway].looked(clients, serving=gateway is serving, now=0.0)

        await look(one)
        given = {identity: await pair.connect(identity) for identity in ("a", "b", "c")}

        async def mirrored() -> bool:
            return len(await pair.carried(two)) == 6

        await pair.until("all is mirrored", mirrored)
        await look(one)
        for gateway in pair.gateways:
            came = [event for event in told[gateway] if isinstance(event, ClientConnected)]
            assert {event.identity: sorted(event.inner) for event in came} == given
            assert all(event.outer == "198.51.100.13:4500" for event in came)
        await rekey_all(one)
        await asyncio.sleep(0.5)
        await look(one)
        pair.move_vip(two)
        two.switch("+1")
        one.switch("-1")
        await asyncio.sleep(0.5)
        before = {gateway: len(events) for gateway, events in told.items()}
        await look(two)
        await look(two)
        assert [told[one][before[one] :], told[two][before[two] :]] == [
            [ClientsServed(serving=False, clients=3)],
            [ClientsServed(serving=True, clients=3)],
        ], "a failover and rekeys end no session"
        await pair.clients.ask("terminate", {"ike": "a"})
        await asyncio.sleep(0.5)
        await look(two)
        await look(two)
        assert [event.identity for event in told[two] if isinstance(event, ClientGone)] == ["a"]

    with_pair(run)


@in_namespace
def test_a_user_of_eap_gets_what_is_offered_and_is_named_on_both_gateways() -> None:
    """No fleet asks for EAP; an operator's own connection may, and its clients are told apart by user."""

    async def run(pair: Pair) -> None:
        one, two = pair.gateways
        pair.move_vip(one)
        one.switch("+1")
        await pair.clients.ask(
            "load-shared", {"id": "user", "type": "EAP", "data": "not a secret", "owners": ["alice", "bob"]}
        )
        own = {"vpn": {**CONNECTION["vpn"], "remote": {"auth": "eap-md5", "eap_id": "%any"}}}
        for gateway in pair.gateways:
            gateway.keeper = PoolKeeper(
                gateway.vici, gateway.record, connections=lambda: own, attributes={}, process=lambda: str(one.pid)
            )
            secret = {"id": "user", "type": "EAP", "data": "not a secret", "owners": ["alice", "bob"]}
            await gateway.ask("load-shared", secret)
        await one.keeper.apply(tuple(map(parse_range, ("203.0.113.10-203.0.113.12", "2001:db8:c::10-2001:db8:c::1f"))))
        assert await pair.connect("device1", eap="alice") == ["2001:db8:c::10", "203.0.113.10"]
        assert await pair.connect("device2", eap="bob") == ["2001:db8:c::11", "203.0.113.11"]

        async def mirrored() -> bool:
            return len(await pair.carried(two)) == 4

        await two.ask("load-conn", {name: {**message, "pools": []} for name, message in own.items()})
        await pair.until("both are mirrored", mirrored)
        for gateway in pair.gateways:
            named = {
                client.eap_identity: client.inner for client in map(client_of, await gateway.sas()) if client is not None
            }
            assert named == {
                "alice": ("203.0.113.10", "2001:db8:c::10"),
                "bob": ("203.0.113.11", "2001:db8:c::11"),
            }

    with_pair(run)


@in_namespace
def test_the_keeper_runs_a_pair_by_itself_and_survives_what_charon_does() -> None:
    """Two keepers that carry each other's words: promotion, a restart of charon, a charon that hangs, two failovers."""

    async def run(pair: Pair) -> None:
        one, two = pair.gateways
        words: dict[Gateway, list[bytes]] = {one: [], two: []}
        alarms: list[Event] = []
        log: list[Event] = []
        keepers = {
            gateway: AddressKeeper(
                InnerAddresses(POOLS, rank, now=time.monotonic(), limits=LIMITS),
                gateway.keeper,
                clock=time.monotonic,
                tell_peer=words[gateway].append,
                happened=alarms.append,
                client_event=log.append if gateway is one else lambda _: None,
            )
            for rank, gateway in enumerate(pair.gateways)
        }
        tasks = [asyncio.create_task(keeper.run()) for keeper in keepers.values()]

        async def carry() -> None:
            while True:
                for gateway, other in ((one, two), (two, one)):
                    while words[gateway]:
                        keepers[other].peer_said(words[gateway].pop(0))
                await asyncio.sleep(0.01)

        for keeper in keepers.values():
            keeper.peer_connected()
        tasks.append(asyncio.create_task(carry()))

        async def promote(new: Gateway, old: Gateway) -> None:
            await keepers[old].role(False)
            assert old.record.read(str(old.pid)) == [], "closed when the step is done, not some time later"

            waits = asyncio.create_task(keepers[new].hands_out())
            await asyncio.sleep(0)
            assert not waits.done(), "a Backup hands out nothing"
            await keepers[new].role(True)
            await asyncio.wait_for(waits, 20)
            assert await new.ask("get-pools"), "charon has ranges when new clients are let in"
            assert new.record.read(str(new.pid))
            pair.move_vip(new)
            new.switch("+1")
            old.switch("-1")

        await promote(one, two)
        given = [await pair.connect(f"c{number}") for number in range(10)]
        await two.restart()
        keepers[two].charon_started()
        await promote(two, one)
        assert one.record.read(str(one.pid)) == [], "a Backup hands out nothing"
        given += [await pair.connect(f"d{number}") for number in range(10)]
        os.kill(two.pid, signal.SIGSTOP)
        await asyncio.sleep(0.2)
        os.kill(two.pid, signal.SIGCONT)
        await promote(one, two)
        given += [await pair.connect(f"e{number}") for number in range(10)]
        everything = [address for addresses in given for address in addresses]
        assert len(set(everything)) == len(everything) == 60
        assert alarms == []

        async def told() -> bool:
            return {event.identity for event in log if isinstance(event, ClientConnected)} >= {f"e{n}" for n in range(10)}

        await pair.until("who came is in the log", told)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    with_pair(run)


SWANCTL_CONF = """connections {
    vpn {
        version = 2
        local_addrs = 198.51.100.1
        proposals = aes256gcm16-prfsha256-curve25519
        pools = clients4, clients6
        encap = yes
        local { auth = psk
            id = vpn.example.org }
        remote { auth = psk }
        children { vpn { local_ts = 192.0.2.0/25, 2001:db8:b::/64
            esp_proposals = aes256gcm16 } }
    }
}
pools {
    clients4 { addrs = 203.0.113.0/25
        dns = 192.0.2.53, 2001:db8:b::53 }
    clients6 { addrs = 2001:db8:c::/112
        dns = 192.0.2.53, 2001:db8:b::53 }
}
"""


@in_namespace
def test_what_the_agent_loads_hands_out_nothing_of_itself_and_keeps_what_is_offered() -> None:
    async def run(pair: Pair) -> None:
        one, _ = pair.gateways
        pair.move_vip(one)
        one.switch("+1")
        folder = one.folder / "swanctl"
        folder.mkdir()
        (folder / "swanctl.conf").write_text(SWANCTL_CONF)
        own = OwnConnections(one.vici, swanctl_dir=folder, record=one.folder / "loaded", offers=one.record)
        assert await own.load(str(one.pid)) == []
        assert not await one.ask("get-pools")
        with pytest.raises(PeerError):
            await pair.connect("a")
        connections, pools = read_tree(folder)
        keeper = PoolKeeper(
            one.vici,
            one.record,
            connections=lambda: read_messages(connections),
            attributes=pool_attributes(pools),
            process=lambda: str(one.pid),
        )
        await keeper.apply(tuple(map(parse_range, ("203.0.113.10-203.0.113.12", "2001:db8:c::10-2001:db8:c::1f"))))
        assert await own.load(str(one.pid)) == [], "an operator changes something"
        assert await pair.connect("b") == ["2001:db8:c::10", "203.0.113.10"]
        assert all(name.startswith("inner-") for name in await one.ask("get-pools"))
        log = (one.folder / "log").read_text()
        assert "CPRP(ADDR ADDR6 DNS" in log and "DNS6" in log, "clients are told the name servers as before"

    with_pair(run)
