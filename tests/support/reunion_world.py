"""Two gateways that are both Active for a while, their clients' IKE exchanges, and the meeting: one seed, no clock.

`Mirror`, `Promotion` and the codecs are the product's; kernel and channel are lists. charon and the clients' IKE are as RFC
7296 sections 2.1 to 2.3 have them: a window of one each way, a request of another message ID is ignored, the last one again
is answered again from memory. Neighbours send what comes from clients to one of the two, and change their minds.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import struct
from collections.abc import Iterator
from typing import Any

from anycast.timer import TimerExpired
from site_agent.sync import promotion, reunion
from site_agent.sync.ha_wire import MessageType
from site_agent.sync.kinds import Kind
from site_agent.sync.mirror import Mirror
from site_agent.sync.numbers_words import Role
from site_agent.sync.promotion import Do, Promotion, Settled, Step

CLIENTS = 4
GIVEN_UP = 2
"""Retransmissions."""
DPD, CHILD, IKE = "dpd", "child", "ike"


def ha(kind: MessageType, ike: bytes, rest: bytes = b"") -> bytes:
    """As charon's plugin writes it."""
    return bytes([3, kind, 1, 2]) + ike + b"\0" + rest


@dataclasses.dataclass
class Half:
    """One end of an IKE_SA."""

    ike: bytes
    children: set[bytes]
    next_request: int = 0
    expects: int = 0
    asked: tuple[str, bytes] | None = None
    """The request of `next_request` that is not answered: what, and what it would make."""
    tries: int = 0
    old: frozenset[bytes] = frozenset()
    """What a rekey that is asked for takes the place of."""

    def begin(self, what: str, new: bytes) -> None:
        self.asked, self.old = (what, new), frozenset(self.children)

    answer: tuple[str, bytes] | None = None
    """The last request that was handled, for who asks again."""


class NoSuchEnd(Exception):
    """Of a message for an IKE_SA that is not there: it is not answered."""


class Charon:
    """Of one gateway."""

    def __init__(self, world: World) -> None:
        self.world, self.active = world, False
        self.sas: dict[bytes, Half] = {}
        self.said: list[bytes] = []

    def say(self, kind: MessageType, ike: bytes, rest: bytes = b"") -> None:
        self.said.append(ha(kind, ike, rest))

    def made(self, half: Half, what: str, new: bytes, replaced: frozenset[bytes], *, began: bool) -> None:
        """An exchange has come to its end."""
        if what == CHILD:
            self.say(MessageType.CHILD_ADD, half.ike, bytes([14, began, 27]) + new[:4][::-1] + b"\x1c" + new[:4][::-1])
            for old in half.children & replaced:
                self.say(MessageType.CHILD_DELETE, half.ike, b"\x1b" + old[:4][::-1])
            half.children = (half.children - replaced) | {new}
        elif what == IKE:
            self.say(MessageType.IKE_ADD, new, bytes([2, 2]) + half.ike + b"\0")
            self.say(MessageType.IKE_UPDATE, new)
            self.say(MessageType.IKE_DELETE, half.ike)
            del self.sas[half.ike]
            self.sas[new] = Half(new, half.children)

    def request(self, ike: bytes, mid: int, what: str, new: bytes) -> bool:
        """A client's; whether it is answered."""
        half = self.sas.get(ike)
        if not self.active or half is None:
            return False
        if mid == half.expects:
            half.expects, half.answer = mid + 1, (what, new)
            self.say(MessageType.IKE_MID_RESPONDER, ike, b"\x22" + struct.pack(">I", mid + 1))
            self.made(half, what, new, self.world.client_of(ike).half.old, began=False)
            return True
        return mid == half.expects - 1 and half.answer is not None

    def ask(self, half: Half, what: str) -> None:
        """Send a request, or send it again."""
        if half.asked is None:
            half.begin(what, self.world.name(half.ike if what == IKE else None))
            self.say(MessageType.IKE_MID_INITIATOR, half.ike, b"\x22" + struct.pack(">I", half.next_request + 1))
        answered = self.world.client_of(half.ike).request(half.ike, half.next_request, *half.asked)
        half.tries += 1
        if answered is None or not self.world.comes_back(self):
            if half.tries > GIVEN_UP and self.world.impatient:
                del self.sas[half.ike]
                self.say(MessageType.IKE_DELETE, half.ike)
            return
        half.tries = 0
        (did, _new), (wanted, new) = answered, half.asked
        if did != wanted and DPD in (did, wanted):  # task_manager_v2.c: "received %N response, but expected %N"
            del self.sas[half.ike]
            self.say(MessageType.IKE_DELETE, half.ike)
            return
        half.asked, half.next_request = None, half.next_request + 1
        if wanted == IKE and answered != (wanted, new):
            self.sas.pop(half.ike)  # keys of two exchanges: nothing that follows is understood, and the client meets silence
            return
        if wanted == CHILD:
            self.world.client_of(half.ike).half.children -= half.old  # the DELETE that ends a rekey
        self.made(half, wanted, new, half.old, began=True)

    def handed(self, datagram: bytes) -> None:
        """ha_dispatcher.c."""
        kind, ike, rest = datagram[1], datagram[4:20], datagram[21:]
        if kind == MessageType.IKE_ADD:
            old = self.sas.pop(rest[2:18], None)
            self.sas[ike] = Half(ike, set() if old is None else old.children)
        half = self.sas.get(ike)
        if half is None:
            return
        match kind:
            case MessageType.IKE_MID_INITIATOR:
                half.next_request, half.asked = struct.unpack(">xI", rest)[0], None
            case MessageType.IKE_MID_RESPONDER:
                half.expects, half.answer = struct.unpack(">xI", rest)[0], None
            case MessageType.CHILD_ADD:
                assert not self.active, "kernel SAs while packets are sent"
                half.children.add(rest[3:7][::-1])
            case MessageType.CHILD_DELETE:
                half.children.discard(rest[1:5][::-1])
            case MessageType.IKE_DELETE:
                del self.sas[ike]


class Client:
    def __init__(self, world: World, ike: bytes, child: bytes) -> None:
        self.world, self.half = world, Half(ike, {child})
        self.names = {ike}
        self.told = False

    def request(self, ike: bytes, mid: int, what: str, new: bytes) -> tuple[str, bytes] | None:
        """A gateway's; what it is answered, None: nothing."""
        half = self.half
        if ike != half.ike or self.told:
            return self.half.answer if what == IKE and half.answer is not None and half.answer[0] == IKE else None
        if mid == half.expects:
            half.expects, half.answer = mid + 1, (what, new)
            self.made(what, new, frozenset())  # what is old stays until who began the rekey deletes it
            return what, new
        return half.answer if mid == half.expects - 1 else None

    def made(self, what: str, new: bytes, replaced: frozenset[bytes]) -> None:
        if what == CHILD:
            self.half.children = (self.half.children - replaced) | {new}
        elif what == IKE:
            self.names.add(new)
            self.half = Half(new, self.half.children)

    def ask(self, what: str) -> bool:
        """Whether it is answered."""
        half = self.half
        if half.asked is None:
            half.begin(what, self.world.name(half.ike if what == IKE else None))
        if not self.world.nearest.charon.request(half.ike, half.next_request, *half.asked):
            return False
        (did, new), half.asked = half.asked, None
        half.next_request += 1
        self.made(did, new, half.old)
        return True

    def deleted(self, ike: bytes, mid: int) -> None:
        self.told |= ike == self.half.ike and mid == self.half.expects


class Gateway:
    def __init__(self, world: World, rank: int) -> None:
        self.world, self.rank = world, rank
        self.charon, self.promotion = Charon(world), Promotion()
        self.frames: list[tuple[Kind, bytes]] = []
        """On their way here."""
        self.doing: Do | None = None
        self.pending: list[reunion.Reunite] = []
        self.adoptions = self.ended = 0
        self.ready = False
        self.mirror = Mirror(
            rank=rank, role=Role.BACKUP, epoch=rank + 1, sad=self, plugin=self, submit=self.submit,
            ready=lambda _retired: None, rekey=lambda _keys: None, gap=lambda _missing: None,
            reunite=self.reunite, clock=lambda: world.now,
        )  # fmt: skip
        self.mirror.first()

    @property
    def peer(self) -> Gateway:
        return self.world.gateways[1 - self.rank]

    def submit(self, kind: Kind, payload: bytes) -> None:
        if self.world.connected:
            self.peer.frames.append((kind, payload))

    # As `plugin_socket` and `sad`

    def receive(self) -> bytes | None:
        return self.charon.said.pop(0) if self.charon.said else None

    def send(self, datagram: bytes) -> bool:
        self.charon.handed(datagram)
        return True

    def table(self) -> tuple[list[Any], list[Any]]:
        return [], []

    def read(self, _owner: object, *, everything: bool = False) -> None:
        """No kernel tells anything."""

    # As `process`

    def role(self, active: bool) -> None:
        self.promote(promotion.RoleIs(active))

    def promote(self, event: promotion.Input) -> None:
        for action in self.promotion.handle(event, self.world.now):
            if isinstance(action, Do):
                self.doing = action
            elif isinstance(action, Settled) and action.active:
                self.end()

    def step(self) -> None:
        if self.doing is not None:
            todo, self.doing = self.doing, None
            self.perform(todo.step)
            self.promote(promotion.StepDone(attempt=todo.attempt))

    def perform(self, step: Step) -> None:
        match step:
            case Step.CLOSE:
                self.mirror.close()
            case Step.READY:
                self.mirror.ask_ready()
                self.world.now += 2.0
                self.mirror.timer()
            case Step.ACTIVATE:
                self.mirror.promoted()
                self.charon.active = True
            case Step.CEASE:
                self.mirror.demoting()
            case Step.PASSIVATE:
                self.charon.active = False
            case Step.ADOPT:
                self.mirror.stand_back()
                for one in self.pending:
                    self.adoptions += len(one.adopt)
                    self.mirror.adopt(one.adopt)
                self.pending = [dataclasses.replace(one, adopt=()) for one in self.pending]
            case Step.OPEN:
                self.mirror.demoted()

    def reunite(self, reunite: reunion.Reunite) -> None:
        self.pending.append(reunite)
        if reunite.passive or len(self.pending) > 1:
            self.promote(promotion.AdoptionAsked())
        else:
            self.adoptions += len(reunite.adopt)
            self.mirror.adopt(reunite.adopt)
            self.pending = [dataclasses.replace(reunite, adopt=())]
            self.end()

    def end(self) -> None:
        for end in [end for one in self.pending for end in one.end]:
            if end.raised_by is not None:
                self.mirror.adopt([end.raised_by])
            if (half := self.charon.sas.pop(end.ike, None)) is not None:
                self.ended += 1
                self.charon.say(MessageType.IKE_DELETE, end.ike)
                self.world.client_of(end.ike).deleted(end.ike, half.next_request)
        for ike in [ike for one in self.pending for ike in one.renew]:
            for _ in range(2):  # what is in flight comes first
                if (half := self.charon.sas.get(ike)) is not None:
                    self.charon.ask(half, CHILD)
        self.pending = [dataclasses.replace(one, end=(), renew=()) for one in self.pending if one.adopt]

    def work(self) -> None:
        self.mirror.read_charon(everything=True)
        frames, self.frames = self.frames, []
        for kind, payload in frames:
            self.mirror.deliver(kind, payload)
        self.mirror.all_delivered()
        self.step()
        if (due := self.promotion.deadline) is not None and due <= self.world.now:
            self.promote(TimerExpired())


class World:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now, self.connected = 10.0, False
        self.serials: Iterator[int] = itertools.count(1)
        self.clients: list[Client] = []
        self.gateways = [Gateway(self, 0), Gateway(self, 1)]
        self.nearest = self.gateways[0]
        """To whom neighbours send what clients say."""
        self.silent: Gateway | None = None
        """Asks nobody anything."""
        self.impatient = False
        """Who asks in vain gives up. Not at the end: it would take minutes."""
        for _ in range(CLIENTS):
            client = Client(self, self.name(b""), self.name(None))
            self.clients.append(client)
            for gateway in self.gateways:
                gateway.charon.sas[client.half.ike] = Half(client.half.ike, set(client.half.children))
        self.connect()
        self.gateways[0].role(True)
        self.gateways[1].role(False)
        self.quiet()

    def name(self, ike: bytes | None) -> bytes:
        """A new one; for the client that has `ike`."""
        serial = next(self.serials)
        if ike is None:
            return struct.pack(">I", serial)
        new = struct.pack(">QQ", serial, serial)
        if ike:
            self.client_of(ike).names.add(new)
        return new

    def client_of(self, ike: bytes) -> Client:
        return next(client for client in self.clients if ike in client.names)

    def comes_back(self, charon: Charon) -> bool:
        return charon is self.nearest.charon and charon.active

    def connect(self) -> None:
        self.connected = True
        for gateway in self.gateways:
            gateway.mirror.connected()

    def part(self) -> None:
        self.connected = False
        for gateway in self.gateways:
            gateway.frames.clear()
            gateway.mirror.lost()

    def quiet(self) -> None:
        for _ in range(40):
            self.now += 0.1
            for gateway in self.gateways:
                gateway.work()

    def exchange(self) -> None:
        """Some client, or a gateway that is Active."""
        what = self.random.choice((DPD, DPD, CHILD, CHILD, IKE))
        if self.random.random() < 0.5:
            self.random.choice(self.clients).ask(what)
            return
        asking = [gateway for gateway in self.gateways if gateway.charon.active and gateway is not self.silent]
        charon = self.random.choice(asking).charon
        if charon.sas:
            charon.ask(self.random.choice(list(charon.sas.values())), what)

    def busy(self, count: int) -> None:
        for _ in range(count):
            self.exchange()
            if self.random.random() < 0.5:
                self.random.choice(self.gateways).work()
        self.quiet()

    # What became of each client

    def black_holes(self) -> list[int]:
        """Clients whose dead peer detection is answered, and whose tunnel carries nothing or takes no request of ours."""
        found = []
        for n, client in enumerate(self.clients):
            answered = not client.told and any(client.ask(DPD) for _ in range(3))
            half = self.nearest.charon.sas.get(client.half.ike)
            if not answered or half is None:
                continue
            if not half.children & client.half.children or not self.takes_requests(half):
                found.append(n)
        return found

    def takes_requests(self, half: Half) -> bool:
        charon, ike = self.nearest.charon, half.ike
        for _ in range(3):
            charon.ask(half, DPD)
            if half.asked is None or ike not in charon.sas:
                return True  # or it is gone, and the client finds nobody
        return False

    def lost(self) -> int:
        """Clients that have to come back: told, or met by silence."""
        return sum(client.told or not any(client.ask(DPD) for _ in range(3)) for client in self.clients)


def run(seed: int, *, flips: bool, stays: int = 1, channel: bool = False, quiet: bool = False) -> World:
    """Both are Active, the second one (1) from silence, and meet. `flips`: neighbours change their minds meanwhile. `stays`:
    who. `channel`: the sync channel stands all the time. `quiet`: the first one asks no client anything meanwhile."""
    world = World(seed)
    world.busy(10)
    if not channel:
        world.part()
    second = world.gateways[1]
    second.role(True)
    world.impatient = world.random.random() < 0.5
    world.quiet()
    world.nearest = second
    world.silent = world.gateways[0] if quiet else None
    for _ in range(world.random.randrange(1, 4)):
        world.busy(world.random.randrange(0, 12))
        if flips and world.random.random() < 0.5:
            world.nearest = world.nearest.peer
    world.impatient = False
    stayer = world.gateways[stays]
    first_joined = world.random.random() < 0.5
    if first_joined and not channel:
        world.connect()
    stayer.peer.role(False)
    world.nearest = stayer
    for _ in range(world.random.randrange(10)):
        world.random.choice(world.gateways).work()
    if not first_joined and not channel:
        world.connect()
    world.quiet()
    return world
