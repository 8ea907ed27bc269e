"""Every drill of labs/drills/, run as an operator runs it, in a lab that is brought up once and used for many.

Two groups, so that two labs run side by side on two cores; `pytest -n 2 --dist loadgroup` gives each group a process.
Without xdist one lab does it all. The report is a drill's own; here only its exit status counts.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anycast_lab.drills.drill import Drill, Tier, load_drills

pytestmark = [pytest.mark.root, pytest.mark.lab]

ANYCAST = str(Path(sys.executable).with_name("anycast"))
TOPOLOGIES = Path(__file__).resolve().parents[2] / "labs" / "topologies"
LABS = 2
UP_S = 300
DRILL_S = 300
"""Neither is a bound that is asserted (those stand in labs/limits.yml), only an end to waiting."""

Lab = Callable[[str], str]
"""Brings a topology up unless it is, and gives the lab's name."""


@pytest.fixture(scope="session")
def lab(testrun_uid: str, worker_id: str) -> Iterator[Lab]:
    names: dict[str, str] = {}

    def up(topology: str) -> str:
        if topology not in names:
            names[topology] = f"{topology}-{testrun_uid[:4]}-{worker_id}"
            command = [ANYCAST, "lab", "up", "-t", str(TOPOLOGIES / f"{topology}.clab.yml"), "-n", names[topology]]
            subprocess.run(command, check=True, timeout=UP_S)
        return names[topology]

    yield up
    for name in names.values():
        subprocess.run([ANYCAST, "lab", "down", "-n", name], check=True, timeout=UP_S)


def marks(number: int, drill: Drill) -> list[pytest.MarkDecorator]:
    group = pytest.mark.xdist_group(f"lab-{number % LABS}")
    return [group, pytest.mark.long] if drill.tier is Tier.LONG else [group]


DRILLS = [pytest.param(drill, id=name, marks=marks(i, drill)) for i, (name, drill) in enumerate(load_drills().items())]


@pytest.mark.parametrize("drill", DRILLS)
def test_drill(drill: Drill, lab: Lab) -> None:
    name = lab(drill.topology)
    command = [ANYCAST, "lab", "drill", drill.drill, "-n", name]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=DRILL_S)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    print(done.stdout)
