"""A whole gateway under a coordinator: what it reports is what its route does, and neither's end is the other's."""

from __future__ import annotations

import json
import os
import signal

import pytest

from anycast.cli.coordinator_client import Target, ask
from tests.support.coordinator import Coordinator
from tests.support.gateway import Gateway
from tests.support.namespace import in_namespace
from tests.support.upstream import until

pytestmark = pytest.mark.root


@in_namespace
def test_the_coordinator_sees_the_route_and_its_death_moves_nothing() -> None:
    gateway = Gateway(recovery_ms=0, unicast={"203.0.113.96/28": "203.0.113.97", "2001:db8:f::/56": "2001:db8:f::1"})
    base = gateway.base / "coordinator"
    base.mkdir()
    coordinator = Coordinator(base)
    coordinator.start()
    coordinator.gateway("fra-gw1")
    made = coordinator.known_to(gateway.document)
    (gateway.base / "document.json").write_bytes(made.canonical())
    gateway.start("--pki-dir", str(coordinator.base / "pki-fra-gw1"))
    gateway.announced()
    coordinator.becomes("fra", "announcing")
    own = lambda: sorted(coordinator.site("fra")["gateways"][0]["report"]["own"])  # noqa: E731
    until(lambda: own() == ["2001:db8:f::/56", "203.0.113.96/28"], "its own prefixes are told", within_s=15)
    [seen] = coordinator.site("fra")["gateways"]
    assert seen["report"]["document"] == made.hash
    assert (seen["report"]["announced"], seen["report"]["routes"]) == (2, 2)
    assert (seen["report"]["role"], seen["report"]["tunnels"]) == ("none", 0)

    assert gateway.ask("hold", "withdraw", "--for", "1h", "--reason", "fibre works").returncode == 0
    coordinator.becomes("fra", "dark")
    until(lambda: own() == [], "none of them stands", within_s=15)
    assert coordinator.site("fra")["why"] == "hold withdraw: fibre works"
    assert gateway.ask("hold", "end").returncode == 0
    coordinator.becomes("fra", "announcing")

    withdrawals = len(gateway.events("PrefixWithdrawn"))
    coordinator.stop(signal.SIGKILL)
    status = lambda: json.loads(gateway.ask("status", "--json").stdout)["coordinator"]  # noqa: E731
    until(lambda: not status()["connected"], "the agent knows", within_s=15)
    until(lambda: gateway.events("AlarmRaised")[-1:] and gateway.events("AlarmRaised")[-1]["reason"] == "coordinator_away",
          "the alarm", within_s=30)  # fmt: skip
    assert len(gateway.events("PrefixWithdrawn")) == withdrawals
    gateway.announced()

    coordinator.start()
    coordinator.becomes("fra", "announcing", within_s=60)
    os.kill(gateway.pid("charon"), signal.SIGKILL)
    until(lambda: len(gateway.events("PrefixWithdrawn")) > withdrawals, "a fact still withdraws", within_s=10)

    def failed() -> list[int]:
        found = ask(Target(f"unix:{coordinator.base}/run/coordinator.sock"), "GET", "/v1/failures")["sites"]
        return [len(each["at"]) for each in found if each["site"] == "fra"]

    until(lambda: failed() == [1], "one failure of the site is known, and the hold is none", within_s=20)
