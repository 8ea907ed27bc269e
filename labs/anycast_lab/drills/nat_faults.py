"""A NAT router that forgets some clients' mappings and gives them other ports, while everybody else keeps theirs."""

from __future__ import annotations

from anycast.fleet.lab import Lab
from anycast_lab.drills import operator
from anycast_lab.runner import LabError, Runner

_WORDS = ("python", "-m", "anycast_lab.flood.mappings")


class NatFaults:
    """One drill's. `close` at the end, whatever happened."""

    def __init__(self, runner: Runner, lab: Lab) -> None:
        self._runner, self._lab = runner, lab
        self._changed: set[str] = set()
        """Routers."""

    async def rebind(self, clients: tuple[str, ...]) -> None:
        """Goes on when each has sent by its new port. Raises LabError."""
        nat = self._lab.clients[clients[0]].behind
        if nat not in self._lab.nat or any(self._lab.clients[client].behind != nat for client in clients):
            raise LabError(f"{' and '.join(clients)} are not behind one NAT router")
        outside = self._lab.nat[nat].outside.ipv4
        if outside is None:
            raise LabError(f"{nat} translates no IPv4")
        self._changed.add(nat)
        where = ("rebind", "--outside", str(outside[1].ip))
        await operator.say(self._runner, nat, *_WORDS, *where, *(self._address(client) for client in clients))

    def _address(self, client: str) -> str:
        own = self._lab.clients[client].ipv4
        if own is None:
            raise LabError(f"{client} has no IPv4 address")
        return str(own[1].ip)

    async def close(self) -> None:
        """Whoever is behind a changed router gets another port once more, by its next packet."""
        for nat in self._changed:
            clients = (name for name, client in self._lab.clients.items() if client.behind == nat)
            await self._runner.exec(nat, (*_WORDS, "forget", *map(self._address, clients)))
        self._changed.clear()
