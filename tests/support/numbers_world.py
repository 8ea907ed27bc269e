"""Two gateways, a network and processes that do as they like, for `sync.numbers`: a virtual clock, one seed.

The checker is a set of all numbers that any kernel ever sent. It knows nothing of blocks, and shares no code with the core.

What a process wants of its kernel happens later, in its order, and is lost with the process. charon installs what it was
handed later, within INSTALL_S. What the kernel said is read later, however late.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

from anycast.timer import TimerExpired
from site_agent.netlink.xfrm_keys import SaKey
from site_agent.sync import numbers_words as words
from site_agent.sync.numbers import Numbers
from site_agent.sync.numbers_words import Role

BITS = 6
LIFE = (1 << BITS) - 4
"""What the kernel's own packet limit leaves of a block, in the proportion of the real ones."""
BURST = 1 << BITS
STEPS = 1500
INSTALL_S = 0.15
MAX_TAKEOVERS = 7
"""Of one SA without a rekey (docs/architecture.md)."""


class Reused(AssertionError):
    """A number was sent twice."""


@dataclasses.dataclass
class Copy:
    """One SA in one kernel."""

    oseq: int = 0
    packets: int = 0


class TakenOverTooOften(AssertionError):
    """More promotions have used an SA than may without its rekey."""


class DroppedByClients(AssertionError):
    """A number is below one that the clients saw."""


class Gateway:
    """A kernel that lives on, and a sync process that may die at any moment."""

    def __init__(self, world: World, rank: int, role: Role) -> None:
        self.world, self.rank = world, rank
        self.kernel: dict[SaKey, Copy] = {}
        self.sends = role is Role.ACTIVE
        self.events: list[Callable[[], None]] = []
        """What the kernel has to say to the process, in its order."""
        self.reports: list[Callable[[], None]] = []
        """Those of them that the kernel may drop (ENOBUFS)."""
        self.todo: list[words.Action] = []
        """What the process wants of the kernel, in its order."""
        self.installing: list[tuple[float, SaKey]] = []
        """What charon was handed: when it will be in the kernel."""
        self.promotions = 0
        self.core = Numbers(rank, role, now=world.now, block_bits=BITS)
        self._perform(self.core.first_actions)

    @property
    def peer(self) -> Gateway:
        return self.world.gateways[1 - self.rank]

    def tell(self, event: Any) -> None:
        self._perform(self.core.handle(event, self.world.now))

    def restart(self) -> None:
        """The process is killed and starts anew; the kernel sends on meanwhile, and what it said is lost."""
        self.events.clear()
        self.todo.clear()
        self.core = Numbers(self.rank, Role.ACTIVE if self.sends else Role.BACKUP, now=self.world.now, block_bits=BITS)
        self._perform(self.core.first_actions)
        if self.world.connected:
            self.world.part()

    def send(self, key: SaKey) -> None:
        copy = self.kernel.get(key)
        if copy is None or not self.sends or copy.packets >= LIFE:
            return
        copy.oseq, copy.packets = copy.oseq + 1, copy.packets + 1
        if (key, copy.oseq) in self.world.used:
            raise Reused(f"{key!r}: {copy.oseq} by gateway {self.rank}")
        self.world.used[key, copy.oseq] = self.rank
        tenures = self.world.tenures.setdefault(key, set())
        tenures.add((self.rank, self.promotions))
        if len(tenures) > 1 + MAX_TAKEOVERS:
            raise TakenOverTooOften(repr(key))

    def list_kernel(self) -> None:
        listed = [(key, copy.oseq) for key, copy in self.kernel.items()]
        for key, oseq in listed:
            self.tell(words.SaListed(key=key, oseq=oseq))
        self.tell(words.ListingEnded())

    def _perform(self, actions: list[words.Action]) -> None:
        for action in actions:
            match action:
                case words.ListSas():
                    self.events.append(self.list_kernel)
                case words.DrainEvents(turn=turn):
                    self._later(words.EventsDrained(turn=turn))
                case words.AskMark(key=key, block=block):
                    self.world.post(self.peer, words.MarkAsked(key=key, block=block))
                case words.TellMark(key=key, block=block):
                    self.world.post(self.peer, words.MarkTold(key=key, block=block))
                case _:
                    self.todo.append(action)

    def work(self) -> None:
        """One thing that the process wants of the kernel, or of the rest of the gateway."""
        match self.todo.pop(0):
            case words.Place(key=key, block=block):
                if (copy := self.kernel.get(key)) is None:
                    self._later(words.PlaceFailed(key=key))
                else:
                    copy.oseq = block << BITS
                    self._later(words.Placed(key=key, block=block))
            case words.RetireSa(key=key):
                if self.kernel.pop(key, None) is not None:
                    self._later(words.SaGone(key=key))
            case words.ReadyToServe():
                self._later(words.Promoted())

    def install(self) -> None:
        """What charon was handed and is due by now."""
        for due, key in [one for one in self.installing if one[0] <= self.world.now]:
            self.installing.remove((due, key))
            if key not in self.kernel:
                self.kernel[key] = Copy()
                self.report(key)

    def report(self, key: SaKey) -> None:
        def event() -> None:
            self.tell(words.SaReported(key=key))

        self.events.append(event)
        self.reports.append(event)

    def demote(self) -> None:
        self.sends = False
        self.todo = [action for action in self.todo if not isinstance(action, words.ReadyToServe)]
        self.tell(words.Demoted())

    def _later(self, event: Any) -> None:
        core = self.core

        def arrive() -> None:
            if core is not self.core:
                return
            before = self.core.role
            self.tell(event)
            if isinstance(event, words.Promoted) and before is not self.core.role:
                self.sends, self.promotions = True, self.promotions + 1

        self.events.append(arrive)


class World:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.pace = self.random.choice((0.01, 0.3))
        """The longest step, in seconds."""
        self.used: dict[tuple[SaKey, int], int] = {}
        self.tenures: dict[SaKey, set[tuple[int, int]]] = {}
        self.connected = False
        self.network: list[tuple[Gateway, Any]] = []
        self.made = 0
        self.gateways: list[Gateway] = []
        self.gateways += [Gateway(self, 0, Role.ACTIVE)]
        self.gateways += [Gateway(self, 1, Role.BACKUP)]

    def post(self, to: Gateway, message: Any) -> None:
        if self.connected:
            self.network.append((to, message))

    def join(self) -> None:
        if not self.connected:
            self.connected = True
            for gateway in self.gateways:
                gateway.tell(words.PeerConnected())

    def part(self) -> None:
        self.connected = False
        self.network.clear()
        for gateway in self.gateways:
            gateway.tell(words.PeerLost())

    def make_sa(self, gateway: Gateway) -> None:
        """charon negotiates one; its `ha` message may reach the other charon, sooner or later, or never."""
        if not gateway.sends:
            return
        self.made += 1
        key = SaKey(bytes(16) + self.made.to_bytes(4, "big") + b"\x32")
        gateway.kernel[key] = Copy()
        gateway.report(key)
        self.post(gateway.peer, key)

    def deliver(self) -> None:
        if not self.network:
            return
        to, message = self.network.pop(0)
        if not isinstance(message, bytes):
            to.tell(message)
        elif to.core.role is Role.BACKUP and message not in to.kernel:
            key = SaKey(message)
            to.tell(words.MirrorHandedOver(spi=key[16:20]))
            to.installing.append((self.now + self.random.uniform(0, INSTALL_S), key))

    def step(self) -> None:
        self.pass_time(self.now + self.random.choice((0.0, 0.0, 0.001, 0.001, 0.01, self.pace)))
        gateway = self.random.choice(self.gateways)
        match self.random.choices(
            ("send", "kernel", "work", "deliver", "make", "promote", "demote", "restart", "part", "join", "lost", "time"),
            (40, 40, 40, 30, 6, 4, 3, 1, 1, 8, 1, 4),
        )[0]:
            case "send":
                for key in self.random.sample(list(gateway.kernel), min(3, len(gateway.kernel))):
                    for _ in range(self.random.choice((1, 1, 5, BURST))):
                        gateway.send(key)
            case "kernel" if gateway.events:
                gateway.events.pop(0)()
            case "work" if gateway.todo:
                gateway.work()
            case "deliver":
                self.deliver()
            case "make":
                self.make_sa(gateway)
            case "promote":  # whatever the other one does: two Actives are allowed for
                gateway.tell(words.PromotionAsked())
            case "demote":
                gateway.demote()
            case "restart":
                gateway.restart()
            case "part":
                self.part()
            case "join":
                self.join()
            case "lost":
                gateway.events = [event for event in gateway.events if event not in gateway.reports]
                gateway.tell(words.EventsLost())
            case "time" if (due := gateway.core.deadline) is not None:
                self.pass_time(due)
                gateway.tell(TimerExpired())

    def pass_time(self, until: float) -> None:
        self.now = max(self.now, until)
        for gateway in self.gateways:
            gateway.install()

    def settle(self) -> None:
        for _ in range(400):
            self.pass_time(self.now + 0.001)
            self.deliver()
            for gateway in self.gateways:
                if gateway.todo:
                    gateway.work()
                if gateway.events:
                    gateway.events.pop(0)()
                if (due := gateway.core.deadline) is not None:
                    self.pass_time(due)
                    gateway.tell(TimerExpired())


def run(seed: int) -> World:
    world = World(seed)
    for _ in range(STEPS):
        world.step()
    return world
