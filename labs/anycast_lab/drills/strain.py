"""Carries out what strangers do in a drill: floods at every site, a full connection tracking table, a new flow.

The floods come from each site's upstream router, so that they reach both sites at once; what arrived is read from the
gateways' own IP counters, because a flood that the sender could not keep up would prove nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from anycast.fleet.schema import Fleet
from anycast_lab.drills.drill import Target
from anycast_lab.drills.strangers import Flooded, Stranger
from anycast_lab.drills.witnesses import Witnesses
from anycast_lab.runner import LabError, Process, Runner

MORE = 1.1
"""How much faster than a drill demands a flood is asked to be."""
REPORT = "flood.json"
STOP_S = 30.0


class Strain:
    """One drill's strangers. `close` at the end, whatever happened."""

    def __init__(self, runner: Runner, witnesses: Witnesses, fleet: Fleet, victim: str) -> None:
        self._runner, self._witnesses, self._fleet, self._victim = runner, witnesses, fleet, victim
        self._senders: dict[str, tuple[str, Process, int]] = {}
        self._tracking = False
        self.floods: tuple[Flooded, ...] = ()
        self.strangers: tuple[Stranger, ...] = ()

    async def flood(self, kinds: Sequence[str], rate: float, target: Target) -> None:
        """Begin at every site: `rate` packets a second and a little more."""
        wanted = [word for kind in kinds for word in ("--kind", kind)]
        for site in self._fleet.sites.values():
            router, gateway = next(iter(site.upstreams)), next(iter(site.gateways))
            targets = [word for address in self._targets(gateway, target) for word in ("--to", address)]
            (self._witnesses.out(router) / REPORT).unlink(missing_ok=True)
            argv = ("python", "-m", "anycast_lab.flood", *targets, *wanted, "--rate", str(rate * MORE))
            process = await self._runner.spawn(router, (*argv, "--out", f"/etc/anycast/out/{REPORT}"))
            self._senders[gateway] = (router, process, self._received(gateway))

    async def end_flood(self) -> None:
        """End it everywhere and note what it came to. Raises LabError where a sender could not say."""
        for _, process, _ in self._senders.values():
            process.send_signal(15)
        floods = []
        for gateway, (router, process, before) in self._senders.items():
            received = self._received(gateway) - before
            await asyncio.wait_for(process.wait(), STOP_S)
            try:
                sent = json.loads((self._witnesses.out(router) / REPORT).read_text())
            except (OSError, ValueError) as error:
                raise LabError(f"the flood from {router} left no report: {error}") from error
            seconds = float(sent["seconds"])
            floods.append(
                Flooded(
                    gateway=gateway,
                    sent_per_s=round(float(sent["rate"]), 1),
                    received_per_s=round(received / seconds, 1),
                    seconds=round(seconds, 1),
                )
            )
        self._senders.clear()
        self.floods += tuple(floods)

    async def track(self) -> None:
        """Have the victim track connections."""
        self._tracking = True
        await self._conntrack("track")

    async def fill(self) -> int:
        """Fill the victim's table; returns its entries."""
        return int(await self._conntrack("fill"))

    async def empty(self) -> None:
        """Empty the victim's table, and track no more."""
        self._tracking = False
        await self._conntrack("empty")

    async def ask_as_stranger(self, target: Target) -> None:
        """Ask from the victim's upstream router."""
        router = next(iter(self._fleet.sites[self._fleet.site_of(self._victim)].upstreams))
        address = self._targets(self._victim, target)[0]
        node = self._fleet.lab.machine_of(router) if self._fleet.lab is not None else router
        done = await self._runner.exec(node, ("python", "-m", "anycast_lab.flood.stranger", address))
        try:
            said = json.loads(done.text)
            self.strangers += (Stranger(echo=said["echo"], ike=said["ike"]),)
        except (ValueError, KeyError, TypeError) as error:
            raise LabError(f"{router} could not ask {address}: {done.stderr.decode(errors='replace').strip()}") from error

    async def close(self) -> None:
        """End what a drill that stopped in the middle has left."""
        for _, process, _ in self._senders.values():
            process.send_signal(9)
        self._senders.clear()
        if self._tracking:
            await self.empty()

    def _targets(self, gateway: str, target: Target) -> list[str]:
        own = self._fleet.sites[self._fleet.site_of(gateway)].gateways[gateway].uplink
        addresses = self._fleet.service.vips if target == "vips" else own
        return [str(addresses.of(family)) for family in addresses.families]

    def _received(self, gateway: str) -> int:
        """IP packets that a gateway's kernel has taken in, both families (proc(5), snmp and snmp6)."""
        net = Path(f"/proc/{self._runner.pid(gateway)}/net")
        names, values = (line.split() for line in (net / "snmp").read_text().splitlines() if line.startswith("Ip:"))
        six = dict(line.split() for line in (net / "snmp6").read_text().splitlines())
        return int(values[names.index("InReceives")]) + int(six["Ip6InReceives"])

    async def _conntrack(self, verb: str) -> str:
        vip = self._fleet.service.vips.ipv4
        if vip is None:
            raise LabError("the flows that fill the table are IPv4; the service has no such VIP")
        argv = ("python", "-m", "anycast_lab.flood.conntrack", verb, "--to", str(vip))
        done = await self._runner.exec(self._victim, argv)
        if done.rc:
            raise LabError(f"{self._victim}: conntrack {verb}: {done.stderr.decode(errors='replace').strip()}")
        return done.text
