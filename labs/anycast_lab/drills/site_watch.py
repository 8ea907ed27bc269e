"""Everything that is watched at one site of two gateways while a drill runs: probes, captures, the kernels' addresses.

It begins before the fault and ends two seconds after the drill's last step; what it saw is a `SiteSeen`, which
`pair_checks` judges.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

from anycast.fleet.compile import compile_gateway
from anycast.fleet.schema import Fleet
from anycast_lab.capture.frames import Advertisement
from anycast_lab.drills import pairs
from anycast_lab.drills.captured import Captured
from anycast_lab.drills.pair_checks import SiteSeen
from anycast_lab.drills.site_probes import SiteProbes
from anycast_lab.drills.timeline import Moment, judge_packets
from anycast_lab.drills.wiretaps import BGP, Place, Wiretaps
from anycast_lab.machines.wiring import BRIDGE, session_name
from anycast_lab.runner import LabError, Runner

_ROLE = re.compile(r"(active|backup) of (\S+)")
_LOOK_S = {"native": 0.01, "uml": 0.1}
"""By kernel: a look is a dozen system calls, each of which costs User Mode Linux 50 µs; every 50 ms took 8 % of its CPU."""
_SETTLE_S = 60.0
_BEFORE_NS = 1_000_000_000
"""How long before the fault its probes count: the last good one before it begins the gap."""
OFF = "off"


def resolve(runner: Runner, fleet: Fleet, victim: str) -> str:
    """A gateway by name, or by what it is now: ``active of fra``, ``backup of fra``. Raises LabError."""
    if (match := _ROLE.fullmatch(victim)) is None:
        return victim
    role, site = match.groups()
    if site not in fleet.sites:
        raise LabError(f"there is no site {site}")
    found = [gw for gw, word in pairs.roles(runner, fleet).items() if gw in fleet.sites[site].gateways and word == role]
    if len(found) != 1:
        raise LabError(f"{site} has {len(found)} gateways that are {role}, not one")
    return found[0]


def names_a_role(victim: str) -> bool:
    return _ROLE.fullmatch(victim) is not None


def peer_of(fleet: Fleet, gateway: str) -> str:
    """The other gateway of the site; empty where there is none."""
    return next((name for name in fleet.sites[fleet.site_of(gateway)].gateways if name != gateway), "")


class SiteWatch:
    """One drill's watch over the victim's site."""

    def __init__(self, runner: Runner, fleet: Fleet, victim: str, *, foreign: bool = False) -> None:
        """`foreign`: of gateways that are not ours, whose Backup says nothing on the LAN."""
        assert fleet.lab is not None
        self._runner, self._fleet, self._victim, self._foreign = runner, fleet, victim, foreign
        self._site = fleet.sites[fleet.site_of(victim)]
        self._gateways = tuple(self._site.gateways)
        self._transit = fleet.lab.transit.node if fleet.lab.transit is not None else ""
        prober = self._transit or next(n for n, router in fleet.lab.routers.items() if router.site == fleet.site_of(victim))
        self._probes = SiteProbes(runner, fleet, prober)
        self._taps = Wiretaps(runner, dict(self._places()))
        self._virtual = {gw: self._virtual_of(gw) for gw in self._gateways}
        self._macs: dict[bytes, str] = {}
        self._roles: dict[str, str] = {}
        self._before: dict[str, str] = {}
        self._changes: list[Moment] = []
        self._records: dict[str, dict[str, Any]] = {}
        self._looking: asyncio.Task[None] | None = None

    def _virtual_of(self, gateway: str) -> frozenset[str]:
        vrrp = compile_gateway(self._fleet, gateway).vrrp
        return frozenset(str(ip_address(a)) for a in vrrp.virtual_addresses) if vrrp is not None else frozenset()

    def _places(self) -> Iterator[tuple[str, Place]]:
        """The uplink's subnet is bridged at the far end of the victim's cable; the transit has a cable to each router."""
        uplink = self._site.gateways[self._victim].uplink.interface
        for link in self._runner.topology.links:
            for own, other in (link.ends(), link.ends()[::-1]):
                if (own.node, own.interface) == (self._victim, uplink):
                    yield "lan", Place(node=other.node, interface=BRIDGE)
                if own.node == self._transit and other.node in self._site.upstreams:
                    yield "transit", Place(node=own.node, interface=own.interface, what=BGP)

    async def start(self) -> None:
        """Return when every capture listens, holds the routes as they are, and every probe is answered. Raises LabError."""
        await self._taps.start()
        await self._probes.start()
        for gateway in self._gateways:
            self._macs |= {mac: gateway for mac in await self._hardware(gateway)}
        for router in self._site.upstreams if self._transit else ():
            for family in self._fleet.service.prefixes.families:
                words = ("birdc", "-s", "/run/bird.ctl", "reload", "out", session_name(self._transit, family))
                await self._runner.exec(router, words)
        since, end = time.time_ns(), time.monotonic() + _SETTLE_S
        while unready := self._unready(since):
            if time.monotonic() > end:
                raise LabError(f"the site is not ready: {unready}")
            await asyncio.sleep(0.1)
        self._look()
        self._before = dict(self._roles)
        self._looking = asyncio.create_task(self._look_on())

    def _unready(self, since_ns: int) -> str:
        """Why the site could not survive a fault; empty where it could: both gateways say on the LAN that they can serve."""
        if not self._probes.all_good_since(since_ns):
            return "the service's address does not answer"
        if len(self._gateways) < 2 or self._foreign:
            return ""
        lately = time.time_ns() - 1_000_000_000
        adverts = [a for a in self._taps.so_far("lan") if isinstance(a, Advertisement) and a.at_ns > lately]
        fit = {self._macs[a.mac] for a in adverts if a.mac in self._macs and a.priority > 0}
        missing = [gateway for gateway in self._gateways if gateway not in fit]
        return f"no advertisement of a gateway that can serve from {', '.join(missing)}" if missing else ""

    async def _hardware(self, gateway: str) -> list[bytes]:
        done = await self._runner.exec(gateway, ("ip", "-json", "link", "show"))
        with contextlib.suppress(ValueError, KeyError):
            return [bytes.fromhex(link["address"].replace(":", "")) for link in json.loads(done.text) if "address" in link]
        raise LabError(f"{gateway} does not tell its interfaces")

    def role(self, gateway: str) -> str:
        """What `gateway`'s kernel has of the virtual addresses: active, backup, partly, or off."""
        try:
            here = self._virtual[gateway] & pairs.local_addresses(self._runner.pid(gateway))
        except (LabError, OSError):
            return OFF
        return pairs.ACTIVE if here == self._virtual[gateway] else pairs.PARTLY if here else pairs.BACKUP

    def _look(self) -> None:
        for gateway in self._gateways:
            if (now := self.role(gateway)) != self._roles.get(gateway):
                if gateway in self._roles:
                    self._changes.append(Moment(time.time_ns(), gateway, "role", "", now))
                self._roles[gateway] = now

    async def _look_on(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(_LOOK_S[self._runner.kernel])

    async def hush(self) -> None:
        """Linger, and end everything."""
        await self._taps.hush()
        await self._stop_looking()
        self._records = await self._probes.stop()

    def seen(self, fault_ns: int, why: dict[str, tuple[str, ...]]) -> SiteSeen:
        """What was seen until it was hushed. `why`: the reasons that each gateway's agent names."""
        captured = self._taps.read()
        nothing = Captured(seen=(), problems=("there was no such capture",))
        own = {str(a) for gateway in self._gateways for a in self._virtual[gateway]}
        transit = self._fleet.lab.transit if self._fleet.lab is not None else None
        heard_at = {str(link.of(f)[0].ip) for name, link in transit.links.items() if name in self._site.upstreams
                    for f in link.families} if transit is not None else set()  # fmt: skip
        return SiteSeen(
            victim=self._victim,
            peer=peer_of(self._fleet, self._victim),
            roles_before=self._before,
            roles_after=dict(self._roles),
            changes=tuple(self._changes),
            probes={family: judge_packets(record, fault_ns - _BEFORE_NS) for family, record in self._records.items()},
            lan=captured.get("lan", nothing),
            transit=captured.get("transit", nothing),
            routers=self._macs,
            virtual_outside=tuple(ip_address(a) for a in sorted(own) if self._is_outside(a)),
            prefixes=tuple(self._fleet.service.prefixes.of(f) for f in self._fleet.service.prefixes.families),
            transit_node=self._transit,
            transit_addresses=tuple(ip_address(a) for a in sorted(heard_at)),
            why=why,
        )

    def _is_outside(self, address: str) -> bool:
        vrrp = compile_gateway(self._fleet, self._victim).vrrp
        outside = [path for path in vrrp.paths if path.path == "outside"] if vrrp is not None else []
        return any(str(ip_address(a)) == address for path in outside for voice in path.voices for a in voice.addresses)

    async def close(self) -> None:
        """Whatever still runs after a drill that could not be carried out."""
        await self._taps.close()
        await self._stop_looking()
        with contextlib.suppress(LabError):
            await self._probes.stop()

    async def _stop_looking(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking
            self._looking = None
