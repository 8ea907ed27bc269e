"""What a promotion costs with 20, 200 and 500 tunnels, and with 20,000 SAs in the kernel, inside User Mode Linux.

A site with two gateways and real tunnels (`labs/topologies/site-pair`) loses the power of its Active three times (drills
of `tier: bench`). Measured from the other gateway's decision (its VRRP says Active; the addresses come after that) to the
first packet that comes back through a tunnel, at clients chosen at random that send every 20 ms through each inner
address, so the figures are late by up to that; and until each IKE_SA was seen to answer dead peer detection, of which a
client asks every 10 s.

User Mode Linux has one processor for gateways, clients and drill: the ratios count, not the milliseconds. Of a drill that
comes out red there is no figure. Five hundred are what one User Mode Linux carries (of a thousand 52 could not connect);
they are in --soak, because making and feeding them takes ten minutes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anycast_lab.drills.limits import load_limits
from anycast_lab.runner import LabError
from benchmarks.report import Bound, Figure, Result, compare

TREE = Path(__file__).resolve().parent.parent
DRILL_LIMIT_S = 1500.0
STEPS = ("close", "ready", "serve", "addresses", "activate", "confirm_active", "rekey")


@dataclasses.dataclass(frozen=True, slots=True)
class Promotion:
    """One takeover, all in ms."""

    packets: tuple[float, ...]
    """From the decision to the first packet back, by inner address."""
    answered: float
    """From the decision until every client was answered."""
    addresses: float
    """What the virtual router took to have its addresses."""
    steps: Mapping[str, float]


def promotions(report: Mapping[str, Any]) -> list[Promotion]:
    """Of one drill's report, in order."""
    timeline, found = report["timeline"], []
    taken = [e for e in timeline if e["event"] == "VrrpStateChanged" and e["detail"].startswith("active ") and e["t_ms"] > 0]
    ends = [e["t_ms"] for e in taken[1:]] + [float("inf")]
    for event, end in zip(taken, ends, strict=True):
        addresses = (event["took_us"] or 0) / 1e3
        decided = event["t_ms"] - addresses
        after = [e for e in timeline if decided <= e["t_ms"] < end]
        back: dict[str, float] = {}
        for one in after:
            if one["event"] == "crowd_good_again":
                back.setdefault(one["detail"] + one["subject"], one["t_ms"] - decided)
        answered = next((e["t_ms"] - decided for e in after if e["event"] == "crowd_answered"), float("nan"))
        steps: dict[str, float] = {}
        for one in after:
            if one["event"] == "PromotionStepTaken" and one["source"] == event["source"]:
                steps.setdefault(one["subject"], one["took_us"] / 1e3)
        found.append(Promotion(tuple(back.values()), answered, addresses, steps))
    return found


@functools.cache
def measured(drill: str) -> tuple[Promotion, ...]:
    """In a lab of its own. Raises LabError where the drill comes out red."""
    with tempfile.TemporaryDirectory(prefix="promotion-") as folder:
        file = Path(folder) / "report.json"
        argv = [
            sys.executable,
            "-m",
            "anycast.cli.main",
            "lab",
            "drill",
            drill,
            "-n",
            f"bench-{os.getpid()}",
            "--json",
            str(file),
        ]
        paths = ":".join(map(str, (TREE, TREE / "site-agent", TREE / "exabgp", TREE / "labs")))
        environment = {**os.environ, "LAB_KERNEL": "uml", "PYTHONPATH": paths}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=DRILL_LIMIT_S, check=False)
        if done.returncode:
            raise LabError(f"{drill} is not green: {done.stdout[-3000:]}{done.stderr[-500:]}")
        (report,) = json.loads(file.read_text())
    found = tuple(promotions(report))
    if not found or not all(one.packets for one in found):
        raise LabError(f"{drill}: {len(found)} takeovers, not each with a packet")
    return found


def figures(name: str, unit: str, ours: Sequence[Promotion], peer: Sequence[Promotion], peer_name: str) -> list[Figure]:
    """The whole, the answers, and each step with its share of the whole."""
    packets = [ms for one in ours for ms in one.packets]
    result = [
        compare(name, unit, packets, [ms for one in peer for ms in one.packets], peer_name),
        compare(f"{name}_answered", f"{unit} until each IKE_SA has answered", [one.answered for one in ours], [], "nobody"),
        compare(f"{name}_virtual_addresses", unit, [one.addresses for one in ours], packets, "decision to a good packet"),
    ]
    for step in STEPS:
        if took := [one.steps[step] for one in ours if step in one.steps]:
            result.append(compare(f"{name}_{step}", unit, took, packets, "decision to a good packet"))
    return result


def promotion(tunnels: int) -> Result:
    name, few = f"promotion_{tunnels}_uml", measured("promotion-20")
    peer, peer_name = (few, "the same with 20 tunnels") if tunnels != 20 else ((), "nobody")
    return Result(figures(name, f"ms, {tunnels} tunnels", measured(f"promotion-{tunnels}"), peer, peer_name))


def promotion_20_uml(_soak: bool) -> Result:
    return promotion(20)


def promotion_200_uml(_soak: bool) -> Result:
    return promotion(200)


def promotion_500_uml(soak: bool) -> Result:
    """Ten minutes, for --soak alone."""
    return promotion(500) if soak else Result([])


def promotion_kernel_20000_uml(_soak: bool) -> Result:
    """20,000 SAs that the kernels have beside those of 20 tunnels."""
    name, few, many = "promotion_kernel_20000_uml", measured("promotion-20"), measured("promotion-kernel-20000")
    result = figures(name, "ms, 20 tunnels and 20,000 SAs", many, few, "the same without them")
    with_them, without = (statistics.median(ms for one in of for ms in one.packets) for of in (many, few))
    limit = load_limits()["bench_promotion_kernel"].on("uml")
    return Result(result, [Bound(name=f"{name}, times the same without them", seen=with_them / without, limit=limit)])


BENCHMARKS = {
    "promotion_20_uml": promotion_20_uml,
    "promotion_200_uml": promotion_200_uml,
    "promotion_500_uml": promotion_500_uml,
    "promotion_kernel_20000_uml": promotion_kernel_20000_uml,
}
