"""Break-glass on a whole gateway: real charon, ExaBGP, BIRD. What BIRD imported is the truth; every screen agrees."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from anycast.document import Agent
from tests.support.gateway import ENVIRONMENT, Gateway
from tests.support.namespace import in_namespace
from tests.support.upstream import until

pytestmark = pytest.mark.root

SLACK_S = 0.5
"""As in test_agent: tells right from wrong, measures nothing."""
HOLD_S = 10
"""Long enough for two commands and a restart in between, each a new Python."""


@in_namespace
def test_a_hold_withdraws_survives_a_restart_and_ends_by_itself() -> None:
    gateway = Gateway()
    gateway.start()
    gateway.announced()
    said = gateway.ask("hold", "withdraw", "--for", f"{HOLD_S} s", "--reason", "drill 7")
    assert said.returncode == 0, said.stderr
    gateway.withdrawn(within_s=SLACK_S)
    assert {event["reason"] for event in gateway.events("PrefixWithdrawn")} == {"operator"}
    assert 'anycast_hold_left_seconds{kind="withdraw"}' in gateway.metrics()
    assert "anycast_serving 1.0" in gateway.metrics(), "the verdict is about the machine, and that is well"
    assert "anycast_route_intended 0.0" in gateway.metrics()

    gateway.signal_agent(signal.SIGTERM)
    assert gateway.agent is not None
    assert gateway.agent.wait(timeout=10) == 0
    gateway.start()
    until(lambda: gateway.events("RouteIntentChanged")[-1]["causes"][0]["reason"] == "operator", "a decision", within_s=5)
    for words in (("status",), ("why",), ("hold",)):
        assert "drill 7" in gateway.ask(*words).stdout, words
    assert not gateway.upstream.prefixes() & gateway.all_prefixes
    gateway.announced(within_s=HOLD_S + 2)
    (start, again), (ended,) = gateway.events("HoldStarted"), gateway.events("HoldEnded")
    assert (ended["reason"], ended["detail"]) == ("operator", "expired")
    held_s = (ended["boot_ns"] - start["boot_ns"]) / 1e9
    assert HOLD_S - 1 < held_s < HOLD_S + SLACK_S, (
        "asked for before the agent was told; over at the first tick after its end"
    )
    assert 0 < again["left_s"] < HOLD_S, "the restart began nothing anew"
    assert "No hold" in gateway.ask("hold").stdout


@in_namespace
def test_a_hold_needs_no_agent_and_is_ended_by_word() -> None:
    gateway = Gateway()
    gateway.start()
    gateway.announced()
    gateway.signal_agent(signal.SIGKILL)
    assert gateway.agent is not None
    gateway.agent.wait()
    assert gateway.ask("hold", "withdraw", "--for", "2h", "--reason", "drill 8").returncode == 0
    for words in (("status",), ("why",)):
        assert "drill 8" in gateway.ask(*words).stdout, f"{words}: with nobody running"
    gateway.withdrawn(within_s=2)
    gateway.start()
    until(lambda: len(_healthy(gateway)) == 2, "the second agent finds the machine well", within_s=20)
    until(lambda: _all_sessions_up(gateway), "sessions", within_s=20)
    assert not gateway.upstream.prefixes() & gateway.all_prefixes, "and announces nothing"
    assert gateway.ask("hold", "end").returncode == 0
    gateway.announced(within_s=SLACK_S)
    assert [event["detail"] for event in gateway.events("HoldEnded")] == ["ended"]


@in_namespace
def test_a_hold_acts_at_once_in_the_restart_grace_of_an_agent_that_has_gone() -> None:
    """The bridge would keep the route for 15 s; break-glass does not wait for that."""
    gateway = Gateway()
    gateway.start()
    gateway.announced()
    exabgp, charon = gateway.pid("exabgp"), gateway.pid("charon")
    gateway.signal_agent(signal.SIGTERM)
    assert gateway.agent is not None
    assert gateway.agent.wait(timeout=10) == 0
    assert gateway.upstream.prefixes() >= gateway.all_prefixes, "the grace"
    said = gateway.ask("hold", "withdraw", "--for", "2h", "--reason", "drill 10")
    assert said.returncode == 0
    assert f"ExaBGP (pid {exabgp}) was ended" in said.stderr
    gateway.withdrawn(within_s=SLACK_S)
    assert Path(f"/proc/{charon}").exists(), "tunnels stay"
    again = gateway.ask("hold", "withdraw", "--for", "1h", "--reason", "drill 11")
    assert (again.returncode, "was ended" in again.stderr) == (0, False), "nothing left to end, and nothing else is"
    gateway.start()
    until(lambda: len(_healthy(gateway)) == 2, "the second agent finds the machine well", within_s=20)
    until(lambda: _all_sessions_up(gateway), "sessions", within_s=20)
    assert not gateway.upstream.prefixes() & gateway.all_prefixes


@in_namespace
def test_a_hold_is_in_force_although_the_disk_of_the_state_hangs() -> None:
    """Writing to it stands still (a FIFO without a reader does the same as a disk in state D, and can be ended)."""
    gateway = Gateway()
    gateway.start()
    gateway.announced()
    os.mkfifo(gateway.state_dir / ".hold.json.new")
    words = ("hold", "withdraw", "--for", "1h", "--reason", "drill 12")
    folders = ("--run-dir", str(gateway.run_dir), "--state-dir", str(gateway.state_dir))
    stuck = subprocess.Popen(gateway.command(*words, *folders), env=ENVIRONMENT)
    gateway.withdrawn(within_s=5)
    assert stuck.poll() is None, "its command line still waits for the disk"
    assert "drill 12" in gateway.ask("status").stdout
    stuck.kill()
    stuck.wait()


@in_namespace
def test_a_hold_announce_overrides_the_recovery_time_and_no_fact_that_it_does_not_name() -> None:
    gateway = Gateway(recovery_ms=3_600_000)
    gateway.start()
    gateway.announced()
    os.kill(gateway.pid("charon"), signal.SIGKILL)
    gateway.withdrawn(within_s=SLACK_S)
    until(lambda: "recovering" in gateway.metrics(), "charon is back, the route waits", within_s=5)
    assert gateway.ask("hold", "announce", "--for", "1h", "--reason", "drill 9").returncode == 0
    gateway.announced(within_s=SLACK_S)
    assert {event["reason"] for event in gateway.events("PrefixAnnounced")[2:]} == {"operator"}
    withdrawals = gateway.upstream.withdrawals()
    os.kill(gateway.pid("charon"), signal.SIGKILL)
    until(lambda: gateway.upstream.withdrawals() > withdrawals, "the fact acts", within_s=SLACK_S)
    assert gateway.events("PrefixWithdrawn")[-1]["reason"] == "charon_exited"
    gateway.announced(within_s=5)  # by a new charon, under the same hold
    named = gateway.ask("hold", "announce", "--for", "1h", "--reason", "blind", "--despite", "clock_gap")
    assert named.returncode == 2, "nothing seen is no fact"
    assert gateway.ask("hold", "end").returncode == 0
    gateway.withdrawn(within_s=SLACK_S)


@in_namespace
def test_a_flapping_charon_waits_and_an_operator_ends_the_wait() -> None:
    gateway = Gateway(recovery_ms=0, flap_threshold=2000)
    gateway.start()
    for _round in range(2):
        gateway.announced()
        os.kill(gateway.pid("charon"), signal.SIGKILL)
        gateway.withdrawn(within_s=SLACK_S)
    until(lambda: "anycast_serving 1.0" in gateway.metrics(), "charon is well again", within_s=5)
    status = json.loads(gateway.ask("status", "--json").stdout)
    assert status["route"]["causes"][0]["reason"] == "flap_delayed"
    assert 0 < status["flap"]["left_s"] <= 930
    for words in (("why",), ("status",)):
        said = gateway.ask(*words).stdout
        assert "flap_delayed" in said, words
        assert "a return waits for 0:1" in said, "a quarter of an hour, and how much of it is left"
    assert json.loads(gateway.ask("why", "--json").stdout)["agent"]["flap"]["left_s"] > 0
    (wait,) = [line for line in gateway.metrics().splitlines() if line.startswith("anycast_flap_wait_seconds ")]
    assert 0 < float(wait.split()[1]) <= 930
    assert not gateway.upstream.prefixes() & gateway.all_prefixes
    assert gateway.ask("flap", "clear").returncode == 0
    gateway.announced(within_s=SLACK_S)
    assert gateway.events("FlapCleared")[0]["reason"] == "operator"


@in_namespace
def test_the_first_return_comes_within_a_second_of_the_facts() -> None:
    """With the default settings, from charon's passing look to what BIRD imported."""
    gateway = Gateway(recovery_ms=Agent.model_fields["recovery_ms"].default)
    gateway.start()
    gateway.announced()
    os.kill(gateway.pid("charon"), signal.SIGKILL)
    gateway.withdrawn(within_s=SLACK_S)
    gateway.announced(within_s=10)
    imported_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    looks = [event for event in gateway.events("EvidenceChanged") if event["check"] == "charon_process"]
    assert looks[-1]["status"] == "passing"
    assert 0.4 < (imported_ns - looks[-1]["boot_ns"]) / 1e9 <= 1.0 + SLACK_S
    recovering = [e for e in gateway.events("SiteVerdictChanged") if e["causes"][0]["reason"] == "recovering"]
    assert len(recovering) == 1


def _healthy(gateway: Gateway) -> list[object]:
    return [event for event in gateway.events("SiteVerdictChanged") if event["serving"]]


def _all_sessions_up(gateway: Gateway) -> bool:
    answer = gateway.ask("status", "--json")
    return answer.returncode == 0 and {s["state"] for s in json.loads(answer.stdout)["sessions"]} == {"up"}
