"""Two gateways, clients, the `ha` plugin and a channel that do as they like, for `sync.digests`: a virtual clock, one seed.

Each side has a kernel and a charon that live on, and a process that may die. The plugin's messages may be lost while there
are faults, and are refused as charon refuses them (a CHILD_SA without its IKE_SA). The checker compares the two sides' own
dictionaries; of the core's records it knows what `netlink.xfrm_digest` and `ike.mirror_view` say of their bytes, no more.
"""

from __future__ import annotations

import dataclasses
import heapq
import random
from collections.abc import Callable
from typing import Any

from anycast.reasons import Reason
from anycast.timer import TimerExpired
from site_agent.ike.mirror_view import CharonView, IkeSa, Tunnel
from site_agent.ike.rekey_queue import Ask, Rekeyed, RekeyQueue, SaId, Stopped, Wish, Wished
from site_agent.ike.rekey_queue import Input as QueueInput
from site_agent.netlink.xfrm_digest import Owned
from site_agent.sync import digest_wire
from site_agent.sync import digest_words as words
from site_agent.sync.digests import Digests
from site_agent.sync.numbers_words import EventsLost, PeerConnected, PeerLost, Role, RoleChanged
from site_agent.sync.rekey_wishes import looked_of
from site_agent.sync.repairs import GaveUp, Repair

VIP = bytes([203, 0, 113, 1]) + bytes(12)
BUDGET = 3
ESP = b"\x32"
SaName = tuple[int, bytes]
"""SPI, destination."""


class Diverged(AssertionError):
    """The mirror is not what it should be, or somebody went on about it."""


@dataclasses.dataclass(frozen=True)
class Sa:
    source: bytes
    ports: bytes = bytes(6)
    settings: bytes = b"settings"


@dataclasses.dataclass(frozen=True)
class Policy:
    destination: bytes
    source: bytes
    reqid: int
    number: int


@dataclasses.dataclass(frozen=True)
class Child:
    reqid: int
    ike: bytes
    spi_in: int
    spi_out: int
    carrying: bool = True
    rekeying: bool = False


@dataclasses.dataclass(frozen=True)
class Ike:
    remote: bytes
    port: int


def _sa_of(repair: Repair) -> SaId:
    return SaId("child", repair.child_id) if repair.child_id else SaId("ike", repair.ike_id)


class Side:
    def __init__(self, world: World, rank: int, role: Role) -> None:
        self.world, self.rank, self.role = world, rank, role
        self.sas: dict[SaName, Sa] = {}
        self.policies: dict[tuple[int, int], Policy] = {}
        """By direction and inner address."""
        self.children: dict[int, Child] = {}
        self.ikes: dict[bytes, Ike] = {}
        self.counter = 1000 * rank
        self.looks: list[list[float]] = []
        """When, by life of the process."""
        self.core: Digests
        self.life = 0
        self.start()

    def start(self) -> None:
        """A process that knows nothing."""
        self.life += 1
        self.looks.append([])
        self.wanted: dict[SaId, Repair] = {}
        self.queue = RekeyQueue(BUDGET)
        self.core = Digests(self.role, now=self.world.now, first_round=self.world.random.randrange(1 << 32))
        if self.world.joined:
            self.tell(PeerConnected())

    def tell(self, event: words.Input) -> None:
        for action in self.core.handle(event, self.world.now):
            self.world.perform(self, action)

    def install(self, child: Child, ike: Ike) -> None:
        self.counter += 1
        self.children[self.counter] = child
        ports = b"\x02\x00" + ike.port.to_bytes(2) + b"\x11\x94"
        self.sas[child.spi_in, VIP] = Sa(ike.remote, ports)
        self.sas[child.spi_out, ike.remote] = Sa(VIP, ports)
        for direction in (0, 1, 2):
            ends = (ike.remote, VIP) if direction == 1 else (VIP, ike.remote)
            self.policies[direction, child.reqid] = Policy(*ends, child.reqid + self.rank, self.counter)

    def uninstall(self, number: int, *, policies: bool) -> None:
        child = self.children.pop(number)
        self.sas = {name: sa for name, sa in self.sas.items() if name[0] not in (child.spi_in, child.spi_out)}
        if policies and all(other.reqid != child.reqid for other in self.children.values()):
            self.policies = {key: policy for key, policy in self.policies.items() if key[1] != child.reqid}

    def child(self, spi_in: int) -> int | None:
        return next((number for number, child in self.children.items() if child.spi_in == spi_in), None)

    def kernel_look(self) -> tuple[list[bytes], dict[bytes, Owned]]:
        sas = [
            spi.to_bytes(4) + ESP + to + sa.source + sa.ports + sa.settings for (spi, to), sa in self.sas.items()
        ]  # fmt: skip
        policies = {
            bytes([direction]) + inner.to_bytes(45) + p.destination + p.source + bytes(8): Owned(p.reqid, p.number)
            for (direction, inner), p in self.policies.items()
        }
        return sas, policies

    def charon_look(self) -> CharonView:
        view = CharonView(frozenset())
        for spis, ike in self.ikes.items():
            view.ike[spis + VIP + ike.remote + ike.port.to_bytes(2)] = IkeSa(spis.hex(), False)
        for number, child in self.children.items():
            remote = self.ikes[child.ike].remote
            ends = (
                child.spi_in.to_bytes(4) + ESP + VIP + remote,
                child.spi_out.to_bytes(4) + ESP + remote + VIP,
            )  # fmt: skip
            view.tunnels.append(
                Tunnel(child.reqid + self.rank, str(number), child.ike.hex(), f"client {child.reqid}",
                       child.spi_in.to_bytes(4) + ESP + child.spi_out.to_bytes(4) + child.ike, ends,
                       child.carrying, child.rekeying)
            )  # fmt: skip
        return view

    def mirror(self) -> tuple[Any, ...]:
        """What both must have."""
        return (
            self.sas,
            {key: (policy.destination, policy.source) for key, policy in self.policies.items()},
            {(child.ike, child.spi_in, child.spi_out) for child in self.children.values()},
            self.ikes,
        )


class World:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        self.joined = False
        self.session = 0
        self.loss = 0.0
        """Of the plugin's messages."""
        self.look_fails = 0.0
        self.blind: Side | None = None
        """Whose charon cannot be asked."""
        self.spi_bits = 0xFFFF_FFFF
        self.agenda: list[tuple[float, int, Callable[[], None]]] = []
        self.serial = 0
        self.refusing: set[int] = set()
        self.repairs: list[tuple[float, Repair]] = []
        self.gave_up: list[GaveUp] = []
        self.removed: list[words.Action] = []
        self.sent: list[digest_wire.Message] = []
        self.lie: Callable[[Side, digest_wire.Message], digest_wire.Message | None] | None = None
        self.sides = (Side(self, 0, Role.ACTIVE), Side(self, 1, Role.BACKUP))

    @property
    def active(self) -> Side:
        return next(side for side in self.sides if side.role is Role.ACTIVE)

    @property
    def backup(self) -> Side:
        return next(side for side in self.sides if side.role is Role.BACKUP)

    def later(self, delay: float, act: Callable[[], None]) -> None:
        self.serial += 1
        heapq.heappush(self.agenda, (self.now + delay, self.serial, act))

    def run(self, seconds: float) -> None:
        """Let time pass: what is due, in its order, and each core's deadline."""
        end = self.now + seconds
        while True:
            cores = [(core, side) for side in self.sides for core in (side.core, side.queue)]
            due = [(core.deadline, core, side) for core, side in cores if core.deadline is not None]
            at, core, side = min(due, key=lambda each: each[0], default=(end + 1, None, None))
            if self.agenda and self.agenda[0][0] <= at:
                at, side = self.agenda[0][0], None
            if at > end:
                break
            self.now = max(self.now, at)
            if side is not None:
                if core is side.queue:
                    self.queue(side, TimerExpired())
                else:
                    side.tell(TimerExpired())
                assert core.deadline is None or core.deadline > self.now, "it would spin"
            else:
                heapq.heappop(self.agenda)[2]()
        self.now = end

    def perform(self, side: Side, action: words.Action) -> None:
        match action:
            case words.Look():
                side.looks[-1].append(self.now)
                life, kernel = side.life, side.kernel_look()
                self.later(self.random.uniform(0.01, 0.3), lambda: self.answer(side, life, kernel))
            case words.Send(message=message):
                self.sent.append(message)
                self.send(side, message)
            case words.Wanted(repairs):
                side.wanted = {_sa_of(repair): repair for repair in repairs}
                wishes = tuple(Wish(sa=sa, ike=repair.ike_id, name=repair.name) for sa, repair in side.wanted.items())
                self.queue(side, Wished(reason=Reason.TUNNEL_UNPROTECTED, wishes=wishes))
            case GaveUp():
                self.gave_up.append(action)
            case words.RemoveSa(key=key):
                self.removed.append(action)
                del side.sas[int.from_bytes(key[16:20]), key[:16]]
            case words.RemovePolicy(direction=direction, index=number):
                self.removed.append(action)
                gone = [key for key, p in side.policies.items() if key[0] == direction and p.number == number]
                del side.policies[gone[0]]
            case words.DropIkeSa(spis=spis):
                self.removed.append(action)
                self.drop_ike(side, spis)
            case words.DropChildSa(spi_in=spi):
                self.removed.append(action)
                if (number := side.child(int.from_bytes(spi))) is not None:
                    side.uninstall(number, policies=True)

    def queue(self, side: Side, event: QueueInput) -> None:
        """The gateway's rekeys, as `sync.rekeys` feeds the queue."""
        for action in side.queue.handle(event, self.now):
            if isinstance(action, Ask):
                self.asked(side, side.wanted[action.sa])

    def asked(self, side: Side, repair: Repair) -> None:
        life = side.life

        def tell() -> None:
            if side.life == life:
                side.tell(words.RepairAsked(repair.line))

        self.repairs.append((self.now, repair))
        self.later(0.0, tell)  # after this turn: the core is not entered twice
        self.later(self.random.uniform(0.01, 1.5), lambda: self.repair(side, repair))

    def answer(self, side: Side, life: int, kernel: tuple[list[bytes], dict[bytes, Owned]]) -> None:
        if side.life == life:
            failed = side is self.blind or self.random.random() < self.look_fails
            sas, policies = kernel
            charon = None if failed else side.charon_look()
            if charon is not None and side.role is Role.ACTIVE:
                self.queue(side, looked_of(charon, self.now))
            side.tell(words.Looked(sas=sas, policies=policies, charon=charon))

    def send(self, side: Side, message: digest_wire.Message) -> None:
        other, session, lives = self.sides[1 - side.rank], self.session, tuple(each.life for each in self.sides)
        if self.lie is not None:
            lied = self.lie(side, message)
            if lied is None:
                return
            message = lied
        body = digest_wire.encode(message)

        def arrive() -> None:
            if (self.session, tuple(each.life for each in self.sides)) == (session, lives) and self.joined:
                other.tell(words.Heard(digest_wire.decode(body)))

        if self.joined:
            self.later(0.02, arrive)

    # What happens

    def join(self) -> None:
        if not self.joined:
            self.joined = True
            self.session += 1
            for side in self.sides:
                side.tell(PeerConnected())

    def part(self) -> None:
        if self.joined:
            self.joined = False
            for side in self.sides:
                side.tell(PeerLost())

    def restart(self, side: Side) -> None:
        was, self.joined = self.joined, False
        side.start()
        self.sides[1 - side.rank].tell(PeerLost())
        if was:
            self.join()

    def change_roles(self) -> None:
        active, backup = self.active, self.backup
        active.role, backup.role = Role.BACKUP, Role.ACTIVE
        self.queue(active, Stopped())
        active.tell(RoleChanged(role=Role.BACKUP))
        backup.tell(RoleChanged(role=Role.ACTIVE))

    def plugin(self, tell: Callable[[Side], None]) -> None:
        """The Active's charon tells the Backup's."""
        backup = self.backup
        if self.joined and self.random.random() >= self.loss:
            self.later(0.03, lambda: tell(backup))

    def connect(self, *, refuses: bool = False) -> int:
        """A client comes. Its number, which is its reqid and its inner address."""
        number = self.serial = self.serial + 1
        if refuses:
            self.refusing.add(number)
        spis = self.random.randbytes(16)
        ike = Ike(bytes([198, 51, 100, self.random.randrange(256)]) + bytes(12), self.random.randrange(1024, 65536))
        self.active.ikes[spis] = ike
        self.plugin(lambda side: side.ikes.setdefault(spis, ike))
        self.add_child(number, spis)
        return number

    def add_child(self, reqid: int, spis: bytes) -> None:
        child = Child(reqid, spis, *(self.random.randrange(1 << 16, 1 << 32) & self.spi_bits for _ in "io"))
        self.active.install(child, self.active.ikes[spis])
        ike = self.active.ikes[spis]
        self.plugin(lambda side: side.install(child, ike) if spis in side.ikes else None)

    def client(self, reqid: int) -> tuple[int, Child] | None:
        return next(((n, c) for n, c in self.active.children.items() if c.reqid == reqid and c.carrying), None)

    def leave(self, reqid: int) -> None:
        if (found := self.client(reqid)) is None:
            return
        spis = found[1].ike
        self.drop_ike(self.active, spis)
        self.plugin(lambda side: self.drop_ike(side, spis))

    def drop_ike(self, side: Side, spis: bytes) -> None:
        for number in [number for number, child in side.children.items() if child.ike == spis]:
            side.uninstall(number, policies=True)
        side.ikes.pop(spis, None)

    def rekey_child(self, reqid: int) -> None:
        if (found := self.client(reqid)) is None:
            return
        active, (number, child) = self.active, found
        active.children[number] = dataclasses.replace(child, carrying=False)
        self.add_child(reqid, child.ike)

        def forget(side: Side) -> None:
            if (old := side.child(child.spi_in)) is not None:
                side.uninstall(old, policies=False)

        self.plugin(forget)
        self.later(5.0, lambda: forget(active))

    def rekey_ike(self, old: bytes) -> None:
        if old not in self.active.ikes:
            return
        new, ike = self.random.randbytes(16), self.active.ikes[old]

        def rekeyed(side: Side) -> None:
            side.ikes[new] = ike
            if old in side.ikes:
                side.children = {
                    n: dataclasses.replace(c, ike=new) if c.ike == old else c for n, c in side.children.items()
                }  # fmt: skip
                del side.ikes[old]

        rekeyed(self.active)
        self.plugin(rekeyed)

    def move(self, reqid: int, *, address: bool) -> None:
        """MOBIKE, or a NAT rebinding: the Active knows, nobody tells the Backup."""
        if (found := self.client(reqid)) is None:
            return
        active, spis = self.active, found[1].ike
        was = active.ikes[spis]
        remote = self.random.randbytes(4) + bytes(12) if address else was.remote
        ike = active.ikes[spis] = Ike(remote, self.random.randrange(1024, 65536))
        for child in [child for child in active.children.values() if child.ike == spis]:
            ports = b"\x02\x00" + ike.port.to_bytes(2) + b"\x11\x94"
            if active.sas.pop((child.spi_out, was.remote), None) is not None:
                active.sas[child.spi_out, remote] = Sa(VIP, ports)
                active.sas[child.spi_in, VIP] = Sa(remote, ports)
        for key, policy in list(active.policies.items()):
            if key[1] == reqid:
                ends = (remote, VIP) if key[0] == 1 else (VIP, remote)
                active.policies[key] = dataclasses.replace(policy, destination=ends[0], source=ends[1])

    def repair(self, side: Side, asked: Repair) -> None:
        """charon does what it is asked to, if it is Active, and the client lets it."""
        if side.role is not Role.ACTIVE:
            return
        children = [child for child in side.children.values() if child.carrying]
        if not asked.child_id:
            spis = bytes.fromhex(asked.ike_id)
            if not any(child.reqid in self.refusing for child in children if child.ike == spis):
                self.rekey_ike(spis)
                self.queue(side, Rekeyed(_sa_of(asked)))
        elif (child := side.children.get(int(asked.child_id))) is not None and child.reqid not in self.refusing:
            self.rekey_child(child.reqid)
            self.queue(side, Rekeyed(_sa_of(asked)))

    FAULTS = ("sa", "extra", "address", "ports", "settings", "policy", "child", "ike", "orphan", "spare policy")

    def break_backup(self, kind: str) -> None:
        """Something of the Backup goes wrong behind everybody's back."""
        side, pick = self.backup, self.random.choice
        match kind:
            case "sa" if side.sas:
                del side.sas[pick(list(side.sas))]
            case "extra" | "orphan":
                side.sas[self.random.randrange(1 << 32), VIP] = Sa(self.random.randbytes(4) + bytes(12))
            case "address" if side.sas:
                name = pick(list(side.sas))
                sa, elsewhere = side.sas.pop(name), self.random.randbytes(4) + bytes(12)
                if name[1] == VIP:
                    side.sas[name] = dataclasses.replace(sa, source=elsewhere)
                else:
                    side.sas[name[0], elsewhere] = sa
            case "ports" if side.sas:
                name = pick(list(side.sas))
                side.sas[name] = dataclasses.replace(side.sas[name], ports=b"\x02\x00\x00\x07\x11\x94")
            case "settings" if side.sas:
                name = pick(list(side.sas))
                side.sas[name] = dataclasses.replace(side.sas[name], settings=b"SETTINGS")
            case "policy" if side.policies:
                del side.policies[pick(list(side.policies))]
            case "spare policy":
                side.counter += 1
                side.policies[1, 1 << 40 | side.counter] = Policy(self.random.randbytes(16), VIP, 1 << 30, side.counter)
            case "child" if side.children:
                del side.children[pick(list(side.children))]
            case "ike" if side.ikes:
                self.drop_ike(side, pick(list(side.ikes)))

    def lose_events(self) -> None:
        self.random.choice(self.sides).tell(EventsLost())
