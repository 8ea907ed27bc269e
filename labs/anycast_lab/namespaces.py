"""Faults of nodes whose network namespaces the lab's server can enter, the same for each runner."""

from __future__ import annotations

import abc
import asyncio
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from anycast_lab.commands import NodeCommands
from anycast_lab.embedded import links
from anycast_lab.embedded.channel import send_signal
from anycast_lab.runner import LabError
from anycast_lab.topology import Endpoint, Link, Topology


class NamespaceRunner(NodeCommands):
    """Knows each node's namespace and who is frozen. One lock serialises what changes the lab's shape."""

    def __init__(self, topology: Topology, lab_dir: Path, kernel: str, esp: bool) -> None:
        self.topology, self.lab_dir, self.kernel, self.esp = topology, lab_dir, kernel, esp
        self._namespaces = dict[str, int]()
        """Descriptors."""
        self._frozen = set[str]()
        self._shape = asyncio.Lock()
        self._netlink = ThreadPoolExecutor(1, "netlink")

    @abc.abstractmethod
    def power(self, node: str) -> bool: ...

    def state(self, node: str) -> str:
        """One word for people: on, off or frozen; or bridge."""
        if self.topology.nodes[node].kind == "bridge":
            return "bridge"
        return "off" if not self.power(node) else "frozen" if node in self._frozen else "on"

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
        for end in self._present(link):
            await self._wire(links.mute, end, self._namespaces[end.node])

    async def _unmute(self, link: Link) -> None:
        for end in self._present(link):
            await self._wire(links.unmute, end, self._namespaces[end.node])

    def _present(self, link: Link) -> list[Endpoint]:
        """The ends that are in a namespace: a container that is powered off has none."""
        return [end for end in link.ends() if end.node in self._namespaces]

    def _known(self, node: str) -> None:
        if node not in self.topology.nodes:
            raise LabError(f"there is no node {node}; the lab has {', '.join(self.topology.nodes)}")

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
