"""The embedded runner: a containerlab topology as namespaces of this machine, without containers or daemons.

It runs inside the lab server (`server.py`), which is PID 1 of the lab's own PID namespace and alone in the lab's root. So
whatever happens to the server, the kernel takes every process, mount, link and namespace of the lab away with it, and
nothing has to be undone. Node processes are children of their node's init (`node.py`), cables are `links.py`.

One lock serialises what changes the lab's shape (boot, power, cables). Commands in nodes run beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from anycast.errors import AnycastError
from anycast_lab.embedded import links, node
from anycast_lab.embedded.channel import NodeChannel, OutputPipe, input_file, pid_namespace, send_signal
from anycast_lab.embedded.main_process import MainProcess
from anycast_lab.embedded.stages import Stages
from anycast_lab.runner import Completed, LabError, Process, Progress
from anycast_lab.topology import Endpoint, Link, Topology

BOOT_TIMEOUT = 30.0
"""Seconds until a node's init must have reported; a fork and ten mounts, but on a busy User Mode Linux."""
EXEC_TIMEOUT = 120.0
"""Seconds for one `exec` line of the topology."""


class EmbeddedRunner:
    """Implements `anycast_lab.runner.Runner`."""

    def __init__(self, topology: Topology, lab_dir: Path, kernel: str, esp: bool) -> None:
        self.topology, self.lab_dir, self.kernel, self.esp = topology, lab_dir, kernel, esp
        self._namespaces = dict[str, int]()
        self._nodes = dict[str, NodeChannel]()
        self._mains = dict[str, MainProcess]()
        self._frozen = set[str]()
        self._cabled = set[Link]()
        self._outside: int | None = None
        """The namespace of bridges that are in no machine; containerlab's are the host's."""
        self._nowhere = -1
        self._shape = asyncio.Lock()
        self._netlink = ThreadPoolExecutor(1, "netlink")

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

    # -- commands and files ---------------------------------------------------------------------------------------

    async def exec(
        self,
        node: str,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        streams = {1: bytearray(), 2: bytearray()}
        rc = await self.stream(node, argv, lambda fd, data: streams[fd].extend(data), stdin=stdin, timeout=timeout, env=env)
        return Completed(tuple(argv), rc, bytes(streams[1]), bytes(streams[2]))

    async def stream(
        self,
        node: str,
        argv: Sequence[str],
        output: Callable[[int, bytes], None],
        *,
        stdin: bytes = b"",
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Like `exec`, handing on output as it comes: `output(1, …)` for stdout, `output(2, …)` for stderr."""
        channel = self._awake(node)
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(input_file(stdin))
            pipes = {fd: stack.enter_context(OutputPipe(fd, output)) for fd in (1, 2)}
            process = await channel.start(argv, env or {}, (source, pipes[1].write_end, pipes[2].write_end))
            for pipe in pipes.values():
                pipe.listen()
            try:
                async with asyncio.timeout(timeout):
                    rc = await process.wait()
            except TimeoutError:
                process.kill_session()
                rc = await process.wait()
            except asyncio.CancelledError:
                process.kill_session()
                raise
            for pipe in pipes.values():
                pipe.drain()
            return rc

    async def spawn(
        self,
        node: str,
        argv: Sequence[str],
        *,
        stdout: Path | None = None,
        stderr: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Process:
        with contextlib.ExitStack() as stack:
            fds = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)]
            for path in (stdout, stderr):
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                fds.append(os.open(path or os.devnull, flags, 0o644))
            for fd in fds:
                stack.callback(os.close, fd)
            return await self._awake(node).start(argv, env or {}, (fds[0], fds[1], fds[2]))

    async def put(self, node: str, path: str, data: bytes, mode: int = 0o644) -> None:
        target = self._file(node, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.new")
        temporary.write_bytes(data)
        temporary.chmod(mode)
        temporary.replace(target)

    async def get(self, node: str, path: str) -> bytes:
        try:
            return self._file(node, path).read_bytes()
        except OSError as exc:
            raise LabError(f"{node}: {path}: {exc.strerror}") from exc

    def _file(self, node: str, path: str) -> Path:
        if not path.startswith("/"):
            raise LabError(f"{path} is not an absolute path")
        return Path(f"/proc/{self.pid(node)}/root{path}")

    def pid(self, node: str) -> int:
        return self._channel(node).pid

    def pids(self, node: str) -> list[int]:
        init = self.pid(node)
        namespace = pid_namespace(init)
        pids = (int(entry) for entry in os.listdir("/proc") if entry.isdecimal())
        return [pid for pid in pids if pid != init and pid_namespace(pid) == namespace]

    # -- faults ---------------------------------------------------------------------------------------------------

    def power(self, node: str) -> bool:
        self._known(node)
        return node in self._nodes

    def state(self, node: str) -> str:
        """One word for people: on, off or frozen; or bridge."""
        if self.topology.nodes[node].kind == "bridge":
            return "bridge"
        return "off" if not self.power(node) else "frozen" if node in self._frozen else "on"

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

    async def freeze(self, node: str) -> None:
        async with self._shape:
            if node in self._frozen:
                raise LabError(f"{node} is frozen already")
            for link in self._links(node):
                await self._mute(link)
            self._stop_all(node)
            self._frozen.add(node)

    async def thaw(self, node: str) -> None:
        async with self._shape:
            if node not in self._frozen:
                raise LabError(f"{node} is not frozen")
            for link in self._links(node):
                await self._unmute(link)
            for pid in (self.pid(node), *self.pids(node)):
                send_signal(pid, signal.SIGCONT)
            self._frozen.remove(node)

    async def link_down(self, node: str, interface: str) -> None:
        async with self._shape:
            await self._wire(links.set_state, self._end(node, interface), self._namespaces[node], up=False)

    async def link_up(self, node: str, interface: str) -> None:
        async with self._shape:
            await self._wire(links.set_state, self._end(node, interface), self._namespaces[node], up=True)

    async def link_mute(self, node: str, interface: str) -> None:
        async with self._shape:
            await self._mute(self._link(node, interface))

    async def link_unmute(self, node: str, interface: str) -> None:
        async with self._shape:
            await self._unmute(self._link(node, interface))

    def _stop_all(self, node: str) -> None:
        stopped = set[int]()
        while fresh := {self.pid(node), *self.pids(node)} - stopped:  # until nobody forked meanwhile
            for pid in fresh:
                send_signal(pid, signal.SIGSTOP)
            stopped |= fresh

    # -- inside ---------------------------------------------------------------------------------------------------

    async def _wire(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._netlink, lambda: function(*arguments, **options))

    async def _mute(self, link: Link) -> None:
        for end in link.ends():
            await self._wire(links.mute, end, self._namespaces[end.node])

    async def _unmute(self, link: Link) -> None:
        for end in link.ends():
            await self._wire(links.unmute, end, self._namespaces[end.node])

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

    def _known(self, node: str) -> None:
        if node not in self.topology.nodes:
            raise LabError(f"there is no node {node}; the lab has {', '.join(self.topology.nodes)}")

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

    def _link(self, node: str, interface: str) -> Link:
        self._known(node)
        for link in self.topology.links_of(node):
            if Endpoint(node, interface) in link.ends():
                return link
        raise LabError(f"{node} has no link {interface}")

    def _end(self, node: str, interface: str) -> Endpoint:
        self._link(node, interface)
        return Endpoint(node, interface)

    def _ends(self, node: str) -> list[Endpoint]:
        """All that lie in the machine, those of its bridges too."""
        homes = {node, *self._bridges_in(node)}
        return [end for link in self._links(node) for end in link.ends() if end.node in homes]

    def _links(self, node: str) -> list[Link]:
        homes = [node, *self._bridges_in(node)]
        return list(dict.fromkeys(link for home in homes for link in self.topology.links_of(home)))

    def _bridges_in(self, node: str) -> list[str]:
        self._known(node)
        return [name for name, bridge in self.topology.bridges.items() if bridge.inside == node]
