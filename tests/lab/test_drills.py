"""Every drill of labs/drills/, run as an operator runs it, in a lab that is brought up once and used for many.

Two groups, so that two labs run side by side on two cores; `pytest -n 2 --dist loadgroup` gives each group a process.
Drills that only the native kernel can do are a group for each topology. Without xdist one lab of a kind does it all.
The report is a drill's own; here only its exit status counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anycast_lab.drills.drill import Drill, Tier, load_drills
from tests.support.lab_watch import ends_with_us

pytestmark = [pytest.mark.root, pytest.mark.lab]

ANYCAST = str(Path(sys.executable).with_name("anycast"))
TOPOLOGIES = Path(__file__).resolve().parents[2] / "labs" / "topologies"
LABS = 2
UP_S = 300
DRILL_S = 600
"""Neither is a bound that is asserted (those stand in labs/limits.yml), only an end to waiting."""

Lab = Callable[[Drill], str]
"""Brings a drill's topology up unless it is, on its kernel, and gives the lab's name."""


@contextlib.contextmanager
def quiet(testrun_uid: str, how: int) -> Iterator[None]:
    """No lab boots while another one's drill runs: on two cores a boot starves it, and a starved agent loses its lease."""
    with open(Path(tempfile.gettempdir()) / f"anycast-labs-{testrun_uid[:8]}.lock", "a") as file:
        fcntl.flock(file, how)
        yield


@pytest.fixture(scope="module")
def lab(testrun_uid: str, worker_id: str) -> Iterator[Lab]:
    names: dict[tuple[str, bool], str] = {}

    def up(drill: Drill) -> str:
        topology, native = key = drill.topology, natively(drill)
        if key not in names:
            names[key] = ends_with_us(f"{topology}-{testrun_uid[:4]}-{worker_id}{'-native' if native else ''}")
            command = [ANYCAST, "lab", "up", "-t", str(TOPOLOGIES / f"{topology}.clab.yml"), "-n", names[key]]
            environment = os.environ | ({"LAB_KERNEL": "native"} if native else {})
            with quiet(testrun_uid, fcntl.LOCK_EX):
                subprocess.run(command, check=True, timeout=UP_S, env=environment)
        return names[key]

    yield up
    for name in names.values():
        subprocess.run([ANYCAST, "lab", "down", "-n", name], check=True, timeout=UP_S)


NATIVE = {"six-site"}
"""Topologies of which `./test` brings up only native labs, though their drills run anywhere: six agents, ExaBGPs and charons
with a coordinator are up in a minute here, and tunnels are not what they are about."""


def natively(drill: Drill) -> bool:
    return drill.kernel == "native" or drill.topology in NATIVE


SHARED = "two-site"
"""The topology that two groups have a lab of each."""


def marks(number: int, drill: Drill) -> list[pytest.MarkDecorator]:
    kind = "native" if natively(drill) else "esp" if drill.topology != SHARED else "lab"
    group = pytest.mark.xdist_group(f"lab-{number % LABS}" if kind == "lab" else f"{kind}-{drill.topology}")
    long = [pytest.mark.long] if drill.tier is Tier.LONG else []
    # Probes every millisecond: with nothing beside them. User Mode Linux has one CPU, and one of ours is left for it; what
    # coordinator drills assert are seconds.
    return [group, *long, *([pytest.mark.pairs] if kind == "native" and drill.topology not in NATIVE else [])]


_ALL = {name: drill for name, drill in load_drills().items() if drill.tier is not Tier.BENCH}
_NUMBERED = {name: i for i, name in enumerate(n for n, d in _ALL.items() if natively(d) or d.topology == SHARED)}
DRILLS = [pytest.param(drill, id=name, marks=marks(_NUMBERED.get(name, 0), drill)) for name, drill in _ALL.items()]


def why_red(report: Path, stderr: str) -> str:
    """In one line, because a stage's table has the first one only: the checks that did not hold, or why there were none."""
    if not report.exists():
        return stderr.strip().rpartition("\n")[2]
    (drill,) = json.loads(report.read_text())
    red = [one for one in drill["checks"] if one["passed"] is drill["must_fail"]]
    return "; ".join(f"{one['assert']}: {one['seen']} (bound: {one['limit']})" for one in red)


@pytest.mark.parametrize("drill", DRILLS)
def test_drill(drill: Drill, lab: Lab, testrun_uid: str, tmp_path: Path) -> None:
    name, report = lab(drill), tmp_path / "report.json"
    command = [ANYCAST, "lab", "drill", drill.drill, "-n", name, "--json", str(report)]
    with quiet(testrun_uid, fcntl.LOCK_SH):
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=DRILL_S)
    assert done.returncode == 0, f"{why_red(report, done.stderr)}\n{done.stdout}\n{done.stderr}"
    print(done.stdout)
