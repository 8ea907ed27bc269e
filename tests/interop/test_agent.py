"""The whole agent on the native kernel: real charon, ExaBGP, BIRD. What BIRD imported is the truth; the log agrees."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from site_agent import priority
from tests.support.gateway import Gateway
from tests.support.namespace import in_namespace
from tests.support.upstream import until

pytestmark = pytest.mark.root

LEASE_S = 1.0
SLACK_S = 0.5
"""Two cores shared with other tests, BIRD's and ExaBGP's loops; the benchmarks measure, this tells right from wrong."""


@in_namespace
def test_a_dead_charon_takes_the_route_away_and_why_says_so_with_everything_down() -> None:
    gateway = Gateway(recovery_ms=0)
    gateway.start()
    gateway.announced()  # with no client at all: an idle gateway is healthy
    status = json.loads(gateway.ask("status", "--json").stdout)
    assert status["verdict"]["serving"] is True
    assert [route["announced"] for route in status["routes"]] == [True, True]
    assert {session["state"] for session in status["sessions"]} == {"up"}, "TCP MD5 and GTSM are on for these"

    os.kill(charon := gateway.pid("charon"), signal.SIGKILL)
    gateway.withdrawn(within_s=SLACK_S)
    gateway.announced()  # by a new charon
    assert gateway.pid("charon") != charon
    withdrawn = gateway.events("PrefixWithdrawn")
    assert {event["reason"] for event in withdrawn} == {"charon_exited"}, "the word that moved the verdict is the log's"

    for pid in (gateway.pid("exabgp"), gateway.pid("charon")):
        os.kill(pid, signal.SIGKILL)
    gateway.signal_agent(signal.SIGKILL)
    assert gateway.agent is not None
    gateway.agent.wait()
    told = gateway.ask("why", "--at", withdrawn[0]["at"])
    assert "not serving" in told.stdout
    assert "charon_exited" in told.stdout
    now = gateway.ask("why")
    assert "No agent answers" in now.stdout, "with everything down `why` says where its answer comes from"
    long_ago = gateway.ask("why", "--at", "2h ago")
    assert "no record" in long_ago.stdout
    assert long_ago.returncode == 1


class Talkative(Gateway):
    """Its agent says five times a second that it is alive, not once a minute."""

    def command(self, *words: str) -> list[str]:
        program = "from anycast import events; events.ALIVE_PERIOD_S = 0.2; from site_agent.cli import main; main()"
        return [sys.executable, "-c", program, *words]


@in_namespace
def test_a_quiet_agent_says_that_it_is_alive_and_a_dead_one_announces_nothing() -> None:
    gateway = Talkative()
    gateway.start()
    gateway.announced()
    until(lambda: len(gateway.events("AgentAlive")) >= 2, "signs of life", within_s=5)
    told = gateway.ask("why")
    assert "agent answers now" in told.stdout
    assert {sign["lease_s"] for sign in gateway.events("AgentAlive")} == {LEASE_S}
    gateway.signal_agent(signal.SIGKILL)
    assert gateway.agent is not None
    gateway.agent.wait()
    gateway.withdrawn(within_s=LEASE_S + SLACK_S)
    until(lambda: "no verdict" in gateway.ask("why").stdout, "its silence told", within_s=5)
    account = json.loads(gateway.ask("status", "--json").stdout)["log"]
    assert (account["agent"], account["serving"]) == ("gone", None)
    assert "announced" not in {route["state"] for route in account["routes"]}


@in_namespace
def test_a_killed_agent_loses_the_route_within_its_lease_and_its_successor_adopts() -> None:
    gateway = Gateway()
    gateway.start()
    gateway.announced()
    before = gateway.pid("charon"), gateway.pid("exabgp")
    gateway.signal_agent(signal.SIGKILL)
    took = gateway.withdrawn(within_s=LEASE_S + SLACK_S)
    assert took > LEASE_S / 3, "a crash gets no grace, but the lease is kept: nothing else was wrong"
    assert gateway.agent is not None
    gateway.agent.wait()
    gateway.start()
    gateway.announced()
    assert (gateway.pid("charon"), gateway.pid("exabgp")) == before, "their lives do not end with the agent's"
    started = gateway.events("HolderStarted")
    assert [event["adopted"] for event in started] == [False, False, True, True]


@in_namespace
def test_a_stopped_agent_loses_the_route_within_its_lease_and_trusts_nothing_from_before() -> None:
    gateway = Gateway()
    gateway.start()
    gateway.announced()
    gateway.signal_agent(signal.SIGSTOP)
    gateway.withdrawn(within_s=LEASE_S + SLACK_S)
    assert not gateway.events("ClockGapSeen")
    gateway.signal_agent(signal.SIGCONT)
    gateway.announced(within_s=5)
    verdicts = gateway.events("ClockGapSeen", "SiteVerdictChanged")
    words = [v["causes"][0]["reason"] if v["event"] == "SiteVerdictChanged" else "gap" for v in verdicts]
    after = words[words.index("gap") :]
    assert after[:2] == ["gap", "clock_gap"], "the first verdict after the thaw is: nothing is known"
    assert after[-1] == "healthy"


@in_namespace
def test_a_clean_restart_costs_no_withdrawal() -> None:
    gateway = Gateway()
    gateway.start()
    gateway.announced()
    before = gateway.pid("charon"), gateway.pid("exabgp")
    assert gateway.upstream.withdrawals() == 0
    for _round in range(2):
        gateway.signal_agent(signal.SIGTERM)
        assert gateway.agent is not None
        assert gateway.agent.wait(timeout=10) == 0
        assert gateway.events("AgentStopping")[-1]["grace_s"] == gateway.document.lease.grace_ms / 1000
        gateway.start()
        until(lambda: _holds_the_lease(gateway), "the new agent's own renewal", within_s=10)
    assert gateway.upstream.withdrawals() == 0
    assert gateway.upstream.prefixes() >= gateway.all_prefixes
    assert (gateway.pid("charon"), gateway.pid("exabgp")) == before


@in_namespace
def test_a_bad_document_does_not_take_the_gateway_down() -> None:
    gateway = Gateway()
    gateway.start()
    gateway.announced()
    gateway.signal_agent(signal.SIGTERM)
    assert gateway.agent is not None
    gateway.agent.wait(timeout=10)
    (gateway.base / "document.json").write_text('{"version": 1}')
    gateway.start()
    until(lambda: gateway.events("AlarmRaised"), "the alarm", within_s=10)
    until(lambda: len(_serving(gateway)) == 2, "a verdict by the kept document", within_s=10)
    assert "config_refused" in {event["reason"] for event in gateway.events("AlarmRaised")}
    alarms = json.loads(gateway.ask("status", "--json").stdout)["alarms"]
    assert "config_refused" in {alarm["reason"] for alarm in alarms}, "whoever looks must see it, not only who reads the log"
    assert 'anycast_alarm{reason="config_refused"} 1.0' in gateway.metrics()
    assert gateway.upstream.withdrawals() == 0


@in_namespace
def test_only_one_agent_runs_and_metrics_carry_the_reason() -> None:
    gateway = Gateway(recovery_ms=60_000)
    gateway.start()
    gateway.announced()
    first = gateway.agent
    gateway.start()
    assert gateway.agent is not None
    assert gateway.agent.wait(timeout=10) == 1
    gateway.agent = first
    os.kill(gateway.pid("charon"), signal.SIGKILL)
    gateway.withdrawn(within_s=SLACK_S)
    until(lambda: "recovering" in gateway.metrics(), "charon is back, the route waits", within_s=5)
    assert not gateway.upstream.prefixes(), "the facts have to stand for the recovery time first"
    text = gateway.metrics()
    assert "anycast_serving 0.0" in text
    assert 'anycast_events_total{event="PrefixWithdrawn",reason="charon_exited"} 2.0' in text


@in_namespace
def test_a_detached_agent_returns_at_once_and_goes_on() -> None:
    gateway = Gateway()
    gateway.start("--detach")
    assert gateway.agent is not None
    assert gateway.agent.wait(timeout=30) == 0, "the configuration is in place"
    pid = int((gateway.run_dir / "agent.pid").read_text())
    assert pid != gateway.agent.pid
    gateway.announced()
    os.kill(pid, signal.SIGTERM)
    until(lambda: gateway.events("AgentStopping"), "the farewell", within_s=5)
    told = json.loads(gateway.ask("why", "--json", "--since", "1h ago").stdout)
    assert told["first"] is None, "a clean stop is no fault"


def _serving(gateway: Gateway) -> list[object]:
    return [event for event in gateway.events("SiteVerdictChanged") if event["serving"]]


def _holds_the_lease(gateway: Gateway) -> bool:
    """It serves, and its bridge has told it what is announced; both together mean that it has renewed."""
    answer = gateway.ask("status", "--json")
    if answer.returncode != 0:
        return False
    status = json.loads(answer.stdout)
    return bool(status["verdict"]["serving"] and all(route["announced"] for route in status["routes"]))


@in_namespace
def test_who_holds_the_lease_gets_the_processor_first_and_charon_does_not() -> None:
    gateway = Gateway()
    gateway.start()
    gateway.announced()
    assert gateway.agent is not None
    exabgp = gateway.pid("exabgp")
    bridges = [int(pid) for pid in Path(f"/proc/{exabgp}/task/{exabgp}/children").read_text().split()]
    holders = [gateway.agent.pid, exabgp, *bridges]
    assert len(holders) == 3, "agent, ExaBGP, bridge"
    assert [os.getpriority(os.PRIO_PROCESS, pid) for pid in holders] == [priority.HOLDS_THE_LEASE] * 3
    assert os.getpriority(os.PRIO_PROCESS, gateway.pid("charon")) == priority.ORDINARY
    # Where the kernel groups by session; whoever is in no group has only the value above.
    wanted = {**dict.fromkeys(holders, priority.HOLDS_THE_LEASE), gateway.pid("charon"): priority.ORDINARY}
    grouped = {pid: nice for pid in wanted if (nice := priority.group_nice(pid)) is not None}
    assert grouped == {pid: wanted[pid] for pid in grouped}
    if Path("/proc/self/autogroup").exists():
        assert len(grouped) == len(wanted), "the test leads a session of its own, so everything here has a group"
