"""A whole gateway that takes contents: a first one, a drain that its upstream sees, a document by a restart in place."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from anycast.content.content import Because, Moves
from anycast.errors import PeerError
from site_agent import control
from tests.support.gateway import Gateway
from tests.support.managed import running
from tests.support.managed_gateway import World, quick
from tests.support.namespace import in_namespace
from tests.support.upstream import until

pytestmark = [pytest.mark.root, pytest.mark.alone]  # leases, a grace and an upstream that must miss nothing


@in_namespace
def test_a_gateway_runs_by_what_was_signed_drains_and_takes_another_document() -> None:
    quick()

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
                await world.until_told("fra-gw1", "PrefixWithdrawn")
                told = await world.service.why("fra", None, None)
                assert (told.state, told.why.partition(" ")[0]) == ("dark", "drained")
                steps = [step.what for step in told.trail]
                order = ["rollout.begin", "slot.taken", "RouteIntentChanged", "PrefixWithdrawn"]
                last = [len(steps) - 1 - steps[::-1].index(each) for each in order]
                assert last == sorted(last), "who began it, its slot, what the gateway did, what its upstream was told"
                assert told.trail[last[-1]].reason == "drained"

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
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                await world.apply(world.documents(stop_limit_ms=1500))
                await asyncio.to_thread(gateway.announced)
                status = json.loads((await asyncio.to_thread(gateway.ask, "status", "--json")).stdout)
                assert status["document"]["generation"] == 15
                assert len(gateway.events("AgentStarted")) == 2, "it began anew"
                assert Path(f"/proc/{pid}/cmdline").read_bytes() == command, "in the same interpreter: nothing was left open"
                assert len(gateway.events("PrefixWithdrawn")) == before, "by the grace of a clean stop"

    asyncio.run(test())


def boot(gateway: Gateway, *, current_h_ago: float) -> None:
    """The machine was off: nothing runs, what lay in its memory is gone, and the coordinator knew it so long ago."""
    pids = [gateway.pid(name) for name in ("exabgp", "charon")]
    assert gateway.agent is not None
    gateway.signal_agent(signal.SIGKILL)
    gateway.agent.wait(10)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in pids), "they are gone", within_s=10)
    shutil.rmtree(gateway.run_dir)
    then = time.time() - current_h_ago * 3600
    os.utime(gateway.state_dir / "contents.json", (then, then))


@in_namespace
def test_a_gateway_that_boots_alone_announces_by_a_young_document_and_waits_with_an_old_one() -> None:
    quick()

    async def test() -> None:
        world = World()
        async with contextlib.AsyncExitStack() as first:
            await world.serve(first)
            gateway, pki = world.gateway, str(world.files.base / "fra" / "pki")
            async with running(await world.start()):
                await world.until(lambda: len(world.service.status().sites) == 2, "both are heard")
                await world.apply(world.documents())
        port = world.files.port

        # Nobody answers from here on. Started anew in the same boot it announces, however old the document is.
        then = time.time() - 999 * 3600
        os.utime(gateway.state_dir / "contents.json", (then, then))
        assert gateway.agent is not None
        gateway.signal_agent(signal.SIGKILL)
        gateway.agent.wait(10)
        await asyncio.to_thread(gateway.start, "--pki-dir", pki)
        await asyncio.to_thread(gateway.announced)

        boot(gateway, current_h_ago=167)
        await asyncio.to_thread(gateway.withdrawn, within_s=10)
        await asyncio.to_thread(gateway.start, "--pki-dir", pki)
        await asyncio.to_thread(gateway.announced)
        assert "document_old" not in reasons(gateway, "AlarmRaised")

        boot(gateway, current_h_ago=169)
        await asyncio.to_thread(gateway.withdrawn, within_s=10)
        await asyncio.to_thread(gateway.start, "--pki-dir", pki)
        await world.until(lambda: _serving(gateway), "it could serve")
        await asyncio.sleep(2)  # five times what it needs to announce, as above
        assert not gateway.upstream.prefixes() & gateway.all_prefixes
        status = json.loads(gateway.ask("status", "--json").stdout)
        [cause] = status["route"]["causes"]
        assert cause["reason"] == "document_old" and "current 169 h ago, which is longer than 168 h" in cause["detail"]
        assert "document_old" in gateway.ask("why").stdout
        assert any(alarm["reason"] == "document_old" for alarm in status["alarms"])

        # An operator's word is enough; and so is the coordinator's.
        held = gateway.ask("hold", "announce", "--for", "2s", "--reason", "it is right")
        assert held.returncode == 0, held
        await asyncio.to_thread(gateway.announced)
        await asyncio.to_thread(gateway.withdrawn, within_s=20)
        async with contextlib.AsyncExitStack() as second:
            await world.serve(second, port)
            await asyncio.to_thread(gateway.announced, within_s=40)
            await world.until(lambda: "document_old" in reasons(gateway, "AlarmCleared"), "the alarm has ended")
            contents = gateway.state_dir / "contents.json"
            await world.until(lambda: time.time() - contents.stat().st_mtime < 60, "it is current again")

    asyncio.run(test())


def reasons(gateway: Gateway, kind: str) -> set[str]:
    return {event["reason"] for event in gateway.events(kind)}


def _serving(gateway: Gateway) -> bool:
    with contextlib.suppress(PeerError):
        return control.ask(gateway.run_dir / "control.sock", "status")["verdict"]["serving"] is True
    return False
