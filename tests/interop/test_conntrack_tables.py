"""Two conntrack mirrors, two real tables: what crosses, what does not, and what heals."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from site_agent.sync import conntrack_mirror
from site_agent.sync.conntrack_wire import Type
from site_agent.sync.numbers_words import Role
from tests.support.conntrack_pair import (
    ASSURED,
    CLIENT6,
    CONFIRMED,
    ONE,
    OTHER,
    SEEN_REPLY,
    SERVER6,
    TCP,
    TRANSLATED,
    ask,
    change,
    delete,
    differences,
    flow,
    insert,
    mirrored,
    round_of,
    run,
    settle,
    table,
    told,
    tracked,
)
from tests.support.namespace import in_namespace


def played(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    tracked(ONE, OTHER)
    asyncio.run(asyncio.wait_for(test(), 20))


def ports(name: str) -> set[int]:
    return {flow[3] for flow in table(name)}


@in_namespace
def test_a_table_crosses_whole_and_events_follow() -> None:
    async def test() -> None:
        async with mirrored(connect=False) as (one, other):
            one.cut = True
            insert(ONE, *(flow(port, translated=TRANSLATED) for port in range(2000, 2100)))
            insert(ONE, flow(3000, protocol=TCP, tcp_state=3, timeout=432_000, mark=7), flow(3001, zone=5, mark=9))
            insert(ONE, flow(3002, zone=6), flow(3002, source=CLIENT6, target=SERVER6, mark=0xFFFF_FFFE), flow(3003))
            await settle(one, other)
            assert not table(OTHER)
            one.cut = False
            one.said.clear()
            one.shell.connected(resumed=False)
            other.shell.connected(resumed=False)
            await settle(one, other)
            assert not differences(ONE, OTHER) and len(table(ONE)) == 105
            first = next(iter(table(OTHER).values()))
            assert first["status"] & 0x10 or any(each["status"] & 0x10 for each in table(OTHER).values()), "SNAT is set up"
            insert(ONE, flow(4000, translated=TRANSLATED), flow(4001))
            change(ONE, flow(3000, protocol=TCP, tcp_state=7, mark=11, timeout=432_000), flow(3001, zone=5, mark=10))
            delete(ONE, flow(3002, zone=6), flow(2000))
            await settle(one, other)
            assert not differences(ONE, OTHER) and len(table(ONE)) == 105
            assert not other.mirror.copier.failed and not other.mirror.copier.foreign
            assert other.worked_off == len(one.said), "each message is acknowledged once"
            assert not one.mirror.misplaced and not other.mirror.misplaced
        copy = next(values for flow, values in table(OTHER).items() if flow[3] == 3000)
        assert copy["timeout"] > 430_000 and copy["mark"] == 11
        flags = [copy["tcp"].get_attr(f"CTA_PROTOINFO_TCP_FLAGS_{each}") for each in ("ORIGINAL", "REPLY")]
        assert all(int(flag[0]) & 0x08 for flag in flags), "liberal"
        scales = [copy["tcp"].get_attr(f"CTA_PROTOINFO_TCP_WSCALE_{each}") for each in ("ORIGINAL", "REPLY")]
        assert scales == [7, 9]

    played(test)


@in_namespace
def test_a_copy_lives_longer_and_rounds_keep_it_alive() -> None:
    async def test() -> None:
        insert(ONE, flow(2000, timeout=30), flow(2001, timeout=300), flow(2002, timeout=30))
        async with mirrored() as (one, other):
            await settle(one, other)
            left = {key[3]: values["timeout"] for key, values in table(OTHER).items()}
            assert 250 <= left[2000] <= 255 and 505 <= left[2001] <= 511, "rounded up to the end of its 256 seconds"
            change(OTHER, flow(2000, timeout=20), flow(2002, timeout=20))
            delete(ONE, flow(2002))  # which began before anybody listened: no event tells of its end
            await settle(one, other)
            await round_of(one, other)
            left = {key[3]: values["timeout"] for key, values in table(OTHER).items()}
            assert left.keys() == {2000, 2001} and left[2000] > 250 and left[2001] > 500
            applied = other.mirror.copier.applied
            await round_of(one, other)
            assert other.mirror.copier.applied == applied, "what was refreshed is not due again"

    played(test)


@in_namespace
def test_forced_divergence_heals_and_a_second_round_changes_nothing() -> None:
    async def test() -> None:
        insert(ONE, *(flow(port, translated=TRANSLATED, timeout=300) for port in range(2000, 2100)))
        async with mirrored() as (one, other):
            await settle(one, other)
            delete(OTHER, flow(2000), flow(2001))
            change(OTHER, flow(2002, mark=99))
            delete(OTHER, flow(2003))
            insert(OTHER, flow(2003))  # the same flow, and not translated
            delete(OTHER, flow(2004))
            insert(OTHER, flow(2004, translated="198.51.100.78"))  # or to another address
            insert(OTHER, flow(2900), flow(2901, source=CLIENT6, target=SERVER6), flow(2902, zone=3))
            assert len(differences(ONE, OTHER)) == 8
            await round_of(one, other)
            assert not differences(ONE, OTHER) and len(table(ONE)) == 100
            copier = other.mirror.copier
            assert copier.differing == 8 and copier.replaced == 3 and copier.extra == 3
            applied, before = copier.applied, table(OTHER)
            await round_of(one, other)
            assert copier.differing == 0 and copier.applied == applied
            assert {k: v["reply"] for k, v in table(OTHER).items()} == {k: v["reply"] for k, v in before.items()}
            assert not copier.failed

    played(test)


@in_namespace
def test_an_answer_that_did_not_arrive_whole_deletes_nothing() -> None:
    async def test() -> None:
        insert(ONE, *(flow(port) for port in range(2000, 2050)))
        async with mirrored() as (one, other):
            await settle(one, other)
            change(OTHER, *(flow(port, mark=1) for port in range(2000, 2050)))
            one.loses = lambda payload: payload[0] == Type.CONTENT
            await round_of(one, other)
            assert ports(OTHER) == set(range(2000, 2050)), "not named is not gone"
            assert one.mirror.unsent == 1
            one.loses = lambda payload: False
            await round_of(one, other)
            assert not differences(ONE, OTHER)

    played(test)


@in_namespace
def test_lost_events_lead_to_another_look() -> None:
    async def test() -> None:
        conntrack_mirror.ROUND_LEAST_S = 0.05
        async with mirrored() as (one, other):
            await settle(one, other)
            await asyncio.sleep(0.1)  # the round after the table
            await settle(one, other)
            rounds, events = one.mirror.rounds, one.shell._events
            assert events is not None
            events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            insert(ONE, *(flow(port) for port in range(2000, 2200)))  # the loop does not run meanwhile
            await asyncio.sleep(0.1)
            await settle(one, other)
            assert one.mirror.events_lost, "the kernel said ENOBUFS"
            assert one.mirror.rounds > rounds and len(table(OTHER)) == 200 and not differences(ONE, OTHER)
            one.cut = True
            insert(ONE, flow(3000))
            await settle(one, other)
            one.cut = False
            assert 3000 not in ports(OTHER) and one.mirror.unsent == 1
            await asyncio.sleep(0.1)
            await settle(one, other)
            assert 3000 in ports(OTHER), "a message without room is made up for"

    played(test)


@in_namespace
def test_a_flow_that_the_other_kernel_has_otherwise_is_replaced() -> None:
    async def test() -> None:
        async with mirrored() as (one, other):
            await settle(one, other)
            insert(OTHER, flow(2000), flow(2001, mark=4))
            insert(ONE, flow(2000, translated=TRANSLATED), flow(2001, status=CONFIRMED))
            await settle(one, other)
            assert not differences(ONE, OTHER)
            delete(OTHER, flow(2001))
            change(ONE, flow(2001, status=SEEN_REPLY | ASSURED | CONFIRMED, mark=3))
            await settle(one, other)
            assert not differences(ONE, OTHER), "a change of a flow that is missing makes it"
            assert not other.mirror.copier.failed

    played(test)


@in_namespace
def test_a_gateways_own_flows_and_strangers_stay_where_they_are() -> None:
    async def test() -> None:
        own = [
            flow(500, source="203.0.113.9", target=TRANSLATED),  # a client's IKE
            flow(4517, source="198.51.100.1", target="198.51.100.3", protocol=TCP, tcp_state=3),
            flow(22, source="192.0.2.7", target="192.0.2.1", protocol=TCP, tcp_state=3),  # inside, to the gateway itself
            flow(99, source="203.0.113.9", target="203.0.113.10"),
        ]
        insert(ONE, *own)
        async with mirrored() as (one, other):
            insert(ONE, flow(2000))
            await settle(one, other)
            assert ports(OTHER) == {2000}
            await round_of(one, other)
            assert ports(OTHER) == {2000} and other.mirror.copier.differing == 0
            # A Backup's own flows are not extra ones.
            insert(OTHER, *own)
            await round_of(one, other)
            assert len(table(OTHER)) == 5

    played(test)


@in_namespace
def test_only_a_backup_inserts_and_only_an_active_tells() -> None:
    async def test() -> None:
        async with mirrored(Role.ACTIVE, Role.ACTIVE) as (one, other):
            insert(ONE, flow(2000))
            await settle(one, other)
            assert not table(OTHER) and other.mirror.misplaced == 1
            other.becomes(Role.PROMOTING)
            insert(ONE, flow(2001))
            await settle(one, other)
            assert not table(OTHER)
            one.becomes(Role.BACKUP)
            other.becomes(Role.BACKUP)
            await settle(one, other)
            said = len(one.said), len(other.said)
            insert(ONE, flow(2002))
            await settle(one, other)
            assert (len(one.said), len(other.said)) == said
            other.becomes(Role.ACTIVE)
            await settle(one, other)
            assert not table(ONE) and not table(OTHER), "the new Active's table counts"

    played(test)


@in_namespace
def test_what_was_copied_is_told_back_after_a_takeover() -> None:
    async def test() -> None:
        async with mirrored() as (one, other):
            insert(ONE, flow(2000, translated=TRANSLATED), flow(2001), flow(2002))
            await settle(one, other)
            said = len(other.said)
            one.becomes(Role.BACKUP)
            other.becomes(Role.ACTIVE)
            await settle(one, other)
            assert one.mirror.copier.differing == 0 and len(other.said) > said
            delete(OTHER, flow(2000))  # a copy, and its end is told
            change(OTHER, flow(2001, mark=5))
            insert(OTHER, flow(2003))
            await settle(one, other)
            assert ports(ONE) == {2001, 2002, 2003} and not differences(ONE, OTHER)

    played(test)


@in_namespace
def test_flows_that_began_while_nobody_listened_have_events() -> None:
    """By default they have none for ever; a listener in any other namespace of the machine hides that."""

    async def test() -> None:
        async with mirrored(Role.BACKUP, Role.BACKUP, connect=False) as (one, other):
            insert(OTHER, flow(2000))
            other.becomes(Role.ACTIVE)
            await settle(one, other)
            delete(OTHER, flow(2000))
            await settle(one, other)
            assert [payload[0] for payload in other.said] == [Type.EVENTS]

    played(test)


@in_namespace
def test_a_peer_that_lies_reaches_nothing_but_mirrored_flows() -> None:
    async def test() -> None:
        async with mirrored(connect=False) as (one, other):
            insert(OTHER, flow(22, source="192.0.2.7", target="192.0.2.1", protocol=TCP, tcp_state=3))
            flush = bytes([20, 0, 0, 0, 2, 1, 1, 0]) + bytes(12)  # IPCTNL_MSG_CT_DELETE without a tuple: the whole table
            nft = bytes([20, 0, 0, 0, 2, 10, 1, 0]) + bytes(12)  # NFT_MSG_DELTABLE without a name: all tables
            own = flow(22, source="192.0.2.7", target="192.0.2.1", protocol=TCP, tcp_state=3)
            body = own.ljust((len(own) + 3) & ~3, b"\0")
            gone = (16 + len(body)).to_bytes(4, "little") + bytes([2, 1, 1, 0]) + bytes(8) + body
            good = told(flow(2000), flags=0x605)  # but for its flags: an acknowledgement is nothing that a copy asks for
            for lie in (flush, nft, gone, gone[:-4], good, b"\1", bytes(100)):
                for type_ in Type:
                    other.shell.deliver(bytes([type_, 1, 1, 0]) + lie, 1)
            await settle(one, other)
            assert len(table(OTHER)) == 1 and other.mirror.copier.applied == 0
            run(f"ip netns exec {OTHER} nft list table ip t")

    played(test)


@in_namespace
def test_a_flow_with_a_helper_is_refused_by_its_name() -> None:
    async def test() -> None:
        helped = flow(2000, protocol=TCP, tcp_state=3, extra=bytes([12, 0, 5, 128, 8, 0, 1, 0]) + b"ftp\0")
        if ask(ONE, helped) != [0]:
            pytest.skip("this kernel has no ftp helper")
        insert(ONE, flow(2001))
        async with mirrored() as (one, other):
            await settle(one, other)
            assert ports(OTHER) == {2001} and one.mirror.teller.refused == {"ftp": 1}

    played(test)
