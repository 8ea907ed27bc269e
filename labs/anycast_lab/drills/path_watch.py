"""What a drill watches of clients' ways to the service: what comes to each of them, and what passes outside their NAT."""

from __future__ import annotations

import re
from collections.abc import Callable

from anycast.fleet.schema import Fleet
from anycast_lab.capture.frames import Seen
from anycast_lab.drills import pairs
from anycast_lab.drills.cables import only_interface
from anycast_lab.drills.mirror_checks import ike_sas
from anycast_lab.drills.nat_faults import NatFaults
from anycast_lab.drills.path_checks import Ends, PathSeen
from anycast_lab.drills.path_steps import PathStep, RebindClients
from anycast_lab.drills.wiretaps import ESP, Place, Wiretaps
from anycast_lab.drills.witnesses import Witnesses
from anycast_lab.runner import LabError, Runner

_SNAPSHOT = 128
_OUTSIDE = "outside-{}"
_SA = re.compile(r"^src (\S+) dst (\S+)\n\s+proto esp spi (0x[0-9a-f]+)", re.MULTILINE)


class PathWatch:
    """One drill's. `close` at the end, whatever happened."""

    def __init__(self, runner: Runner, fleet: Fleet, witnesses: Witnesses) -> None:
        assert fleet.lab is not None
        self._runner, self._lab, self._witnesses = runner, fleet.lab, witnesses
        self._clients = tuple(fleet.lab.clients)
        self._nat = NatFaults(runner, fleet.lab)
        places = {client: self._place(client) for client in self._clients}
        if (transit := fleet.lab.transit) is not None:
            for nat in fleet.lab.nat:
                interface = self._towards(nat, transit.node)
                places[_OUTSIDE.format(nat)] = Place(node=nat, interface=interface, what=ESP, snapshot=_SNAPSHOT)
        self._taps = Wiretaps(runner, places)
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
        await self._taps.start()

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

    async def take(self, step: PathStep, note: Callable[[str], None]) -> None:
        """Do it. Raises LabError."""
        match step:
            case RebindClients(clients=clients):
                note(f"the NAT forgets {' and '.join(clients)}")
                await self._nat.rebind(clients)

    async def hush(self) -> None:
        """End the captures."""
        await self._taps.hush()

    async def seen(self) -> PathSeen:
        """What was seen until it was hushed, and what there is now."""
        captured = self._taps.read()
        outside: list[Seen] = []
        for nat in self._lab.nat:
            outside += captured[_OUTSIDE.format(nat)].seen
        return PathSeen(
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
