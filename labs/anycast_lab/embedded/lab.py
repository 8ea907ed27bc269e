"""The embedded runner: a containerlab topology as namespaces of this machine, without containers or daemons.

It runs inside the lab server (`server.py`), which is PID 1 of the lab's own PID namespace and alone in the lab's root. So
whatever happens to the server, the kernel takes every process, mount, link and namespace of the lab away with it, and
nothing has to be undone. Node processes are children of their node's init (`node.py`), cables are `links.py`.

One lock serialises what changes the lab's shape (boot, power, cables). Commands in nodes run beside it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from anycast_lab.commands import SessionProcess
from anycast_lab.embedded import links, node
from anycast_lab.embedded.channel import NodeChannel, send_signal
from anycast_lab.namespaces import NamespaceRunner
from anycast_lab.runner import Impairment, LabError, Progress
from anycast_lab.topology import Topology

BOOT_TIMEOUT = 30.0
"""Seconds until a node's init must have reported; a fork and ten mounts, but on a busy User Mode Linux."""
EXEC_TIMEOUT = 120.0
"""Seconds for one `exec` line of the topology."""


class EmbeddedRunner(NamespaceRunner):
    """Implements `anycast_lab.runner.Runner`."""

    name = "embedded"

    def __init__(self, topology: Topology, lab_dir: Path, kernel: str, esp: bool) -> None:
        super().__init__(topology, lab_dir, kernel, esp)
        self._nodes = dict[str, NodeChannel]()

    # -- the whole lab --------------------------------------------------------------------------------------------

    async def up(self, progress: Progress) -> None:
        async with self._shape:
            if self._namespaces:
                raise LabError(f"lab {self.topology.name} is up already")
            for name in self.topology.nodes:
                self._namespaces[name] = await self._wire(links.new_namespace)
            for link in self.topology.links:
                await self._wire(links.connect, link, self._namespaces[link.a.node], self._namespaces[link.b.node])
            progress(f"{len(self.topology.links)} links laid")
            for name in self.topology.nodes:
                await self._boot(name)
            progress(f"{len(self.topology.nodes)} nodes booted")
        async with asyncio.TaskGroup() as group:
            for name in self.topology.nodes:
                group.create_task(self._run_exec_list(name, progress))

    def pid(self, node: str) -> int:
        return self._channel(node).pid

    async def _start(
        self, node: str, argv: Sequence[str], env: Mapping[str, str], fds: tuple[int, int, int]
    ) -> SessionProcess:
        return await self._awake(node).start(argv, env, fds)

    # -- faults ---------------------------------------------------------------------------------------------------

    async def impair(self, node: str, interface: str, impairment: Impairment | None) -> None:
        async with self._shape:
            await self._wire(links.impair, self._end(node, interface), self._namespaces[node], impairment)

    def power(self, node: str) -> bool:
        self._known(node)
        return node in self._nodes

    async def power_off(self, node: str, when: Callable[[], Awaitable[None]] | None = None) -> None:
        async with self._shape:
            channel = self._channel(node)
            ends = self._ends(node)
            processes = [self.pid(node), *self.pids(node)]
            if when is not None:
                await when()

            def stop() -> None:
                for pid in processes:
                    send_signal(pid, signal.SIGSTOP)

            # Links go one after the other, and nobody may use the second to say that the first has gone. All of it is one
            # call: while a stopped machine still has a link, its kernel answers for its addresses.
            await self._wire(links.cut, ends, self._namespaces[node], stop)
            self._stop_all(node)
            channel.kill()
            await channel.ended.wait()
            del self._nodes[node]
            self._frozen.discard(node)
            # A new namespace is the machine's lost memory: no address, route, SA or setting crosses a power cycle. The
            # cables move there first, or the neighbours would lose their ends with the old one.
            old, self._namespaces[node] = self._namespaces[node], await self._wire(links.new_namespace)
            for end in ends:
                await self._wire(links.move, end, old, self._namespaces[node])
            os.close(old)

    async def power_on(self, node: str) -> None:
        async with self._shape:
            self._known(node)
            if node in self._nodes:
                raise LabError(f"{node} is powered on already")
            for end in self._ends(node):
                await self._wire(links.set_state, end, self._namespaces[node], up=True)
                await self._wire(links.checksums_in_software, end, self._namespaces[node])
            await self._boot(node)
        await self._run_exec_list(node, lambda _: None)

    # -- inside ---------------------------------------------------------------------------------------------------

    async def _boot(self, name: str) -> None:
        definition = self.topology.nodes[name]
        disk = self.lab_dir / name / "disk"
        disk.mkdir(parents=True, exist_ok=True)
        machine = node.Machine(
            name=name,
            hostname=definition.hostname,
            netns=self._namespaces[name],
            disk=disk,
            binds=tuple(self.topology.binds(name, self.lab_dir)),
            env=definition.env,
            sysctls=definition.sysctls,
        )
        self._nodes[name] = await NodeChannel.boot(machine, BOOT_TIMEOUT)

    async def _run_exec_list(self, name: str, progress: Progress) -> None:
        for argv in self.topology.nodes[name].exec:
            result = await self.exec(name, argv, timeout=EXEC_TIMEOUT)
            if result.rc != 0:
                said = (result.stderr or result.stdout).decode(errors="replace").strip()
                raise LabError(f"{name}: `{' '.join(argv)}` ended with {result.rc}: {said}")
        progress(f"{name} started")

    def _channel(self, node: str) -> NodeChannel:
        self._known(node)
        if node not in self._nodes:
            raise LabError(f"{node} is powered off")
        return self._nodes[node]

    def _awake(self, node: str) -> NodeChannel:
        if node in self._frozen:
            raise LabError(f"{node} is frozen: nothing can be started in it")
        return self._channel(node)
