"""BFD under a real agent on a site of one gateway: BIRD as the router, ExaBGP beside it, nothing stood in for."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from anycast.document import Bfd
from site_agent import control
from tests.support.gateway import Gateway
from tests.support.namespace import in_namespace
from tests.support.upstream import until

pytestmark = [pytest.mark.root, pytest.mark.alone]

BFD = Bfd(interval_ms=100, multiplier=3)


def up_since(gateway: Gateway) -> list[str]:
    """When BIRD's sessions came up, to a hundredth of a second; AssertionError where one is not up."""
    rows = [line.split() for line in gateway.upstream.ask("show bfd sessions").splitlines()]
    sessions = [row for row in rows if row[1:2] == ["gw"]]
    assert len(sessions) == 2 and {row[2] for row in sessions} == {"Up"}, rows
    return [" ".join(row[3:5])[:-4] for row in sessions]


def bird_sees_all_up(gateway: Gateway) -> bool:
    return gateway.upstream.ask("show bfd sessions").count(" Up ") == 2


def serving(gateway: Gateway) -> None:
    gateway.start()
    gateway.announced()
    until(lambda: bird_sees_all_up(gateway), "BIRD sees BFD up", within_s=15)


def of_the_gateway() -> list[int]:
    """Every process of ours but BIRD and this test: agent, vrrp process, charon, ExaBGP and its bridge."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal() and int(place.name) not in (1, os.getpid()):
            words = (place / "cmdline").read_bytes()
            if words and b"bird" not in words:
                found.append(int(place.name))
    return found


@in_namespace
def test_a_gateway_that_freezes_leaves_in_a_second_and_not_after_the_hold_time() -> None:
    gateway = Gateway(bfd=BFD)
    serving(gateway)
    answer = control.ask(gateway.run_dir / "control.sock", "status")
    assert {session["bfd"] for session in answer["sessions"]} == {"up"}
    assert gateway.document.bgp.hold_time_s > 5
    for pid in of_the_gateway():
        os.kill(pid, signal.SIGSTOP)
    took = gateway.withdrawn(within_s=1.0)
    print(f"frozen to withdrawn: {took:.3f} s")


@in_namespace
def test_a_restart_of_agent_or_vrrp_process_is_not_seen_and_a_lost_session_is_an_alarm() -> None:
    gateway = Gateway(bfd=BFD)
    serving(gateway)
    begun, withdrawn = up_since(gateway), gateway.upstream.withdrawals()
    pid = control.ask(gateway.run_dir / "control.sock", "status")["vrrp"]["pid"]

    assert "error" not in control.ask(gateway.run_dir / "control.sock", "vrrp-restart")
    until(lambda: not Path(f"/proc/{pid}").exists(), "the old vrrp process is gone", within_s=5)
    until(lambda: status_of(gateway) == {"up"}, "the new one goes on", within_s=5)
    assert up_since(gateway) == begun

    gateway.signal_agent(signal.SIGTERM)
    assert gateway.agent is not None and gateway.agent.wait(10) == 0
    gateway.start()
    until(lambda: status_of(gateway) == {"up"}, "the next agent's process goes on", within_s=15)
    assert up_since(gateway) == begun and gateway.upstream.withdrawals() == withdrawn

    gateway.upstream.ask("disable bfd1")  # falls silent; its BGP has nobody to hear it from, and stays
    until(lambda: "bfd_down" in alarms(gateway), "the alarm", within_s=10)
    (raised,) = gateway.events("AlarmRaised")[-1:]
    assert raised["reason"] == "bfd_down" and "detection_time_expired" in raised["detail"], raised
    assert gateway.upstream.prefixes() >= gateway.all_prefixes
    assert gateway.upstream.withdrawals() == withdrawn, "it moves nothing"


def status_of(gateway: Gateway) -> set[str]:
    answer = gateway.ask("status", "--json")
    return {session["bfd"] for session in json.loads(answer.stdout)["sessions"]} if answer.returncode == 0 else set()


def alarms(gateway: Gateway) -> list[str]:
    return [alarm["reason"] for alarm in json.loads(gateway.ask("status", "--json").stdout)["alarms"]]
