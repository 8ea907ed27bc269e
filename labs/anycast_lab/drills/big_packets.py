"""Clients that move more through their tunnel than small packets: TCP from the server behind it, echoes in fragments."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from pathlib import Path

from anycast.fleet.lab import Lab
from anycast_lab.drills.path_checks import ECHOES, Fetched
from anycast_lab.runner import LabError, Process, Runner

_PORT = 5003
_BITS_PER_SECOND = 2_000_000
_LOOK_S = 0.1


class BigPackets:
    """One drill's. `close` at the end, whatever happened."""

    def __init__(self, runner: Runner, lab: Lab) -> None:
        self._runner, self._lab = runner, lab
        self._target = next((str(server.ipv4) for server in lab.servers.values() if server.ipv4 is not None), "")
        self._running: list[Process] = []
        self.fetched: dict[str, Fetched] = {}
        """By client; with ` clamped` behind its name what it fetched so."""
        self.echoed: dict[str, int] = {}

    def _out(self, client: str, name: str) -> Path:
        return self._runner.lab_dir / client / "etc" / "out" / name

    async def fetch(self, clients: tuple[str, ...], wanted: int, bound_s: float, mss: int | None) -> None:
        """Goes on when each has so many bytes, or after the bound. Raises LabError."""
        if not self._target:
            raise LabError("there is no server with an IPv4 address to fetch from")
        await self._serve()
        processes, began, took = dict[str, Process](), time.monotonic(), dict[str, float]()
        for client in clients:
            for name in ("fetch.json", "fetch.live"):
                self._out(client, name).unlink(missing_ok=True)
            words = ["python", "-m", "anycast_lab.drills.stream", "fetch", "--from", self._target, "--port", str(_PORT)]
            words += ["--mss", str(mss)] if mss is not None else []
            files = ("--out", "/etc/anycast/out/fetch.json", "--live", "/etc/anycast/out/fetch.live")
            processes[client] = await self._runner.spawn(client, (*words, *files))
        self._running += processes.values()
        while len(took) < len(clients) and time.monotonic() < began + bound_s:
            await asyncio.sleep(_LOOK_S)
            for client in clients:
                if client not in took and self._received(client) >= wanted:
                    took[client] = (time.monotonic() - began) * 1e3
        for client, process in processes.items():
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), 30)
            try:
                record = json.loads(self._out(client, "fetch.json").read_text())
            except (OSError, ValueError) as error:
                raise LabError(f"{client} has left no record of what it fetched") from error
            self.fetched[f"{client} clamped" if mss is not None else client] = Fetched(
                connected=all(record["connection"]),
                bytes=record["bytes"],
                wrong=record["wrong_at"] is not None,
                took_ms=took.get(client),
            )

    async def _serve(self) -> None:
        if self._running:
            return
        # What a drill has left hanging would have routers say "too big" in the next one.
        serve = ("python", "-m", "anycast_lab.drills.stream", "serve", "--reset", "--port", str(_PORT))
        for server in self._lab.servers:
            self._running.append(await self._runner.spawn(server, (*serve, "--bits-per-second", str(_BITS_PER_SECOND))))

    def _received(self, client: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            return int(json.loads(self._out(client, "fetch.live").read_text())["bytes"])
        return 0

    async def echo(self, clients: tuple[str, ...], size: int) -> None:
        """Ask the server for echoes that may be fragmented."""
        for client in clients:
            words = ("ping", "-n", "-q", "-M", "dont", "-c", str(ECHOES), "-i", "0.2", "-W", "2", "-s", str(size))
            said = (await self._runner.exec(client, (*words, self._target))).text
            counts = said.partition(" packets transmitted, ")[2].split()
            if not counts:
                raise LabError(f"{client} sends no echoes: {said.strip()}")
            self.echoed[client] = int(counts[0])

    async def close(self) -> None:
        for process in self._running:
            process.send_signal(signal.SIGKILL)
        self._running.clear()
