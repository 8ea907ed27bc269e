"""The service unit: systemd understands it, and the agent works with no more privileges than it grants."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from anycast.document import ExecCheck, SharedChecks
from site_agent.procfs import read_stat
from tests.interop.test_door import close_and_open
from tests.support.gateway import WITH_CANARY, Gateway
from tests.support.namespace import in_namespace
from tests.support.unit_file import UNIT, bounding_set
from tests.support.upstream import until


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (Debian package systemd)")
    copy = tmp_path / "site-agent.service"
    # The only thing changed: where the program lies on this machine.
    copy.write_text(UNIT.read_text().replace("/opt/anycast/.venv/bin/site-agent", shutil.which("true") or ""))
    told = subprocess.run(["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False)
    complaints = [line for line in told.stderr.splitlines() if "site-agent" in line]
    assert told.returncode == 0 and not complaints, told.stderr


def shown(gateway: Gateway, check: str) -> dict[str, Any]:
    """One check as `status` shows it."""
    rows = json.loads(gateway.ask("status", "--json").stdout)["checks"]
    (row,) = (row for row in rows if row["check"] == check)
    return dict(row)


@in_namespace
def test_the_agent_works_with_the_capabilities_that_the_unit_grants() -> None:
    gateway = Gateway(
        recovery_ms=0,
        checks=SharedChecks(reachability=("198.51.100.1", "2001:db8:1::1"), canary=WITH_CANARY.canary),
        exec_checks=(ExecCheck(name="who", command=("/usr/bin/id", "-u")),),
    )
    granted = bounding_set()
    gateway.wrapper = ["setpriv", "--no-new-privs", f"--bounding-set={granted}", f"--inh-caps={granted}"]
    gateway.start()
    gateway.announced()
    effective = re.search(r"^CapEff:\s*(\w+)", Path(f"/proc/{gateway.pid('charon')}/status").read_text(), re.MULTILINE)
    assert effective is not None
    assert int(effective[1], 16) & 1 << 21 == 0, "no CAP_SYS_ADMIN: the restriction is real"
    far = ("IKE_SA established", "answers through")  # as far as this kernel can encrypt
    until(
        lambda: any(word in shown(gateway, "canary")["detail"] for word in far), "a canary, by a user namespace", within_s=20
    )
    stat = read_stat(gateway.pid("charon"))
    assert stat is not None
    assert close_and_open(f"{gateway.pid('charon')} {stat.start_ticks}", granted) == "4 4 4 4", "as the sync process does"
    ports = {int(line.split()[1].split(":")[1], 16) for line in Path("/proc/net/udp").read_text().splitlines()[1:]}
    assert {500, 4500} <= ports, "IKE's ports are privileged"
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("1 0\n")  # a raw socket is needed, and granted
    for check, detail in (("reachability", "198.51.100.1 "), ("exec_who", "65534")):
        until(lambda check=check: shown(gateway, check)["status"] == "passing", check, within_s=15)
        assert shown(gateway, check)["detail"].startswith(detail)
    os.kill(gateway.pid("charon"), signal.SIGKILL)
    gateway.withdrawn(within_s=0.5)
    gateway.announced()
    assert gateway.agent is not None
    gateway.signal_agent(signal.SIGTERM)
    assert gateway.agent.wait(timeout=10) == 0
    gateway.start()
    # charon, ExaBGP and the second charon were started; the next agent's two are adopted, another user's among them.
    until(lambda: len(gateway.events("HolderStarted")) == 5, "the next agent has both", within_s=10)
    assert [event["adopted"] for event in gateway.events("HolderStarted")] == [False] * 3 + [True] * 2
    os.kill(exabgp := gateway.pid("exabgp"), signal.SIGSTOP)
    gateway.withdrawn(within_s=2.5)
    gateway.announced()
    assert gateway.pid("exabgp") != exabgp
