"""A site's unicast prefix at a real upstream: it outlasts a drain, and ends with facts, holds and a lapsed lease."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess

import pytest

from tests.support.gateway import Gateway
from tests.support.namespace import in_namespace
from tests.support.upstream import NAMESPACE, until

pytestmark = pytest.mark.root

UNICAST = {"203.0.113.96/28": "203.0.113.97", "2001:db8:f::/56": "2001:db8:f::1"}
OWN = set(UNICAST)


@in_namespace
def test_a_drained_site_is_reached_by_its_unicast_address_and_one_that_cannot_serve_by_none() -> None:
    gateway = Gateway(unicast=UNICAST)
    gateway.start()
    until(lambda: gateway.upstream.prefixes() >= gateway.all_prefixes | OWN, "service and unicast", within_s=20)

    assert gateway.ask("drain", "start", "--reason", "optics", "--settle", "1 s").returncode == 0
    until(lambda: "65535,0" in gateway.upstream.ask("show route all"), "the service's route is worse", within_s=10)
    for prefix in OWN:
        assert "65535,0" not in gateway.upstream.ask(f"show route {prefix} all"), "the unicast route is as ever"
    gateway.withdrawn(within_s=15)
    until(lambda: gateway.events("DrainStepTaken")[-1]["step"] == "done", "drained", within_s=15)
    assert gateway.upstream.prefixes() & (gateway.all_prefixes | OWN) == OWN
    for prefix, address in UNICAST.items():
        (via,) = re.findall(r"via (\S+) on gw", gateway.upstream.ask(f"show route {prefix}"))
        subprocess.run(["ip", "-n", NAMESPACE, "route", "add", prefix, "via", via], check=True)
        ping = ["ip", "netns", "exec", NAMESPACE, "ping", "-q", "-c", "1", "-W", "2", address]
        assert subprocess.run(ping, stdout=subprocess.DEVNULL, check=False).returncode == 0, "by the route that it announced"
    status = json.loads(gateway.ask("status", "--json").stdout)
    assert not any(route["announced"] for route in status["routes"])
    assert {route["prefix"]: route["announced"] for route in status["own_routes"]} == dict.fromkeys(UNICAST, True)
    assert not gateway.events("OwnRouteWithdrawn")

    os.kill(gateway.pid("charon"), signal.SIGKILL)
    until(lambda: not gateway.upstream.prefixes() & OWN, "a fact takes it, too", within_s=2)
    until(lambda: gateway.events("OwnRouteWithdrawn"), "written down", within_s=5)
    assert {event["reason"] for event in gateway.events("OwnRouteWithdrawn")} == {"charon_exited"}
    until(lambda: gateway.upstream.prefixes() >= OWN, "and it comes back", within_s=30)
    assert not gateway.upstream.prefixes() & gateway.all_prefixes, "the drain goes on"

    assert gateway.ask("hold", "withdraw", "--for", "1 min", "--reason", "power").returncode == 0
    until(lambda: not gateway.upstream.prefixes() & OWN, "an operator's word on this machine takes all", within_s=5)
    assert gateway.ask("hold", "end").returncode == 0
    until(lambda: gateway.upstream.prefixes() >= OWN, "without a hold", within_s=10)
    gateway.signal_agent(signal.SIGSTOP)
    until(lambda: not gateway.upstream.prefixes() & OWN, "it is a lease: nobody renews it", within_s=3)
    gateway.signal_agent(signal.SIGCONT)
    until(lambda: gateway.upstream.prefixes() >= OWN, "a fresh verdict", within_s=20)
    assert gateway.ask("drain", "abort").returncode == 0
    gateway.announced(within_s=15)
