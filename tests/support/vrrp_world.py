"""N virtual routers on a virtual clock: links that lose, delay, repeat and cut, processes that pause. One seed."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import random
from ipaddress import ip_address
from typing import Any

from anycast.runtime import TimerExpired
from site_agent.vrrp.election import Role
from site_agent.vrrp.router import VirtualRouter
from site_agent.vrrp.router_words import (
    AddAddresses,
    AdvertReceived,
    AnnounceAddresses,
    Parameters,
    PriorityGranted,
    RemoveAddresses,
    SendAdvert,
    UplinkProven,
)
from site_agent.vrrp.seal import Path

GRANT_S = 1.0


@dataclasses.dataclass(slots=True)
class Node:
    core: VirtualRouter
    params: Parameters
    inbox: list[Any]
    priority: int
    uplink: bool | None = None
    paused_until: float = 0.0
    dead: bool = False
    holds: bool = False
    """It has the virtual addresses in its kernel."""
    wake_at: float = 0.0
    granted_at: float = float("-inf")
    says_term: bool = True
    """False: of a version that knows of none, and hears none."""


class World:
    """Call `run` with a span; change `cut`, `loss`, nodes' priorities in between."""

    def __init__(self, seed: int, priorities: list[int], *, interval: int, sealed: bool, preempt: bool = False) -> None:
        self.random = random.Random(seed)
        self.now, self.interval = 0.0, interval
        self.paths = [Path.OUTSIDE, Path.INSIDE, Path.MANAGEMENT] if sealed else [Path.OUTSIDE]
        self.cut: set[tuple[int, int, Path]] = set()
        """(from, to, path): nothing arrives there."""
        self.loss = self.repeat = 0.0
        self.delay_s = 0.0002
        self._order = itertools.count()
        self._wire: list[tuple[float, int, int, AdvertReceived]] = []
        self.nodes = []
        for n, priority in enumerate(priorities):
            address = ip_address(f"198.51.100.{n + 1}")
            params = Parameters(
                advertisement_interval=interval, primary=address, router_id=n + 1, sealed=sealed, preempt=preempt
            )
            self.nodes.append(Node(VirtualRouter(params, now=0.0), params, [], priority))
        self.both: float = 0.0
        """For how long more than one node that could hear another has held the addresses."""
        self.nobody: float = 0.0
        self.slow_kernel_s = 0.0
        """A takeover's addresses are in the kernel, and announced, up to so much after it was advertised."""
        self.announced: list[tuple[float, int]] = []
        """Each gratuitous ARP on the wire: when, by whom."""
        self.changes = 0
        """How often addresses were taken away."""

    def run(self, span: float) -> None:
        end = self.now + span
        while True:
            times = [end]
            if self._wire:
                times.append(self._wire[0][0])
            times += [self._wakes(node) for node in self.nodes if not node.dead]
            step = max(self.now, min(times))
            self._account(step - self.now)
            self.now = step
            if step >= end:
                return
            self._deliver()
            for n, node in enumerate(self.nodes):
                if not node.dead and self._wakes(node) <= self.now:
                    self._turn(n, node)

    def active(self) -> list[int]:
        return [n for n, node in enumerate(self.nodes) if not node.dead and node.core.role is Role.ACTIVE]

    def believed(self) -> int:
        """Whose address it is for the neighbours: who announced it last."""
        return max(self.announced)[1]

    def kill(self, n: int) -> None:
        self.nodes[n].dead = True
        self.nodes[n].holds = False

    def revive(self, n: int) -> None:
        node = self.nodes[n]
        node.core, node.dead, node.inbox, node.granted_at = (
            VirtualRouter(node.params, now=self.now),
            False,
            [],
            float("-inf"),
        )

    def _wakes(self, node: Node) -> float:
        deadline = node.core.deadline
        times = [node.granted_at + GRANT_S / 3, node.wake_at if node.inbox else float("inf")]
        return max(node.paused_until, min([*times, deadline] if deadline is not None else times))

    def _turn(self, n: int, node: Node) -> None:
        """As `drive` and its shell: the overdue timer first, then one input; the parent's grant in between."""
        if self.now >= node.granted_at + GRANT_S / 3:
            node.granted_at = self.now
            self._handle(n, node, PriorityGranted(priority=node.priority, until=self.now + GRANT_S))
            self._handle(n, node, UplinkProven(proven=node.uplink))
        deadline = node.core.deadline
        if deadline is not None and deadline <= self.now:
            self._handle(n, node, TimerExpired())
        elif node.inbox:
            self._handle(n, node, node.inbox.pop(0))

    def _handle(self, n: int, node: Node, event: Any) -> None:
        late_s = 0.0
        for action in node.core.handle(event, self.now):
            match action:
                case SendAdvert():
                    self._send(n, node, action)
                case AddAddresses():
                    node.holds = True
                    late_s = self.random.uniform(0, self.slow_kernel_s)
                    node.paused_until = max(node.paused_until, self.now + late_s)
                case AnnounceAddresses():
                    self.announced.append((self.now + late_s, n))
                case RemoveAddresses():
                    self.changes += node.holds
                    node.holds = False

    def _send(self, n: int, node: Node, sent: SendAdvert) -> None:
        for path, (m, _) in itertools.product(self.paths, enumerate(self.nodes)):
            if m == n or (n, m, path) in self.cut or self.random.random() < self.loss:
                continue
            for _ in range(2 if self.random.random() < self.repeat else 1):
                advert = AdvertReceived(
                    path=path,
                    source=node.params.primary,
                    priority=sent.priority,
                    max_advertise_interval=self.interval,
                    flags=sent.flags,
                    router_id=node.params.router_id if node.params.sealed else None,
                    term=node.core.term if node.says_term and self.nodes[m].says_term else 0,
                )
                arrives = self.now + self.random.uniform(0.2, 1.0) * self.delay_s
                heapq.heappush(self._wire, (arrives, next(self._order), m, advert))

    def _deliver(self) -> None:
        while self._wire and self._wire[0][0] <= self.now:
            _, _, m, advert = heapq.heappop(self._wire)
            node = self.nodes[m]
            if not node.dead and len(node.inbox) < 500:
                node.inbox.append(advert)
                node.wake_at = self.now

    def _account(self, span: float) -> None:
        holders = sum(node.holds for node in self.nodes)
        self.both += span if holders > 1 else 0.0
        self.nobody += span if holders == 0 else 0.0
