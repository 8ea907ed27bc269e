"""What a killed test run leaves: no lab."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anycast_lab.control import launch
from tests.support.tree import TREE

pytestmark = [pytest.mark.root, pytest.mark.lab]

ANYCAST = str(Path(sys.executable).with_name("anycast"))
TOPOLOGY = """\
name: alone
topology:
  nodes:
    one: {kind: linux}
"""
RUN = """
import subprocess, sys
from tests.support.lab_watch import ends_with_us
name, anycast, topology = sys.argv[1:]
subprocess.run([anycast, "lab", "up", "-t", topology, "-n", ends_with_us(name)], check=True, stdout=sys.stderr)
print("up", flush=True)
sys.stdin.read()
"""


def test_a_lab_ends_with_the_test_run_that_is_killed(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to make namespaces")
    topology = tmp_path / "alone.clab.yml"
    topology.write_text(TOPOLOGY)
    name = f"watched-{os.getpid()}"
    run = subprocess.Popen(
        [sys.executable, "-c", RUN, name, ANYCAST, str(topology)],
        cwd=TREE,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path), "LAB_KERNEL": "native"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert run.stdout is not None
    assert run.stdout.readline() == b"up\n"
    assert launch.connect(name) is not None
    run.send_signal(signal.SIGKILL)
    run.wait()
    end = time.monotonic() + 20
    while launch.run_dir(name).exists():
        assert time.monotonic() < end, "the lab lives on"
        time.sleep(0.05)
