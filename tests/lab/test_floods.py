"""Floods on the machine's own kernel, where their rate is worth something: there they belong to every run of the tests.

In User Mode Linux one processor sends, carries and withstands them; those runs are `long`, with the other drills.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.lab_watch import ends_with_us

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.xdist_group("floods")]

ANYCAST = str(Path(sys.executable).with_name("anycast"))
TOPOLOGY = str(Path(__file__).resolve().parents[2] / "labs" / "topologies" / "two-site.clab.yml")
NATIVE = os.environ | {"LAB_KERNEL": "native"}
TABLE_LIMIT = Path("/proc/sys/net/netfilter/nf_conntrack_max")
LIMIT_S = 200
"""No bound that is asserted, only an end to waiting."""


def test_strangers_withdraw_nothing_and_fill_a_table_that_is_refused_as_an_alarm(testrun_uid: str) -> None:
    name = ends_with_us(f"floods-{testrun_uid[:4]}")
    table_limit = TABLE_LIMIT.read_text() if TABLE_LIMIT.exists() else None  # a module that the drill itself loads
    subprocess.run([ANYCAST, "lab", "up", "-t", TOPOLOGY, "-n", name], check=True, timeout=LIMIT_S, env=NATIVE)
    try:
        command = [ANYCAST, "lab", "drill", "garbage-flood", "conntrack-full", "-n", name]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT_S, env=NATIVE)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        assert table_limit in (None, TABLE_LIMIT.read_text()), "a table is filled; its limit is the host's"
    finally:
        subprocess.run([ANYCAST, "lab", "down", "-n", name], check=True, timeout=LIMIT_S, env=NATIVE)
