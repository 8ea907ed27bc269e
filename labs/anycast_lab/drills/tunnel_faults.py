"""Carries out what happens to tunnels and to their mirror in a drill (`tunnel_steps`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from ipaddress import ip_address

from anycast.fleet.schema import Fleet
from anycast_lab.drills import mirrors, operator, pairs
from anycast_lab.drills import tunnel_steps as steps
from anycast_lab.drills.cables import only_interface
from anycast_lab.drills.crowd import Crowd
from anycast_lab.drills.crowd_steps import CrowdStep, FillKernel, LoseInFlight
from anycast_lab.drills.in_flight import InFlight
from anycast_lab.drills.moment_steps import SkewClock
from anycast_lab.drills.moments import CLIENT_VICI, VICI, Moments, restart_client
from anycast_lab.runner import LabError, Process, Progress, Runner

_LOOK_S = 0.5
_SEND_EVERY_S = "0.05"
_PORTS = "20000-29999"
"""Another one than IKE's own, which the NAT kept before."""
_REKEYS = "/etc/anycast/out/rekeys"
"""How many charon agreed to."""
_BEGIN_S = 30.0
"""No bound that is asserted, only an end to waiting: a Python that starts takes User Mode Linux seconds."""
_DELETE_REFUSED = "refused_active:5"
"""The count of the `ha` plugin's IKE_DELETE (type 5) that came to an Active."""
_SYNC_LINE = b"    sync: {}"
_FLUSH = "from anycast_lab.flood.conntrack import flush; flush()"


class TunnelFaults:
    """One drill's. `close` at the end, whatever happened."""

    def __init__(
        self,
        runner: Runner,
        fleet: Fleet,
        victim: str,
        peer: str,
        crowd: Crowd,
        progress: Progress,
        moments: Moments,
    ) -> None:
        assert fleet.lab is not None
        self._moments = moments
        self._runner, self._fleet, self._lab = runner, fleet, fleet.lab
        self._victim, self._peer, self._progress = victim, peer, progress
        self._crowd = crowd
        self._rekeys: list[Process] = []
        self._senders: list[Process] = []
        self._refused_before = 0
        self._right_fleets: dict[str, bytes] = {}
        self._moved: dict[str, steps.MoveClient | steps.RebindNat] = {}

    async def cause(self, step: steps.TunnelStep, bound_s: float) -> str:
        """Do it; empty, or why what is waited for is not so at twice the bound. Raises LabError where it cannot."""
        match step:
            case steps.WaitMirror(noticed=noticed):
                return await self.whole(bound_s, noticed=noticed)
            case steps.Rekeys(every_s=every_s):
                await self._start_rekeys(every_s)
            case steps.EndRekeys():
                self._end(self._rekeys)
                await self._rekeyed()
            case steps.GatewaysSend():
                await self._start_senders()
            case steps.MoveClient(client=client, back=back):
                await self._move(client, back=back)
                self._remember(client, step, back=back)
            case steps.RebindNat(nat=nat, back=back):
                await self._rebind(nat, back=back)
                self._remember(nat, step, back=back)
            case steps.Terminate():
                await self._terminate()
            case steps.WaitRefused():
                return await self._refused(bound_s)
            case steps.HandOvers(times=times, each=each):
                return await self._hand_overs(times, bound_s, mirrored=each == "mirrored")
            case steps.MirrorOff():
                await self._without_mirror()
            case steps.MirrorOn():
                await self._with_mirror()
            case SkewClock():
                await self._moments.cause(step, bound_s)
                return await self.whole(bound_s)
            case FillKernel(sas=sas, at=at):
                words = ("python", "-m", "anycast_lab.drills.kernel_sas", str(sas))
                await operator.say(self._runner, self._victim if at == "victim" else self._peer, *words)
            case LoseInFlight():
                site = self._fleet.site_of(self._victim)
                losing = InFlight(
                    self._runner, self._fleet, site, self._crowd, self.whole, self._moments.probes, self._progress
                )
                return await losing.cause(step, bound_s)
            case _ if isinstance(step, CrowdStep):
                return await self._crowd.cause(step, bound_s, self._progress)
            case _:
                return await self._moments.cause(step, bound_s)
        return ""

    async def whole(self, bound_s: float, *, noticed: bool = False) -> str:
        """Wait until every tunnel is protected."""
        end = time.monotonic() + 2 * bound_s
        while noticed and not await mirrors.unmirrored(self._runner, self._fleet, self._crowd.size):
            if time.monotonic() >= end:
                return "no gateway says that anything is missing"
            await asyncio.sleep(_LOOK_S)
        while missing := await mirrors.unmirrored(self._runner, self._fleet, self._crowd.size):
            if time.monotonic() >= end:
                return "; ".join(missing)
            await asyncio.sleep(_LOOK_S)
        return ""

    def _remember(self, node: str, step: steps.MoveClient | steps.RebindNat, *, back: bool) -> None:
        if back:
            self._moved.pop(node, None)
        else:
            self._moved[node] = step

    async def _start_rekeys(self, every_s: float) -> None:
        """Goes on when each has begun."""
        nodes = (*self._lab.clients, self._victim)
        for node in nodes:
            await operator.say(self._runner, node, "rm", "-f", _REKEYS)
            ends = ("--child", self._fleet.service.name, "--vici", VICI if node == self._victim else CLIENT_VICI)
            words = ("python", "-m", "anycast_lab.drills.rekeys", *ends, "--every-s", str(every_s), "--out", _REKEYS)
            self._rekeys.append(await self._runner.spawn(node, words))
        end = time.monotonic() + _BEGIN_S
        while waiting := [node for node in nodes if not await self._count(node)]:
            if time.monotonic() >= end:
                raise LabError(f"charon of {', '.join(waiting)} rekeys nothing")
            await asyncio.sleep(_LOOK_S)

    async def _count(self, node: str) -> int:
        try:
            return int(await self._runner.get(node, _REKEYS))
        except (LabError, ValueError):
            return 0

    async def _rekeyed(self) -> None:
        """The victim has lost the count with its power."""
        for client in self._lab.clients:
            self._progress(f"{client} began {await self._count(client)} rekeys")

    async def _start_senders(self) -> None:
        for gateway in (self._victim, self._peer):
            inside = self._fleet.sites[self._fleet.site_of(gateway)].gateways[gateway].inside
            if inside is None or inside.ipv4 is None:
                raise LabError(f"{gateway} has no IPv4 address inside to send from")
            for client in self._lab.clients:
                words = ("ping", "-n", "-q", "-i", _SEND_EVERY_S, "-I", str(inside.ipv4), await self._inner(client))
                self._senders.append(await self._runner.spawn(gateway, words))

    async def _inner(self, client: str) -> str:
        """Its inner IPv4 address, as its own kernel has it."""
        pools = [site.pools.ipv4 for site in self._fleet.sites.values() if site.pools.ipv4 is not None]
        done = await self._runner.exec(client, ("ip", "-json", "-4", "address", "show"))
        for link in json.loads(done.text or "[]"):
            for one in link.get("addr_info", ()):
                if any(ip_address(one["local"]) in pool for pool in pools):
                    return str(one["local"])
        raise LabError(f"{client} has no inner IPv4 address")

    async def _refused(self, bound_s: float) -> str:
        end, wanted = time.monotonic() + 2 * bound_s, len(self._lab.clients)
        while (refused := await self._deletes_refused() - self._refused_before) < wanted:
            if time.monotonic() >= end:
                return f"{self._peer} has refused {refused} of {wanted}"
            await asyncio.sleep(_LOOK_S)
        return ""

    async def _deletes_refused(self) -> int:
        status = await mirrors.status(self._runner, self._peer)
        return int(status["messages"].get(_DELETE_REFUSED, 0)) if status is not None else 0

    async def _terminate(self) -> None:
        self._refused_before = await self._deletes_refused()
        socket = ("--uri", f"unix://{VICI}")
        words = ("swanctl", "--terminate", "--ike", self._fleet.service.name, "--force", "--timeout", "1")
        await self._runner.exec(self._victim, (*words, *socket))  # complains that nobody confirms
        end = time.monotonic() + _BEGIN_S
        while "ESTABLISHED" in (await self._runner.exec(self._victim, ("swanctl", "--list-sas", *socket))).text:
            if time.monotonic() >= end:
                raise LabError(f"charon of {self._victim} keeps its IKE_SAs")
            await asyncio.sleep(_LOOK_S)

    async def _move(self, name: str, *, back: bool) -> None:
        client = self._lab.clients[name]
        if client.ipv4 is None:
            raise LabError(f"{name} has no IPv4 address to move from")
        router, own = client.ipv4
        interface = only_interface(self._runner, name)
        other = f"{own.ip + 1}/{own.network.prefixlen}"
        old, new = (other, str(own)) if back else (str(own), other)
        # One process: between two of them the client would have no address for as long as one takes to start.
        batch = (
            f"address add {new} dev {interface}\naddress del {old} dev {interface}\n"
            f"address replace {new} dev {interface}\nroute replace default via {router.ip}\n"
        )
        done = await self._runner.exec(name, ("ip", "-force", "-batch", "-"), stdin=batch.encode())
        if done.rc:
            raise LabError(f"{name} cannot move: {done.stderr.decode(errors='replace').strip()}")

    async def _rebind(self, name: str, *, back: bool) -> None:
        nat = self._lab.nat[name]
        assert nat.inside.ipv4 is not None and nat.outside.ipv4 is not None
        rule = ("POSTROUTING", *(() if back else ("1",)), "-s", str(nat.inside.ipv4.network), "-p", "udp")
        target = ("-j", "SNAT", "--to-source", f"{nat.outside.ipv4[1].ip}:{_PORTS}")
        await operator.say(self._runner, name, "iptables-legacy", "-t", "nat", "-D" if back else "-I", *rule, *target)
        await operator.say(self._runner, name, "python", "-c", _FLUSH)

    async def _hand_overs(self, times: int, bound_s: float, *, mirrored: bool) -> str:
        site = self._fleet.site_of(self._victim)
        for number in range(1, times + 1):
            end, refused, began = time.monotonic() + 2 * bound_s, "", time.monotonic()
            active = pairs.actives(self._runner, self._fleet, site)
            while True:
                if len(active) != 1:
                    return f"before handover {number} {', '.join(active) or 'nobody'} is Active"
                done = await self._runner.exec(active[0], ("site-agent", "handover"))
                if not done.rc:
                    break
                refused = (done.stderr or done.stdout).decode(errors="replace").strip()
                if time.monotonic() >= end:
                    return f"handover {number} is refused: {refused}"
                await asyncio.sleep(_LOOK_S)
                active = pairs.actives(self._runner, self._fleet, site)
            while (now := pairs.actives(self._runner, self._fleet, site)) == active or len(now) != 1:
                if time.monotonic() >= end:
                    return f"after handover {number} {', '.join(now) or 'nobody'} is Active"
                await asyncio.sleep(_LOOK_S / 10)
            if mirrored and (missing := await self.whole(bound_s)):
                return f"after handover {number}: {missing}"
            said = f"{active[0]} → {now[0]}, {time.monotonic() - began:.1f} s"
            self._progress(f"handover {number} of {times}: {said}{f', refused at first: {refused}' if refused else ''}")
        return ""

    async def _without_mirror(self) -> None:
        for gateway in (self._victim, self._peer):
            right = await self._runner.get(gateway, operator.FLEET)
            if _SYNC_LINE not in right:
                raise LabError(f"{operator.FLEET} of {gateway} has no {_SYNC_LINE.decode().strip()!r} to take away")
            self._right_fleets[gateway] = right
            lines = [line for line in right.split(b"\n") if not line.startswith(_SYNC_LINE)]
            await self._runner.put(gateway, operator.FLEET, b"\n".join(lines))
        await self._reboot()

    async def _with_mirror(self) -> None:
        fleets, self._right_fleets = self._right_fleets, {}
        for gateway, right in fleets.items():
            await self._runner.put(gateway, operator.FLEET, right)
        if fleets:
            await self._reboot()

    async def _reboot(self) -> None:
        """Both. The other one is off first, for it would take over where that takes a second, as it does under containerlab;
        the victim is on first, so that it is Active again."""
        for gateway in (self._peer, self._victim):
            if self._runner.power(gateway):
                await self._runner.power_off(gateway)
        for gateway in (self._victim, self._peer):
            await self._runner.power_on(gateway)
        await self._restart_clients()

    async def _restart_clients(self) -> None:
        """When both charons have the connection: one without it says NO_PROPOSAL_CHOSEN, and a client never asks again."""
        words, end = ("swanctl", "--list-conns", "--uri", f"unix://{VICI}"), time.monotonic() + _BEGIN_S
        for gateway in (self._victim, self._peer):
            while f"{self._fleet.service.name}:" not in (await self._runner.exec(gateway, words)).text:
                if time.monotonic() >= end:
                    raise LabError(f"charon of {gateway} has no connection")
                await asyncio.sleep(_LOOK_S)
        for client in self._lab.clients:
            await restart_client(self._runner, client)

    def _end(self, processes: list[Process]) -> None:
        for process in processes:
            process.send_signal(signal.SIGKILL)
        processes.clear()

    async def close(self) -> None:
        """Undo what a drill has left."""
        self._end(self._rekeys)
        self._end(self._senders)
        await self._moments.close()
        for step in list(self._moved.values()):
            with contextlib.suppress(LabError):
                await self.cause(step.model_copy(update={"back": True}), 0)
        await self._with_mirror()
