"""What comparing 20,000 real SAs of one gateway with those of the other one costs, inside User Mode Linux, which has ESP.

One machine with one processor does both gateways' part in turn: two dumps, two readers, two cores and their messages. So the
figure is twice what each gateway pays, and an upper bound of the round; charon's `list-sas` is not in it. Measured beside a
reader that throws the same two dumps away, which is the kernel's own part, and beside `ip xfrm state`, by which an
operator would compare.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from anycast_lab.drills.limits import load_limits
from anycast_lab.embedded import uml
from anycast_lab.runner import LabError
from benchmarks.report import Bound, Result, compare
from benchmarks.xfrm_digest_guest import END, MARK

TREE = Path(__file__).resolve().parent.parent
TUNNELS, RUNS = 10_000, 9
"""20,000 SAs, as the name says."""
BOOT_LIMIT_S = 240.0
MEMORY = "1024M"


@functools.cache
def in_guest(tunnels: int, runs: int) -> dict[str, Any]:
    """What the guest says. Raises LabError."""
    modules = uml.module_tree(TREE)
    with tempfile.TemporaryDirectory(prefix="xfrm-digest-") as folder:
        guest = str(TREE / "benchmarks" / "xfrm_digest_guest.py")
        command = [
            "linux.uml", "umid=digest", f"uml_dir={folder}/", f"mem={MEMORY}", "root=/dev/root", "rootfstype=hostfs",
            "rootflags=/", "ro", "con=null", "con0=null,fd:1", "quiet", f"init={sys.executable}", "--",
            "-S", guest, str(TREE), str(modules), str(tunnels), str(runs), END,
        ]  # fmt: skip
        environment = {"PATH": os.environ["PATH"], "HOME": "/", "TMPDIR": "/dev/shm"}
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=BOOT_LIMIT_S, check=False
        )  # fmt: skip
    said = done.stdout.decode(errors="replace")
    line = next((line for line in said.splitlines() if MARK in line), None)
    if line is None:
        raise LabError(f"the guest said nothing: {said[-2000:]}")
    result: dict[str, Any] = json.loads(line.partition(MARK)[2])
    if "error" in result:
        raise LabError(f"in the guest: {result['error']}")
    return result


def xfrm_digest_20000_uml(_soak: bool) -> Result:
    """Both gateways' parts, one after the other."""
    seen = in_guest(TUNNELS, RUNS)
    name, limit = "xfrm_digest_20000_uml", load_limits()["bench_xfrm_digest"].on("uml")
    unit = f"s, {seen['sas']} SAs on each of two gateways"
    return Result(
        [
            compare(name, unit, seen["compared"], seen["ip"], "ip xfrm state of both, thrown away"),
            compare(f"{name}_beside_dump", unit, seen["compared"], seen["dump"], "a reader of both dumps"),
            compare(f"{name}_100_differ", unit, seen["differing"], [], "100 SAs deleted at the Backup"),
            compare(
                f"{name}_with_policies",
                f"{unit} and {seen['entries']['POLICIES']} policies",
                seen["with_policies"],
                [],
                "nobody",
            ),
        ],
        [
            Bound(name=f"{name}, ms", seen=1000 * statistics.median(seen["compared"]), limit=limit),
            Bound(name=f"{name}, SAs of 100 deleted that were not found", seen=100.0 - seen["unprotected"], limit=0),
        ],
    )


BENCHMARKS = {"xfrm_digest_20000_uml": xfrm_digest_20000_uml}
