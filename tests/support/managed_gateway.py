"""A whole gateway under a coordinator that runs in this process, with an operator's key; another site is an agent's end."""

from __future__ import annotations

import asyncio
import contextlib

from anycast import link_wire
from anycast.content.canonical import encode
from anycast.content.content import Because, Intent, Moves
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
from anycast.policy.rollout import Terms
from tests.support.contents import ALICE, TRUSTED
from tests.support.coordinator import NAME, Coordinator
from tests.support.documents import TWO_SITE
from tests.support.gateway import Gateway
from tests.support.managed import Managed
from tests.support.sync_pair import FLEET

ROOT = Caller("alice", Rank.ADMIN)
BAKE_S = 0.2


def fleet_text() -> str:
    text = TWO_SITE.read_text().partition("\n# What only a lab has")[0].replace("fleet: two-site", f"fleet: {FLEET}", 1)
    return text + "\nbudget: {min_sites: 1}\ncoordinator: {name: coord, addresses: {ipv4: 192.0.2.99}}\n"


def quick() -> None:
    """The coordinator's spans, in this process: nothing here waits for a leader to settle, or for a look by the clock."""
    tokens.SETTLE_S = 1.0  # type: ignore[misc]
    token_holder.HEARTBEAT_S = link_wire.HEARTBEAT_S = 0.5  # type: ignore[misc]
    rollouts.LOOK_S, rollouts.IDLE_LOOK_S, rollouts.PACE_S, rollouts.AGAIN_S = 0.1, 0.3, 0.05, 2.0


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

    async def apply(
        self,
        documents: dict[str, Document],
        *,
        drained: bool = False,
        moves: Moves | None = None,
        degraded: int | None = None,
        because: Because | None = None,
    ) -> None:
        """Plan, sign and hand in; return when its rollout is done. `drained`, or `degraded` by so many copies of its AS
        number: fra, from what it runs by."""
        await self.until(lambda: "rollout" not in self.service.status().ledger, "the last rollout's slots are back")
        state, contents = decode_state(encode(self.service.state().model_dump(mode="json")).encode())
        wanted = compile_content(loads(fleet_text()), documents)
        if drained or degraded is not None:
            running_ = in_force(state, contents)
            assert running_ is not None
            intent = Intent.DRAINED if drained else Intent.DEGRADED
            wanted = running_.with_intent("fra", intent, moves, because, degraded or 0)
        made = make(state, contents, wanted, {name: each.canonical().decode() for name, each in documents.items()})
        assert not made.problems and not made.empty, made.problems
        await self.service.submit(ROOT, submit(made, ALICE), Terms(bake_s=BAKE_S, blind=True))
        await self.until(lambda: self.rollout == "done", "the rollout is done")

    async def start(self) -> Managed:
        """The gateway announces by its own document when this returns; sin's end is to be run by the test."""
        documents, base = self.documents(), self.files.base
        folder = self.files.root.equip(base / "fra" / "pki", "fra-gw1")
        (base / "fra" / "operators.json").write_bytes(TRUSTED.data)
        other = self.files.root.equip(base / "sin" / "pki", "sin-gw1")
        (self.gateway.base / "document.json").write_bytes(documents["fra-gw1"].canonical())
        await asyncio.to_thread(self.gateway.start, "--pki-dir", str(folder.path))
        await asyncio.to_thread(self.gateway.announced)
        return Managed(documents["sin-gw1"], other, base / "sin", TRUSTED)

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
        try:
            async with asyncio.timeout(within_s):
                while not condition():
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"{what}: not within {within_s:g} s; {self.service.status()}") from None
