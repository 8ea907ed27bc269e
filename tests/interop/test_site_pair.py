"""Two real agents behind one router: what the transit hears of a failover inside the site, which is nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.gateway import ENVIRONMENT
from tests.support.namespace import in_namespace
from tests.support.site_pair import HOLD_TIME_S, Member, Probe, SitePair, unseen
from tests.support.upstream import until
from tests.support.vrrp_pair import ip

pytestmark = [pytest.mark.root, pytest.mark.alone]

LEASE_S = 1.0
DOWN_S = 0.361
"""Active_Down_Interval at 100 ms and priority 100."""
SLACK_S = 0.5
"""Two cores shared with other tests; the benchmarks measure, this tells right from wrong."""


@in_namespace
def test_the_actives_power_is_cut_and_the_transit_hears_nothing() -> None:
    with SitePair() as pair:
        active, backup = pair.up()
        assert active.name == "gw1", "the higher priority begins"
        assert active.holds() and backup.holds_none()
        assert [member.vrrp()["faults"] for member in pair.members] == [[], []], "the unit grants what the process asks for"
        with unseen(pair):
            with Probe(pair) as probe:
                active.power_off()
                until(lambda: backup.vrrp().get("role") == "active", "it takes over", within_s=DOWN_S + SLACK_S)
            assert probe.gap_s < DOWN_S + SLACK_S
            assert backup.transitions()[-1] == ("active", "peer_silent")
            until(lambda: pair.router.routes() == 2, "the dead sessions end", within_s=HOLD_TIME_S + 5)


@in_namespace
def test_clean_restarts_lose_nothing_and_a_failure_that_the_pair_survives_is_heard_by_nobody() -> None:
    with SitePair() as pair:
        active, backup = pair.up()
        with unseen(pair, by_router=True):
            # A clean restart of the agent, then of the vrrp process: mastership stays, not a packet is lost.
            before = active.pid("vrrp")
            with Probe(pair) as probe:
                active.signal_agent(signal.SIGTERM)
                assert active.agent is not None
                active.agent.wait(10)
                active.start()
                until(lambda: active.vrrp().get("cause") == "resumed", "its successor goes on", within_s=14)
                until(lambda: before not in active.pids(), "the one before it ends", within_s=2)
                second = active.pid("vrrp")
                said = active.ask("restart-vrrp")
                assert said.returncode == 0 and "goes on as active" in said.stdout, said
                until(lambda: second not in active.pids(), "the second one is replaced, too", within_s=5)
                until(lambda: active.vrrp().get("role") == "active", "and is Active", within_s=2)
            assert probe.lost == 0
            # A third, which needs longer for its start than a lease lasts.
            third = active.pid("vrrp")
            with Probe(pair) as probe, ThreadPoolExecutor(1) as pool:
                asked = pool.submit(active.ask, "restart-vrrp")
                until(lambda: active.pid("vrrp") != third, "a successor", within_s=20)
                os.kill(slow := active.pid("vrrp"), signal.SIGSTOP)
                try:
                    resumes_at = time.monotonic() + 2 * LEASE_S
                    until(lambda: time.monotonic() > resumes_at, "two leases have passed", within_s=3 * LEASE_S)
                    assert third in active.pids() and active.holds()
                finally:
                    os.kill(slow, signal.SIGCONT)
                until(lambda: third not in active.pids(), "it is replaced all the same", within_s=5)
                assert asked.result().returncode == 0
            assert probe.lost == 0
            assert backup.transitions() == [("backup", "started")], "the other one never moved"
            assert active.transitions()[-3:] == [("active", "resumed")] * 3

            # The keys change: each has the new one, and no advertisement is refused in between.
            rotate = active.command("keys", "rotate", str(pair.keys))
            subprocess.run(rotate, env=ENVIRONMENT, capture_output=True, check=True)
            for member in pair.members:
                assert "has taken the installed keys" in member.ask("apply").stdout
                until(lambda: member.vrrp()["keys"] == [1, 2], "two are accepted", within_s=5)  # noqa: B023
            assert not any(cause.endswith("seal") for member in pair.members for cause in member.vrrp()["discarded"])

            # Somebody removes an address, and the Backup cannot serve for a while: nothing changes.
            ip(f"-n {active.name} addr del 198.51.100.4/32 dev eth1")
            until(active.holds, "it is put in again", within_s=LEASE_S / 3 + SLACK_S)
            os.kill(backup.pid("charon"), signal.SIGKILL)
            until(lambda: not backup.status()["gateway_verdict"]["serving"], "unfit", within_s=SLACK_S)
            status = backup.status()
            assert status["route"]["announce"] and status["route"]["causes"][0]["reason"] == "peer_serves"
            until(lambda: active.vrrp()["peer"] == "unfit", "and says so", within_s=5)
            # Its vrrp process is replaced meanwhile: the new one has heard nobody at first, and does not know better.
            said = backup.ask("restart-vrrp")
            assert said.returncode == 0 and "goes on as backup" in said.stdout, said
            until(lambda: active.vrrp()["peer"] == "fit", "until it could again", within_s=20)
            verdicts = [event["serving"] for event in backup.events("SiteVerdictChanged")]
            assert verdicts[-2:] == [True, True] and False not in verdicts[verdicts.index(True) :], "its route never moved"
            assert {role for role, _ in backup.transitions()} == {"backup"}
            assert active.transitions()[-1] == ("active", "resumed")

            # charon is killed: released before it breaks, and the gateway goes on announcing for the other one.
            with Probe(pair) as probe:
                os.kill(active.pid("charon"), signal.SIGKILL)
                until(lambda: backup.vrrp()["role"] == "active", "handed over", within_s=SLACK_S)
                until(active.holds_none, "the addresses have moved", within_s=SLACK_S)
            assert probe.gap_s < SLACK_S
            assert (backup.transitions()[-1], active.transitions()[-1]) == (("active", "peer_released"), ("backup", "unfit"))
            words = [event["causes"][0]["reason"] for event in active.events("SiteVerdictChanged")[-3:] if event["serving"]]
            assert {"peer_takes_over", "peer_serves"} & set(words)
            until(lambda: active.status()["gateway_verdict"]["serving"], "it could serve again", within_s=20)
            until(lambda: backup.vrrp()["peer"] == "fit", "and says so", within_s=5)
            active, backup = backup, active

            # The vrrp process is stopped: killed by its agent, its addresses removed and priority 0 sent within a lease.
            stopped = active.pid("vrrp")
            with Probe(pair) as probe:
                os.kill(stopped, signal.SIGSTOP)
                until(lambda: backup.vrrp()["role"] == "active", "it takes over", within_s=LEASE_S)
                until(active.holds_none, "the addresses are removed", within_s=LEASE_S)
            assert probe.gap_s < DOWN_S + SLACK_S
            until(lambda: active.vrrp().get("pid") not in (None, stopped), "a new one is started", within_s=5)
            until(lambda: active.vrrp()["peer_active"], "which is Backup", within_s=5)
            assert [event["reason"] for event in active.events("HolderKilled")] == ["vrrp_silent"]
            assert active.transitions()[-1] == ("backup", "started")
            until(lambda: backup.vrrp()["peer"] == "fit", "they are a pair again", within_s=5)
            active, backup = backup, active

            # It is killed: its agent lets go in its place, and nobody waits for a silence.
            os.kill(active.pid("vrrp"), signal.SIGKILL)
            until(active.holds_none, "the addresses are removed", within_s=SLACK_S)
            until(lambda: backup.vrrp()["role"] == "active", "it takes over", within_s=SLACK_S)
            assert backup.transitions()[-1] == ("active", "peer_released")
            until(lambda: backup.vrrp()["peer"] == "fit", "they are a pair again", within_s=5)

        # Neither can serve: now the world hears of it, and at once.
        for member in pair.members:
            os.kill(member.pid("charon"), signal.SIGKILL)
        until(lambda: not pair.transit.prefixes() & pair.prefixes, "withdrawn", within_s=LEASE_S / 2 + SLACK_S)
        until(lambda: pair.transit.prefixes() >= pair.prefixes, "announced again", within_s=20)


@pytest.mark.long
@in_namespace
def test_whatever_is_frozen_lets_go_and_wakes_as_backup() -> None:
    with SitePair() as pair:
        active, backup = pair.up()
        with unseen(pair):
            # The agent alone: its grants end, and the process hands over without a gap.
            with Probe(pair) as probe:
                active.signal_agent(signal.SIGSTOP)
                until(lambda: backup.vrrp()["role"] == "active", "handed over", within_s=LEASE_S + SLACK_S)
                until(active.holds_none, "the addresses have moved", within_s=SLACK_S)
            assert probe.gap_s < SLACK_S
            active.signal_agent(signal.SIGCONT)
            active, backup = _recovered(active, backup)
            assert backup.transitions()[-1] == ("backup", "parent_silent")

            # Agent and vrrp process: only the kernel is left to take the addresses away, and it does.
            process = active.pid("vrrp")
            with Probe(pair) as probe:
                os.kill(process, signal.SIGSTOP)
                active.signal_agent(signal.SIGSTOP)
                until(lambda: backup.vrrp()["role"] == "active", "it takes over", within_s=DOWN_S + SLACK_S)
                until(active.holds_none, "their life ends", within_s=LEASE_S * 1.3 + SLACK_S)
            assert probe.gap_s < DOWN_S + SLACK_S
            os.kill(process, signal.SIGCONT)
            active.signal_agent(signal.SIGCONT)
            active, backup = _recovered(active, backup)
            assert backup.transitions()[-1] == ("backup", "clock_gap")

            # Everything on the machine, for longer than BGP's hold time.
            with Probe(pair) as probe:
                active.signal_all(signal.SIGSTOP)
                until(lambda: backup.vrrp()["role"] == "active", "it takes over", within_s=DOWN_S + SLACK_S)
                until(lambda: pair.router.routes() == 2, "its sessions end", within_s=HOLD_TIME_S + 5)
                active.signal_all(signal.SIGCONT)
                until(lambda: pair.router.routes() == 4, "it announces again, as Backup", within_s=20)
            assert probe.gap_s < DOWN_S + SLACK_S, "nor does it take anything away when it wakes"
            assert active.vrrp()["role"] == "backup"


def _recovered(was_active: Member, was_backup: Member) -> tuple[Member, Member]:
    """They have changed parts, and either could serve. Returns the Active and the Backup."""
    until(lambda: was_active.vrrp().get("role") == "backup", "it woke as Backup", within_s=5)
    until(lambda: was_active.status()["gateway_verdict"]["serving"], "it could serve", within_s=20)
    until(lambda: was_backup.vrrp()["peer"] == "fit", "and says so", within_s=5)
    return was_backup, was_active


@in_namespace
def test_with_links_of_their_own_the_backup_announces_worse_and_a_failover_is_seen() -> None:
    def paths() -> dict[str, list[str]]:
        """Of the IPv4 prefix at the router: the AS path by next hop."""
        text = pair.router.ask("show route all table master4")
        found = re.findall(r"BGP\.as_path: ([\d ]+)\n.*?BGP\.next_hop: ([\d.]+)", text, re.DOTALL)
        return {hop: path.split() for path, hop in found}

    with SitePair(routed=True) as pair:
        active, backup = pair.up()
        own = {member.name: member.document.bgp.neighbors[0].local_address for member in pair.members}
        until(lambda: paths() == {own["gw1"]: ["64501"], own["gw2"]: ["64501"] * 2}, "each its own", within_s=5)
        active.power_off()
        until(lambda: paths().get(own["gw2"]) == ["64501"], "Active, it announces as good", within_s=DOWN_S + SLACK_S)
        until(lambda: paths() == {own["gw2"]: ["64501"]}, "the dead session ends", within_s=HOLD_TIME_S + 5)
        assert backup.transitions()[-1] == ("active", "peer_silent")


@pytest.mark.long
@in_namespace
def test_bfd_outlives_a_clean_restart_of_either_agent_and_ends_a_frozen_gateways_sessions() -> None:
    with SitePair(bfd=True) as pair:
        active, backup = pair.up()

        def sessions_up() -> int:
            return pair.router.ask("show bfd sessions").count(" Up ")

        until(lambda: sessions_up() == 4, "BFD beside every session", within_s=10)
        with unseen(pair, by_router=True):
            for member in (backup, active):
                before = member.pid("vrrp")
                member.signal_agent(signal.SIGTERM)
                assert member.agent is not None
                member.agent.wait(10)
                member.start()
                until(lambda: member.vrrp().get("pid") not in (None, before), "a successor", within_s=14)  # noqa: B023
                until(lambda: before not in member.pids(), "the one before it ends", within_s=14)  # noqa: B023
                until(lambda: _bfd_states(member) == ["up", "up"], "it goes on", within_s=5)  # noqa: B023
        assert backup.transitions() == [("backup", "started")] * 2, "a Backup that goes on is Backup"
        assert sessions_up() == 4
        active.signal_all(signal.SIGSTOP)
        until(lambda: pair.router.routes() == 2, "it leaves BGP in under a second", within_s=1.0)


def _bfd_states(member: Member) -> list[str]:
    return [session["state"] for session in member.vrrp().get("bfd", {}).values()]


@pytest.mark.long
@in_namespace
def test_an_uplink_that_dies_with_its_carrier_up_is_given_up_and_a_backup_without_one_takes_nothing() -> None:
    with SitePair(witnesses=["198.51.100.1", "2001:db8:1::1"]) as pair:
        active, backup = pair.up()
        until(lambda: all(member.vrrp()["uplink_proven"] for member in pair.members), "both proven", within_s=10)
        with unseen(pair):
            with Probe(pair) as probe:
                ip(f"-n lan link set o{active.n} nomaster")
                until(lambda: backup.vrrp()["role"] == "active", "handed over on another path", within_s=LEASE_S + SLACK_S)
            assert probe.gap_s < LEASE_S + 2 * SLACK_S
            assert active.transitions()[-1] == ("backup", "uplink_unproven")
            # Now the one without an uplink is Backup: whatever becomes of the other one, it takes nothing.
            moves = len(active.transitions())
            backup.signal_all(signal.SIGSTOP)
            until(lambda: active.vrrp()["peer"] == "silent", "the other one is silent", within_s=5)
            until(lambda: not active.vrrp()["peer_active"], "and serves no more", within_s=5)
            assert active.vrrp()["role"] == "backup" and len(active.transitions()) == moves
            backup.signal_all(signal.SIGCONT)
            until(lambda: backup.vrrp().get("role") == "active", "it takes its addresses again", within_s=10)
