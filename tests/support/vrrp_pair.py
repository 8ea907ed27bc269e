"""Two gateways with a vrrp process each on one bridge, in network namespaces, with the test as both agents and a client.

The client is the bridge's own namespace: what it resolves and what reaches it is what a neighbour would see. Grants come
from a thread, because an agent goes on granting whatever a test waits for.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, ip_address, ip_interface
from pathlib import Path as FilePath
from typing import Any

from site_agent.render.sysctl import settings_of
from site_agent.vrrp import plan as plans
from site_agent.vrrp import wire
from site_agent.vrrp.packet import GROUP_V4, GROUP_V6, Address, Interop
from site_agent.vrrp.seal import Path

TREE = FilePath(__file__).resolve().parents[2]
VRID = 51
VIRTUAL_4, VIRTUAL_6, VIRTUAL_LINK_LOCAL = (ip_address(a) for a in ("198.51.100.10", "2001:db8:1::10", "fe80::10"))
KEYS = {1: b"k" * 32}
PATIENCE_S = 10.0
PROVEN_WITHIN_S = 60.0
NO_REAL_TIME = ("prlimit", "--rtprio=0:0", "setpriv", "--bounding-set=-sys_nice")
NO_LOCKED_MEMORY = ("prlimit", "--memlock=0:0", "setpriv", "--bounding-set=-ipc_lock")
_CLONE_NEWNET = 0x4000_0000
_libc = ctypes.CDLL(None, use_errno=True)


def own(n: int, family: int) -> Address:
    return ip_address(f"198.51.100.{n}" if family == 4 else f"fe80::{n}")


def ip(*words: str) -> str:
    return subprocess.run(["ip", *" ".join(words).split()], check=True, capture_output=True, text=True).stdout


def wait(what: Callable[[], Any], why: str, within: float = PATIENCE_S) -> Any:
    """The first true value of `what`; AssertionError with `why` after `within` seconds."""
    end = time.monotonic() + within
    while not (found := what()):
        assert time.monotonic() < end, f"not within {within} s: {why}"
        select.select([], [], [], 0.002)
    return found


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread's new sockets belong to `namespace`."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        assert _libc.setns(there, _CLONE_NEWNET) == 0
        yield
    finally:
        assert _libc.setns(home, _CLONE_NEWNET) == 0
        os.close(there)
        os.close(home)


def make_plan(n: int, *, interval: int = 10, keys: dict[int, bytes] | None = None, multicast: bool = False, peer: int = 0,
              families: tuple[int, ...] = (4, 6), **changed: Any) -> plans.Plan:  # fmt: skip
    """Of gateway `n` (1 or 2) with one outside link. Sealed where `keys` are given."""
    peer = peer or 3 - n
    virtual: dict[int, tuple[Address, ...]] = {4: (VIRTUAL_4,), 6: (VIRTUAL_LINK_LOCAL, VIRTUAL_6)}
    groups: dict[int, Address] = {4: GROUP_V4, 6: GROUP_V6}
    voices = tuple(
        plans.Voice(
            vrid=VRID,
            source=own(n, family),
            destination=groups[family] if multicast else own(peer, family),
            addresses=tuple(ip_interface((a, 28 if family == 4 else 64)) for a in virtual[family]),
            announced=virtual[family],
        )
        for family in families
    )
    plan = plans.Plan(
        advertisement_interval=interval,
        preempt=False,
        preempt_delay_s=0,
        router_id=n,
        interop=Interop.RFC9568,
        address_life_s=1,
        links=(plans.Link(path=Path.OUTSIDE, interface="eth1", voices=voices),),
        keys=keys or {},
        key_in_use=min(keys) if keys else 0,
        resume_until_ns=0,
    )
    return dataclasses.replace(plan, **changed)


class Process:
    """A vrrp process and its agent's end."""

    def __init__(self, n: int, plan: plans.Plan, prefix: Sequence[str] = ()) -> None:
        self.n, self.plan, self.priority, self.granting = n, plan, 100, True
        self.attracting = True
        """What BFD is granted."""
        self.heard: list[wire.Status] = []
        self.answers: list[wire.Answer] = []
        self.agent, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.agent.setblocking(False)
        self.child = subprocess.Popen(
            ["ip", "netns", "exec", f"gw{n}", *prefix, sys.executable, "-m", "site_agent.vrrp", str(other.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[other.fileno()],
            env={**os.environ, "PYTHONPATH": f"{TREE}:{TREE / 'site-agent'}"},
        )
        other.close()
        assert self.child.stdin is not None
        self.child.stdin.write(plans.encode(plan))
        self.child.stdin.close()

    def tell(self, message: wire.Message) -> None:
        with contextlib.suppress(OSError):
            self.agent.send(wire.encode(message))

    def grant(self) -> None:
        until_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 10**9
        attract_until_ns = until_ns if self.attracting else 0
        self.tell(wire.Grant(priority=self.priority, until_ns=until_ns, uplink=None, attract_until_ns=attract_until_ns))

    @property
    def status(self) -> wire.Status | None:
        """The last one that came."""
        with contextlib.suppress(OSError):
            while data := self.agent.recv(wire.LONGEST):
                match wire.decode(data):
                    case wire.Status() as status:
                        self.heard.append(status)
                    case wire.Answer() as answer:
                        self.answers.append(answer)
        return self.heard[-1] if self.heard else None

    def wait(self, why: str, what: Callable[[wire.Status], Any], within: float = PATIENCE_S) -> wire.Status:
        try:
            found = wait(lambda: (now := self.status) and what(now) and now, f"gateway {self.n}: {why}", within)
        except AssertionError as exc:
            raise AssertionError(f"{exc}; its last reports: {self.heard[-3:]}") from exc
        assert isinstance(found, wire.Status)
        return found

    def role(self, role: str, within: float = PATIENCE_S) -> wire.Status:
        return self.wait(role, lambda status: status.role == role, within)

    def proven(self) -> wire.Status:
        """Runs; below 50 ms it has passed its self-test, which another virtual machine on the same host may hold up."""
        return self.wait("runs, and has failed no self-test", lambda status: status.self_test != "failed", PROVEN_WITHIN_S)

    def ended(self) -> int:
        return self.child.wait(PATIENCE_S)


class Lan:
    """The bridge, its two gateways' namespaces and the processes in them. `start` them; use as a context manager."""

    def __init__(self) -> None:
        self.processes: list[Process] = []
        self._over = threading.Event()
        self._granting = threading.Thread(target=self._grant, daemon=True)

    def __enter__(self) -> Lan:
        os.makedirs("/run/netns", exist_ok=True)
        ip("netns add lan")
        ip("-n lan link add br0 type bridge forward_delay 0")
        for line in ("link set lo up", "link set br0 up", "addr add 198.51.100.14/28 dev br0"):
            ip("-n lan", line)
        ip("-n lan addr add 2001:db8:1::e/64 dev br0 nodad")
        for n in (1, 2):
            ip(f"netns add gw{n}")
            self.connect(n)
        self._granting.start()
        return self

    def connect(self, n: int, *, own_link_local: bool = True) -> None:
        """Gateway `n`'s eth1, with its own addresses and the settings that `site-agent render` writes."""
        ip(f"link add eth1 netns gw{n} type veth peer name p{n} netns lan")
        for setting in settings_of("eth1", "eth1"):
            subprocess.run(["ip", "netns", "exec", f"gw{n}", "sysctl", "-qw", f"{setting.name}={setting.value}"], check=True)
        ip(f"-n lan link set p{n} master br0 up")
        for line in ("link set lo up", "link set eth1 up", f"addr add 198.51.100.{n}/28 dev eth1",
                     f"addr add 2001:db8:1::{n}/64 dev eth1 nodad"):  # fmt: skip
            ip(f"-n gw{n}", line)
        if own_link_local:
            ip(f"-n gw{n} addr add fe80::{n}/64 dev eth1 nodad")

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._granting.join()
        for process in self.processes:
            process.child.kill()
            process.child.wait()
            process.agent.close()

    def start(self, n: int, plan: plans.Plan | None = None, *, granting: bool = True, prefix: Sequence[str] = (),
              **changed: Any) -> Process:  # fmt: skip
        """A process that has opened its sockets, and can serve unless it has a `prefix`: a command that runs its arguments,
        with less."""
        process = Process(n, plan or make_plan(n, **changed), prefix)
        process.granting = granting
        self.processes.append(process)
        if prefix:
            process.wait("says that it runs", lambda status: True)
        else:
            process.proven()
        return process

    def pair(self, **changed: Any) -> tuple[Process, Process]:
        """The Active one and its Backup, which hear each other."""
        one, two = (self.start(n, **changed) for n in (1, 2))
        wait(lambda: [p for p in (one, two) if p.status and p.status.role == "active"], "an Active")
        active, backup = (one, two) if one.status and one.status.role == "active" else (two, one)
        backup.wait("hears the Active", lambda status: status.peer_active)
        if active.plan.sealed:
            active.wait("hears the Backup", lambda status: status.peer == "fit")
        return active, backup

    def _grant(self) -> None:
        while not self._over.wait(0.2):
            for process in list(self.processes):
                if process.granting:
                    process.grant()


def addresses(n: int) -> dict[Address, dict[str, Any]]:
    """What gateway `n`'s kernel has on its interface."""
    (interface,) = json.loads(ip("-j", f"-n gw{n}", "addr show dev eth1"))
    return {ip_address(entry["local"]): entry for entry in interface["addr_info"]}


def never_active(process: Process) -> bool:
    return process.status is not None and all(status.role == "backup" for status in process.heard)


def holds(n: int) -> bool:
    """All virtual addresses are there; AssertionError where only some are after a moment."""
    return {VIRTUAL_4, VIRTUAL_6, VIRTUAL_LINK_LOCAL} <= addresses(n).keys()


def holds_none(n: int) -> bool:
    return not {VIRTUAL_4, VIRTUAL_6, VIRTUAL_LINK_LOCAL} & addresses(n).keys()


def mac(n: int) -> str:
    (interface,) = json.loads(ip("-j", f"-n gw{n}", "link show dev eth1"))
    return str(interface["address"])


def neighbours() -> dict[Address, str]:
    """The client's cache."""
    return {ip_address(e["dst"]): e["lladdr"] for e in json.loads(ip("-j -n lan neigh show")) if "lladdr" in e}


class Stream:
    """Numbered UDP packets to the virtual addresses, and who received which: `lost` after the context ends."""

    def __init__(self, rate: int = 1000) -> None:
        self._gap_s = 1 / rate
        self._over = threading.Event()
        self.sent, self.lost = 0, -1
        self.missing: list[tuple[int, int]] = []
        """Family and number of each that was lost."""
        with inside("lan"):
            self._out = {v: socket.socket(socket.AF_INET if v.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
                         for v in (VIRTUAL_4, VIRTUAL_6)}  # fmt: skip
        self._in: list[socket.socket] = []
        for n in (1, 2):
            for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                with inside(f"gw{n}"):
                    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE: nothing may be lost here
                sock.bind((anywhere, 9999))
                self._in.append(sock)
        self._sender = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Stream:
        self._sender.start()
        wait(lambda: self.sent > 50, "a stream")
        return self

    def __exit__(self, *exception: object) -> None:
        at = self.sent
        wait(lambda: self.sent > at + 200, "the stream goes on")
        self._over.set()
        self._sender.join()
        got: set[tuple[int, bytes]] = set()

        def drain() -> bool:
            for sock in self._in:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        got.add((sock.family, sock.recv(16)))
            return len(got) >= 2 * self.sent

        with contextlib.suppress(AssertionError):
            wait(drain, "all of it", 1.0)
        self.lost = 2 * self.sent - len(got)
        sent = {(sock.family.value, n.to_bytes(8, "big")) for sock in self._out.values() for n in range(self.sent)}
        self.missing = sorted((family, int.from_bytes(n, "big")) for family, n in sent - {(int(f), n) for f, n in got})
        for sock in (*self._out.values(), *self._in):
            sock.close()

    def _send(self) -> None:
        due = time.monotonic()
        while not self._over.is_set():
            for virtual, sock in self._out.items():
                with contextlib.suppress(OSError):
                    sock.sendto(self.sent.to_bytes(8, "big"), (str(virtual), 9999))
            self.sent += 1
            due += self._gap_s
            time.sleep(max(0.0, due - time.monotonic()))


def send_raw(payload: bytes, source: IPv4Address, destination: IPv4Address, ttl: int = 255, *, times: int = 1) -> None:
    """As anybody on the link can: an IPv4 packet of protocol 112 from whatever source."""
    with inside("lan"):
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    head = bytes([0x45, 0xC0]) + (20 + len(payload)).to_bytes(2, "big") + bytes(4) + bytes([ttl, 112, 0, 0])
    for _ in range(times):
        raw.sendto(head + source.packed + destination.packed + payload, (str(destination), 0))
    raw.close()
