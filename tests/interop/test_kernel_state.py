"""Links and policies as the real kernel tells them: broken and mended in a namespace, heard as events, read as dumps."""

from __future__ import annotations

import asyncio
import struct
import subprocess
from collections.abc import Callable
from ipaddress import ip_address, ip_network

from anycast.model import Status
from anycast.reasons import Reason
from site_agent.checks.base import Finding
from site_agent.checks.links import LinksCheck
from site_agent.netlink import xfrm, xfrm_keys
from site_agent.netlink.messages import NETLINK_XFRM, Message
from site_agent.netlink.transport import EventSocket, dump
from tests.support.namespace import in_namespace

EVENT_S = 2.0
VIP, CLIENT = ip_address("203.0.113.1"), ip_address("198.51.100.66")


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


class Watched:
    """The check with its kernel events, as the agent has it."""

    def __init__(self, check: LinksCheck) -> None:
        self.check, self.heard = check, asyncio.Event()
        self.events: EventSocket = check.watch(self.heard.set)

    async def look(self) -> Finding:
        (finding,) = await self.check.look()
        return finding

    async def after(self, words: str) -> Finding:
        """What a look says after the event that `ip WORDS` causes."""
        self.heard.clear()
        ip(words)
        async with asyncio.timeout(EVENT_S):
            await self.heard.wait()
        return await self.look()


@in_namespace
def test_a_link_that_loses_carrier_is_set_down_or_goes_is_heard_and_named() -> None:
    ip("link add up1 type veth peer name far1")
    ip("link add in1 type veth peer name far2")
    for name in ("up1", "far1", "in1", "far2"):
        ip(f"link set {name} up")

    async def run() -> None:
        watched = Watched(LinksCheck(("up1", "in1")))
        assert (await watched.look()).status is Status.PASSING
        pulled = await watched.after("link set far1 down")
        assert (pulled.status, pulled.reason, pulled.detail) == (Status.FAILING, Reason.LINK_DOWN, "up1: no carrier")
        assert (await watched.after("link set far1 up")).status is Status.PASSING
        assert (await watched.after("link set in1 down")).detail == "in1: set down"
        both = await watched.after("link set far1 down")
        assert both.detail == "up1: no carrier, in1: set down"
        await watched.after("link set far1 up")
        assert (await watched.after("link set in1 up")).status is Status.PASSING
        assert (await watched.after("link del in1")).detail == "in1: gone"
        watched.events.close()

    asyncio.run(run())


@in_namespace
def test_other_peoples_links_cause_no_look() -> None:
    ip("link add up1 type veth peer name far1")
    for name in ("up1", "far1"):
        ip(f"link set {name} up")

    async def run() -> None:
        watched = Watched(LinksCheck(("up1",)))
        looks = 0

        def count() -> None:
            nonlocal looks
            looks += 1

        watched.events.close()
        watched.events = watched.check.watch(count)
        ip("link add other1 type veth peer name other2")
        ip("link del other1")
        ip("link set far1 down")  # heard after the others, because one socket keeps their order
        async with asyncio.timeout(EVENT_S):
            while not looks:
                await asyncio.sleep(0)
        before = looks
        ip("link add other3 type veth peer name other4")
        ip("link set other3 up")
        for _ in range(5):  # what they caused is in the socket by now; a turn of the loop or two reads it
            await asyncio.sleep(0)
        assert looks == before
        watched.events.close()

    asyncio.run(run())


async def table(kind: int, take: Callable[[memoryview], None]) -> None:
    await dump(NETLINK_XFRM, kind, lambda message: take(message.payload))


@in_namespace
def test_the_kernels_policies_have_the_keys_that_charons_words_give() -> None:
    inside, inner = ip_network("192.0.2.0/28"), ip_network("203.0.113.65/32")
    inside6, inner6 = ip_network("2001:db8:b::/64"), ip_network("2001:db8:c:1::1/128")
    expected = set()
    for here, there in ((inside, inner), (inside6, inner6)):
        for direction, word, source, destination in (
            (xfrm_keys.OUT, "out", here, there),
            (xfrm_keys.IN, "in", there, here),
            (xfrm_keys.FORWARD, "fwd", there, here),
        ):
            ends = (VIP, CLIENT) if word == "out" else (CLIENT, VIP)
            ip(
                f"xfrm policy add src {source} dst {destination} dir {word} priority 7 mark 5 mask 0xff"
                f" tmpl src {ends[0]} dst {ends[1]} proto esp reqid 9 mode tunnel"
            )
            sides = (xfrm_keys.pack_network(side.network_address, side.prefixlen) for side in (source, destination))
            expected.add(xfrm_keys.make_policy_key(direction, struct.pack("=I", 9), *sides))
    ip("xfrm policy add src 192.0.2.0/28 dst 192.0.2.16/28 dir out action block")
    seen = set()

    def take(payload: memoryview) -> None:
        key = xfrm_keys.policy_key(payload, frozenset({xfrm_keys.pack_address(VIP)}))
        if key is not None:
            seen.add(key)

    asyncio.run(table(xfrm.XFRM_MSG_GETPOLICY, take))
    assert seen == expected, "with marks and families, and without those that are not ours"


@in_namespace
def test_an_spi_that_is_only_reserved_has_the_sas_key_and_is_no_orphan() -> None:
    # allocspi works without ESP in the kernel; an SA with keys is compared inside User Mode Linux (tests/lab).
    ip(f"xfrm state allocspi src {CLIENT} dst {VIP} proto esp reqid 3 mode tunnel min 0xc1 max 0xc1")
    keys, settled = [], []

    def take(payload: memoryview) -> None:
        keys.append(xfrm_keys.sa_key(payload))
        settled.append(xfrm_keys.is_settled_sa(payload, frozenset({xfrm_keys.pack_address(VIP)})))

    asyncio.run(table(xfrm.XFRM_MSG_GETSA, take))
    assert (keys, settled) == ([xfrm_keys.make_sa_key(VIP, 50, 0xC1)], [False])


@in_namespace
def test_a_flush_and_a_deletion_are_messages_of_their_groups() -> None:
    async def heard_after(commands: list[str], kind: int) -> None:
        came = asyncio.Event()

        def on_message(message: Message) -> None:
            if message.kind == kind:
                came.set()

        events = EventSocket(NETLINK_XFRM, xfrm.XFRMGRP_SA | xfrm.XFRMGRP_POLICY, on_message, lambda: None)
        for command in commands:
            ip(command)
        async with asyncio.timeout(EVENT_S):
            await came.wait()
        events.close()

    state = f"xfrm state allocspi src {CLIENT} dst {VIP} proto esp reqid 3 mode tunnel min 0xc1 max 0xc1"
    policy = "xfrm policy add src 192.0.2.0/28 dst 203.0.113.65/32 dir out"
    asyncio.run(heard_after([state, "xfrm state flush"], xfrm.XFRM_MSG_FLUSHSA))
    asyncio.run(heard_after([state, f"xfrm state delete src {CLIENT} dst {VIP} proto esp spi 0xc1"], xfrm.XFRM_MSG_DELSA))
    asyncio.run(heard_after([policy, "xfrm policy flush"], xfrm.XFRM_MSG_FLUSHPOLICY))
    delete = "xfrm policy delete src 192.0.2.0/28 dst 203.0.113.65/32 dir out"
    asyncio.run(heard_after([policy, delete], xfrm.XFRM_MSG_DELPOLICY))
