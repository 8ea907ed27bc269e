"""Two sites of two gateways with real tunnels, inside User Mode Linux: six charons and four agents on one CPU.

`site-pair`, which is half as much, comes up with each drill of tunnels that outlive their gateway.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anycast_lab.control import launch
from tests.support.lab_watch import ends_with_us

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.long]

ANYCAST = str(Path(sys.executable).with_name("anycast"))
TOPOLOGY = Path(__file__).resolve().parents[2] / "labs/topologies/two-site-pairs.clab.yml"
UP_S = 400
_TUNNEL = re.compile(r"^src (\S+) dst (\S+)\n\s+proto esp spi", re.MULTILINE)


@pytest.fixture(scope="module")
def lab(testrun_uid: str, worker_id: str) -> Iterator[str]:
    if shutil.which("linux.uml") is None:
        pytest.skip("needs the package user-mode-linux")
    name = ends_with_us(f"pairs-uml-{testrun_uid[:4]}-{worker_id}")
    command = [ANYCAST, "lab", "up", "-t", str(TOPOLOGY), "-n", name]
    subprocess.run(command, check=True, timeout=UP_S, env={**os.environ, "LAB_KERNEL": "uml"})
    yield name
    assert launch.stop(name)


def ask(*words: str) -> str:
    return subprocess.run([ANYCAST, "lab", *words], check=True, timeout=UP_S, capture_output=True, text=True).stdout


def test_each_site_has_one_active_and_each_tunnel_ends_at_one(lab: str) -> None:
    """`lab up` has returned, so each client has had a good packet; here the kernels say where that went."""
    status = json.loads(ask("status", "-n", lab, "--json"))
    assert (status["kernel"], status["esp"]) == ("uml", True)
    roles = {name: node["role"] for name, node in status["nodes"].items() if node["role"]}
    for site in ("fra", "sin"):
        assert sorted(roles[f"{site}-gw{i}"] for i in (1, 2)) == ["active", "backup"]
    ends = {
        gateway: set(_TUNNEL.findall(ask("exec", "-n", lab, gateway, "ip", "xfrm", "state")))
        for gateway, role in roles.items()
        if role == "active"
    }
    for client in ("198.51.100.66", "198.51.100.82"):
        assert any({("203.0.113.1", client), (client, "203.0.113.1")} <= pairs for pairs in ends.values()), (client, ends)
