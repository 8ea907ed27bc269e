"""The conntrack mirror from kernel to kernel over the real channel, beside conntrackd and beside a bare loop of inserts.

Two network namespaces and a cable. `conntrack_copy_200k`: seconds from the session's beginning until 200,000 translated,
assured flows are in the other kernel. conntrackd (FTFW) is timed for its resync and its commit, which a failover waits for;
ours has nothing to commit. The bare loop sends ready-made messages of the same flows to one kernel.

`conntrack_lag_30k`: new flows with short lives; each carries the microsecond in which it was made, so a lag is what passes
from one kernel to the other, seen for the oldest flow of each message. conntrackd keeps copies in its own memory and says no
such time, so it has no figure there. What both can be asked is the highest rate they hold: of flows made at that rate all
are copied (here into the kernel, there into its memory) half a second after the last.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from anycast_lab.drills.limits import load_limits
from benchmarks import conntrack_flows as flows
from benchmarks.report import Bound, Figure, Result, compare, percentile
from site_agent.netlink.conntrack import gather
from site_agent.netlink.conntrack_columns import Shapes
from site_agent.sync.conntrack_digest import Sums
from site_agent.sync.conntrack_filter import MirroredFlows
from tests.support.sync_pair import FLEET, ONE, OTHER, Root
from tests.support.sync_world import VERSIONS

TREE = Path(__file__).resolve().parent.parent
FLOWS = int(os.environ.get("BENCH_CONNTRACK_FLOWS", "200000"))
RATE = int(os.environ.get("BENCH_CONNTRACK_RATE", "30000"))
SECONDS = float(os.environ.get("BENCH_CONNTRACK_SECONDS", "60"))
LIFE_S = 3
"""So that 30,000 flows a second never fill the machine's table of 262,144."""
RUNS = 3
ADDRESS = {ONE: "203.0.113.1", OTHER: "203.0.113.2"}
NAMESPACE = {ONE: f"anycast-bench-ct1-{os.getpid()}", OTHER: f"anycast-bench-ct2-{os.getpid()}"}
WAIT_S = 30.0
RATES = (10_000, 20_000, 30_000, 45_000, 60_000, 80_000, 100_000)
RATE_FLOWS = 200_000
HELD_WITHIN_S = 0.5
_libc = ctypes.CDLL(None, use_errno=True)

CONNTRACKD = """
Sync {{
  Mode FTFW {{
    ResendQueueSize 131072
    PurgeTimeout 60
    ACKWindowSize 300
    DisableExternalCache off
  }}
  UDP {{
    IPv4_address {own}
    IPv4_Destination_Address {other}
    Port 3780
    Interface cable
    SndSocketBuffer 24985600
    RcvSocketBuffer 24985600
    Checksum on
  }}
}}
General {{
  HashSize 65536
  HashLimit 524288
  LogFile off
  Syslog off
  LockFile {folder}/lock
  UNIX {{
    Path {folder}/ctl
  }}
  NetlinkBufferSize 33554432
  NetlinkBufferSizeMaxGrowth 134217728
  Filter From Kernelspace {{
    Protocol Accept {{
      UDP
    }}
  }}
}}
"""


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    before, there = os.open("/proc/thread-self/ns/net", os.O_RDONLY), os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        assert _libc.setns(there, 0) == 0
        yield
    finally:
        assert _libc.setns(before, 0) == 0
        os.close(before)
        os.close(there)


@contextlib.contextmanager
def two_kernels() -> Iterator[None]:
    sweep()
    with contextlib.ExitStack() as stack:
        for name in NAMESPACE.values():
            _ip(f"netns add {name}")
            stack.callback(_ip, f"netns del {name}")
            _ip(f"-n {name} link set lo up")
        _ip(f"link add cable netns {NAMESPACE[ONE]} type veth peer name cable netns {NAMESPACE[OTHER]}")
        rules = (
            "add table ip t; add chain ip t c { type filter hook input priority 0; }; add rule ip t c ct state established; "
            "add chain ip t r { type filter hook prerouting priority -300; }; add rule ip t r iifname cable notrack; "
            "add chain ip t o { type filter hook output priority -300; }; add rule ip t o oifname cable notrack; "
            "add chain ip t n { type nat hook postrouting priority 100; }"
        )
        for gateway, name in NAMESPACE.items():
            _ip(f"-n {name} address add {ADDRESS[gateway]}/24 dev cable")
            _ip(f"-n {name} link set cable up")
            subprocess.run(["ip", "netns", "exec", name, "nft", rules], check=True)
            with inside(name):
                Path("/proc/sys/net/netfilter/nf_conntrack_events").write_text("1\n")
        yield


def sweep() -> None:
    """Remove what killed runs left: namespaces of ours without their maker, and without a process."""
    for path in Path("/run/netns").glob("anycast-bench-ct[12]-*"):
        maker = path.name.rpartition("-")[2]
        held = subprocess.run(["ip", "netns", "pids", path.name], capture_output=True, text=True, check=False).stdout.strip()
        if not Path(f"/proc/{maker}").exists() and not held:
            _ip(f"netns del {path.name}")


class Pair:
    """Both gateways' mirrors, each a process in its namespace."""

    def __init__(self, folder: Path) -> None:
        os.chmod(folder, 0o700)
        root = Root(folder / "root")
        self.said: dict[str, list[dict[str, Any]]] = {ONE: [], OTHER: []}
        self._configs = {}
        for me, peer, role in ((ONE, OTHER, "ACTIVE"), (OTHER, ONE, "BACKUP")):
            root.equip(folder / me, me)
            config = {
                "me": me, "peer": peer, "fleet": FLEET, "own": ADDRESS[me], "other": ADDRESS[peer], "role": role,
                "folder": str(folder / me), "state": str(folder / f"state-{me}"), "prefixes": [flows.PREFIX],
                "gateways": [*ADDRESS.values(), "192.0.2.254"], "versions": _plain(VERSIONS),
            }  # fmt: skip
            self._configs[me] = folder / f"{me}.json"
            self._configs[me].write_text(json.dumps(config))
        self._started: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> Pair:
        for me in (ONE, OTHER):
            command = ["ip", "netns", "exec", NAMESPACE[me], sys.executable, "-m", "benchmarks.conntrack_side"]
            self._started[me] = subprocess.Popen(
                [*command, str(self._configs[me])], cwd=TREE, stdout=subprocess.PIPE, text=True, env=_environment()
            )
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._started.values():
            if each.poll() is None:
                each.kill()
            each.wait()

    def wait(self, me: str, what: str) -> dict[str, Any]:
        """The next such word. Raises RuntimeError where the process has ended."""
        stdout = self._started[me].stdout
        assert stdout is not None
        for line in stdout:
            word: dict[str, Any] = json.loads(line)
            self.said[me].append(word)
            if word["what"] == what:
                return word
        raise RuntimeError(f"{me} ended before it said {what}")

    def end(self, me: str) -> dict[str, Any]:
        self._started[me].send_signal(signal.SIGTERM)
        return self.wait(me, "counts")

    def clear(self, me: str) -> None:
        """Forget lags seen so far."""
        self._started[me].send_signal(signal.SIGUSR1)


def sums(gateway: str) -> Sums:
    """The digest of a kernel's table, by a dump of its own."""
    found, shapes = Sums(), Shapes()
    mirrored = MirroredFlows([flows.PREFIX], [])
    with inside(NAMESPACE[gateway]), flows.netfilter() as sock:
        sock.send(bytes([20, 0, 0, 0, 1, 1, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))
        while True:
            gathered = gather(sock.recv(32 * 1024))
            for block in shapes.blocks(gathered):
                if (part := mirrored.mirrored(block)) is None or any(part):
                    found.add(block if part is None else block.select(part))
            if gathered.done:
                return found


def missing() -> int:
    """Buckets in which the two kernels differ."""
    return len(sums(ONE).differing(sums(OTHER).values))


def conntrack_copy(soak: bool) -> Result:
    ours, bare, resync, commit, turns = [], [], [], [], []
    with two_kernels():
        with inside(NAMESPACE[ONE]):
            flows.insert(flows.batches(0, FLOWS, translated=True))
        for _ in range(RUNS):
            with inside(NAMESPACE[OTHER]):
                bare.append(flows.insert(flows.batches(0, FLOWS, translated=True)))
                flows.empty()
            with tempfile.TemporaryDirectory() as folder, Pair(Path(folder)) as pair:
                began = pair.wait(OTHER, "up")["at"]
                ours.append(pair.wait(OTHER, "table")["at"] - began)
                assert not missing(), "the copy is not what it is a copy of"
                turns += [pair.end(each)["longest_turn_s"] for each in (ONE, OTHER)]
            with inside(NAMESPACE[OTHER]):
                flows.empty()
        if shutil.which("conntrackd") is not None:
            for _ in range(RUNS):
                one, two = conntrackd_run()
                resync.append(one)
                commit.append(two)
    both = [one + two for one, two in zip(resync, commit, strict=True)]
    peer = f"conntrackd's resync ({_median(resync)} s) and commit ({_median(commit)} s)" if both else "conntrackd is missing"
    name = f"conntrack_copy_{FLOWS // 1000}k"
    share = statistics.median(bare) / statistics.median(ours)
    figures = [
        compare(name, "s", ours, both, peer),
        compare(f"{name}_beside_bare_inserts", "s", ours, bare, f"a bare insert loop: {share:.0%} of its rate"),
        compare(
            f"{name}_longest_turn", "ms", [1e3 * each for each in turns], [], "no peer: what anybody else on that loop waits"
        ),
    ]
    limits = load_limits()
    bounds = [
        Bound(name=f"{name}, of a bare loop's time", seen=1 / share, limit=limits["bench_conntrack_bare"].on("native"))
    ]
    if both:
        ratio = statistics.median(ours) / statistics.median(both)
        bounds.append(Bound(name=f"{name}, of conntrackd's", seen=ratio, limit=limits["bench_conntrack_copy"].on("native")))
    return Result(figures, bounds)


def conntrack_lag(soak: bool) -> Result:
    figures: list[Figure] = []
    with two_kernels(), tempfile.TemporaryDirectory() as folder, Pair(Path(folder)) as pair:
        pair.wait(OTHER, "table")
        command = ["ip", "netns", "exec", NAMESPACE[ONE], sys.executable, "-m", "benchmarks.conntrack_flows"]
        began = time.monotonic()
        command += [str(RATE), str(SECONDS), str(LIFE_S)]
        made = subprocess.run(command, cwd=TREE, env=_environment(), check=True, capture_output=True, text=True)
        rate = int(made.stdout) / (time.monotonic() - began)
        left = _until_equal()
        backup, active = pair.end(OTHER), pair.end(ONE)
    lags = [1e3 * each for each in backup["lags"]]
    name = f"conntrack_lag_{RATE // 1000}k"
    lost = f"{active['events_lost']} overruns, {active['unsent']} unsent, {left} buckets differ after it"
    note = f"no peer says it; {rate:.0f} flows/s made, {lost}, {sum(backup['failed'].values())} refused"
    figures.append(compare(name, "ms", lags, [], note))
    cpu = [each["cpu_s"] / SECONDS * 100 for each in (active, backup)]
    figures.append(compare(f"{name}_cpu", "% of a core, each", cpu, [], "no peer: Active and Backup"))
    figures.append(highest_rates())
    worst = percentile(lags, 0.99)
    return Result(figures, [
        Bound(name=f"{name}, p99", seen=worst, limit=load_limits()["bench_conntrack_lag"].on("native")),
        Bound(name=f"{name}, buckets that differ", seen=left, limit=0),
    ])  # fmt: skip


def highest_rates() -> Figure:
    """Flows a second that ours and conntrackd hold; 0 where not even the lowest."""
    ours = theirs = 0
    for rate in RATES:
        with two_kernels(), tempfile.TemporaryDirectory() as folder, Pair(Path(folder)) as pair:
            pair.wait(OTHER, "table")
            if not _held(rate, lambda: _entries(OTHER)):
                break
            ours = rate
    have = shutil.which("conntrackd") is not None
    for rate in RATES if have else ():
        with two_kernels(), conntrackd() as base:
            if not _held(rate, lambda base=base: _cached(base, OTHER, "external")):  # type: ignore[misc]
                break
            theirs = rate
    note = "conntrackd, into its memory" if have else "conntrackd is missing"
    note += f"; tried were {', '.join(str(rate // 1000) for rate in RATES)} thousand"
    return compare("conntrack_rate_held", "flows/s", [ours], [theirs] if have else [], note)


def _held(rate: int, copied: Callable[[], int]) -> bool:
    command = ["ip", "netns", "exec", NAMESPACE[ONE], sys.executable, "-m", "benchmarks.conntrack_flows"]
    command += [str(rate), str(RATE_FLOWS / rate), "600"]
    made = int(subprocess.run(command, cwd=TREE, env=_environment(), check=True, capture_output=True, text=True).stdout)
    if made < 0.9 * RATE_FLOWS:
        return False  # this machine makes no more
    end = time.monotonic() + HELD_WITHIN_S
    while copied() < made:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _until_equal() -> int:
    """Buckets that still differ when the last flows have had their time to cross, and to end."""
    end = time.monotonic() + 2 * LIFE_S + 2
    while (left := missing()) and time.monotonic() < end:
        time.sleep(0.2)
    return left


@contextlib.contextmanager
def conntrackd() -> Iterator[Path]:
    """One a gateway; their folder."""
    with contextlib.ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for me, peer in ((ONE, OTHER), (OTHER, ONE)):
            folder = base / me
            folder.mkdir()
            text = CONNTRACKD.format(own=ADDRESS[me], other=ADDRESS[peer], folder=folder)
            (folder / "conf").write_text(text)
            daemon = subprocess.Popen(_conntrackd(base, me), stdout=subprocess.DEVNULL)
            stack.callback(daemon.wait)
            stack.callback(daemon.terminate)
        for me in (ONE, OTHER):
            _until(lambda me=me: (base / me / "ctl").exists())
        yield base


def conntrackd_run() -> tuple[float, float]:
    """Seconds of its resync into its own memory, and of its commit into the kernel."""
    with conntrackd() as base:
        _until(lambda: _cached(base, ONE, "internal") >= FLOWS)
        subprocess.run([*_conntrackd(base, OTHER), "-f", "external"], check=False, capture_output=True)
        began = time.monotonic()
        subprocess.run([*_conntrackd(base, OTHER), "-n"], check=True, capture_output=True)
        _until(lambda: _cached(base, OTHER, "external") >= FLOWS)
        resync = time.monotonic() - began
        began = time.monotonic()
        subprocess.run([*_conntrackd(base, OTHER), "-c"], check=True, capture_output=True)
        _until(lambda: _entries(OTHER) >= FLOWS)
        return resync, time.monotonic() - began


def _conntrackd(base: Path, me: str) -> list[str]:
    return ["ip", "netns", "exec", NAMESPACE[me], "conntrackd", "-C", str(base / me / "conf")]


def _cached(base: Path, me: str, cache: str) -> int:
    done = subprocess.run([*_conntrackd(base, me), "-s"], check=False, capture_output=True, text=True)
    match = re.search(rf"cache {cache}:\ncurrent active connections:\s+(\d+)", done.stdout)
    return int(match[1]) if match is not None else 0


def _entries(me: str) -> int:
    with inside(NAMESPACE[me]):
        return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())


def _until(holds: Any) -> None:
    end = time.monotonic() + WAIT_S
    while not holds():
        if time.monotonic() > end:
            raise RuntimeError("conntrackd does not come to an end")
        time.sleep(0.01)


def _ip(line: str) -> None:
    subprocess.run(["ip", *line.split()], check=True)


def _plain(versions: Any) -> dict[str, Any]:
    return {field: getattr(versions, field) for field in versions.__dataclass_fields__}


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": ":".join(str(TREE / each) for each in (".", "site-agent", "exabgp", "labs"))}


def _median(samples: list[float]) -> str:
    return f"{statistics.median(samples):.2f}"


BENCHMARKS = {"conntrack_copy_200k": conntrack_copy, "conntrack_lag_30k": conntrack_lag}
