"""What a drill watches of clients' ways to the service: what comes to each of them, and what passes outside their NAT."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator

from anycast.fleet.compile import compile_gateway
from anycast.fleet.schema import Fleet
from anycast_lab.capture.frames import Ike, Seen
from anycast_lab.capture.too_big import TooBig
from anycast_lab.drills import operator, pairs
from anycast_lab.drills.big_packets import BigPackets
from anycast_lab.drills.cables import only_interface
from anycast_lab.drills.family_faults import FamilyFaults
from anycast_lab.drills.guests import Guests
from anycast_lab.drills.mirror_checks import ike_sas
from anycast_lab.drills.nat_faults import NatFaults
from anycast_lab.drills.path_checks import AtGateway, Ends, Guest, PathSeen
from anycast_lab.drills.path_steps import Connect, EchoBig, Fetch, MuteFamily, PathStep, RebindClients, UnmuteFamily
from anycast_lab.drills.wiretaps import ESP, IKE, TOO_BIG, Place, Wiretaps
from anycast_lab.drills.witnesses import Witnesses
from anycast_lab.runner import LabError, Runner

_SNAPSHOT = 128
_NEXT_LOOK_S = 3.0
_OUTSIDE, _AT = "outside-{}", "too-big-{}"
_COUNTED = re.compile(r'^anycast_check_value\{check="too_big"\} (\S+)$', re.MULTILINE)
_SA = re.compile(r"^src (\S+) dst (\S+)\n\s+proto esp spi (0x[0-9a-f]+)", re.MULTILINE)


class PathWatch:
    """One drill's. `close` at the end, whatever happened."""

    def __init__(self, runner: Runner, fleet: Fleet, victim: str, witnesses: Witnesses) -> None:
        assert fleet.lab is not None
        self._runner, self._lab, self._witnesses = runner, fleet.lab, witnesses
        self._clients = tuple(fleet.lab.clients)
        self._victim = victim
        self._nat, self._families = NatFaults(runner, fleet.lab), FamilyFaults(runner, fleet)
        places = {client: self._place(client) for client in self._clients}
        if (transit := fleet.lab.transit) is not None:
            for nat in fleet.lab.nat:
                interface = self._towards(nat, transit.node)
                places[_OUTSIDE.format(nat)] = Place(node=nat, interface=interface, what=ESP, snapshot=_SNAPSHOT)
        self._gateways = dict(self._uplinks(fleet))
        for gateway, interface in self._gateways.items():
            what = f"{TOO_BIG} or {IKE}"
            places[_AT.format(gateway)] = Place(node=gateway, interface=interface, what=what, inbound=True)
        self._taps = Wiretaps(runner, places)
        self._fleet, self._big, self._guests = fleet, BigPackets(runner, fleet.lab), Guests(runner, fleet)
        self._paths: dict[str, int] = {}
        self._spis, self._counted = dict[str, frozenset[int]](), dict[str, float | None]()
        self._before: dict[str, Ends] = {}

    def _place(self, client: str) -> Place:
        interface = only_interface(self._runner, client)
        return Place(node=client, interface=interface, what=ESP, inbound=True, snapshot=_SNAPSHOT)

    def _towards(self, node: str, to: str) -> str:
        """The interface of `node` that is cabled to `to`."""
        for link in self._runner.topology.links_of(node):
            for here, there in (link.ends(), link.ends()[::-1]):
                if (here.node, there.node) == (node, to):
                    return here.interface
        raise LabError(f"{node} has no cable to {to}")

    async def start(self) -> None:
        """Return when all is captured and each client's SAs are known. Raises LabError."""
        self._before = {client: await self._ends(client) for client in self._clients}
        for gateway in self._gateways:
            self._spis[gateway], self._counted[gateway] = await self._sends(gateway), await self._count(gateway)
        for node in (*self._gateways, *self._lab.servers):  # a path's MTU is known for ten minutes
            for family in ("-4", "-6"):
                await operator.say(self._runner, node, "ip", family, "route", "flush", "cache")
        for node in self._lab.carriers if self._fleet.service.prefixes.ipv4 is not None else ():
            self._paths[node] = await self._guests.nexthops(node)
        await self._taps.start()

    @staticmethod
    def _uplinks(fleet: Fleet) -> Iterator[tuple[str, str]]:
        for site in fleet.sites.values():
            yield from ((name, gateway.uplink.interface) for name, gateway in site.gateways.items())

    async def _sends(self, gateway: str) -> frozenset[int]:
        """The SPIs of the ESP that it sends."""
        states = (await self._runner.exec(gateway, ("ip", "xfrm", "state", "list"))).text
        here = pairs.local_addresses(self._runner.pid(gateway))
        return frozenset(int(spi, 16) for _source, destination, spi in _SA.findall(states) if destination not in here)

    async def _count(self, gateway: str) -> float | None:
        listen = compile_gateway(self._fleet, gateway).agent.metrics_listen
        words = ("python", "-m", "anycast_lab.drills.scrape", listen, "/metrics")
        found = _COUNTED.search((await self._runner.exec(gateway, words)).text)
        return None if found is None else float(found[1])

    async def _ends(self, client: str) -> Ends:
        listed = (await self._runner.exec(client, ("swanctl", "--list-sas"))).text
        states = (await self._runner.exec(client, ("ip", "xfrm", "state", "list"))).text
        here = set(pairs.local_addresses(self._runner.pid(client)))
        spis: dict[bool, set[int]] = {True: set(), False: set()}
        for _source, destination, spi in _SA.findall(states):
            spis[destination in here].add(int(spi, 16))
        inner = sorted(address for address in here if self._witnesses.site_of_address(address))
        ike = tuple(one.spis for one in ike_sas(listed) if one.state == "ESTABLISHED")
        return Ends(ike=ike, spis_in=frozenset(spis[True]), spis_out=frozenset(spis[False]), inner=tuple(inner))

    async def take(self, step: PathStep, bound_s: float, note: Callable[[str], None]) -> None:
        """Do it. Raises LabError."""
        match step:
            case RebindClients(clients=clients):
                note(f"the NAT forgets {' and '.join(clients)}")
                await self._nat.rebind(clients)
            case Connect(client=client, split=split):
                note(f"{client} connects, from an address whose ports lead {'two ways' if split else 'one way'}")
                await self._guests.connect(step, bound_s)
            case MuteFamily(family=family):
                note(f"{family} is dropped beside {self._victim}")
                await self._families.mute(self._victim, family)
            case UnmuteFamily(family=family):
                note(f"{family} is no longer dropped beside {self._victim}")
                await self._families.unmute(self._victim, family)
            case Fetch(clients=clients, bytes=wanted, mss=mss):
                note(f"{' and '.join(clients)} fetch {wanted} bytes by TCP{'' if mss is None else f', MSS {mss}'}")
                await self._big.fetch(clients, wanted, bound_s, mss)
            case EchoBig(clients=clients, size=size):
                note(f"{' and '.join(clients)} ask for echoes of {size} bytes")
                await self._big.echo(clients, size)

    async def hush(self) -> None:
        """End what makes routers say anything, then the captures."""
        await self._big.close()
        await self._taps.hush()

    async def seen(self) -> PathSeen:
        """What was seen until it was hushed, and what there is now."""
        if self._big.fetched:  # what was captured last is counted by the agents' next look
            await asyncio.sleep(_NEXT_LOOK_S)
        captured = self._taps.read()
        outside: list[Seen] = []
        for nat in self._lab.nat:
            outside += captured[_OUTSIDE.format(nat)].seen
        at_gateways = {}
        for gateway, spis in self._spis.items():
            before, after = self._counted[gateway], await self._count(gateway)
            at_gateways[gateway] = AtGateway(
                came=tuple(one for one in captured[_AT.format(gateway)].seen if isinstance(one, TooBig)),
                spis=spis | await self._sends(gateway),
                counted=None if after is None else after - (before or 0),
            )
        return PathSeen(
            paths=self._paths,
            guests={name: Guest(up=up, address=self._guests.addresses[name]) for name, up in self._guests.connected.items()},
            asked={
                gateway: tuple(one for one in captured[_AT.format(gateway)].seen if isinstance(one, Ike))
                for gateway in self._gateways
            },
            fetched=self._big.fetched,
            echoed=self._big.echoed,
            at_gateways=at_gateways,
            before=self._before,
            after={client: await self._ends(client) for client in self._clients},
            came={client: captured[client].seen for client in self._clients},
            outside=tuple(outside),
            problems=tuple(f"{name}: {problem}" for name, one in captured.items() for problem in one.problems),
        )

    async def close(self) -> None:
        """Undo what a drill has left."""
        await self._taps.close()
        await self._nat.close()
        await self._big.close()
        await self._families.close()
        await self._guests.close()
