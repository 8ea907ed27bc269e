"""A site that speaks no BGP: the agent runs without ExaBGP, and its verdict is all the same."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from tests.support.gateway import Gateway
from tests.support.namespace import in_namespace
from tests.support.upstream import until

pytestmark = pytest.mark.root


def _status(gateway: Gateway) -> dict[str, Any]:
    answer = gateway.ask("status", "--json")
    return json.loads(answer.stdout) if answer.returncode == 0 else {"verdict": {"serving": None}}


@in_namespace
def test_the_agent_serves_without_exabgp_and_notices_a_dead_charon() -> None:
    gateway = Gateway()
    bgp = gateway.document.bgp.model_copy(update={"asn": 0, "neighbors": ()})
    (gateway.base / "document.json").write_bytes(gateway.document.model_copy(update={"bgp": bgp}).canonical())
    gateway.start()
    until(lambda: _status(gateway)["verdict"]["serving"], "serving", within_s=20)
    status = _status(gateway)
    assert (status["routes"], status["sessions"]) == ([], [])
    assert [holder["name"] for holder in status["holders"]] == ["charon"]
    assert "upstreams" not in {check["check"] for check in status["checks"]}
    assert not (gateway.base / "etc" / "exabgp.conf").exists(), "nothing is rendered for a daemon that does not run"
    shown = gateway.ask("status")
    assert shown.returncode == 0, shown.stderr
    assert "speaks no BGP" in shown.stdout
    os.kill(gateway.pid("charon"), signal.SIGKILL)
    until(lambda: _status(gateway)["verdict"]["serving"] is False, "charon_exited", within_s=5)
    applied = gateway.ask("apply")
    assert applied.returncode == 0, applied.stdout + applied.stderr
