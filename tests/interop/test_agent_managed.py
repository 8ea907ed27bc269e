"""A whole gateway that takes contents: a first one, a drain that its upstream sees, a document by a restart in place."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import time

import pytest

from anycast import link_wire
from anycast.content.canonical import encode
from anycast.content.content import Intent, Moves
from anycast.content.state import decode_state, in_force
from anycast.coordinator import rollouts
from anycast.coordinator.access import Caller
from anycast.coordinator.access import Role as Rank
from anycast.coordinator.service import Service
from anycast.document import Document
from anycast.fleet.compile import compile_fleet
from anycast.fleet.compile_content import compile_content
from anycast.fleet.loading import loads
from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Identity, Role
from anycast.policy import token_holder, tokens
from anycast.policy.plan import make, submit
from tests.support.contents import ALICE, TRUSTED
from tests.support.coordinator import NAME, Coordinator
from tests.support.documents import TWO_SITE
from tests.support.gateway import Gateway
from tests.support.managed import Managed, running
from tests.support.namespace import in_namespace
from tests.support.sync_pair import FLEET
from tests.support.upstream import until

pytestmark = [pytest.mark.root, pytest.mark.alone]  # leases, a grace and an upstream that must miss nothing
ROOT = Caller("alice", Rank.ADMIN)


def fleet_text() -> str:
    text = TWO_SITE.read_text().partition("\n# What only a lab has")[0].replace("fleet: two-site", f"fleet: {FLEET}", 1)
    return text + "\nbudget: {min_sites: 1}\ncoordinator: {name: coord, addresses: {ipv4: 192.0.2.99}}\n"


class World:
    """The real fra-gw1, an agent's end for sin-gw1, and their coordinator in this process."""

    def __init__(self) -> None:
        self.gateway = Gateway(recovery_ms=0)
        base = self.gateway.base / "coordinator"
        base.mkdir()
        self.files = Coordinator(base)
        (base / "operators.json").write_bytes(TRUSTED.data)
        self.service: Service

    async def serve(self, stack: contextlib.AsyncExitStack, port: int = 0) -> None:
        base = self.files.base
        me = Identity(FLEET, Role.COORDINATOR, NAME)
        self.service = Service(me, MachineFolder(base / "pki"), base / "db", base / "operators.json")
        await self.service.start(["127.0.0.1"], port)
        stack.push_async_callback(self.service.close)
        stack.callback(asyncio.create_task(self.service.run()).cancel)
        self.files.port = self.service.agents_port

    def documents(self, **agent: int) -> dict[str, Document]:
        """As the fleet file compiles, with this test's folders and coordinator."""
        made = compile_fleet(loads(fleet_text()))
        fra = self.files.known_to(self.gateway.document)
        fra = fra.model_copy(update={"agent": fra.agent.model_copy(update=agent)})
        sin = self.files.known_to(made["sin-gw1"])
        return {"fra-gw1": fra, "sin-gw1": sin}

    async def apply(self, documents: dict[str, Document], *, drained: bool = False, moves: Moves | None = None) -> None:
        """Plan, sign and hand in; return when its rollout is done."""
        await self.until(lambda: "rollout" not in self.service.status().ledger, "the last rollout's slots are back")
        state, contents = decode_state(encode(self.service.state().model_dump(mode="json")).encode())
        wanted = compile_content(loads(fleet_text()), documents)
        if drained:
            running_ = in_force(state, contents)
            assert running_ is not None
            wanted = running_.with_intent("fra", Intent.DRAINED, moves)
        made = make(state, contents, wanted, {name: each.canonical().decode() for name, each in documents.items()})
        assert not made.problems and not made.empty, made.problems
        await self.service.submit(ROOT, submit(made, ALICE), 1.0, blind=True)
        await self.until(lambda: self.rollout == "done", "the rollout is done")

    @property
    def rollout(self) -> str:
        found = self.service.status().rollout
        return "" if found is None else found.step

    async def until_told(self, gateway: str, event: str) -> None:
        """Until the newest of these is kept here, too."""
        newest = self.gateway.events(event)[-1]["seq"]

        async def is_kept() -> bool:
            found = await self.service._events.read(lambda store: store.positions().get(gateway))
            return found is not None and found.seq >= newest

        async with asyncio.timeout(20):
            while not await is_kept():
                await asyncio.sleep(0.1)

    async def until(self, condition, what: str, *, within_s: float = 60) -> None:  # type: ignore[no-untyped-def]
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(0.1)
        assert condition(), what


@in_namespace
def test_a_gateway_runs_by_what_was_signed_drains_and_takes_another_document() -> None:
    tokens.SETTLE_S = 1.0  # type: ignore[misc]
    token_holder.HEARTBEAT_S = link_wire.HEARTBEAT_S = 0.5  # type: ignore[misc]
    rollouts.AGAIN_S = 2.0

    async def test() -> None:
        world = World()
        async with contextlib.AsyncExitStack() as stack:
            await world.serve(stack)
            documents = world.documents()
            gateway, base = world.gateway, world.files.base
            folder = world.files.root.equip(base / "fra" / "pki", "fra-gw1")
            (base / "fra" / "operators.json").write_bytes(TRUSTED.data)
            other = world.files.root.equip(base / "sin" / "pki", "sin-gw1")
            sin = Managed(documents["sin-gw1"], other, base / "sin", TRUSTED)
            (gateway.base / "document.json").write_bytes(documents["fra-gw1"].canonical())
            await asyncio.to_thread(gateway.start, "--pki-dir", str(folder.path))
            await asyncio.to_thread(gateway.announced)
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

                before = len(gateway.events("PrefixWithdrawn"))
                await world.apply(world.documents(stop_limit_ms=1500))
                await asyncio.to_thread(gateway.announced)
                status = json.loads((await asyncio.to_thread(gateway.ask, "status", "--json")).stdout)
                assert status["document"]["generation"] == 11
                assert len(gateway.events("AgentStarted")) == 2, "it began anew"
                assert os.path.exists(f"/proc/{pid}"), "in the same process"
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
    tokens.SETTLE_S = 1.0  # type: ignore[misc]
    token_holder.HEARTBEAT_S = link_wire.HEARTBEAT_S = 0.5  # type: ignore[misc]
    rollouts.AGAIN_S = 2.0

    async def test() -> None:
        world = World()
        async with contextlib.AsyncExitStack() as first:
            await world.serve(first)
            documents = world.documents()
            gateway, base = world.gateway, world.files.base
            folder = world.files.root.equip(base / "fra" / "pki", "fra-gw1")
            (base / "fra" / "operators.json").write_bytes(TRUSTED.data)
            other = world.files.root.equip(base / "sin" / "pki", "sin-gw1")
            sin = Managed(documents["sin-gw1"], other, base / "sin", TRUSTED)
            (gateway.base / "document.json").write_bytes(documents["fra-gw1"].canonical())
            await asyncio.to_thread(gateway.start, "--pki-dir", str(folder.path))
            await asyncio.to_thread(gateway.announced)
            async with running(sin):
                await world.until(lambda: len(world.service.status().sites) == 2, "both are heard")
                await world.apply(documents)
        port = world.files.port

        # Nobody answers from here on. Started anew in the same boot it announces, however old the document is.
        then = time.time() - 999 * 3600
        os.utime(gateway.state_dir / "contents.json", (then, then))
        assert gateway.agent is not None
        gateway.signal_agent(signal.SIGKILL)
        gateway.agent.wait(10)
        await asyncio.to_thread(gateway.start, "--pki-dir", str(folder.path))
        await asyncio.to_thread(gateway.announced)

        boot(gateway, current_h_ago=167)
        await asyncio.to_thread(gateway.withdrawn, within_s=10)
        await asyncio.to_thread(gateway.start, "--pki-dir", str(folder.path))
        await asyncio.to_thread(gateway.announced)
        assert "document_old" not in reasons(gateway, "AlarmRaised")

        boot(gateway, current_h_ago=169)
        await asyncio.to_thread(gateway.withdrawn, within_s=10)
        await asyncio.to_thread(gateway.start, "--pki-dir", str(folder.path))
        await world.until(lambda: _serving(gateway), "it could serve")
        await asyncio.sleep(3)
        assert not gateway.upstream.prefixes() & gateway.all_prefixes
        status = json.loads(gateway.ask("status", "--json").stdout)
        [cause] = status["route"]["causes"]
        assert cause["reason"] == "document_old" and "current 169 h ago, which is longer than 168 h" in cause["detail"]
        assert "document_old" in gateway.ask("why").stdout
        assert any(alarm["reason"] == "document_old" for alarm in status["alarms"])

        # An operator's word is enough; and so is the coordinator's.
        held = gateway.ask("hold", "announce", "--for", "5s", "--reason", "it is right")
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
    asked = gateway.ask("status", "--json")
    return asked.returncode == 0 and json.loads(asked.stdout)["verdict"]["serving"] is True
