"""Who may close charon's door: whoever has what the agent's unit grants. With less than charon itself has, nobody may."""

from __future__ import annotations

import os
import subprocess
import sys

from site_agent.ike.door import UNCHANGED
from site_agent.procfs import read_stat
from tests.support.mirror_pair import BASE, ENVIRONMENT, Charon, wait
from tests.support.namespace import in_namespace
from tests.support.unit_file import bounding_set
from tests.support.vrrp_pair import ip

REFUSED = f"charon: {UNCHANGED}, which takes CAP_SYS_PTRACE and a ptrace_scope below 3"
CLOSE_AND_OPEN = """
import sys
from anycast.errors import PeerError
from site_agent.ike.door import Door
door = Door(lambda: sys.argv[1], ["203.0.113.1", "2001:db8:a::1"])
try:
    print(door.close(), door.close(), door.open(), door.open())
except PeerError as exc:
    print(exc)
"""


def close_and_open(identity: str, capabilities: str) -> str:
    """By a process with no more than these capabilities."""
    restricted = ["setpriv", "--no-new-privs", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}"]
    command = [*restricted, sys.executable, "-c", CLOSE_AND_OPEN, identity]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


@in_namespace
def test_the_units_capabilities_suffice_and_without_them_one_sentence_says_so() -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(BASE)], check=True)
    os.makedirs("/run/netns", exist_ok=True)
    ip("netns add gw1")
    charon = Charon("gw1")
    granted = bounding_set()
    assert close_and_open(charon.identity, granted) == "4 4 4 4", "two ports, two families"
    less = granted.replace(",+sys_ptrace", "")
    refused = close_and_open(charon.identity, less.replace(",+net_admin", "").replace("+net_admin,", ""))
    assert refused == REFUSED
    pid, ticks = charon.identity.split()
    assert close_and_open("", granted) == close_and_open(f"{pid} {int(ticks) + 1}", granted) == "0 0 0 0", "none, or another"
    assert close_and_open("nonsense", granted) == f"charon: {UNCHANGED} of a process that is named 'nonsense'"
    charon.process.kill()
    wait(lambda: (stat := read_stat(int(pid))) is not None and stat.state == "Z", "it has ended, and was not waited for")
    assert close_and_open(f"{pid} {ticks}", granted) == "0 0 0 0"
    charon.process.wait()
    assert close_and_open(f"{pid} {ticks}", granted) == "0 0 0 0"
