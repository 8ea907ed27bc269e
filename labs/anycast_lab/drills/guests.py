"""VPN clients that connect when a drill says so, and what came of it: which exchange reached which gateway.

A router that has several paths of equal cost chooses by a flow's addresses and ports, with a secret of its kernel's. Which
path that is, is asked of that kernel; the guest is given an address for which its two flows, IKE on port 500 and on 4500,
go two ways, or one.
"""

from __future__ import annotations

import json
import time
from ipaddress import IPv4Interface

from anycast.fleet.schema import Fleet
from anycast_lab.drills import operator
from anycast_lab.drills.cables import only_interface
from anycast_lab.drills.path_steps import Connect
from anycast_lab.runner import LabError, Runner

_PID = "/run/charon.pid"


class Guests:
    """One drill's. `close` at the end, whatever happened."""

    def __init__(self, runner: Runner, fleet: Fleet) -> None:
        assert fleet.lab is not None
        self._runner, self._fleet, self._lab = runner, fleet, fleet.lab
        self._moved: dict[str, IPv4Interface] = {}
        """The addresses that guests have instead of their own."""
        self.connected: dict[str, bool] = {}
        self.addresses: dict[str, str] = {}

    async def nexthops(self, node: str) -> int:
        """By how many paths `node` sends to the service. Raises LabError."""
        prefix = str(self._fleet.service.prefixes.ipv4)
        listed = json.loads(await operator.say(self._runner, node, "ip", "-json", "-4", "route", "show", prefix) or "[]")
        return max((len(route.get("nexthops", ())) or 1 for route in listed), default=0)

    async def connect(self, step: Connect, bound_s: float) -> None:
        """Goes on when it has a tunnel, or at the bound. Raises LabError."""
        await self._move(step.client, split=step.split)
        await operator.say(self._runner, step.client, "sh", "/etc/anycast/start-client")
        end, up = time.monotonic() + bound_s, False
        while not up and time.monotonic() < end:
            up = "INSTALLED" in (await self._runner.exec(step.client, ("swanctl", "--list-sas"))).text
        self.connected[step.client] = up

    async def _move(self, name: str, *, split: bool) -> None:
        own, router = self._lab.guests[name].ipv4, self._lab.guests[name].behind
        if own is None:
            raise LabError(f"{name} has no IPv4 address")
        far, near = own
        interface = next(
            end.interface
            for link in self._runner.topology.links_of(router)
            for end, other in (link.ends(), link.ends()[::-1])
            if (end.node, other.node) == (router, name)
        )
        for host in near.network.hosts():
            if host == far.ip:
                continue
            ways = [await self._way(router, str(host), interface, port) for port in (500, 4500)]
            if (ways[0] != ways[1]) is split:
                new = IPv4Interface(f"{host}/{near.network.prefixlen}")
                await self._readdress(name, near, new, str(far.ip))
                self._moved[name], self.addresses[name] = new, str(host)
                return
        raise LabError(f"{router} sends both ports {'one way' if split else 'two ways'} for every address of {near.network}")

    async def _way(self, router: str, source: str, interface: str, port: int) -> str:
        """Where `router`'s kernel sends this flow."""
        flow = ("from", source, "iif", interface, "ipproto", "udp", "sport", str(port), "dport", str(port))
        words = ("ip", "-json", "-4", "route", "get", str(self._fleet.service.vips.ipv4), *flow)
        return str(json.loads(await operator.say(self._runner, router, *words))[0].get("gateway", ""))

    async def _readdress(self, name: str, old: IPv4Interface, new: IPv4Interface, via: str) -> None:
        interface = only_interface(self._runner, name)
        batch = f"address del {old} dev {interface}\naddress add {new} dev {interface}\nroute replace default via {via}\n"
        done = await self._runner.exec(name, ("ip", "-force", "-batch", "-"), stdin=batch.encode())
        if done.rc:
            raise LabError(f"{name} cannot have {new}: {done.stderr.decode(errors='replace').strip()}")

    async def close(self) -> None:
        """Guests are away again, with the addresses that they had."""
        for name in self.connected:
            await self._runner.exec(name, ("sh", "-c", f"kill -KILL $(cat {_PID}) && rm -f {_PID}"))
        for name, new in self._moved.items():
            own = self._lab.guests[name].ipv4
            assert own is not None
            if new != own[1]:
                await self._readdress(name, new, own[1], str(own[0].ip))
        self._moved.clear()
