"""What a drill watches of tunnels that are to outlive a gateway: downloads inside them, IKE_SAs, what both gateways send.

A gateway is captured at the far end of its uplink's cable, and only what comes in there: that is what it has sent, no matter
what else the LAN carries, and the capture outlives the gateway's power.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

from anycast.fleet.schema import Fleet
from anycast_lab.capture.frames import Address, Sealed
from anycast_lab.capture.numbers import numbers
from anycast_lab.drills.cables import far_end
from anycast_lab.drills.crowd import Crowd
from anycast_lab.drills.flow_checks import FlowSeen
from anycast_lab.drills.mirror_checks import Download, IkeSa, IkeSeen, MirrorSeen, ike_sas, ike_sas_built, judge_download
from anycast_lab.drills.mirror_steps import Download as DownloadStep
from anycast_lab.drills.mirror_steps import Flow, ForgetNumbers, MirrorStep, PlantSecret
from anycast_lab.drills.secret_watch import SecretWatch
from anycast_lab.drills.wiretaps import ESP, Place, Wiretaps
from anycast_lab.runner import LabError, Process, Runner

BITS_PER_SECOND = 2_000_000
_PORT, _FLOW_PORT = 5001, 5002
_SERVER_S = 3.0
"""Until a server that was started listens: a fork and an import inside User Mode Linux."""
_SNAPSHOT = 128
"""An ESP header in UDP over IPv6 with a fragment header ends at byte 94."""
_BEFORE_NS = 1_000_000_000
_RECEIVING_S = 60.0
"""No bound that is asserted, only an end to waiting for every client's first byte."""


class MirrorWatch:
    """One drill's watch over the victim's site and every client."""

    def __init__(self, runner: Runner, fleet: Fleet, victim: str) -> None:
        assert fleet.lab is not None
        self._runner, self._fleet, self._clients = runner, fleet, tuple(fleet.lab.clients)
        name = fleet.site_of(victim)
        self._site = fleet.sites[name]
        self._server = next((n for n, one in fleet.lab.servers.items() if one.site == name and one.ipv4 is not None), "")
        self.secrets = SecretWatch(runner, fleet, tuple(self._site.gateways))
        self._taps = Wiretaps(runner, {gateway: self._place(gateway) for gateway in self._site.gateways})
        self._ike: dict[str, tuple[IkeSa, ...]] = {}
        self._logged: dict[str, int] = {}
        self._sender: Process | None = None
        self._downloads: dict[str, Process] = {}
        self._downloaded: dict[str, Download] = {}
        self._asking: list[Process] = []
        self._flow: tuple[str, float] | None = None
        self.crowd = Crowd(runner, fleet, name)

    def _place(self, gateway: str) -> Place:
        node, interface = far_end(self._runner, self._fleet, gateway, "uplink")
        return Place(node=node, interface=interface, what=ESP, inbound=True, snapshot=_SNAPSHOT)

    def _out(self, client: str, name: str) -> Path:
        return self._runner.lab_dir / client / "etc" / "out" / name

    async def start(self) -> None:
        """Return when both gateways are captured and every client's IKE_SA is known. Raises LabError."""
        await self.secrets.start()
        await self._taps.start()
        await self.begin_anew()

    async def begin_anew(self) -> None:
        """What each client has now is what it is to keep."""
        for client in self._clients:
            self._ike[client] = await self._ike_of(client)
            self._logged[client] = len(self._log(client))

    async def _ike_of(self, client: str) -> tuple[IkeSa, ...]:
        return ike_sas((await self._runner.exec(client, ("swanctl", "--list-sas"))).text)

    def _log(self, client: str) -> str:
        with contextlib.suppress(OSError):
            return self._out(client, "charon.log").read_text(errors="replace")
        raise LabError(f"{client}'s charon has left no log")

    async def cause(self, step: MirrorStep, victim: str, peer: str) -> str:
        """Do it, and say what was done. Raises LabError."""
        match step:
            case DownloadStep(clients=clients):
                await self.download(clients or self._clients)
                return f"{', '.join(clients or self._clients)} receive downloads"
            case Flow():
                await self._start_flows(step)
                return f"every client has asked by {step.kind.upper()}"
            case ForgetNumbers():
                return f"{await self.forget_numbers(peer)} SAs at {peer} count from 1 again"
            case PlantSecret():
                await self.secrets.plant(victim, step)
                return f"{step.path} of {victim} holds a secret"

    async def download(self, clients: tuple[str, ...]) -> None:
        """Return when all of them receive. Raises LabError."""
        assert self._fleet.lab is not None
        if not self._server:
            raise LabError("there is no server behind the site to download from")
        serve = ("python", "-m", "anycast_lab.drills.stream", "serve", "--port", str(_PORT))
        self._sender = await self._runner.spawn(self._server, (*serve, "--bits-per-second", str(BITS_PER_SECOND)))
        host = str(self._fleet.lab.servers[self._server].ipv4)
        for client in clients:
            for name in ("stream.json", "stream.live"):
                self._out(client, name).unlink(missing_ok=True)
            fetch = ("python", "-m", "anycast_lab.drills.stream", "fetch", "--from", host, "--port", str(_PORT))
            files = ("--out", "/etc/anycast/out/stream.json", "--live", "/etc/anycast/out/stream.live")
            self._downloads[client] = await self._runner.spawn(client, fetch + files)
        end = time.monotonic() + _RECEIVING_S
        while waiting := [client for client in clients if not self._received(client)]:
            if time.monotonic() > end:
                raise LabError(f"no byte of the download has come to {', '.join(waiting)}")
            await asyncio.sleep(0.1)

    def _received(self, client: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return int(json.loads(self._out(client, "stream.live").read_text())["bytes"])
        return 0

    async def forget_numbers(self, gateway: str) -> int:
        """How many SAs of `gateway` have lost their number. Raises LabError where there is none."""
        words = ("python", "-m", "anycast_lab.drills.forget_numbers", "--from", *map(str, self._sources()))
        done = await self._runner.exec(gateway, words)
        if done.rc or not int(done.text):
            raise LabError(f"no SA of {gateway} has lost its number: {done.stderr.decode(errors='replace').strip()}")
        return int(done.text)

    def loses_power(self, gateway: str) -> None:
        """It is about to."""
        self.secrets.keep(gateway)
        self.crowd.loses_power()

    async def hush(self, fault_ns: int) -> None:
        """End downloads and captures."""
        self._downloaded = await self._end_downloads(fault_ns - _BEFORE_NS, time.time_ns())
        await self._taps.hush()

    async def seen(self, fault_ns: int) -> MirrorSeen:
        """What was seen until it was hushed, and what there is now."""
        ike = {}
        for client in self._clients:
            built = ike_sas_built(self._log(client)[self._logged[client] :])
            ike[client] = IkeSeen(before=self._ike[client], after=await self._ike_of(client), built=built)
        crowd = await self.crowd.end(fault_ns)
        captured = self._taps.read()
        sealed = {gateway: [s for s in one.seen if isinstance(s, Sealed)] for gateway, one in captured.items()}
        return MirrorSeen(
            ike=ike,
            downloads=self._downloaded,
            numbers=numbers(sealed, frozenset(self._sources())),
            flows=self._flows(),
            crowd=crowd,
            problems=tuple(f"{gateway}: {problem}" for gateway, one in captured.items() for problem in one.problems),
        )

    def _sources(self) -> Iterator[Address]:
        vips = self._fleet.service.vips
        yield from (ip_address(str(vips.of(family))) for family in vips.families)
        for gateway in self._site.gateways.values():
            yield from (ip_address(str(gateway.uplink.of(family))) for family in gateway.uplink.families)

    async def _end_downloads(self, from_ns: int, to_ns: int) -> dict[str, Download]:
        found = {}
        for client, process in self._downloads.items():
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), 30)
            try:
                record = json.loads(self._out(client, "stream.json").read_text())
            except (OSError, ValueError) as error:
                raise LabError(f"{client}'s download left no record") from error
            found[client] = judge_download(record, from_ns, to_ns)
        self._downloads.clear()
        self._end_sender()
        return found

    def _end_sender(self) -> None:
        if self._sender is not None:
            self._sender.send_signal(signal.SIGKILL)
            self._sender = None

    async def _start_flows(self, step: Flow) -> None:
        """Return when every client has asked. Raises LabError."""
        inside = self._site.vrrp.inside.ipv4 if self._site.vrrp is not None else None
        if not self._server or inside is None:
            raise LabError("there is no server behind the site, or no address to translate to")
        assert self._fleet.lab is not None
        program, port = ("python", "-m", "anycast_lab.drills.flows"), ("--port", str(_FLOW_PORT))
        self._asking.append(await self._runner.spawn(self._server, (*program, "serve", *port)))
        await asyncio.sleep(_SERVER_S)
        words = ["--to", str(self._fleet.lab.servers[self._server].ipv4), *port, "--later-s", str(step.later_s)]
        words += ["--every-s", str(step.every_s)] if step.kind == "udp" else []
        for client in self._clients:
            self._out(client, "flow.json").unlink(missing_ok=True)
            into = ("--out", "/etc/anycast/out/flow.json")
            self._asking.append(await self._runner.spawn(client, (*program, step.kind, *words, *into)))
        self._flow = (str(inside), step.later_s)
        end = time.monotonic() + _RECEIVING_S
        while waiting := [client for client in self._clients if not self._out(client, "flow.json").exists()]:
            if time.monotonic() > end:
                raise LabError(f"{', '.join(waiting)} asks nothing")
            await asyncio.sleep(0.1)

    def _flows(self) -> dict[str, FlowSeen]:
        if self._flow is None:
            return {}
        translated_to, later_s = self._flow
        events = {client: json.loads(self._out(client, "flow.json").read_text()) for client in self._clients}
        return {c: FlowSeen(translated_to=translated_to, later_s=later_s, events=events[c]) for c in self._clients}

    async def close(self) -> None:
        """Whatever still runs after a drill that could not be carried out."""
        await self._taps.close()
        await self.secrets.close()
        await self.crowd.close()
        for process in (*self._downloads.values(), *self._asking):
            process.send_signal(signal.SIGKILL)
        self._asking.clear()
        self._downloads.clear()
        self._end_sender()
