"""Every drill of labs/drills/, run as an operator runs it, in a lab that is brought up once and used for many.

What a drill needs of the kernel it says itself. Where it can do without ESP, `./test` runs it natively, where a lab is up in
seconds and leaves the processor to others; `./test --long` runs it in User Mode Linux as well, over real tunnels. A group
for each kernel and topology, so that `pytest -n 2 --dist loadgroup` runs two labs side by side: a User Mode Linux has one
CPU, so two of them, or one and a native lab, have one each here.
The report is a drill's own; here only its exit status counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from anycast_lab.drills.drill import Drill, Tier, load_drills
from tests.support.lab_watch import ends_with_us

pytestmark = [pytest.mark.root, pytest.mark.lab]

ANYCAST = str(Path(sys.executable).with_name("anycast"))
TOPOLOGIES = Path(__file__).resolve().parents[2] / "labs" / "topologies"
UP_S = 300
DRILL_S = 600
"""Neither is a bound that is asserted (those stand in labs/limits.yml), only an end to waiting."""

Kernel = Literal["native", "esp"]
"""``esp``: this machine's where it has ESP, else User Mode Linux."""
Lab = Callable[[Drill, Kernel], str]
"""Brings a drill's topology up unless it is, in place of the lab before, and gives its name."""


@pytest.fixture(scope="module")
def lab(testrun_uid: str, worker_id: str) -> Iterator[Lab]:
    here: dict[tuple[str, Kernel], str] = {}

    def end() -> None:
        for name in here.values():
            subprocess.run([ANYCAST, "lab", "down", "-n", name], check=True, timeout=UP_S)
        here.clear()

    def up(drill: Drill, kernel: Kernel) -> str:
        key = drill.topology, kernel
        if key not in here:
            end()  # one that is not used any more still takes a fifth of a processor
            name = ends_with_us(f"{drill.topology}-{testrun_uid[:4]}-{worker_id}-{kernel}")
            command = [ANYCAST, "lab", "up", "-t", str(TOPOLOGIES / f"{drill.topology}.clab.yml"), "-n", name]
            environment = os.environ | ({"LAB_KERNEL": "native"} if kernel == "native" else {})
            subprocess.run(command, check=True, timeout=UP_S, env=environment)
            here[key] = name
        return here[key]

    yield up
    end()


NATIVE = {"six-site"}
"""Topologies that no test brings up in User Mode Linux, though their drills run anywhere: six agents, ExaBGPs and charons
with a coordinator are up in a minute here, and tunnels are not what they are about."""
OVER_TUNNELS = {"charon-sigkill"}
"""What `./test` itself sees with clients' packets, besides the drills that need ESP."""
LONGEST_FIRST = ("esp-site-pair", "esp-two-site", "native-two-site", "native-six-site")


def runs(drill: Drill) -> Iterator[tuple[Kernel, bool]]:
    """On which kernels, and whether that is for `./test --long` only."""
    long = drill.tier is Tier.LONG
    if drill.kernel == "native" or drill.topology in NATIVE:
        yield "native", long
    elif drill.kernel == "esp" or long:
        yield "esp", long
    else:
        yield "native", False
        yield "esp", drill.drill not in OVER_TUNNELS


def parameter(drill: Drill, kernel: Kernel, long: bool) -> Any:
    group = f"{kernel}-{drill.topology}"
    marks = [pytest.mark.xdist_group(group), *([pytest.mark.long] if long else [])]
    # Probes every millisecond: with nothing beside them.
    if drill.kernel == "native" and drill.topology == "two-site-pairs":
        marks.append(pytest.mark.pairs)
    number = LONGEST_FIRST.index(group) if group in LONGEST_FIRST else len(LONGEST_FIRST)
    both = len(list(runs(drill))) > 1
    return number, pytest.param(drill, kernel, id=f"{drill.drill}-{kernel}" if both else drill.drill, marks=marks)


_PARAMETERS = [
    parameter(drill, kernel, long)
    for drill in load_drills().values()
    if drill.tier is not Tier.BENCH
    for kernel, long in runs(drill)
]
DRILLS = [one for _, one in sorted(_PARAMETERS, key=lambda numbered: numbered[0])]


def why_red(report: Path, stderr: str) -> str:
    """In one line, because a stage's table has the first one only: the checks that did not hold, or why there were none."""
    if not report.exists():
        return stderr.strip().rpartition("\n")[2]
    (drill,) = json.loads(report.read_text())
    red = [one for one in drill["checks"] if one["passed"] is drill["must_fail"]]
    return "; ".join(f"{one['assert']}: {one['seen']} (bound: {one['limit']})" for one in red)


@pytest.mark.parametrize(("drill", "kernel"), DRILLS)
def test_drill(drill: Drill, kernel: Kernel, lab: Lab, tmp_path: Path) -> None:
    name, report = lab(drill, kernel), tmp_path / "report.json"
    command = [ANYCAST, "lab", "drill", drill.drill, "-n", name, "--json", str(report)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=DRILL_S)
    assert done.returncode == 0, f"{why_red(report, done.stderr)}\n{done.stdout}\n{done.stderr}"
    print(done.stdout)
