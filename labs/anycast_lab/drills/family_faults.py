"""One address family that dies on a path while the other one lives, and every interface keeps carrier."""

from __future__ import annotations

import json

from anycast.fleet.schema import Fleet
from anycast.fleet.values import Family
from anycast_lab.drills.cables import far_end
from anycast_lab.runner import LabError, Runner

_TABLES = {"ipv4": "iptables-legacy", "ipv6": "ip6tables-legacy"}


class FamilyFaults:
    """One drill's. `close` at the end, whatever happened."""

    def __init__(self, runner: Runner, fleet: Fleet) -> None:
        self._runner, self._fleet = runner, fleet
        self._mute: dict[tuple[str, Family], str] = {}
        """By gateway and family: the router that drops."""

    async def mute(self, gateway: str, family: Family) -> None:
        """The router on the gateway's uplink drops everything of this family from there and to there. Raises LabError."""
        router, interface = far_end(self._runner, self._fleet, gateway, "uplink")
        shown = (await self._runner.exec(router, ("ip", "-json", "link", "show", "dev", interface))).text
        port = json.loads(shown or "[{}]")[0].get("master", interface)  # to the rules a bridge is the interface
        rules = f"*raw\n-A PREROUTING -i {port} -j DROP\n-A OUTPUT -o {port} -j DROP\nCOMMIT\n"
        # One process: with two of them for a moment one direction would be left.
        words = (f"{_TABLES[family]}-restore", "--noflush", "-w")
        done = await self._runner.exec(router, words, stdin=rules.encode())
        if done.rc:
            raise LabError(f"{router} cannot drop {family}: {done.stderr.decode(errors='replace').strip()}")
        self._mute[gateway, family] = router

    async def unmute(self, gateway: str, family: Family) -> None:
        """Nothing happens where it is not mute."""
        if router := self._mute.pop((gateway, family), ""):
            await self._runner.exec(router, (_TABLES[family], "-w", "-t", "raw", "-F"))

    async def close(self) -> None:
        for gateway, family in list(self._mute):
            await self.unmute(gateway, family)
