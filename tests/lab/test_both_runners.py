"""Each drill under both runners: one outcome, one order of events (`anycast lab compare`); red where it must be.

A topology is brought up once for each runner. `long`, but for one drill, which is a stage of its own (`./test
--containerlab`): what it needs is minutes of work on a machine that has never done it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anycast_lab.drills.limits import load_limits
from anycast_lab.drills.same_story import differences, pairs
from tests.support.containerlab_images import prepare
from tests.support.lab_watch import ends_with_us

pytestmark = [pytest.mark.root, pytest.mark.lab]

ANYCAST = str(Path(sys.executable).with_name("anycast"))
TOPOLOGIES = Path(__file__).resolve().parents[2] / "labs/topologies"
UP_S = 900
DRILLS_S = 2400
"""Ends to waiting; the bounds stand in labs/limits.yml."""
LONG = {
    "two-site": ("charon-sigkill", "bridge-sigstop", "red-nobody-left"),
    "site-pair": ("mirror-power-off", "mirror-handover", "red-mirror-verdict-stays", "red-mirror-off"),
    "cgnat": ("cgnat-rebinding",),
    "small-mtu": ("small-mtu-inside",),
    "dual-stack": ("dual-stack-ipv6-dies",),
    "ipv6-only": ("ipv6-only-charon-sigkill",),
    "four-site": ("four-site-catchment",),
}
PLANS = [
    pytest.param("two-site", ("charon-sigkill",), id="one-drill", marks=pytest.mark.containerlab),
    *(pytest.param(name, drills, id=name, marks=pytest.mark.long) for name, drills in LONG.items()),
]


@pytest.mark.parametrize(("topology", "drills"), PLANS)
def test_both_runners_tell_one_story(topology: str, drills: tuple[str, ...], tmp_path: Path) -> None:
    prepare()
    reports = {}
    for runner in ("containerlab", "embedded"):
        name, written = ends_with_us(f"both-{runner}-{os.getpid()}"), tmp_path / f"{runner}.json"
        file = str(TOPOLOGIES / f"{topology}.clab.yml")
        started = time.monotonic()
        environment = {**os.environ, "LAB_KERNEL": "uml"}  # the only one that both have
        up = [ANYCAST, "lab", "up", "--runner", runner, "-t", file, "-n", name]
        subprocess.run(up, check=True, timeout=UP_S, env=environment)
        took_ms = (time.monotonic() - started) * 1e3
        try:
            command = [ANYCAST, "lab", "drill", *drills, "--runner", runner, "-n", name, "--json", str(written)]
            subprocess.run(command, check=True, timeout=DRILLS_S)
        finally:
            subprocess.run([ANYCAST, "lab", "down", "-n", name], check=True, timeout=UP_S)
        if runner == "containerlab" and topology == "two-site":
            assert took_ms < load_limits()["lab_up_containerlab"].on("uml")
        reports[runner] = json.loads(written.read_text())
        assert [report["runner"] for report in reports[runner]] == [runner] * len(drills)
    both = pairs(reports["embedded"], reports["containerlab"])
    assert [one["drill"] for one, _ in both] == list(drills)
    told = {one["drill"]: found for one, other in both if (found := differences(one, other))}
    assert not told
