"""A whole gateway that takes contents: a first one, a drain that its upstream sees, a document by a restart in place."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os

import pytest

from anycast import link_wire
from anycast.content.content import Because, Moves
from anycast.coordinator import rollouts
from anycast.policy import token_holder, tokens
from tests.support.managed import running
from tests.support.managed_gateway import World
from tests.support.namespace import in_namespace

pytestmark = [pytest.mark.root, pytest.mark.alone]  # leases, a grace and an upstream that must miss nothing


@in_namespace
def test_a_gateway_runs_by_what_was_signed_drains_and_takes_another_document() -> None:
    tokens.SETTLE_S = 1.0  # type: ignore[misc]
    token_holder.HEARTBEAT_S = link_wire.HEARTBEAT_S = 0.5  # type: ignore[misc]
    rollouts.AGAIN_S = 2.0

    async def test() -> None:
        world = World()
        async with contextlib.AsyncExitStack() as stack:
            await world.serve(stack)
            documents, gateway = world.documents(), world.gateway
            sin = await world.start()
            async with running(sin):
                await world.until(lambda: len(world.service.status().sites) == 2, "both are heard")
                pid = gateway.agent.pid if gateway.agent is not None else 0
                await world.apply(documents)
                assert gateway.upstream.prefixes() >= gateway.all_prefixes, "to run by it moves nothing"

                await world.apply(documents, drained=True)
                await asyncio.to_thread(gateway.withdrawn, within_s=10)
                status = json.loads((await asyncio.to_thread(gateway.ask, "status", "--json")).stdout)
                assert status["verdict"]["serving"] is True, "it could"
                assert [cause["reason"] for cause in status["route"]["causes"]] == ["drained"]
                assert sin.announced

                await world.apply(documents)
                await asyncio.to_thread(gateway.announced)

                # Tunnels first, of which there are none here: the route becomes worse, and is withdrawn later.
                await world.apply(documents, drained=True, moves=Moves(site="sin", to=("203.0.113.9",)))
                assert gateway.upstream.prefixes() >= gateway.all_prefixes
                await asyncio.to_thread(gateway.withdrawn, within_s=30)
                steps = [event["step"] for event in gateway.events("DrainStepTaken")]
                assert steps[:3] == ["moving", "degrading", "withdrawing"], steps
                await world.apply(documents)
                await asyncio.to_thread(gateway.announced)
                await world.until(lambda: gateway.events("DrainStepTaken")[-1]["step"] == "ended", "it is over")

                # Degraded: there, and worse. Its slot is the ledger's until it is as good as any other.
                work = Because(kind="degrade", why="one fan is dead", until=1_800_000_000)
                withdrawn = len(gateway.events("PrefixWithdrawn"))
                await world.apply(documents, degraded=2, because=work)
                looks = await asyncio.to_thread(gateway.upstream.ask, "show route all")
                paths = [line.split(":")[1].split() for line in looks.splitlines() if "BGP.as_path" in line]
                assert paths and all(path == ["64501"] * 3 for path in paths), looks
                assert looks.count("(65535,0)") == len(paths), looks
                ledger = world.service.status().ledger
                assert "fra degrade by alice until" in ledger, ledger
                status = json.loads((await asyncio.to_thread(gateway.ask, "status", "--json")).stdout)
                assert "one fan is dead" in status["coordinator"]["degraded"]
                await world.apply(documents)
                looks = await asyncio.to_thread(gateway.upstream.ask, "show route all")
                assert "(65535,0)" not in looks and "64501 64501" not in looks
                await world.until(lambda: "fra" not in world.service.status().ledger, "its slot is back")
                assert len(gateway.events("PrefixWithdrawn")) == withdrawn, "an implicit withdrawal only"

                before = len(gateway.events("PrefixWithdrawn"))
                await world.apply(world.documents(stop_limit_ms=1500))
                await asyncio.to_thread(gateway.announced)
                status = json.loads((await asyncio.to_thread(gateway.ask, "status", "--json")).stdout)
                assert status["document"]["generation"] == 15
                assert len(gateway.events("AgentStarted")) == 2, "it began anew"
                assert os.path.exists(f"/proc/{pid}"), "in the same process"
                assert len(gateway.events("PrefixWithdrawn")) == before, "by the grace of a clean stop"

    asyncio.run(test())
