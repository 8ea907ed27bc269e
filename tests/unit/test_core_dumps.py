"""Keys are in the memory of the agent, its processes and charon: none of them may leave a core dump."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from site_agent import core_dumps

ROOT = Path(__file__).resolve().parents[2]
LIMIT = "0" if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0 else "1"
SHOW = "import resource; print(*resource.getrlimit(resource.RLIMIT_CORE))"


@pytest.mark.parametrize(("module", "status"), [("site_agent.vrrp.process", "1"), ("site_agent.sync.__main__", "2")])
def test_processes_with_keys_leave_none(module: str, status: str) -> None:
    """They begin with an empty plan, which they refuse."""
    code = f"import resource; from {module} import main; print(main(['0']), *resource.getrlimit(resource.RLIMIT_CORE))"
    agent, child = socket.socketpair()
    agent.close()
    with child:
        ran = subprocess.run([sys.executable, "-c", code], stdin=child, capture_output=True, text=True, check=False)
    assert ran.stdout.split() == [status, LIMIT, LIMIT], ran.stderr


def test_what_an_agent_starts_leaves_none(tmp_path: Path) -> None:
    """As charon is: by `run_agent`, which fails here at its document, after it has asked."""
    code = f"""
import subprocess, sys
from pathlib import Path
from anycast.errors import AnycastError
from site_agent.paths import Paths
from site_agent.service import run_agent
here = Path({str(tmp_path)!r})
try:
    run_agent(Paths(run_dir=here, state_dir=here, etc_dir=here), fleet=None, gateway=None, document=here / "x", detach=False)
except AnycastError:
    subprocess.run([sys.executable, "-c", {SHOW!r}])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.split() == [LIMIT, LIMIT], ran.stderr


def test_the_unit_leaves_none() -> None:
    assert "LimitCORE=1" in (ROOT / "site-agent/systemd/site-agent.service").read_text().splitlines()


def test_a_limit_that_is_lower_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (0, 0))
    monkeypatch.setattr(resource, "setrlimit", lambda _what, limits: asked.append(limits))
    core_dumps.leave_none()
    assert asked == [(0, 0)]
