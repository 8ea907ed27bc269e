"""What a gateway pays for being watched: memory with every check on, and the conntrack check's time over a table's size.

Memory is PSS, so that what two processes share counts once: agent, ExaBGP, bridge, the canary's charon, whatever else of
ours runs; not the gateway's charon, whose job it is to be there. The peer is `exabgp healthcheck` and its ExaBGP. The
conntrack check is timed over a table of 1,000 entries and of 200,000; its peer reads the table, as `conntrack -L` does.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from anycast_lab.drills.limits import load_limits
from benchmarks.bench_overload import in_tree
from benchmarks.bench_withdraw import START_S, Ours, healthcheck, start_charon
from benchmarks.report import Bound, Result, compare
from benchmarks.rig import Rig

SETTLE_S = 10.0
"""Every check has looked, and what it imports lazily is there."""
FEW, MANY = 1_000, 200_000


def pss_mib(rig: Rig) -> float:
    """Of everything on the gateway but its own charon and those who hold the namespaces, in MiB (proc(5), smaps_rollup)."""
    ours = set(rig.processes(lambda argv: "benchmarks.keeper" not in argv))
    ours |= descendants(ours)  # the canary lives in a network namespace of its own
    ours -= {rig.charon()}
    return total_pss_mib(ours)


def total_pss_mib(pids: Iterable[int]) -> float:
    """Of these processes; what several of them share counts once."""
    total_kib = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # a child that has just ended
            match = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
            total_kib += int(match[1]) if match is not None else 0
    return total_kib / 1024


def descendants(pids: Iterable[int]) -> set[int]:
    """Every child of a child of these processes."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found, todo = set[int](), set(pids)
    while todo:
        todo = {pid for pid, parent in parents.items() if parent in todo} - found
        found |= todo
    return found


def gateway_memory(soak: bool) -> Result:
    """All our processes and ExaBGP."""
    with Rig() as rig:
        start_charon(rig)
        with healthcheck(rig, "defaults"):
            rig.peer.wait(lambda: bool(rig.peer.routes), START_S)
            peer = pss_mib(rig)
        Ours(rig)
        rig.peer.serve(SETTLE_S)
        used = pss_mib(rig)
    name = "gateway_memory"
    figure = compare(name, "MiB of PSS", [used], [peer], "exabgp healthcheck and its ExaBGP")
    return Result(
        [figure], [Bound(name=f"{name}, MiB", seen=used, limit=load_limits()["bench_gateway_memory"].on("native"))]
    )


def conntrack_check_cost(soak: bool) -> Result:
    """One look over 1,000 entries and over 200,000: the same, because the table is never read."""
    with Rig() as rig:
        command = in_tree("benchmarks.conntrack_cost", str(FEW), str(MANY))
        answer = rig.path("/run/conntrack-cost.json")
        rig.run(*command, "/run/conntrack-cost.json")
        timed = json.loads(answer.read_text())
    name, unit = "conntrack_check_cost", "us"
    figures = [
        compare(f"{name}_{entries}", unit, timed["ours"][str(entries)], timed["dump"][str(entries)], "a dump of the table")
        for entries in (FEW, MANY)
    ]
    growth = figures[1].ours / figures[0].ours
    grown = compare(f"{name}_growth", f"times, {MANY} over {FEW} entries", [growth], [], "the two lines above")
    return Result(
        [*figures, grown],
        [Bound(name=f"{name} growth", seen=growth, limit=load_limits()["bench_conntrack_growth"].on("native"))],
    )


BENCHMARKS = {"gateway_memory": gateway_memory, "conntrack_check_cost": conntrack_check_cost}
