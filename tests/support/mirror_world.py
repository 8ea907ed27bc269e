"""Two gateways and whatever may happen between them, for `promotion`, `ha_relay` and `windows`: a virtual clock, one seed.

charon, the kernel and the addresses live on; the sync process dies at any moment and begins with empty memory and a new
epoch. A session carries frames in order; when it breaks, any tail of what was under way is lost, and each side learns of it
when it likes: one may say everything again in the next session while the other one still reads the last. Steps fail, also
after they have worked, and charon reads its FIFO when it likes. Either gateway, both or none may be Active.

What must hold is looked at by `mirror_checker`, which is told what happened and shares no code with the cores.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from typing import Any

from anycast.timer import TimerExpired
from site_agent.netlink.xfrm_keys import SaKey
from site_agent.sync import ha_relay as relay
from site_agent.sync import numbers_words as words
from site_agent.sync import promotion, windows
from site_agent.sync.numbers_words import Role
from site_agent.sync.promotion import Do, Promotion, Settled, Step
from tests.support.mirror_checker import Checker, Said

STEPS = 1500
FIRST_ROLE = Role.PROMOTING
"""Of a process that knows nothing: charon may serve, so nothing is handed to it before the steps have opened the gate."""
KINDS = (*range(1, 8), *range(1, 8), 8, 9, 10, 11, 12, 77)


@dataclasses.dataclass
class Kernel:
    """Of one gateway: its inbound SAs, each with the highest number that it will not accept again."""

    seen: dict[SaKey, int] = dataclasses.field(default_factory=dict)
    events: list[tuple[SaKey, int]] = dataclasses.field(default_factory=list)
    """Not read by the process yet."""


class Gateway:
    def __init__(self, world: World, rank: int) -> None:
        self.world, self.rank, self.check = world, rank, world.checker
        self.active = False
        """charon's segment."""
        self.fifo: list[bool] = []
        self.role: bool | None = None
        """The vrrp process's last word."""
        self.kernel = Kernel()
        self.installing: list[SaKey] = []
        self.view: int | None = None
        """The session that this side knows of."""
        self.start()

    @property
    def peer(self) -> Gateway:
        return self.world.gateways[1 - self.rank]

    def start(self) -> None:
        """A process that knows nothing, at the gate that nobody may pass."""
        self.life = next(self.world.lives)
        self.promotion = Promotion()
        self.relay = relay.HaRelay(self.life, FIRST_ROLE)
        self.windows = windows.Windows(FIRST_ROLE)
        self.relay_role = FIRST_ROLE
        self.doing: Do | None = None
        self.spoken: list[Said] = []
        """In the socket."""
        self.bytes: dict[int, Said] = {}
        self.handles = itertools.count(1)
        self.writes: list[tuple[SaKey, int]] = []
        """What is to be written into the kernel."""
        self.unwritten = False
        """Some of it failed, and the kernel was not listed since."""
        self.kernel.events.clear()
        self.view, self.came = None, False
        self.check.started(self.rank, self.life)
        self.check.gate(self.rank, FIRST_ROLE is Role.BACKUP)
        self.list_kernel()
        if self.role is not None:
            self.tell_role(self.role)

    def kill(self) -> None:
        self.world.break_session(0)
        self.start()

    # charon

    def speak(self, kind: int) -> None:
        said = Said(next(self.world.serials), self.rank, kind)
        self.check.said(said, self.active)
        self.spoken.append(said)

    def read_charon(self) -> None:
        while self.spoken:
            said = self.spoken.pop(0)
            handle = self.keep(said)
            self.check.read(said, self.relay_role is Role.ACTIVE)
            self.tell_relay(relay.FromCharon(kind=said.kind, size=2, handle=handle))

    def read_fifo(self) -> None:
        if self.fifo:
            self.active = self.fifo.pop(0)
            self.check.segment(self.rank, self.active)

    def restart_charon(self) -> None:
        self.active = False
        self.fifo.clear()
        self.check.segment(self.rank, False)
        self.tell_promotion(promotion.CharonStarted())

    # the steps

    def tell_role(self, active: bool) -> None:
        self.role = active
        self.tell_promotion(promotion.RoleIs(active))

    def tell_promotion(self, event: promotion.Input) -> None:
        for action in self.promotion.handle(event, self.world.now):
            match action:
                case Do():
                    self.check.began(self.rank, self.doing is None)
                    self.doing = action
                case Settled(active=active):
                    self.check.settled(self.rank, active, self.role)

    def end_step(self, *, works: bool, told: bool = True) -> None:
        """What is in flight works or not; what worked may still be told as failed."""
        if self.doing is None:
            return
        ended, self.doing = self.doing, None
        works = works and self.perform(ended.step)
        if works and told:
            self.tell_promotion(promotion.StepDone(attempt=ended.attempt))
        else:
            self.tell_promotion(promotion.StepFailed(attempt=ended.attempt, why="x"))

    def perform(self, step: Step) -> bool:
        match step:
            case Step.CLOSE:
                self.set_role(Role.PROMOTING)
            case Step.ACTIVATE:
                self.check.activates(self.rank)
                self.set_role(Role.ACTIVE)
                self.fifo.append(True)
            case Step.CONFIRM_ACTIVE:
                return self.active
            case Step.REKEY:
                self.speak(6)
            case Step.PASSIVATE:
                self.fifo.append(False)
            case Step.CONFIRM_PASSIVE:
                return not self.active
            case Step.OPEN:
                self.set_role(Role.BACKUP)
        return True

    def set_role(self, role: Role) -> None:
        self.read_charon()
        self.relay_role = role
        self.check.gate(self.rank, role is Role.BACKUP)
        self.check.tenure(self.rank, role is Role.ACTIVE)
        self.tell_relay(words.RoleChanged(role=role))
        self.tell_windows(words.RoleChanged(role=role))

    # the channel

    def learn(self) -> None:
        if self.view != self.world.session:
            if self.view is not None:
                self.view = None
                self.tell_both(words.PeerLost())
            if self.world.session is not None:
                self.view = self.world.session
                self.tell_both(words.PeerConnected())

    def tell_both(self, event: words.PeerConnected | words.PeerLost) -> None:
        self.tell_relay(event)
        self.tell_windows(event)

    def receive(self, session: int, frame: Any) -> None:
        if self.view != session and session == self.world.session:
            self.learn()
        if self.view != session:
            return
        match frame:
            case relay.Carry(epoch=epoch, number=number), said:
                self.came = True
                handle = self.keep(said)
                self.tell_relay(relay.FromPeer(epoch=epoch, number=number, kind=said.kind, handle=handle, spi=b"spi."))
            case relay.Acknowledge(epoch=epoch, number=number):
                self.tell_relay(relay.PeerHas(epoch=epoch, number=number))
            case windows.TellSeen(key=key, seq=seq):
                self.tell_windows(windows.PeerSaw(key=key, seq=seq))

    def post(self, frame: Any) -> None:
        if self.view is not None and self.view == self.world.session:
            self.peer_frames.append((self.view, frame))

    @property
    def peer_frames(self) -> list[tuple[int, Any]]:
        return self.world.frames[1 - self.rank]

    def keep(self, said: Said) -> int:
        handle = next(self.handles)
        self.bytes[handle] = said
        return handle

    def tell_relay(self, event: relay.Input) -> None:
        for action in self.relay.handle(event):
            match action:
                case relay.Carry(handle=handle):
                    self.check.carried(said := self.bytes.get(handle))
                    self.post((action, said))
                case relay.Acknowledge():
                    self.post(action)
                case relay.HandToCharon(handle=handle):
                    self.check.handed(self.rank, self.bytes.pop(handle))
                case relay.Forget(handle=handle) | relay.SetAside(handle=handle) | relay.NotAcknowledged(handle=handle):
                    del self.bytes[handle]
                case relay.MirrorGap(missing=missing):
                    self.check.gap(self.rank, missing)

    # the kernel

    def tell_windows(self, event: windows.Input) -> None:
        for action in self.windows.handle(event):
            match action:
                case windows.TellSeen():
                    self.post(action)
                case windows.RefuseUpTo(key=key, seq=seq):
                    self.check.refuses(self.relay_role is Role.ACTIVE, key, seq)
                    self.writes.append((key, seq))

    def accept(self, key: SaKey, count: int) -> None:
        """Packets of a client, at whichever gateway has the addresses."""
        if self.role and key in self.kernel.seen:
            self.kernel.seen[key] += count
            self.kernel.events.append((key, self.kernel.seen[key]))

    def read_kernel(self) -> None:
        if self.kernel.events:
            self.there(*self.kernel.events.pop(0))

    def there(self, key: SaKey, seq: int) -> None:
        self.check.reported(key, seq)
        self.tell_windows(windows.SaThere(key=key, seq=seq))

    def list_kernel(self) -> None:
        self.kernel.events.clear()
        self.unwritten = False
        for key, seq in list(self.kernel.seen.items()):
            self.there(key, seq)

    def write(self, *, works: bool) -> None:
        if self.writes:
            key, seq = self.writes.pop(0)
            self.unwritten |= not works
            if works and key in self.kernel.seen:
                self.kernel.seen[key] = max(seq, self.kernel.seen[key])

    def install(self, key: SaKey) -> None:
        self.kernel.seen[key] = 0
        self.kernel.events.append((key, 0))


class World:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.session: int | None = None
        self.frames: tuple[list[tuple[int, Any]], list[tuple[int, Any]]] = ([], [])
        """Under way, by who will receive them."""
        self.lives, self.serials, self.sessions, self.spis = (itertools.count(1) for _ in range(4))
        self.checker = Checker()
        self.gateways: list[Gateway] = []
        self.gateways = [Gateway(self, 0), Gateway(self, 1)]

    def break_session(self, kept: int) -> None:
        """Of what was under way, so much was received already on each side, and not read."""
        self.session = None
        for frames in self.frames:
            del frames[kept:]

    def join(self) -> None:
        if self.session is None:
            self.session = next(self.sessions)

    def deliver(self, gateway: Gateway) -> None:
        frames = self.frames[gateway.rank]
        if frames:
            gateway.receive(*frames.pop(0))
        elif gateway.came:
            gateway.came = False
            gateway.tell_relay(relay.InboxEmpty())

    def step(self) -> None:
        chance = self.random
        gateway = chance.choice(self.gateways)
        self.now += chance.choice((0.001, 0.05, 0.6))
        match chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]:
            case "speak":
                gateway.speak(chance.choice(KINDS))
            case "read":
                gateway.read_charon()
            case "deliver":
                for _ in range(chance.randrange(1, 9)):
                    self.deliver(gateway)
            case "break":
                self.break_session(chance.choice((0, 0, 1, 3)))
            case "join":
                self.join()
            case "learn":
                gateway.learn()
            case "role":
                gateway.tell_role(chance.random() < 0.5)
            case "swap":
                active = chance.random() < 0.5
                for one, role in ((gateway, active), (gateway.peer, not active)):
                    one.tell_role(role)
            case "end":
                gateway.end_step(works=chance.random() < 0.7, told=chance.random() < 0.9)
            case "steps":
                for _ in range(5):
                    gateway.end_step(works=True)
                    gateway.read_fifo()
            case "fifo":
                gateway.read_fifo()
            case "late" if gateway.doing is not None:
                gateway.tell_promotion(promotion.StepDone(attempt=gateway.doing.attempt - 1))
            case "time":
                self.time(gateway)
            case "kill":
                gateway.kill()
            case "charon":
                gateway.restart_charon()
            case "packets" if keys := list(gateway.kernel.seen):
                gateway.accept(chance.choice(keys), chance.randrange(1, 200))
            case "event":
                gateway.read_kernel()
            case "write":
                gateway.write(works=chance.random() < 0.9)
            case "list":
                gateway.list_kernel()
            case "sa":
                key = SaKey(bytes(16) + next(self.spis).to_bytes(4) + b"\x32")
                gateway.install(key)
                gateway.peer.installing.append(key)
            case "install" if gateway.installing:
                gateway.install(gateway.installing.pop(0))
            case "gone" if keys := list(gateway.kernel.seen):
                key = chance.choice(keys)
                gateway.kernel.seen.pop(key)
                gateway.kernel.events = [event for event in gateway.kernel.events if event[0] != key]
                gateway.tell_windows(words.SaGone(key=key))

    def time(self, gateway: Gateway) -> None:
        if (due := gateway.promotion.deadline) is not None and due <= self.now:
            gateway.tell_promotion(TimerExpired())

    def quiet(self) -> None:
        """Nothing fails any more and everything is worked off."""
        for _ in range(60):
            self.now += 1.0
            for gateway in self.gateways:
                self.time(gateway)
                gateway.end_step(works=True)
                gateway.read_fifo()
                gateway.read_charon()
                gateway.learn()
                while gateway.kernel.events:
                    gateway.read_kernel()
                while gateway.writes:
                    gateway.write(works=True)
                while self.frames[gateway.rank] or gateway.came:
                    self.deliver(gateway)

    def heal(self) -> tuple[Gateway, Gateway]:
        """The network is there, and one is Active; returns it and the Backup."""
        self.join()
        active, backup = self.random.sample(self.gateways, 2)
        active.tell_role(True)
        backup.tell_role(False)
        self.quiet()
        for gateway in self.gateways:
            while gateway.installing:
                gateway.install(gateway.installing.pop(0))
            if gateway.unwritten:
                gateway.list_kernel()
        self.quiet()
        return active, backup


WEIGHTS = {
    "speak": 20, "read": 16, "deliver": 30, "break": 1.5, "join": 8, "learn": 8, "role": 0.5, "swap": 0.7, "end": 10,
    "steps": 5, "fifo": 5, "late": 1, "time": 8, "kill": 0.4, "charon": 0.3, "packets": 8, "event": 8, "write": 6,
    "list": 0.5, "sa": 2, "install": 2, "gone": 0.7,
}  # fmt: skip


def run(seed: int) -> World:
    """A hostile history, and then peace. Raises what the checker finds."""
    world = World(seed)
    for _ in range(STEPS):
        world.step()
    active, backup = world.heal()
    for gateway in world.gateways:
        world.checker.at_rest(gateway.rank, gateway.role, gateway.promotion.settled, gateway.relay.waiting, gateway.bytes)
    seen = [{key: seq for key, seq in one.kernel.seen.items() if key in one.peer.kernel.seen} for one in (active, backup)]
    world.checker.refused_everywhere(*seen)
    for kind in (2, 5, 7):
        active.speak(kind)
    world.quiet()
    world.checker.at_rest(active.rank, True, active.promotion.settled, active.relay.waiting, active.bytes)
    world.checker.all_handed(active.rank)
    return world
