"""Two gateways, a network that loses, processes that die and clients that come and go, for `ike.inner_addresses`: one seed.

The checker knows who holds which address, and who is served; it knows nothing of ranges, shares or words, and shares no code
with the core. charon is modelled as it was measured (5.9.8): what it hands out, what a mirrored IKE_SA
lacks, what it unloads.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

from anycast.timer import TimerExpired
from site_agent.ike import inner_address_words as words
from site_agent.ike import inner_addresses
from site_agent.ike.address_ranges import Range, Ranges
from site_agent.ike.inner_addresses import Limits

PREFIX = "203.0.113.0/27"
LIMITS = Limits(reserve=6, longest_range=3, most_ranges=8, rest_s=40.0, peer_stops_s=5.0, forget_s=400.0)
CLIENTS = 24
"""More than a share and what the other one lends have addresses: one must borrow, and takes all when it is alone."""
HANDSHAKE_S = 30.0
SPLIT_S = 4.0
"""An Active that hears nobody stops: less than `peer_stops_s`."""
NOTICE_S = 20.0
"""One end of a cut channel notices so much later than the other, at most."""
TOUCH_S = 30.0
STEPS = 1200


class GivenTwice(AssertionError):
    """A client was given an address that another one has."""


@dataclasses.dataclass
class Tunnel:
    """What a client believes in."""

    client: int
    address: int


@dataclasses.dataclass
class Sa:
    """One IKE_SA in one charon."""

    tunnel: Tunnel
    pools: tuple[Range, ...]
    """The connection's, when it was made."""
    virtual: bool
    """It knows its inner address by itself."""
    child: bool
    """It carries: the CHILD_SA is there, whose selector has the address."""


class Pool:
    """strongSwan's mem_pool."""

    def __init__(self, span: Range) -> None:
        self.span, self.unused = span, span.first
        self.online: dict[int, int] = {}
        self.offline: dict[int, int] = {}

    @property
    def taken(self) -> int:
        return len(self.online) + len(self.offline)

    def existing(self, client: int) -> int | None:
        for address, owner in self.offline.items():
            if owner == client:
                return self._give(address, client)
        return None

    def new(self, client: int) -> int | None:
        if self.unused > self.span.last:
            return None
        self.unused += 1
        return self._give(self.unused - 1, client)

    def reassigned(self, client: int) -> int | None:
        for address in self.offline:
            return self._give(address, client)
        return None

    def _give(self, address: int, client: int) -> int:
        self.offline.pop(address, None)
        self.online[address] = client
        return address

    def release(self, address: int, client: int) -> bool:
        if self.online.get(address) != client:
            return False
        del self.online[address]
        self.offline[address] = client
        return True


class Charon:
    def __init__(self) -> None:
        self.pools: dict[Range, Pool] = {}
        self.listed: tuple[Range, ...] = ()
        self.sas: list[Sa] = []

    def acquire(self, client: int, listed: tuple[Range, ...]) -> int | None:
        loaded = [self.pools[span] for span in listed if span in self.pools]
        for way in (Pool.existing, Pool.new, Pool.reassigned):
            for pool in loaded:
                if (address := way(pool, client)) is not None:
                    return address
        return None

    def remove(self, sa: Sa) -> None:
        self.sas.remove(sa)
        if sa.virtual:
            for span in sa.pools:
                if span in self.pools and self.pools[span].release(sa.tunnel.address, sa.tunnel.client):
                    return

    def unload(self, span: Range) -> bool:
        if span in self.pools and not self.pools[span].online:
            del self.pools[span]
        return span not in self.pools

    def apply(self, offer: tuple[Range, ...]) -> bool:
        for span in set(offer) - set(self.listed):
            if not self.unload(span):
                return False
            self.pools[span] = Pool(span)
        closed, self.listed = set(self.listed) - set(offer), offer
        for span in closed:
            self.unload(span)
        return True

    def uses(self) -> Ranges:
        seen = [sa.tunnel.address for sa in self.sas if sa.virtual or sa.child]
        return Ranges.of(seen + [address for pool in self.pools.values() for address in pool.online])


class Gateway:
    def __init__(self, world: World, rank: int) -> None:
        self.world, self.rank = world, rank
        self.charon = Charon()
        self.serving = self.connected = False
        self.tenure = 0
        """A handshake that was in flight at a demotion chooses its connection anew: the client sends IKE_AUTH again."""
        self.heard = False
        """Its process has had the other one's word."""
        self.begin()

    @property
    def peer(self) -> Gateway:
        return self.world.gateways[1 - self.rank]

    def begin(self) -> None:
        """A process starts; charon may have been running for long."""
        self.todo: list[tuple[Range, ...]] = []
        self.applying: tuple[Range, ...] | None = None
        self.look: words.Looked | None = None
        serial = int(self.world.now * 1000)
        self.core = inner_addresses.InnerAddresses(
            (PREFIX,), self.rank, now=self.world.now, limits=LIMITS, first_serial=serial
        )
        self.heard = False
        if self.serving:
            self.tell(words.RoleIs(True))

    def tell(self, event: Any) -> None:
        for action in self.core.handle(event, self.world.now):
            match action:
                case words.Offer(ranges=ranges):
                    self.todo.append(ranges)
                case words.TellPeer(word=word):
                    self.world.post(self.peer, words.decode_word(words.encode_word(word)))

    def work(self) -> None:
        """The shell takes the newest offer, applies it, or looks, or hands in an earlier look."""
        if self.applying is None and self.todo:
            self.applying, self.todo = self.todo[-1], []
        elif self.applying is not None:
            offer, self.applying = self.applying, None
            if self.charon.apply(offer):
                self.tell(words.Applied(offer))
            else:
                self.todo = self.todo or [offer]
                self.look_now()
        elif self.look is None:
            self.look_now()
        else:
            look, self.look = self.look, None
            self.tell(look)
            self.tell(words.PoolsSeen({span: pool.taken for span, pool in self.charon.pools.items()}))

    def look_now(self) -> None:
        charon = self.charon
        self.look = words.Looked(began=self.world.now, uses=charon.uses(), listed=charon.listed, loaded=tuple(charon.pools))

    def restart_charon(self) -> None:
        self.charon, self.look, self.applying, self.todo = Charon(), None, None, []
        self.tell(words.CharonStarted())

    def has(self, tunnel: Tunnel) -> Sa | None:
        return next((sa for sa in self.charon.sas if sa.tunnel is tunnel), None)


class World:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 1.0
        self.network: list[tuple[Gateway, Any]] = []
        self.connected = False
        self.tunnels: dict[int, Tunnel] = {}
        self.handshakes: list[tuple[float, float, Gateway, tuple[Charon, int], int, tuple[Range, ...]]] = []
        self.split_since: float | None = None
        self.cut_at: float | None = None
        self.joined_at = 0.0
        self.given = self.borrowed = self.refused = self.kept = 0
        """`kept`: tunnels that a promotion found alive."""
        self.gateways: list[Gateway] = []
        self.gateways += [Gateway(self, 0)]
        self.gateways += [Gateway(self, 1)]

    def post(self, to: Gateway, message: Any) -> None:
        if self.connected:
            self.network.append((to, message))

    # What the network and the machines do.

    def join(self) -> None:
        self.connected, self.cut_at, self.joined_at = True, None, self.now
        for gateway in self.gateways:
            gateway.connected = True
            gateway.tell(words.PeerConnected())

    def part(self) -> None:
        self.connected, self.cut_at = False, self.now
        self.network.clear()
        gateway = self.random.choice(self.gateways)
        self.notice(gateway)

    def notice(self, gateway: Gateway) -> None:
        if gateway.connected and not self.connected:
            gateway.connected = False
            gateway.tell(words.PeerLost())

    def promote(self, gateway: Gateway) -> None:
        if not gateway.serving:
            gateway.serving = True
            self.kept += sum(sa.child and self.tunnels.get(sa.tunnel.client) is sa.tunnel for sa in gateway.charon.sas)
            gateway.tell(words.RoleIs(True))
            if not self.random.randrange(3):
                return  # the other one does not hear of it
        self.demote(gateway.peer)

    def demote(self, gateway: Gateway) -> None:
        if gateway.serving:
            gateway.serving = False
            gateway.tenure += 1
            gateway.tell(words.RoleIs(False))

    def deliver(self) -> None:
        if not self.network:
            return
        to, message = self.network.pop(0)
        if isinstance(message, words.Word):
            to.heard = True
            to.tell(words.PeerSaid(message))
        elif not to.serving and self.random.random() > 0.1:
            message(to.charon)

    # What clients do.

    def mirror_new(self, gateway: Gateway, tunnel: Tunnel, *, virtual: bool, child: bool) -> None:
        def add(charon: Charon) -> None:
            old = next((sa for sa in charon.sas if sa.tunnel is tunnel), None)
            if old is not None:  # a rekey: the new one takes the address over, where the old one had it
                charon.remove(old)
            inherited = old is not None and old.virtual
            charon.sas.append(Sa(tunnel, charon.listed, virtual or inherited, child or (old is not None and old.child)))

        self.post(gateway.peer, add)

    def mirror_end(self, gateway: Gateway, tunnel: Tunnel) -> None:
        def end(charon: Charon) -> None:
            for sa in [sa for sa in charon.sas if sa.tunnel is tunnel]:
                charon.remove(sa)

        self.post(gateway.peer, end)

    def serving(self, tunnel: Tunnel) -> Gateway | None:
        for gateway in self.gateways:
            sa = gateway.has(tunnel)
            if gateway.serving and sa is not None and sa.child:
                return gateway
        return None

    def come(self) -> None:
        up = [gateway for gateway in self.gateways if gateway.serving]
        client = self.random.randrange(CLIENTS)
        if up and (client not in self.tunnels or self.random.random() < 0.2):
            gateway = self.random.choice(up)
            due = self.now + self.random.choice((0.0, 0.1, self.random.uniform(0, HANDSHAKE_S)))
            begun = gateway.charon, gateway.tenure
            self.handshakes.append((due, self.now, gateway, begun, client, gateway.charon.listed))

    def finish_handshakes(self) -> None:
        for one in [one for one in self.handshakes if one[0] <= self.now]:
            self.handshakes.remove(one)
            _, began, gateway, begun, client, listed = one
            if begun == (gateway.charon, gateway.tenure) and gateway.serving:
                self.connect(gateway, client, listed, began)

    def connect(self, gateway: Gateway, client: int, listed: tuple[Range, ...], began: float) -> None:
        address = gateway.charon.acquire(client, listed)
        if address is None:
            self.refused += 1
            return
        self.check(gateway, client, address, began)
        old, tunnel = self.tunnels.get(client), Tunnel(client, address)
        self.tunnels[client] = tunnel
        self.given += 1
        gateway.charon.sas.append(Sa(tunnel, listed, True, True))
        self.mirror_new(gateway, tunnel, virtual=True, child=True)
        if old is not None and (sa := gateway.has(old)) is not None:  # unique = replace
            gateway.charon.remove(sa)
            self.mirror_end(gateway, old)

    def check(self, gateway: Gateway, client: int, address: int, began: float) -> None:
        """What a Backup alone has counts once the pair has been in touch for a while: before, the tunnel has ended."""
        for other, tunnel in self.tunnels.items():
            if other == client or tunnel.address != address:
                continue
            for holder in self.gateways:
                sa = holder.has(tunnel)
                reached = holder is gateway or holder.serving or (self.connected and began >= self.joined_at + TOUCH_S)
                if sa is not None and sa.child and reached:
                    raise GivenTwice(f"client {client} got {address - (0xFFFF << 32):#x} of client {other}")

    def leave(self) -> None:
        if not self.tunnels:
            return
        client = self.random.choice(list(self.tunnels))
        tunnel = self.tunnels[client]
        gateway = self.serving(tunnel)
        if gateway is None:
            del self.tunnels[client]  # gives up
        elif self.random.random() < 0.5:
            del self.tunnels[client]
            sa = gateway.has(tunnel)
            assert sa is not None
            gateway.charon.remove(sa)
            self.mirror_end(gateway, tunnel)

    def rekey(self) -> None:
        for gateway in self.gateways:
            if gateway.serving and gateway.charon.sas:
                sa = self.random.choice(gateway.charon.sas)
                self.mirror_new(gateway, sa.tunnel, virtual=False, child=sa.child and self.random.random() < 0.7)

    def clean(self) -> None:
        """The digests' work: a Backup ends what the Active does not have."""
        for gateway in self.gateways:
            if not gateway.serving and self.connected and gateway.peer.serving:
                for sa in list(gateway.charon.sas):
                    if gateway.peer.has(sa.tunnel) is None:
                        gateway.charon.remove(sa)

    def step(self) -> None:
        self.pass_time(self.random.choice((0.0, 0.01, 0.1, 1.0, 1.0, 10.0)))
        gateway = self.random.choice(self.gateways)
        match self.random.choices(
            ("work", "deliver", "come", "leave", "rekey", "promote", "restart", "charon", "part", "join", "notice", "clean",
             "long"),
            (60, 40, 50, 12, 6, 5, 1, 1, 1, 4, 3, 2, 0.3),
        )[0]:  # fmt: skip
            case "work":
                gateway.work()
            case "deliver":
                self.deliver()
            case "come":
                self.come()
            case "leave":
                self.leave()
            case "rekey":
                self.rekey()
            case "promote":
                self.promote(gateway)
            case "restart":
                gateway.begin()
                self.reconnect()
            case "charon":
                if gateway.serving and not self.random.randrange(2):
                    self.demote(gateway)
                gateway.restart_charon()
            case "part" if self.connected:
                self.part()
            case "join" if not self.connected:
                for one in self.gateways:
                    self.notice(one)
                self.join()
            case "notice":
                self.notice(gateway)
            case "clean":
                self.clean()
            case "long":
                self.pass_time(1.5 * LIMITS.forget_s)

    def reconnect(self) -> None:
        if self.connected:
            self.connected = False
            self.network.clear()
            for one in self.gateways:
                self.notice(one)
            self.join()

    def pass_time(self, by: float) -> None:
        end = self.now + by
        while self.now < end:
            self.now = min(end, self.now + 1.0)
            if all(gateway.serving for gateway in self.gateways):
                self.split_since = self.now if self.split_since is None else self.split_since
                bound = SPLIT_S if not all(gateway.heard for gateway in self.gateways) else 100.0
                if self.connected or self.now >= self.split_since + min(bound, SPLIT_S if self.out_of_touch() else bound):
                    self.demote(self.random.choice(self.gateways))
            else:
                self.split_since = None
            if self.cut_at is not None and self.now >= self.cut_at + NOTICE_S:
                for gateway in self.gateways:
                    self.notice(gateway)
            for gateway in self.gateways:
                if self.random.random() < 0.4:
                    gateway.work()
                if (due := gateway.core.deadline) is not None and due <= self.now:
                    gateway.tell(TimerExpired())
            for _ in range(self.random.randrange(3)):
                self.deliver()
            self.finish_handshakes()

    def out_of_touch(self) -> bool:
        return self.cut_at is not None and self.now >= self.cut_at + LIMITS.forget_s / 4


def run(seed: int, steps: int = STEPS) -> World:
    world = World(seed)
    world.promote(world.gateways[0])
    world.join()
    for _ in range(steps):
        world.step()
        for gateway in world.gateways:
            for span in gateway.charon.listed:
                rank = 0 if span.first < (0xFFFF << 32) + 0xCB007110 else 1
                world.borrowed += rank != gateway.rank and gateway.connected
    return world
