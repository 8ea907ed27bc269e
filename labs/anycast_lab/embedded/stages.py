"""Who has passed which stage while a lab comes up (the topology's `wait-for`)."""

from __future__ import annotations

import asyncio

from anycast_lab.topology import STAGES, Topology


class Stages:
    def __init__(self, topology: Topology) -> None:
        self._nodes = topology.nodes
        self._passed = {(name, stage): asyncio.Event() for name in topology.nodes for stage in STAGES}

    async def enter(self, node: str, stage: str) -> None:
        """Returns when everything that the stage waits for has happened."""
        for wait in self._nodes[node].waits.get(stage, ()):
            await self._passed[wait.node, wait.stage].wait()

    def passed(self, node: str, stage: str) -> None:
        self._passed[node, stage].set()
