"""How long a site's address is unreachable when its Active gateway dies, beside keepalived at the same interval.

Two gateways and a client on one bridge, in network namespaces of a child process of this one, so that nothing is left
when it ends. The client sends a numbered packet to the virtual address every millisecond; the gap is the time between the
sending of the last packet that arrived before the fault and of the first that arrived after it. Power-off is the link
first, then SIGKILL, at each phase of the interval equally often, counted from an advertisement that was handed to a Backup
which has heard some in a row before: one that has not runs an older timer, and its gap is too short. Ours: a sealed unicast
pair, our default; keepalived: a unicast pair with real-time priority, too. Both have priority 100, so RFC 9568 gives both
the same Active_Down_Interval: 3.61 intervals.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import itertools
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from anycast_lab.drills.limits import load_limits
from anycast_lab.embedded import syscalls
from benchmarks.report import Bound, Figure, Result, compare, percentile
from site_agent.vrrp import wire
from site_agent.vrrp.packet import PROTOCOL
from tests.support.keepalived import Keepalived
from tests.support.vrrp_pair import KEYS, NO_REAL_TIME, VIRTUAL_4, Lan, Process, addresses, inside, ip, own, wait

RUNS = 30
HANDOVERS = 30
HANDOVER_RATE = 5_000
HEARD = 5
"""Advertisements in a row that a Backup has been handed when its Active dies: more than Active_Down_Interval holds."""
REST_S = 20.0
BUSY_S, SOAK_S = 60.0, 600.0
PORT = 9999
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_SENDER = """
import os, socket, sys, time
rate, to = int(sys.argv[1]), (sys.argv[2], int(sys.argv[3]))
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
due, number = time.monotonic_ns(), 0
while True:
    try:
        out.sendto(number.to_bytes(8, "big") + time.monotonic_ns().to_bytes(8, "big"), to)
    except OSError:
        pass
    number += 1
    due += 10**9 // rate
    time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
"""


def apart(measure: Callable[[], Any]) -> Any:
    """What `measure` returns (as JSON) from within mount, process and network namespaces that end with it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNET)
            if (inner := os.fork()) == 0:
                syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
                syscalls.mount("proc", "/proc", "proc")
                syscalls.mount("tmpfs", "/run", "tmpfs")
                os.write(writer, json.dumps(measure()).encode())
                status = 0
            else:
                status = os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(abs(status))
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        report = said.read()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise RuntimeError("what was measured apart failed; its reason stands above")
    return json.loads(report)


class Probe:
    """Numbered packets from the client to the virtual address, whichever gateway has it."""

    def __init__(self, rate: int) -> None:
        self._in = []
        for n in (1, 2):
            with inside(f"gw{n}"):
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
            sock.bind(("0.0.0.0", PORT))
            self._in.append(sock)
        self.arrived: dict[int, int] = {}
        """When each was sent, in nanoseconds, by number."""
        command = ["ip", "netns", "exec", "lan", sys.executable, "-c", _SENDER, str(rate), str(VIRTUAL_4), str(PORT)]
        self._sender = subprocess.Popen(command)

    def drain(self) -> int:
        """Take what has arrived. Returns how many have in all."""
        for sock in self._in:
            with contextlib.suppress(BlockingIOError):
                while True:
                    data = sock.recv(32)
                    self.arrived[int.from_bytes(data[:8], "big")] = int.from_bytes(data[8:], "big")
        return len(self.arrived)

    def flows(self, packets: int = 100) -> None:
        """Wait for some more to arrive, one after the other: the way to the address is there."""
        last = max(self.arrived, default=-1)
        wait(lambda: self.drain() and all(n in self.arrived for n in range(max(self.arrived) - packets, max(self.arrived)))
             and max(self.arrived) > last + packets, "probes arrive")  # fmt: skip

    def gap_ms(self, since: int) -> float:
        """The longest time without an arrival from packet `since` on."""
        times = [at for number, at in sorted(self.arrived.items()) if number >= since]
        return max(after - before for before, after in itertools.pairwise(times)) / 1e6

    def lost(self) -> int:
        """From the first to the last that arrived."""
        return max(self.arrived) - min(self.arrived) + 1 - len(self.arrived)

    def close(self) -> None:
        self._sender.kill()
        self._sender.wait()
        for sock in self._in:
            sock.close()


class Ours:
    """A router of ours on gateway `n`."""

    prefix: tuple[str, ...] = ()

    def __init__(self, lan: Lan, n: int, interval: int, folder: Path) -> None:
        self.process: Process = lan.start(n, interval=interval, keys=KEYS, families=(4,), prefix=self.prefix)

    def is_active(self) -> bool:
        return self.process.status is not None and self.process.status.role == "active"

    @property
    def pid(self) -> int:
        return self.process.child.pid

    def hand_over(self) -> None:
        self.process.tell(wire.HandOver())

    def power_off(self) -> None:
        self.process.child.kill()
        self.process.child.wait()

    def transitions(self) -> int:
        """Changes of role so far, the first report not counted."""
        assert self.process.status is not None
        roles = [status.role for status in self.process.heard]
        return sum(a != b for a, b in itertools.pairwise(roles))


class OursWithoutRealTime(Ours):
    """What is left where the kernel allows no real-time priority."""

    prefix = NO_REAL_TIME


class Theirs:
    """keepalived on gateway `n`."""

    def __init__(self, lan: Lan, n: int, interval: int, folder: Path) -> None:
        self._again = functools.partial(Keepalived, n, folder, family=4, multicast=False, interval_s=interval / 100)
        self._n = n
        self._daemon = self._again()
        wait(lambda: self._daemon.state, "keepalived has begun")

    def is_active(self) -> bool:
        return self._daemon.state == "MASTER"

    @property
    def pid(self) -> int:
        return self._daemon.pid

    def hand_over(self) -> None:
        """It has no other word for it: it is stopped, and started anew."""
        self._daemon.end()
        self._daemon = self._again()

    def power_off(self) -> None:
        self._daemon.kill()
        if VIRTUAL_4 in addresses(self._n):  # nobody else takes it away
            ip(f"-n gw{self._n} addr del {VIRTUAL_4}/28 dev eth1")

    def transitions(self) -> int:
        return self._daemon.entered() - 1


Router = Ours | Theirs
PEER_NAME = "keepalived, unicast, real-time priority, the same interval"


@contextlib.contextmanager
def pair(kind: type[Ours] | type[Theirs], interval: int) -> Iterator[tuple[Lan, list[Router], Path]]:
    """Two routers, of which one is Active."""
    with Lan() as lan, tempfile.TemporaryDirectory() as folder:
        routers: list[Router] = [kind(lan, n, interval, Path(folder)) for n in (1, 2)]
        wait(lambda: any(router.is_active() for router in routers), "an Active")
        yield lan, routers, Path(folder)


def await_settled(routers: list[Router]) -> int:
    """Return the Active's number, in the moment when the other one has been handed an advertisement once more.

    The other one has had `HEARD` of them by then, so its timer runs from the last, whoever it is. One that was started a
    moment ago may hear nothing for up to a second: the Active's neighbour entry for it is being asked for.
    """
    while True:
        wait(lambda: sum(router.is_active() for router in routers) == 1, "one Active")
        n = next(n for n, router in enumerate(routers, 1) if router.is_active())
        with inside("lan"), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003)) as port:
            port.bind((f"p{3 - n}", 0))
            port.settimeout(5)
            heard = 0
            while heard < HEARD:
                frame, sender = port.recvfrom(2048)
                delivered = sender[2] == socket.PACKET_OUTGOING and frame[12:14] == b"\x08\0" and frame[23] == PROTOCOL
                heard += delivered and frame[26:30] == own(n, 4).packed
        if sum(router.is_active() for router in routers) == 1:
            return n


class Port:
    """A port of the bridge, which can be taken down at once: a process that does it starts when the scheduler likes."""

    def __init__(self, n: int) -> None:
        self._name = f"p{n}".encode()
        with inside("lan"):
            self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def down(self) -> None:
        request = fcntl.ioctl(self._sock, _SIOCGIFFLAGS, struct.pack("16sh14x", self._name, 0))
        flags = struct.unpack("16xh14x", request)[0] & ~_IFF_UP
        fcntl.ioctl(self._sock, _SIOCSIFFLAGS, struct.pack("16sh14x", self._name, flags))

    def close(self) -> None:
        self._sock.close()


@contextlib.contextmanager
def real_time() -> Iterator[None]:
    """Below the routers and above everything else, so that what is done at a moment is done then."""
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(15))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def power_offs(kind: type[Ours] | type[Theirs], interval: int) -> dict[str, list[float]]:
    """The gaps in milliseconds; of ours also from the decision to the kernel's answer, in microseconds."""
    gaps, installed = [], []
    with pair(kind, interval) as (lan, routers, folder):
        probe, ports = Probe(1000), {n: Port(n) for n in (1, 2)}
        for run in range(RUNS):
            probe.flows()
            with real_time():
                n = await_settled(routers)
                time.sleep((run + 0.5) / RUNS * interval / 100)
                ports[n].down()
            probe.drain()
            since = max(probe.arrived)
            routers[n - 1].power_off()
            wait(routers[2 - n].is_active, "the other one takes over")
            probe.flows()
            gaps.append(probe.gap_ms(since))
            other = routers[2 - n]
            if isinstance(other, Ours) and other.process.status is not None:
                installed.append(float(other.process.status.installed_us))
            wait(functools.partial(has_let_go, n), "the kernel takes the address away")
            ip(f"-n lan link set p{n} up")
            routers[n - 1] = kind(lan, n, interval, folder)
        probe.close()
        for port in ports.values():
            port.close()
    return {"gaps": gaps, "installed": installed}


def moved(active: Router, backup: Router) -> bool:
    return backup.is_active() and not active.is_active()


def has_let_go(n: int) -> bool:
    return VIRTUAL_4 not in addresses(n)


def handovers(kind: type[Ours] | type[Theirs], interval: int) -> int:
    """How many packets were lost."""
    with pair(kind, interval) as (_, routers, _):
        probe = Probe(HANDOVER_RATE)
        for run in range(HANDOVERS):
            probe.flows(100 + 40 * (run % 16))  # so that some begin when the last takeover is announced again, after 100 ms
            active, backup = sorted(routers, key=lambda router: not router.is_active())
            active.hand_over()
            wait(functools.partial(moved, active, backup), "a handover")
        probe.flows()
        probe.close()
        return probe.lost()


def busy(kind: type[Ours] | type[Theirs], interval: int, span_s: float) -> dict[str, float]:
    """Changes of role while every core is kept busy at normal priority, and how late our ticks came."""
    with pair(kind, interval) as (_, routers, _):
        load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
        before = sum(router.transitions() for router in routers)
        end = time.monotonic() + span_s
        while time.monotonic() < end:
            time.sleep(1)
            for router in routers:
                router.is_active()  # reads what it reports
        changes = sum(router.transitions() for router in routers) - before
        # Of everything since each process began: of its first thousand ticks the 99.9th of a hundred is the worst one.
        reports = [router.process.status for router in routers if isinstance(router, Ours)]
        late = max((report.late["p999_ms"] for report in reports if report is not None), default=0.0)
        for process in load:
            process.kill()
            process.wait()
        return {"changes": changes, "late_ms": late}


def run_ns(pid: int) -> int:
    """For how long the process's threads have run: what the scheduler counted, not the timer ticks that they wake at."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def at_rest(kind: type[Ours] | type[Theirs]) -> float:
    """Per cent of a core that an Active uses."""
    with pair(kind, 1) as (_, routers, _):
        active = next(router for router in routers if router.is_active())
        began, used = time.monotonic(), run_ns(active.pid)
        while time.monotonic() < began + REST_S:
            time.sleep(0.5)
            for router in routers:
                router.is_active()  # reads what it reports
        return (run_ns(active.pid) - used) / 1e7 / (time.monotonic() - began)


def _failover(name: str, interval: int) -> Result:
    peer = apart(functools.partial(power_offs, Theirs, interval))
    ours = apart(functools.partial(power_offs, Ours, interval))
    figure = compare(name, "ms", ours["gaps"], peer["gaps"], PEER_NAME)
    installed = compare(f"{name}_decision_to_address", "us", ours["installed"], [], "nobody else tells")
    assert figure.peer is not None
    limit = figure.peer * load_limits()["bench_failover_ratio"].on("native")
    return Result([figure, installed], [Bound(name=f"{name} median, ms", seen=statistics.median(ours["gaps"]), limit=limit)])


def failover_gap_10ms(soak: bool) -> Result:
    """Power-off of the Active → the address answers again, advertisements every 10 ms."""
    return _failover("failover_gap_10ms", 1)


def failover_gap_100ms(soak: bool) -> Result:
    """The same with our default, 100 ms."""
    return _failover("failover_gap_100ms", 10)


def handover_lost(soak: bool) -> Result:
    """Packets lost in thirty planned handovers."""
    ours, peer = (apart(functools.partial(handovers, kind, 10)) for kind in (Ours, Theirs))
    name = f"packets of {HANDOVER_RATE}/s lost in {HANDOVERS} handovers"
    figure = dataclasses.replace(
        compare("handover_lost", name, [ours], [peer], "keepalived stopped cleanly"), runs=HANDOVERS
    )
    return Result(
        [figure], [Bound(name="handover_lost", seen=ours, limit=load_limits()["bench_handover_lost"].on("native"))]
    )


def false_transitions(soak: bool) -> Result:
    """Changes of role on a busy machine at 10 ms, and how late our ticks come; and at 100 ms without real-time priority."""
    span_s = SOAK_S if soak else BUSY_S
    ours, peer = (apart(functools.partial(busy, kind, 1, span_s)) for kind in (Ours, Theirs))
    plain = apart(functools.partial(busy, OursWithoutRealTime, 10, span_s))
    limits = load_limits()
    return Result(
        [
            compare("false_transitions", f"in {span_s:g} s", [ours["changes"]], [peer["changes"]], PEER_NAME),
            compare("late_ticks_p999", "ms", [ours["late_ms"]], [], "nobody else tells"),
            compare("false_transitions_100ms", f"in {span_s:g} s", [plain["changes"]], [], "ours, no real-time priority"),
        ],
        [
            Bound(name="false_transitions", seen=ours["changes"], limit=limits["bench_false_transitions"].on("native")),
            Bound(
                name="false_transitions_100ms",
                seen=plain["changes"],
                limit=limits["bench_false_transitions"].on("native"),
            ),
            Bound(name="late_ticks_p999, ms", seen=ours["late_ms"], limit=limits["bench_late_ticks"].on("native")),
        ],
    )


def vrrp_cpu_at_rest(soak: bool) -> Result:
    """What one instance at 10 ms costs."""
    ours, peer = (apart(functools.partial(at_rest, kind)) for kind in (Ours, Theirs))
    figure: Figure = compare("vrrp_cpu_at_rest", "% of a core", [ours], [peer], PEER_NAME)
    limit = load_limits()["bench_vrrp_cpu"].on("native")
    return Result([figure], [Bound(name="vrrp_cpu_at_rest, %", seen=percentile([ours], 0.5), limit=limit)])


BENCHMARKS = {
    "failover_gap_10ms": failover_gap_10ms,
    "failover_gap_100ms": failover_gap_100ms,
    "handover_lost": handover_lost,
    "false_transitions": false_transitions,
    "vrrp_cpu_at_rest": vrrp_cpu_at_rest,
}
