"""The lab's observers, read while a drill runs: BIRD's logs, the gateways' event streams, the clients' packets.

Each is a file that its machine writes; reading it costs the observed machines nothing. `Witnesses` remembers how far it
read, so that waiting for a moment is a loop over what is new.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anycast.fleet.schema import Fleet
from anycast.fleet.section import Prefixes
from anycast.fleet.values import FAMILIES, Family
from anycast_lab.drills.checks import Watched
from anycast_lab.drills.timeline import Moment, from_bird_log, from_event_log, judge_packets
from anycast_lab.machines.wiring import on_link, session_name
from anycast_lab.runner import LabError, Process, Runner

EVENT_LOG = "/var/lib/site-agent/events.jsonl"
_TOLD_GAP_MS = 100.0
"""A shorter one stands in no timeline."""


class _Tail:
    """The new whole lines of a growing file."""

    def __init__(self, path: Path) -> None:
        self.path, self._offset, self._inode = path, 0, -1

    def read(self) -> str:
        try:
            with self.path.open("rb") as file:
                inode = self.path.stat().st_ino
                if inode != self._inode:
                    self._offset, self._inode = 0, inode
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return ""
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        return data[:whole].decode(errors="replace")


class Witnesses:
    """Everything the observers of one lab have said so far."""

    def __init__(self, runner: Runner, fleet: Fleet) -> None:
        if fleet.lab is None:
            raise LabError("the fleet file has no lab section")
        self._runner, self._fleet, self._lab = runner, fleet, fleet.lab
        upstreams = (self._lab.machine_of(router) for site in fleet.sites.values() for router in site.upstreams)
        self._routers = list(dict.fromkeys([*self._lab.carriers, *upstreams]))
        self._birds = {name: _Tail(self.out(name) / "bird.log") for name in self._routers}
        self._agents: dict[str, _Tail] = {}
        self.moments: list[Moment] = []

    def out(self, node: str) -> Path:
        """Where a node leaves what a drill reads."""
        return self._runner.lab_dir / node / "etc" / "out"

    def read(self) -> None:
        """Take in what the observers wrote since the last time."""
        for node, tail in self._birds.items():
            self.moments += from_bird_log(node, tail.read())
        for site in self._fleet.sites.values():
            for gateway in site.gateways:
                self.moments += from_event_log(gateway, self._agent_tail(gateway).read().splitlines())

    def _agent_tail(self, gateway: str) -> _Tail:
        # By way of the node's init: after a power cycle that is another process, hence another path to the same file.
        root = Path(f"/proc/{self._runner.pid(gateway)}/root") if self._runner.power(gateway) else Path("/nonexistent")
        tail = self._agents.get(gateway)
        if tail is None:
            tail = self._agents[gateway] = _Tail(root / EVENT_LOG.lstrip("/"))
        tail.path = root / EVENT_LOG.lstrip("/")
        return tail

    def note(self, event: str, subject: str = "", detail: str = "") -> int:
        """Write down what the drill itself does; returns the time."""
        at = time.time_ns()
        self.moments.append(Moment(at, "drill", event, subject, detail))
        return at

    def routes_of(self, gateway: str) -> tuple[Watched, ...]:
        """A gateway's routes, where its upstreams and their carriers see them; none where its site speaks no BGP."""
        return self._watched(gateway, self._fleet.service.prefixes)

    def _watched(self, gateway: str, prefixes: Prefixes) -> tuple[Watched, ...]:
        site = self._fleet.sites[self._fleet.site_of(gateway)]
        watched = []
        for router, upstream in site.upstreams.items():
            for family in prefixes.families:
                if on_link(upstream, site.gateways[gateway], family):
                    prefix = str(prefixes.of(family))
                    node = self._lab.machine_of(router)
                    watched.append(Watched(node=node, protocol=session_name(gateway, family), prefix=prefix))
                    for carrier in self._lab.carriers_of(router) if node == router else ():
                        if family in self._lab.carriers[carrier].links[router].families:
                            watched.append(Watched(node=carrier, protocol=session_name(router, family), prefix=prefix))
        return tuple(watched)

    def routes_by_site(self) -> dict[str, tuple[Watched, ...]]:
        """The routes of all gateways."""
        sites = self._fleet.sites.items()
        return {name: tuple(route for gateway in site.gateways for route in self.routes_of(gateway)) for name, site in sites}

    def own_by_site(self) -> dict[str, tuple[Watched, ...]]:
        """The routes of all sites' unicast prefixes."""
        return {
            name: tuple(route for gateway in site.gateways for route in self._watched(gateway, site.unicast_prefix))
            for name, site in self._fleet.sites.items()
        }

    async def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Read on until `condition` holds or the time is over."""
        end = time.monotonic() + timeout_s
        while True:
            self.read()
            if condition():
                return True
            if time.monotonic() >= end:
                return False
            await asyncio.sleep(0.05)

    async def withdraws(self) -> dict[str, int]:
        """WITHDRAWs that the upstreams have counted from each gateway, by BIRD's own counters."""
        counted: dict[str, dict[str, int]] = {}
        found = {}
        for site in self._fleet.sites.values():
            for name, gateway in site.gateways.items():
                found[name] = 0
                for router, upstream in site.upstreams.items():
                    machine = self._lab.machine_of(router)
                    if machine not in counted:
                        done = await self._runner.exec(machine, ("birdc", "-s", "/run/bird.ctl", "show", "protocols", "all"))
                        counted[machine] = import_withdraws(done.text)
                    families = (family for family in FAMILIES if on_link(upstream, gateway, family))
                    found[name] += sum(counted[machine].get(session_name(name, family), 0) for family in families)
        return found

    async def withdraws_since(self, before: dict[str, int]) -> dict[str, int]:
        """BIRD's counters start anew with a session, so a lower number means: all of them have come since."""
        now = await self.withdraws()
        return {name: now[name] - count if now[name] >= count else now[name] for name, count in before.items()}

    def site_of_address(self, address: str) -> str:
        """The site whose pool holds a client's inner address; empty where none does."""
        ip = ipaddress.ip_address(address)
        for name, site in self._fleet.sites.items():
            if any(ip in site.pools.of(family) for family in site.pools.families):
                return name
        return ""

    async def site_of_client(self, client: str) -> str:
        """Where a client's tunnel ends, by its inner address as its own kernel has it.

        The youngest: while a client moves it has the old one, too. The kernel lists IPv4 addresses as they came, and IPv6
        addresses the other way round.
        """
        for family in ("-4", "-6"):
            done = await self._runner.exec(client, ("ip", "-json", family, "address", "show"))
            with contextlib.suppress(ValueError):
                listed = [info["local"] for link in json.loads(done.text) for info in link.get("addr_info", ())]
                if sites := list(filter(None, map(self.site_of_address, listed))):
                    return sites[-1 if family == "-4" else 0]
        return ""


def import_withdraws(text: str) -> dict[str, int]:
    """Read `birdc show protocols all`: received withdraws over all channels of each protocol, by its name."""
    found, name = dict[str, int](), ""
    for line in text.splitlines():
        words = line.split()
        if words and not line[0].isspace():
            name = words[0]
        elif words[:2] == ["Import", "withdraws:"]:
            found[name] = found.get(name, 0) + int(words[2])
    return found


class Probes:
    """A probe on each client, towards the server behind the tunnel; one for each inner family that is asked for."""

    def __init__(
        self, runner: Runner, witnesses: Witnesses, fleet: Fleet, every_ms: float, inner: tuple[Family, ...] = ()
    ) -> None:
        """`inner`: families of clients' inner addresses; the first one that pools and servers have where none is named."""
        assert fleet.lab is not None
        self._runner, self._witnesses, self._every_ms = runner, witnesses, every_ms
        pools = {family for site in fleet.sites.values() for family in site.pools.families}
        servers = fleet.lab.servers.values()
        targets = {f: next((str(s.of(f)) for s in servers if f in s.families), "") for f in FAMILIES if f in pools}
        found = [family for family in inner or FAMILIES if targets.get(family)]
        self._probes: dict[str, tuple[str, str, str]] = {}
        """By name: the client, the target, and what its files are called."""
        for client in fleet.lab.clients:
            for family in found[: len(inner) or 1]:
                first = family == found[0]
                name, files = (client, "probe") if first else (f"{client} {family}", f"probe-{family}")
                self._probes[name] = (client, targets[family], files)
        self._processes: dict[str, Process] = {}
        self._records: dict[str, dict[str, Any]] = {}

    async def start(self) -> None:
        """Unless they run already."""
        for name, (client, target, files) in self._probes.items() if not self._processes else ():
            out = self._witnesses.out(client)
            for suffix in ("json", "live"):
                (out / f"{files}.{suffix}").unlink(missing_ok=True)
            argv = ("python", "-m", "anycast_lab.drills.probe", "--to", target, "--interval-ms", str(self._every_ms))
            paths = ("--out", f"/etc/anycast/out/{files}.json", "--live", f"/etc/anycast/out/{files}.live")
            self._processes[name] = await self._runner.spawn(client, argv + paths)

    def last_good_ns(self, name: str) -> int:
        """When a client's last good packet came; 0 before the first."""
        client, _target, files = self._probes[name]
        try:
            return int(json.loads((self._witnesses.out(client) / f"{files}.live").read_text())["last_good_ns"])
        except (OSError, ValueError):
            return 0

    def all_good_since(self, since_ns: int) -> bool:
        """Whether every client has had a good packet after `since_ns`."""
        return all(self.last_good_ns(name) > since_ns for name in self._probes)

    def signal(self, number: int) -> None:
        """To all of them."""
        for process in self._processes.values():
            process.send_signal(number)

    async def stop(self) -> dict[str, dict[str, Any]]:
        """End the probes and return their records by client; the same ones again where they have ended already."""
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for name, process in self._processes.items():
            client, _target, files = self._probes[name]
            await asyncio.wait_for(process.wait(), 30)
            self._records[name] = json.loads((self._witnesses.out(client) / f"{files}.json").read_text())
        self._processes.clear()
        return self._records


def gap_moments(client: str, record: dict[str, Any], zero_ns: int) -> list[Moment]:
    """The last good packet before a client's longest gap after the fault, and the first after it."""
    packets = judge_packets(record, zero_ns - 1_000_000_000)
    moments = []
    if packets.longest_gap_ms > _TOLD_GAP_MS and packets.gap_from_ns:
        moments.append(Moment(packets.gap_from_ns, client, "last_good_packet"))
        if packets.gap_to_ns:
            moments.append(Moment(packets.gap_to_ns, client, "first_good_packet"))
    return moments
