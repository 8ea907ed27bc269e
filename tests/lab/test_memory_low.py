"""`memory` against a kernel whose memory is really taken, and given back: User Mode Linux's, which is 2 GiB of its own.

The kernel has no "available" of a control group, and to take 95 % of a machine's own memory endangers whatever else runs
there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.xdist_group("memory-low")]

ANYCAST = str(Path(sys.executable).with_name("anycast"))
LIMIT_S = 240
"""No bound that is asserted, only an end to waiting."""
TOPOLOGY = "name: memory\ntopology: {nodes: {one: {kind: linux, network-mode: none}}}\n"
PIECE = 16 << 20
# By fallocate: the kernel fills the pages itself, which in User Mode Linux is a hundred times faster than page faults.
TAKE_AND_GIVE_BACK = f"""
import asyncio, json, os
from pathlib import Path
from site_agent.checks.memory import MemoryCheck

Path("/proc/self/oom_score_adj").write_text("1000")  # should the kernel run out, this ends and nothing else
check, told = MemoryCheck(), []

def look():
    (found,) = asyncio.run(check.look())
    told.append([str(found.status), str(found.reason), found.detail])
    return told[-1][0]

look()
total, held = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), 0
taken = os.memfd_create("taken")
while look() == "passing" and held < total:
    os.posix_fallocate(taken, held, {PIECE})
    held += {PIECE}
os.close(taken)
look()
print(json.dumps(told))
"""


@pytest.fixture
def machine(testrun_uid: str, worker_id: str, tmp_path: Path) -> Iterator[str]:
    if shutil.which("linux.uml") is None:
        pytest.skip("needs the package user-mode-linux")
    topology = tmp_path / "t.clab.yml"
    topology.write_text(TOPOLOGY)
    name = f"memory-{testrun_uid[:4]}-{worker_id}"
    environment = os.environ | {"LAB_KERNEL": "uml"}
    subprocess.run([ANYCAST, "lab", "up", "-t", topology, "-n", name], check=True, timeout=LIMIT_S, env=environment)
    yield name
    subprocess.run([ANYCAST, "lab", "down", "-n", name], check=True, timeout=LIMIT_S)


def test_memory_that_is_taken_is_low_and_memory_that_is_given_back_is_not(machine: str) -> None:
    command = [ANYCAST, "lab", "exec", "-n", machine, "one", "python", "-c", TAKE_AND_GIVE_BACK]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told[0][0], told[-1][0]) == ("passing", "passing"), told
    assert told[-2][:2] == ["failing", "memory_low"], told[-3:]
    assert {status for status, _, _ in told[:-2]} == {"passing"}, "and not a piece before"
    available, total = (int(word) for word in told[-2][2].split() if word.isdecimal())
    assert 0.03 * total < available < 0.05 * total, "a piece is less than 1 % of this machine"
