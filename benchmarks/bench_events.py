"""How many events a second a coordinator takes from its agents, over real TLS, into its store; and the agents' memory.

A real `anycast serve`, and agents' ends of the link in another process (`event_crowd.py`), which report at each heartbeat as
agents do and have more to tell than is asked for. An event counts when the coordinator has said that it keeps it, which is
after its transaction. There is no peer to run: no other tool of this kind takes events of gateways; beside it stands what
SQLite alone does with the same rows on the same disk, in one thread and in the same transactions.

Memory of an agent is what the coordinator's resident memory grew by while all of them connected and reported, divided by
their number; and once more at the end, when each has told as much as one message holds again and again.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from anycast import event_wire
from anycast.coordinator.event_store import Batch, EventStore, Retention
from anycast.event_wire import MOST_RECORDS
from anycast_lab.drills.limits import load_limits
from benchmarks.event_crowd import template
from benchmarks.report import Bound, Result, compare
from benchmarks.rig import TREE
from tests.support.coordinator import Coordinator, kill
from tests.support.gateway import ENVIRONMENT

AGENTS, RATE = 500, 40_000.0
"""What they have to tell is beyond what is taken, so the coordinator is what is measured."""
WARM_S, SECONDS, SOAK_SECONDS = 3, 12, 600
CONNECT_S = 120.0


def events_per_second(soak: bool) -> Result:
    seconds = SOAK_SECONDS if soak else SECONDS
    with tempfile.TemporaryDirectory(prefix="anycast-bench-") as folder:
        base = Path(folder)
        coordinator = Coordinator(base)
        for number in range(AGENTS):
            coordinator.root.equip(base / f"g{number}", f"g{number}")
        coordinator.start()
        try:
            samples, (calm_kib, full_kib), busy = measured(coordinator, base, seconds)
        finally:
            kill(coordinator.process)
        alone = sqlite_alone(base)
    beside = f"SQLite alone; {AGENTS} agents; the coordinator used {busy:.0%} of a core"
    found = compare("events_per_second", "events/s", samples, alone, beside)
    nobody = f"none; with {MOST_RECORDS} events in each message {full_kib / AGENTS:.0f}"
    memory = compare("events_agent_memory", "KiB an agent", [calm_kib / AGENTS], [], nobody)
    limit = load_limits()["bench_events"].on("native")
    return Result([found, memory], [Bound(name="events, us each", seen=1e6 / found.p50, limit=limit)])


def measured(coordinator: Coordinator, base: Path, seconds: int) -> tuple[list[float], tuple[int, int], float]:
    """Events kept in each second, KiB that the coordinator grew by before and after, and how much of a core it used."""
    assert coordinator.process is not None
    pid, before = coordinator.process.pid, rss_kib(coordinator.process.pid)
    words = ["-m", "benchmarks.event_crowd", str(coordinator.port), str(base), str(AGENTS), str(WARM_S + seconds), str(RATE)]
    crowd = subprocess.Popen(
        [sys.executable, *words], env=ENVIRONMENT, cwd=TREE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert crowd.stdin is not None and crowd.stdout is not None
    try:
        deadline = time.monotonic() + CONNECT_S
        while (there := connected(coordinator)) < AGENTS:
            assert time.monotonic() < deadline, f"{there} of {AGENTS} connected"
            time.sleep(0.5)
        grown = rss_kib(pid) - before
        print(f"  {AGENTS} agents: {grown / 1024:.0f} MiB, {grown / AGENTS:.0f} KiB each", flush=True)
        crowd.stdin.write("go\n")
        crowd.stdin.flush()
        samples = [float(crowd.stdout.readline()) for _ in range(WARM_S)]
        begun, cpu = time.monotonic(), cpu_s(pid)
        samples = [float(crowd.stdout.readline()) for _ in range(seconds)]
        busy = (cpu_s(pid) - cpu) / (time.monotonic() - begun)
        full = rss_kib(pid) - before
        told = ", ".join(f"{sample:.0f}" for sample in samples[:30])
        print(f"  a second: {told}; {busy:.0%} of a core, {full >> 10} MiB", flush=True)
    finally:
        crowd.send_signal(signal.SIGKILL)
        crowd.wait()
    return samples, (grown, full), busy


def sqlite_alone(base: Path) -> list[float]:
    """Rows a second, each run 20,000 of the same records in transactions of 1,000."""
    store = EventStore(base / "alone.db", "example", Retention())
    (head, tail), samples, seq = template("g0"), list[float](), 0
    for _ in range(5):
        made = [event_wire.read(json.loads(f"{head}{seq + n}{tail}"), "g0") for n in range(1, 20_001)]
        seq += len(made)
        begun = time.perf_counter()
        for first in range(0, len(made), 1000):
            store.add([Batch("g0", time.time(), made[first : first + 1000])])
        samples.append(len(made) / (time.perf_counter() - begun))
    store.close()
    return samples


def connected(coordinator: Coordinator) -> int:
    sites = coordinator.ask("status")["sites"]
    return sum(gateway["connected"] and gateway["report"] is not None for site in sites for gateway in site["gateways"])


def rss_kib(pid: int) -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


BENCHMARKS = {"events_per_second": events_per_second}
