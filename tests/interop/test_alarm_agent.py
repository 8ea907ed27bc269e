"""A whole gateway with an operator's command: it is told what moved the route and what stands, in the words of the log."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from anycast.document import AlarmHook
from tests.support.gateway import Gateway
from tests.support.namespace import in_namespace
from tests.support.upstream import until

pytestmark = pytest.mark.root


def notices(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@in_namespace
def test_the_operator_is_told_why_the_route_goes_and_that_it_is_back() -> None:
    pager, hook = Path("/run/pager"), Path("/run/hook")
    hook.write_text(f"#!/bin/sh\ncat >> {pager}\n")
    hook.chmod(0o755)
    gateway = Gateway(alarm_hook=AlarmHook(command=(str(hook),)), recovery_ms=0)
    gateway.start()
    gateway.announced()
    os.kill(gateway.pid("charon"), signal.SIGKILL)
    gateway.withdrawn(within_s=1)
    gateway.announced(within_s=10)

    def routes() -> list[tuple[bool, str]]:
        return [(n["announce"], n["reason"]) for n in notices(pager) if n["event"] == "RouteIntentChanged"]

    until(lambda: len(routes()) >= 3, "three notices", within_s=5)
    assert routes() == [(True, "healthy"), (False, "charon_exited"), (True, "healthy")]
    (gone,) = [n for n in notices(pager) if n.get("reason") == "charon_exited"]
    assert gone["text"].startswith("fra-gw1 (fra): the route is withdrawn: charon_exited")
    assert 'anycast_alarm_hook_delivered{target="command"}' in gateway.metrics()

    hook.write_text("#!/bin/sh\nexit 7\n")
    assert gateway.ask("hold", "withdraw", "--for", "1h", "--reason", "drill").returncode == 0
    gateway.withdrawn(within_s=1)
    until(lambda: "exit status 7" in gateway.ask("why").stdout, "why names the hook that fails", within_s=5)
    status = json.loads(gateway.ask("status", "--json").stdout)
    assert "alarm_hook_failed" in {alarm["reason"] for alarm in status["alarms"]}
    assert status["alarm_hooks"][0]["queued"] > 0
    (raised,) = [e for e in gateway.events("AlarmRaised") if e["reason"] == "alarm_hook_failed"]
    assert raised["detail"] == "command: exit status 7"
