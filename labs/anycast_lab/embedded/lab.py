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

from anycast.errors import AnycastError
from anycast_lab.commands import SessionProcess
from anycast_lab.embedded import links, node
from anycast_lab.embedded.channel import NodeChannel, send_signal
from anycast_lab.embedded.main_process import MainProcess
from anycast_lab.embedded.stages import Stages
from anycast_lab.namespaces import NamespaceRunner
from anycast_lab.runner import Impairment, LabError, Progress
from anycast_lab.topology import Endpoint, Link, Topology

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
        self._mains = dict[str, MainProcess]()
        self._cabled = set[Link]()
        self._outside: int | None = None
        """The namespace of bridges that are in no machine; containerlab's are the host's."""
        self._nowhere = -1

    # -- the whole lab --------------------------------------------------------------------------------------------

    async def up(self, progress: Progress) -> None:
        async with self._shape:
            if self._namespaces:
                raise LabError(f"lab {self.topology.name} is up already")
            if self.topology.dummies:
                self._nowhere = await self._wire(links.nowhere)
            for name in self.topology.machines:
                self._namespaces[name] = await self._wire(links.new_namespace)
            await self._make_bridges()
        if unmanaged := [name for name, node in self.topology.machines.items() if node.network_mode != "none"]:
            progress(f"no management network here, as if `network-mode: none` stood at {', '.join(unmanaged)}")
        stages = Stages(self.topology)
        try:
            async with asyncio.TaskGroup() as group:
                for name in self.topology.nodes:
                    group.create_task(self._bring_up(name, stages, progress))
        except ExceptionGroup as failures:
            told, bugs = failures.split(AnycastError)
            if told is None or bugs is not None:
                raise
            raise LabError("; ".join(map(str, told.exceptions))) from failures

    async def _bring_up(self, name: str, stages: Stages, progress: Progress) -> None:
        """Through containerlab's stages, in its order: what `exec` says comes after them all."""
        machine = name in self.topology.machines
        await stages.enter(name, "create")
        if machine:
            if delay := self.topology.nodes[name].startup_delay:
                progress(f"{name} is created in {delay} s")
                await asyncio.sleep(delay)
            async with self._shape:  # first come, first served: without waits all nodes are there before the first cable
                await self._boot(name)
        stages.passed(name, "create")
        await stages.enter(name, "create-links")
        async with self._shape:
            await self._lay_cables(name)
        stages.passed(name, "create-links")
        await stages.enter(name, "configure")
        stages.passed(name, "configure")
        if machine:
            await self._run_exec_list(name, progress)

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
            if (main := self._mains.pop(node, None)) is not None:
                await main.stop()
            del self._nodes[node]
            self._frozen.discard(node)
            # A new namespace is the machine's lost memory: no address, route, SA or setting crosses a power cycle. The
            # cables move there first, or the neighbours would lose their ends with the old one.
            old, self._namespaces[node] = self._namespaces[node], await self._wire(links.new_namespace)
            for end in ends:
                await self._wire(links.move, end, old, self._namespaces[node])
            for bridge in self._bridges_in(node):
                self._namespaces[bridge] = self._namespaces[node]
            os.close(old)

    async def power_on(self, node: str) -> None:
        async with self._shape:
            self._machine(node)
            if node in self._nodes:
                raise LabError(f"{node} is powered on already")
            for bridge in self._bridges_in(node):
                await self._wire(links.add_bridge, self.topology.nodes[bridge].device, self._namespaces[node])
            for end in self._ends(node):
                await self._switch_on(end)
                await self._wire(links.checksums_in_software, end, self._namespaces[node])
            await self._add_dummies(node)
            await self._boot(node)
        await self._run_exec_list(node, lambda _: None)

    # -- inside ---------------------------------------------------------------------------------------------------

    async def _boot(self, name: str) -> None:
        definition = self.topology.nodes[name]
        disk = self.lab_dir / name / "disk"
        disk.mkdir(parents=True, exist_ok=True)
        binds = tuple(self.topology.binds(name, self.lab_dir))
        for bind in binds:
            if not bind.source.is_relative_to(self.lab_dir) and not bind.source.exists():
                raise LabError(
                    f"{name}: bind source {bind.source} does not exist (what lies below /run is hidden from a lab)"
                )
        machine = node.Machine(
            name=name,
            hostname=definition.hostname,
            netns=self._namespaces[name],
            disk=disk,
            binds=binds,
            env=self.topology.environment(name, self.lab_dir),
            sysctls=definition.sysctls,
        )
        self._nodes[name] = await NodeChannel.boot(machine, BOOT_TIMEOUT)
        if definition.main:
            main = self._mains[name] = MainProcess(self._nodes[name], definition.main, node.main_log(machine))
            await main.start()

    async def _make_bridges(self) -> None:
        """Before everything else: a bridge waits for nobody, and its machine's namespace is there already."""
        for name, bridge in self.topology.bridges.items():
            if not bridge.inside and self._outside is None:
                self._outside = await self._wire(links.new_namespace)
            namespace = self._namespaces[bridge.inside] if bridge.inside else self._outside
            assert namespace is not None
            self._namespaces[name] = namespace
            await self._wire(links.add_bridge, bridge.device, namespace)

    async def _lay_cables(self, name: str) -> None:
        """The node's ends go up. Whichever of two comes first lays the cable; an end whose node is not there yet, or waits
        with its cables, goes up when that comes here."""
        for link in self.topology.links_of(name):
            if link not in self._cabled:
                self._cabled.add(link)
                await self._wire(links.connect, link, self._namespaces[link.a.node], self._namespaces[link.b.node])
            for end in link.ends():
                there = end.node in self._nodes or end.node in self.topology.bridges
                if end.node == name or (there and "create-links" not in self.topology.nodes[end.node].waits):
                    await self._switch_on(end)
        await self._add_dummies(name)

    async def _switch_on(self, end: Endpoint) -> None:
        if end.node in self.topology.bridges:
            device = self.topology.nodes[end.node].device
            await self._wire(links.plug_in, end, device, self._namespaces[end.node])
        await self._wire(links.set_state, end, self._namespaces[end.node], up=True)

    async def _add_dummies(self, name: str) -> None:
        for dummy in self.topology.dummies:
            if dummy.end.node == name:
                await self._wire(links.add_dummy, dummy, self._namespaces[name], self._nowhere)

    async def _run_exec_list(self, name: str, progress: Progress) -> None:
        for argv in self.topology.commands(name, self.lab_dir):
            result = await self.exec(name, argv, timeout=EXEC_TIMEOUT)
            if result.rc != 0:
                said = (result.stderr or result.stdout).decode(errors="replace").strip()
                raise LabError(f"{name}: `{' '.join(argv)}` ended with {result.rc}: {said}")
        progress(f"{name} started")

    def _machine(self, node: str) -> None:
        self._known(node)
        if node in self.topology.bridges:
            raise LabError(f"{node} is a bridge: nothing runs in it, and it has no power switch")

    def _channel(self, node: str) -> NodeChannel:
        self._machine(node)
        if node not in self._nodes:
            raise LabError(f"{node} is powered off")
        return self._nodes[node]

    def _awake(self, node: str) -> NodeChannel:
        if node in self._frozen:
            raise LabError(f"{node} is frozen: nothing can be started in it")
        return self._channel(node)
