"""The real agent with mistakes of ours in it: what the lease does not need may crash, hang or burn, and the route stays."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from anycast.document import AlarmHook
from site_agent.patience import read_file
from tests.support.gateway import WITH_CANARY, Gateway
from tests.support.namespace import in_namespace
from tests.support.upstream import until

pytestmark = pytest.mark.root

LEASE_S = 1.0
CRASHES = """
from site_agent.alarms.hook import AlarmHook
from site_agent.canary.process import Canary
from site_agent.ike.lost_tunnels import LostTunnels
from site_agent.life_sign import LifeSign
from site_agent.metrics import Metrics
from anycast.policy.protection import Protection

def crash(*_):
    1 / 0

async def crash_later(*_):
    1 / 0

Canary.run = AlarmHook.run = AlarmHook.leave = crash_later
AlarmHook.take = LifeSign.after = Metrics.count = Protection.take = LostTunnels.state_changed = crash
"""


class Faulty(Gateway):
    """Its agent runs with `mistakes` in it."""

    mistakes = CRASHES

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-c", f"{self.mistakes}\nfrom site_agent.cli import main\nmain()", *words]


@in_namespace
def test_a_mistake_in_each_part_that_the_lease_does_not_need_leaves_the_route_up_and_is_told_once() -> None:
    gateway = Faulty(checks=WITH_CANARY, alarm_hook=AlarmHook(command=("/bin/true",)), recovery_ms=0)
    gateway.start()
    gateway.announced()

    def told() -> list[str]:
        return [event["part"] for event in gateway.events("PartFaulted")]

    until(lambda: {"canary", "alarm_hook", "metrics", "display"} <= set(told()), "each is told", within_s=5)
    ends = time.monotonic() + 3 * LEASE_S  # each of them has crashed again, most of them many times
    until(lambda: time.monotonic() > ends, "three leases", within_s=4 * LEASE_S)
    assert gateway.agent is not None
    assert gateway.agent.poll() is None
    assert gateway.upstream.prefixes() >= gateway.all_prefixes
    assert gateway.upstream.withdrawals() == 0
    assert len(told()) <= 8, "once for each place, not once for each tick"
    assert all("ZeroDivisionError" in event["error"] for event in gateway.events("PartFaulted"))
    assert "part_faulted" in {alarm["reason"] for alarm in json.loads(gateway.ask("status", "--json").stdout)["alarms"]}
    gateway.agent.terminate()
    assert gateway.agent.wait(timeout=10) == 0, "it leaves in order, with its grace"
    assert gateway.events("AgentStopping")


class Misunderstanding(Faulty):
    """Its charon's answers cannot be understood at first, then its loader has a bug of its own."""

    mistakes = """
from site_agent.ike.own_connections import OwnConnections
ask, load, asked, loads = OwnConnections._ask, OwnConnections.load, [], []

async def nothing_said(self, command, message=None):
    asked.append(command)
    return {} if command == "get-keys" and asked.count(command) <= 2 else await ask(self, command, message)

async def crash_once(self, process):
    loads.append(process)
    return 1 / 0 if len(loads) == 2 else await load(self, process)

OwnConnections._ask, OwnConnections.load = nothing_said, crash_once
"""


@in_namespace
def test_a_loader_that_cannot_understand_record_or_carry_on_is_an_alarm_and_tried_again() -> None:
    gateway = Misunderstanding(recovery_ms=0)
    in_the_way = gateway.run_dir / "charon.loaded"
    in_the_way.mkdir(parents=True)
    gateway.start()
    gateway.announced()
    assert [event["part"] for event in gateway.events("PartFaulted")] == ["beside_charon"]

    def alarms() -> str:
        return " ".join(event["detail"] for event in gateway.events("AlarmRaised"))

    assert "an answer that cannot be understood: KeyError('keys')" in alarms()
    until(lambda: "what was loaded cannot be recorded: Is a directory" in alarms(), "the record's alarm", within_s=5)
    assert gateway.upstream.withdrawals() == 0, "charon has everything and serves"
    in_the_way.rmdir()
    until(lambda: gateway.events("AlarmCleared"), "the record after that", within_s=15)
    assert gateway.agent is not None
    assert gateway.agent.poll() is None


def hang(path: str) -> None:
    """Whoever opens it waits for ever, as with a mount that has gone."""
    Path(path).unlink()
    os.mkfifo(path)


@in_namespace
def test_files_on_a_mount_that_hangs_stop_no_renewal() -> None:
    gateway = Gateway(checks=WITH_CANARY, recovery_ms=0)
    canary = gateway.document.service.checks.canary
    assert canary is not None
    hang(canary.certificate)
    gateway.start()
    gateway.announced()

    def seen() -> dict[str, str]:
        rows = json.loads(gateway.ask("status", "--json").stdout).get("checks", [])
        return next((row for row in rows if row["check"] == "canary"), {})

    until(lambda: "a disk hangs" in seen().get("detail", ""), "the canary's alarm", within_s=20)
    assert seen()["reason"] == "check_refused"
    hang(gateway.document.service.private_key)
    refused = gateway.ask("apply")
    assert "a disk hangs" in refused.stdout + refused.stderr
    assert refused.returncode != 0
    assert gateway.upstream.withdrawals() == 0
    assert gateway.upstream.prefixes() >= gateway.all_prefixes
    assert not gateway.events("ClockGapSeen")


def test_a_file_without_an_end_is_refused() -> None:
    with pytest.raises(OSError, match="longer than 1024 bytes"):
        read_file(Path("/dev/zero"), 1024)
    assert read_file(Path("/dev/null")) == b""


class BadChecks(Faulty):
    """Its agent has four checks more: one hangs in `await`, one crashes, one burns 200 ms a look, a shared one fails."""

    mistakes = """
import asyncio, time
from anycast.model import EvidenceClass
from anycast.reasons import Reason
from site_agent import agent
from site_agent.checks.base import Timing, failing, passing

class Bad:
    timing = Timing(interval_s=0.2, timeout_s=1.0, rise=1, fall=1)

class Hangs(Bad):
    reports = {"hangs": EvidenceClass.LOAD}

    async def look(self):
        await asyncio.Event().wait()

class Crashes(Bad):
    reports = {"crashes": EvidenceClass.LOAD}

    async def look(self):
        1 / 0

class Burns(Bad):
    reports = {"burns": EvidenceClass.LOAD}
    looks = 0

    async def look(self):
        self.looks += 1
        until = time.monotonic() + BURN_S
        while time.monotonic() < until:
            pass
        return [passing("burns", value=self.looks)]

class Fails(Bad):
    reports = {"fails": EvidenceClass.SHARED}

    async def look(self):
        return [failing("fails", Reason.DNS_WRONG, "everywhere at once")]

BURN_S = 0.2
own = agent.load_checks
agent.load_checks = lambda: [*own(), Hangs(), Crashes(), Burns(), Fails()]
"""


@in_namespace
def test_checks_that_hang_crash_burn_and_fail_together_cost_no_renewal() -> None:
    gateway = BadChecks(recovery_ms=0)
    gateway.start()
    gateway.announced()

    def rows() -> dict[str, dict[str, object]]:
        return {row["check"]: row for row in json.loads(gateway.ask("status", "--json").stdout).get("checks", [])}

    def burnt() -> bool:
        looks = rows().get("burns", {}).get("value")
        return isinstance(looks, int | float) and looks >= 3

    until(burnt, "three looks that burn", within_s=30)
    seen = {name: row["reason"] for name, row in rows().items()}
    assert [seen[name] for name in ("hangs", "crashes", "fails")] == ["check_timed_out", "check_faulted", "dns_wrong"]
    assert [event["check"] for event in gateway.events("CheckFaulted")] == ["crashes"], "once"
    assert gateway.upstream.withdrawals() == 0
    assert gateway.upstream.prefixes() >= gateway.all_prefixes
    assert not gateway.events("ClockGapSeen")
    assert not gateway.events("PrefixWithdrawn")


class Blocked(BadChecks):
    mistakes = BadChecks.mistakes.replace("BURN_S = 0.2", "BURN_S = 0.7")


@in_namespace
def test_a_check_that_keeps_the_loop_is_an_alarm_that_says_so() -> None:
    gateway = Blocked(recovery_ms=0)
    gateway.start()
    until(
        lambda: any(
            event["reason"] == "loop_late" and "of it computing" in event["detail"]
            for event in gateway.events("AlarmRaised")
        ),
        "the alarm",
        within_s=30,
    )
