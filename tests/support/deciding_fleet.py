"""Six sites with a coordinator whose spans are seconds: it runs in the test's own loop, its command line is a process."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from anycast import link_wire
from anycast.content import signature
from anycast.coordinator import rollouts
from anycast.coordinator.door import Doors
from anycast.coordinator.rest import Rest
from anycast.coordinator.service import Service
from anycast.fleet.compile import compile_fleet
from anycast.fleet.loading import loads
from anycast.pki import files
from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Identity, Role
from anycast.policy import token_holder, tokens
from anycast.runtime import boottime
from tests.support.contents import ALICE, SITES, TRUSTED, fleet_text
from tests.support.coordinator import NAME, Coordinator
from tests.support.managed import Managed, running
from tests.support.sync_pair import FLEET

COORDINATED = fleet_text() + """coordinator:
  name: coord
  addresses: {ipv4: 192.0.2.10}
"""


class Fleet:
    """Six sites, their coordinator, and an operator with a key."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.files = Coordinator(base)
        (base / "operators.json").write_bytes(TRUSTED.data)
        self.file = base / "fleet.yaml"
        self.file.write_text(COORDINATED)
        (base / "keys").mkdir(mode=0o700)
        files.write(base / "keys" / "alice.key", signature.key_pem(ALICE, None), files.SECRET)
        self.agents: dict[str, Managed] = {}
        self.service: Service

    async def serve(self, stack: contextlib.AsyncExitStack, port: int = 0) -> Service:
        """A coordinator in this loop, until `stack` ends."""
        for folder in ("state", "run"):
            (self.base / folder).mkdir(exist_ok=True, mode=0o700)
        me = Identity(FLEET, Role.COORDINATOR, NAME)
        store = self.base / "state" / "coordinator.db"
        service = Service(me, MachineFolder(self.base / "pki"), store, self.base / "operators.json")
        await service.start(["127.0.0.1"], port)
        stack.push_async_callback(service.close)
        runner = web.AppRunner(Rest(service).app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        doors = Doors(runner)
        stack.callback(doors.close)
        await doors.on_socket(self.base / "run" / "coordinator.sock")
        task = asyncio.create_task(service.run())
        stack.callback(task.cancel)
        self.files.port = service.agents_port
        return service

    def make_agents(self) -> None:
        for gateway, document in compile_fleet(loads(COORDINATED)).items():
            known = document.model_copy(
                update={"coordinator": self.files.known_to(document).coordinator}
            )
            folder = self.files.root.equip(self.base / gateway / "pki", gateway)
            self.agents[document.site] = Managed(known, folder, self.base / gateway, TRUSTED)

    async def run(self, *words: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        keys = {"ANYCAST_OPERATOR": str(self.base / "keys"), "ANYCAST_OPERATOR_NAME": "alice"}
        done = await asyncio.to_thread(self.files.run, *words, **keys)
        assert status is None or done.returncode == status, (words, done.returncode, done.stdout, done.stderr)
        return done

    async def ask(self, *words: str) -> Any:
        return await asyncio.to_thread(self.files.ask, *words)

    async def becomes(self, what: str, condition: Callable[[Any], bool], *, within_s: float = 40) -> None:
        """Wait until /v1/status is so."""
        until = boottime() + within_s
        while not condition(found := await asyncio.to_thread(self.files.status)):
            assert boottime() < until, f"{what}: {found['rollout']}, {found['ledger']}, {found['alarms']}"
            await asyncio.sleep(0.05)

    async def first_content(self) -> None:
        """Every gateway runs by the fleet file, signed by Alice."""
        await self.run("plan", str(self.file), "-o", str(self.base / "p"), status=3)
        await self.run("apply", str(self.base / "p"), "--bake", "1")
        await self.becomes("done", lambda s: s["rollout"]["step"] == "done", within_s=30)


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what a coordinator does every few seconds done within one."""
    monkeypatch.setattr(tokens, "SETTLE_S", 1.0)
    monkeypatch.setattr(token_holder, "HEARTBEAT_S", 0.3)
    monkeypatch.setattr(link_wire, "HEARTBEAT_S", 0.3)
    monkeypatch.setattr(rollouts, "LOOK_S", 0.1)
    monkeypatch.setattr(rollouts, "AGAIN_S", 1.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch)


@contextlib.asynccontextmanager
async def fleet(base: Path) -> AsyncIterator[Fleet]:
    made = Fleet(base)
    async with contextlib.AsyncExitStack() as stack:
        made.service = await made.serve(stack)
        made.make_agents()
        async with running(*made.agents.values()):
            await made.becomes("heard", lambda s: len(s["sites"]) == len(SITES))
            await made.first_content()
            yield made
