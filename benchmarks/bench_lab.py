"""What a lab costs who waits for it: `lab up` and `lab down` of `two-site-pairs`, and the memory of all of it.

Up is from the command to its end: every route at the transit, one Active a pair, each client's first good packet (without
ESP, its IKE_SA). Memory is the PSS of everything in the lab, its server included; User Mode Linux is asked how much of its
own it uses. The same under containerlab is a test (`tests/lab/test_containerlab.py`), because its images are made first.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path

from anycast_lab.control import launch
from anycast_lab.drills.limits import load_limits
from anycast_lab.embedded.kernel import Kernel
from benchmarks.bench_footprint import descendants, total_pss_mib
from benchmarks.report import Bound, Result, compare

TOPOLOGY = Path(__file__).resolve().parent.parent / "labs/topologies/two-site-pairs.clab.yml"
UP_S = 400.0
"""An end to waiting; the bounds stand in labs/limits-bench.yml."""
NATIVE_RUNS = 3
NOBODY = "nobody: the embedded runner is ours alone"


def lab(*words: str, kernel: Kernel) -> str:
    argv = [sys.executable, "-m", "anycast.cli.main", "lab", *words]
    environment = {**os.environ, "LAB_KERNEL": kernel}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=UP_S, check=False)
    if done.returncode:
        raise RuntimeError(f"anycast lab {words[0]}: {done.stderr}")
    return done.stdout


def memory_mib(name: str, kernel: Kernel) -> float:
    if kernel == "uml":
        told = lab("exec", "-n", name, "transit", "--", "cat", "/proc/meminfo", kernel=kernel)
        total, available = (int(found) for found in re.findall(r"^Mem(?:Total|Available):\s+(\d+) kB", told, re.MULTILINE))
        return (total - available) / 1024
    sock = launch.connect(name)
    assert sock is not None
    with sock:
        pid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return total_pss_mib({pid} | descendants([pid]))


def once(kernel: Kernel) -> tuple[float, float, float]:
    """Up and down in s, and MiB between the two."""
    name = f"bench-lab-{os.getpid()}"
    started = time.monotonic()
    lab("up", "-t", str(TOPOLOGY), "-n", name, kernel=kernel)
    up = time.monotonic() - started
    try:
        used = memory_mib(name, kernel)
    finally:
        started = time.monotonic()
        lab("down", "-n", name, kernel=kernel)
    return up, time.monotonic() - started, used


def measured(kernel: Kernel, runs: int) -> Result:
    ups, downs, used = zip(*(once(kernel) for _ in range(runs)), strict=True)
    limits = load_limits()
    figures = [
        compare(f"lab_up_{kernel}", "s", ups, [], NOBODY),
        compare(f"lab_down_{kernel}", "s", downs, [], NOBODY),
        compare(f"lab_memory_{kernel}", "MiB of PSS" if kernel == "native" else "MiB in use inside", used, [], NOBODY),
    ]
    up_ms, down_ms = (statistics.median(seconds) * 1e3 for seconds in (ups, downs))
    return Result(
        figures,
        [
            Bound(name=f"lab_up_{kernel}, ms", seen=up_ms, limit=limits["bench_lab_up"].on(kernel)),
            Bound(name=f"lab_down_{kernel}, ms", seen=down_ms, limit=limits["bench_lab_down"].on(kernel)),
            Bound(name=f"lab_memory_{kernel}, MiB", seen=max(used), limit=limits["bench_lab_memory"].on(kernel)),
        ],
    )


def lab_up_native(soak: bool) -> Result:
    return measured("native", NATIVE_RUNS)


def lab_up_uml(soak: bool) -> Result:
    if shutil.which("linux.uml") is None:
        raise RuntimeError("needs the package user-mode-linux")
    return measured("uml", 1)


BENCHMARKS = {"lab_up_native": lab_up_native, "lab_up_uml": lab_up_uml}
