"""Looks for the secrets of both gateways of a site wherever a drill has left something: files, screens, processes, report.

Learned while the drill runs: the keys of every SA that either kernel has or gets (`ip xfrm state`, then `ip xfrm monitor`,
as some live for milliseconds), what the `ha` plugin tells on loopback, and the key files. None of it is written anywhere but
below `lab_dir/.secrets`, which no machine sees and which ends with the drill; what is found is told by kind, form and place.

Key files may hold keys while nobody but their owner reads them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import json
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

from anycast.errors import DecodeError
from anycast.fleet.compile import compile_gateway
from anycast.fleet.schema import Fleet
from anycast_lab.capture import pcap
from anycast_lab.drills import operator, processes, secret_kinds
from anycast_lab.drills.drill import ProcessName
from anycast_lab.drills.mirror_checks import Found, Told
from anycast_lab.drills.mirror_steps import PlantSecret
from anycast_lab.drills.report import Checked, Report
from anycast_lab.drills.secret_forms import Secrets
from anycast_lab.runner import LabError, Process, Runner

ESP, IKE, KEY = "esp", "ike", "key"
KEY_FOLDERS = ("/etc/anycast/secrets", "/etc/anycast/pki")
FOLDERS = ("/run", "/var/lib", "/var/log", "/tmp", "/etc/anycast", "/etc/site-agent")
"""All that a gateway writes to; the rest of its files are the host's."""
_LARGEST = 64 << 20
_AGAIN_S = 0.2
_KEEPERS = (ProcessName.AGENT, ProcessName.CHARON, ProcessName.SYNC, ProcessName.VRRP)
"""Processes that keys pass through."""


class SecretWatch:
    """One drill's. `close` at the end, whatever happened."""

    def __init__(self, runner: Runner, fleet: Fleet, gateways: tuple[str, ...]) -> None:
        self._runner, self._fleet, self._gateways = runner, fleet, gateways
        self._folder = runner.lab_dir / ".secrets"
        self._listening: dict[tuple[str, str], Process] = {}
        self._files: dict[str, list[Path]] = {"monitor": [], "loopback": []}
        self._secrets = Secrets()
        self._kept: list[tuple[str, bytes]] = []
        self._planted: list[tuple[str, str, bytes]] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when every gateway that is on is listened to. Raises LabError."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for old in self._folder.iterdir():
            old.unlink()
        await self._listen()
        self._task = asyncio.create_task(self._keep_listening())

    async def _keep_listening(self) -> None:
        """A gateway that was powered off comes back with an empty kernel and without our listeners."""
        while True:
            await asyncio.sleep(_AGAIN_S)
            with contextlib.suppress(LabError, OSError):
                await self._listen()

    async def _listen(self) -> None:
        for gateway in self._gateways:
            if not self._runner.power(gateway):
                continue
            ways = {
                "monitor": ("ip", "xfrm", "monitor", "SA"),
                "loopback": ("tcpdump", "-U", "-n", "-i", "lo", "-s", "0", "-Z", "root", "-w", "-", "udp", "port", "4510"),
            }
            for name, argv in ways.items():
                running = self._listening.get((gateway, name))
                if running is None or running.returncode is not None:
                    path = self._folder / f"{gateway}-{name}-{len(self._files[name])}"
                    self._listening[gateway, name] = await self._runner.spawn(gateway, argv, stdout=path)
                    self._files[name].append(path)
                    if name == "monitor":
                        await self._ask_kernel(gateway)

    async def _ask_kernel(self, gateway: str) -> None:
        for key in secret_kinds.sa_keys((await self._runner.exec(gateway, ("ip", "xfrm", "state"))).text):
            self._secrets.add(ESP, key)

    def keep(self, gateway: str) -> None:
        """What lies in its /run, which is about to be lost with its power, is looked at as well."""
        if self._runner.power(gateway):
            self._kept += [(f"{place} before the power-off", data) for place, data in self._in_files(gateway, ("/run",))]

    def _learn(self) -> None:
        for path in self._files["monitor"]:
            for key in secret_kinds.sa_keys(path.read_text(errors="replace")):
                self._secrets.add(ESP, key)
        for path in self._files["loopback"]:
            with contextlib.suppress(DecodeError):
                for secret in secret_kinds.ike_secrets(pcap.read(path.read_bytes())):
                    self._secrets.add(IKE, secret)
        for gateway in self._gateways:
            for key in self._keys_of(gateway):
                self._secrets.add(KEY, key)

    def _keys_of(self, gateway: str) -> Iterator[bytes]:
        root = Path(f"/proc/{self._runner.pid(gateway)}/root")
        for folder in KEY_FOLDERS:
            for path in (root / folder[1:]).rglob("*"):
                if path.is_file() and path.suffix != ".crt":
                    yield from secret_kinds.file_secrets(path.read_bytes())

    async def plant(self, gateway: str, step: PlantSecret) -> None:
        """Raises LabError where there is no such secret yet."""
        await asyncio.to_thread(self._learn)
        secret = self._secrets.newest(step.what)
        if secret is None:
            raise LabError(f"no secret of kind {step.what} is known yet")
        text = {"raw": secret, "hex": f"0x{secret.hex().upper()}".encode(), "base64": base64.b64encode(secret)}[step.form]
        path = self._path(gateway, step.path)
        with path.open("ab") as file:
            file.write(text)
        if step.readable:
            path.chmod(0o644)
        self._planted.append((gateway, step.path, text))

    def _path(self, gateway: str, path: str) -> Path:
        return Path(f"/proc/{self._runner.pid(gateway)}/root{path}")

    async def end(self) -> Told:
        """Look everywhere. The gateways must be on."""
        if off := [gateway for gateway in self._gateways if not self._runner.power(gateway)]:
            return Told(secrets={}, places=0, found=(), cores=(), problems=(f"{', '.join(off)} is off",))
        for gateway in self._gateways:
            await self._ask_kernel(gateway)
        screens = [one for gateway in self._gateways for one in await self._screens(gateway)]
        await self._end_listening()
        return await asyncio.to_thread(self._look, screens)

    async def _screens(self, gateway: str) -> list[tuple[str, bytes]]:
        listen = compile_gateway(self._fleet, gateway).agent.metrics_listen
        shown = await operator.screens(self._runner, gateway, listen)
        return [(f"{gateway} {screen}", text.encode()) for screen, text in shown.items()]

    def _look(self, screens: list[tuple[str, bytes]]) -> Told:
        self._learn()
        places, found = 0, list[Found]()
        for place, data in (*screens, *self._kept, *self._everything()):
            places += 1
            found += [Found(place=place, name=name, form=form) for name, form in sorted(self._secrets.search(data))]
        count = self._secrets.count()
        problems = tuple(f"no secret of kind {name} was learned" for name in (ESP, IKE, KEY) if not count.get(name))
        return Told(secrets=count, places=places, found=tuple(found), cores=tuple(self._cores()), problems=problems)

    def _everything(self) -> Iterator[tuple[str, bytes]]:
        for gateway in self._gateways:
            yield from self._in_files(gateway, FOLDERS)
            for pid in self._runner.pids(gateway):
                for name in ("cmdline", "environ"):
                    with contextlib.suppress(OSError):
                        yield f"{gateway} {name} of a process", Path(f"/proc/{pid}/{name}").read_bytes()
        for path in sorted(self._runner.lab_dir.glob("*/etc/out/*")):
            if path.is_file() and path.parts[-4] not in self._gateways:  # theirs were among their own files
                yield f"{path.parts[-4]} {path.name}", path.read_bytes()

    def _in_files(self, gateway: str, folders: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
        root = f"/proc/{self._runner.pid(gateway)}/root"
        for folder in folders:
            for where, _folders, names in os.walk(root + folder):
                for name in names:
                    place = f"{where}/{name}"[len(root) :]
                    with contextlib.suppress(OSError):  # gone since
                        status = os.lstat(root + place)
                        private = place.startswith(KEY_FOLDERS) and not status.st_mode & 0o077
                        if stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST and not private:
                            yield f"{gateway} {place}", Path(root + place).read_bytes()

    def _cores(self) -> Iterator[str]:
        for gateway in self._gateways:
            for name in _KEEPERS:
                pid = processes.find(self._runner, name, gateway)
                if pid is None:
                    yield f"{gateway} runs no {name}"
                    continue
                limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
                core = next(line.split()[4:6] for line in limits if line.startswith("Max core file size"))
                if core != ["1", "1"]:
                    yield f"{gateway}'s {name} has limits of {' and '.join(core)} bytes"

    def judged(self, report: Report) -> Report:
        """The report itself is looked at last; one that holds a secret says so, and no more of it."""
        found = self._secrets.search(json.dumps(report.to_json()).encode())
        if not found:
            return report
        said = ", ".join(f"{name} as {form}" for name, form in sorted(found))
        red = Checked("no secret of the tunnels and gateways is told in the report", said, "0 found", False)
        return dataclasses.replace(report, checks=(red,), timeline=(), notes=(), message="", passed=False)

    async def _end_listening(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        for process in self._listening.values():
            process.send_signal(signal.SIGINT)  # tcpdump writes what it still has
        for process in self._listening.values():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await process.wait()
        self._listening.clear()

    async def close(self) -> None:
        await self._end_listening()
        for gateway, place, text in self._planted:
            with contextlib.suppress(OSError, LabError):
                path = self._path(gateway, place)
                rest = path.read_bytes().replace(text, b"")
                path.write_bytes(rest) if rest else path.unlink()
        self._planted.clear()
        if self._folder.exists():
            for path in self._folder.iterdir():
                path.unlink()

