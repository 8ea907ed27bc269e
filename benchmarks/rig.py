"""A gateway of the two-site fleet, alone with a BGP peer of ours in its upstream's place, on the native kernel.

Two network namespaces, two cables, the files that `anycast lab up` would write. What is measured runs inside; who
measures stays outside and holds only the upstream's listening sockets, so that fault and WITHDRAW are stamped by one
process with one clock. Everything that runs in the gateway's namespace at the end is ended by id; what a killed run left
is found by its namespaces' names, which hold its pid, and removed by the next.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import yaml
from pyroute2 import netns

from anycast.document import Document
from anycast.fleet.compile import compile_gateway
from anycast_lab import topology
from anycast_lab.embedded import syscalls
from anycast_lab.machines.prepare import prepare
from benchmarks.bgp_peer import BgpPeer

TREE = Path(__file__).resolve().parent.parent
GATEWAY = "sin-gw1"
"""Its sessions have neither TCP MD5 nor GTSM, which our peer does not speak."""
BGP_PORT = 179
PREFIX = "anycast-bench-"


class Rig:
    """Use as a context manager. `peer` hears the gateway; `start` runs a command on it."""

    def __init__(self) -> None:
        self._gateway_ns = f"{PREFIX}gateway-{os.getpid()}"
        self._upstream_ns = f"{PREFIX}upstream-{os.getpid()}"
        self._cleanup = contextlib.ExitStack()
        self._keeper_pid = 0
        self.peer: BgpPeer
        self.document: Document

    def __enter__(self) -> Rig:
        sweep()
        with contextlib.ExitStack() as stack:
            self._build(stack)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._cleanup.close()

    def start(self, *command: str, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Run a command on the gateway; nsenter becomes the command, so the pid is the command's own."""
        namespaces = ("nsenter", f"--target={self._keeper_pid}", "--mount", "--net", "--root", "--wd", "--")
        with open(self.path("/run/bench.log"), "ab") as log:
            return subprocess.Popen([*namespaces, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)

    def start_upstream(self, *command: str) -> subprocess.Popen[bytes]:
        """Run a command of this machine in the upstream's network namespace."""
        return subprocess.Popen(["nsenter", f"--net=/run/netns/{self._upstream_ns}", "--", *command], cwd=TREE / "labs")

    def route_upstream(self, addresses: Sequence[str]) -> None:
        """Have the upstream send what is for these addresses to the gateway, as it would by BGP."""
        for address in addresses:
            own = next(a for a in self.document.uplink.addresses if (":" in a) == (":" in address)).partition("/")[0]
            line = f"-n {self._upstream_ns} route replace {address} via {own}"
            subprocess.run(["ip", *line.split()], check=True)

    def own_upstream(self, address: str) -> None:
        """Have the upstream be this machine as well, and the gateway send there what is for it."""
        length = "128" if ":" in address else "32"
        line = f"-n {self._upstream_ns} address replace {address}/{length} dev lo"
        subprocess.run(["ip", *line.split()], check=True)
        way = next(n.address for n in self.document.bgp.neighbors if (":" in n.address) == (":" in address))
        self.run("ip", "route", "replace", address, "via", way)

    def run(self, *command: str) -> None:
        """Run a command on the gateway to its end. Raises CalledProcessError."""
        status = self.start(*command).wait()
        if status:
            raise subprocess.CalledProcessError(status, command, self.path("/run/bench.log").read_text())

    def path(self, path: str) -> Path:
        """A file of the gateway as it is seen from here."""
        return Path(f"/proc/{self._keeper_pid}/root{path}")

    def proc(self, path: str) -> Path:
        """A file of /proc/PID of the process that keeps the gateway's namespaces."""
        return Path(f"/proc/{self._keeper_pid}/{path}")

    def processes(self, wanted: Callable[[list[str]], bool]) -> list[int]:
        """Ids of the gateway's processes whose command line is wanted, oldest first."""
        found = []
        for pid in netns_pids(self._gateway_ns):
            with contextlib.suppress(OSError):
                if wanted(Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")):
                    found.append(pid)
        return sorted(found, key=start_time)

    def charon(self) -> int | None:
        """The pid of the charon that runs now."""
        return next(iter(self.processes(lambda argv: argv[0].endswith("/charon"))), None)

    def end_all(self) -> None:
        """Kill everything on the gateway but the keeper, and wait until it is gone."""
        end_all(self._gateway_ns, spare=self._keeper_pid)

    def _build(self, stack: contextlib.ExitStack) -> None:
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        stack.callback(shutil.rmtree, folder)
        fleet = prepare(topology.load(TREE / "labs/topologies/two-site.clab.yml"), folder)
        self.document = compile_gateway(fleet, GATEWAY)
        for name in (self._gateway_ns, self._upstream_ns):
            netns.create(name)
            stack.callback(netns.remove, name)
        self._return_at_once(folder / GATEWAY / "etc/fleet.yaml")
        keeper = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.keeper", f"/run/netns/{self._gateway_ns}", folder / GATEWAY / "etc"],
            cwd=TREE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._keeper_pid = keeper.pid
        stack.callback(keeper.wait)
        stack.callback(keeper.kill)
        stack.callback(self.end_all)
        assert keeper.stdout is not None
        if keeper.stdout.readline() != b"ready\n":
            raise RuntimeError("the gateway's namespaces could not be made; the message stands above")
        self._wire()
        self.run("sh", "/etc/anycast/boot")
        self.peer = BgpPeer(self._listen(), self.document.bgp.neighbors[0].asn, self.document.bgp.neighbors[0].address)
        stack.callback(self.peer.close)

    @staticmethod
    def _return_at_once(path: Path) -> None:
        """Take the pause before a route's return out of the fleet file: what is measured here is how it goes."""
        fleet = yaml.load(path.read_text(), yaml.BaseLoader)  # text stays text
        fleet["defaults"].setdefault("agent", {})["recovery"] = "0 s"
        path.write_text(yaml.dump(fleet))

    def _wire(self) -> None:
        uplink, inside = self.document.uplink, self.document.inside
        lines = [f"-n {ns} link set lo up" for ns in (self._gateway_ns, self._upstream_ns)]
        for interface in (uplink.name, inside.name):
            ends = [f"{interface} netns {ns}" for ns in (self._gateway_ns, self._upstream_ns)]
            lines.append(f"link add {ends[0]} type veth peer {ends[1]}")
            lines += [f"-n {ns} link set {interface} up" for ns in (self._gateway_ns, self._upstream_ns)]
        for neighbor, own in zip(self.document.bgp.neighbors, uplink.addresses, strict=True):
            length = own.partition("/")[2]
            nodad = " nodad" if ":" in own else ""
            lines.append(f"-n {self._upstream_ns} address add {neighbor.address}/{length} dev {uplink.name}{nodad}")
        for line in lines:
            subprocess.run(["ip", *line.split()], check=True)

    def _listen(self) -> list[socket.socket]:
        """Listening sockets in the upstream's namespace: a socket stays where it was made, by a thread that goes there."""
        listeners: list[socket.socket] = []
        errors: list[OSError] = []

        def make() -> None:
            try:
                with open(f"/run/netns/{self._upstream_ns}", "rb") as namespace:
                    syscalls.setns(namespace.fileno(), syscalls.CLONE_NEWNET)
                for neighbor in self.document.bgp.neighbors:
                    family = socket.AF_INET6 if ":" in neighbor.address else socket.AF_INET
                    listeners.append(socket.create_server((neighbor.address, BGP_PORT), family=family))
            except OSError as error:
                errors.append(error)

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return listeners


def netns_pids(name: str) -> list[int]:
    """Ids of all processes in a named network namespace."""
    listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, check=True, text=True).stdout
    return [int(pid) for pid in listed.split()]


def end_all(namespace: str, spare: int = 0) -> None:
    """Kill every process in a named network namespace but one, and wait until they are gone."""
    deadline = time.monotonic() + 10
    while pids := [pid for pid in netns_pids(namespace) if pid != spare]:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"{pids} do not end")
        select.select([], [], [], 0.01)


def sweep() -> None:
    """Remove what runs left that were killed: a namespace's name ends in the pid of the run that made it."""
    for name in netns.listnetns():
        if name.startswith(PREFIX) and not Path("/proc", name.rpartition("-")[2]).exists():
            end_all(name)
            netns.remove(name)
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if not Path("/proc", folder.name.split("-")[2]).exists():
            shutil.rmtree(folder)


def start_time(pid: int) -> int:
    """When the process started, in clock ticks since boot (proc(5), field 22)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and of its children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(fields[i]) for i in (11, 12, 13, 14)) / os.sysconf("SC_CLK_TCK")
