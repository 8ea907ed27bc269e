"""A real coordinator as its own process, with a management root of its own, on loopback; and its command line."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from anycast.cli import coordinator_client
from anycast.document import Coordinator as Address
from anycast.document import Document
from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Role
from tests.support.gateway import ENVIRONMENT
from tests.support.sync_pair import FLEET, Root
from tests.support.upstream import until

NAME = "coord"


class Coordinator:
    """Everything of it lies in `base`."""

    def __init__(
        self, base: Path, *options: str, agents: str = "127.0.0.1:0", program: tuple[str, ...] = ("-m", "anycast.cli.main")
    ) -> None:
        """`program`: what runs instead of the command line's own, as words for Python."""
        self.base, self._options, self._agents, self._program = base, options, agents, program
        self.environment: dict[str, str] = {}
        """What the process finds in its environment beside everybody's."""
        self.root = Root(base / "root")
        self.root.equip(base / "pki", NAME, role=Role.COORDINATOR)
        self.process: subprocess.Popen[str] | None = None
        self.port = 0

    def gateway(self, name: str) -> MachineFolder:
        """A gateway's certificates, made anew."""
        return self.root.equip(self.base / f"pki-{name}", name)

    def start(self) -> None:
        """It answers when this returns."""
        words = ["serve", "--pki", "pki", "--state", "state", "--run", "run", "--agents", self._agents, *self._options]
        command = [sys.executable, *self._program, *words]
        environment = {**ENVIRONMENT, **self.environment}
        self.process = subprocess.Popen(command, env=environment, cwd=self.base, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert "answers agents on port" in line, line + self.process.stderr.read()
        self.port = int(line.split("port ")[1].split(",")[0])
        self._agents = f"{self._agents.rpartition(':')[0]}:{self.port}"  # the same one after a restart

    @property
    def store(self) -> Path:
        return self.base / "state" / "coordinator.db"

    @property
    def operators_port(self) -> int:
        """The kernel chose it: the one of its ports that speaks HTTP without TLS."""
        assert self.process is not None
        own = self._sockets()
        for line in Path(f"/proc/{self.process.pid}/net/tcp").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            port = int(local.split(":")[1], 16)
            if state == "0A" and rest[5] in own and port != self.port:
                return port
        raise AssertionError("nobody answers operators")

    def _sockets(self) -> set[str]:
        """Inodes of those that it has open."""
        assert self.process is not None
        names = set()
        for entry in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                names.add(os.readlink(entry).removeprefix("socket:[").removesuffix("]"))
        return names

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The command line, as root where the coordinator runs, or as `environment` says."""
        known = {"ANYCAST_COORDINATOR": f"unix:{self.base}/run/coordinator.sock", "COLUMNS": "200"}
        command = [sys.executable, "-m", "anycast.cli.main", *words]
        return subprocess.run(
            command, env={**ENVIRONMENT, **known, **environment}, cwd=self.base, capture_output=True, text=True, check=False,
            timeout=30,
        )  # fmt: skip

    def ask(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def status(self) -> dict[str, Any]:
        """As `ask("status")`, over the same socket, without a process: for whoever asks again and again."""
        target = coordinator_client.Target(f"unix:{self.base}/run/coordinator.sock")
        return coordinator_client.ask(target, "GET", "/v1/status")

    def site(self, name: str) -> dict[str, Any]:
        [found] = [site for site in self.status()["sites"] if site["site"] == name]
        return dict(found)

    def becomes(self, site: str, state: str, *, within_s: float = 15) -> None:
        def is_so() -> bool:
            return any(s["site"] == site and s["state"] == state for s in self.status()["sites"])

        until(is_so, f"{site} {state}", within_s=within_s)

    def known_to(self, document: Document) -> Document:
        """The document of a gateway that reports here."""
        address = Address(name=NAME, addresses=(self._agents.rpartition(":")[0],), port=self.port)
        return document.model_copy(update={"fleet": FLEET, "coordinator": address})


def digest(store: Path) -> str:
    """Of every line of every table."""
    found = hashlib.sha256()
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
        for table in tables:
            for line in db.execute(f"SELECT * FROM {table} ORDER BY 1, 2"):
                found.update(repr((table, line)).encode())
    return found.hexdigest()


def kill(process: subprocess.Popen[Any] | None) -> None:
    if process is not None and process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
