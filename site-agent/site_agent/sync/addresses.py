"""The keeper of charon's pools, made of the sync process's plan, and waited for no longer than a failover may."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from anycast.events import Event
from anycast.runtime import boottime, boottime_ns
from site_agent.ike.address_keeper import AddressKeeper
from site_agent.ike.inner_addresses import InnerAddresses
from site_agent.ike.own_connections import read_messages, read_tree
from site_agent.ike.pool_keeper import OfferRecord, PoolKeeper
from site_agent.ike.swanctl_text import Node, pool_attributes
from site_agent.ike.vici_client import ViciClient
from site_agent.sync.doorkeeper import Doorkeeper
from site_agent.sync.plan import Plan

LIMIT_S = 0.25
"""New clients wait for that, and those who have an address must not: then charon is told `+1` all the same. It takes some ms
where charon is not busy with many of them."""


def keeper_of(
    plan: Plan,
    *,
    charon: Callable[[], str],
    tell_peer: Callable[[bytes], None],
    happened: Callable[[Event], None],
    client_event: Callable[[Event], None],
) -> AddressKeeper:
    """`charon` identifies the one of now. Raises PeerError where the rendered connections cannot be read."""
    folder = Path(plan.swanctl)

    def messages() -> dict[str, Node]:
        return {name: part | {"pools": []} for name, part in read_messages(read_tree(folder)[0]).items()}

    pools = PoolKeeper(
        ViciClient(plan.vici),  # its own: a list of 20,000 IKE_SAs keeps others waiting
        OfferRecord(Path(plan.offers)),
        connections=messages,
        attributes=pool_attributes(read_tree(folder)[1]),
        process=charon,
    )
    core = InnerAddresses(plan.pools, plan.rank, now=boottime(), first_serial=boottime_ns() // 1000)
    return AddressKeeper(
        core, pools, clock=boottime, tell_peer=tell_peer, happened=happened, client_event=client_event
    )  # fmt: skip


async def offered(keeper: AddressKeeper, doorkeeper: Doorkeeper) -> str:
    """Let new clients in when charon hands out what an Active may, and wait for that for `LIMIT_S` at most. Returns what
    people should know of it."""
    doorkeeper.open_when(keeper.hands_out)  # later than the role is taken where the other gateway must stop first
    try:
        async with asyncio.timeout(LIMIT_S):
            await keeper.role(True)
    except TimeoutError:
        return f"charon has not taken them within {LIMIT_S:g} s; new clients wait"
    return ""
