"""What an operator asks of a pair, with two real agents: who serves and why, hand over, keep one from serving."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.gateway import ENVIRONMENT
from tests.support.namespace import in_namespace
from tests.support.site_pair import Member, Probe, SitePair, unseen
from tests.support.upstream import until

pytestmark = [pytest.mark.root, pytest.mark.alone]


def ask(member: Member, *words: str) -> subprocess.CompletedProcess[str]:
    folders = ["--run-dir", str(member.run_dir)]
    folders += [] if words[0] == "handover" else ["--state-dir", str(member.state_dir)]
    command = member.command(*words, *folders)
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=30)


@in_namespace
def test_status_handover_and_hold() -> None:
    with SitePair() as pair:
        active, backup = pair.up()

        shown = ask(active, "status").stdout
        assert "Active" in shown and "fra-gw2 is Backup, could serve, heard outside, inside, management" in shown, shown
        shown = ask(backup, "status").stdout
        assert "Backup" in shown and "fra-gw1 is Active" in shown, shown

        refused = ask(backup, "handover")
        assert refused.returncode == 1 and "this gateway is Backup; hand over at the Active, fra-gw1" in refused.stderr
        assert (active.vrrp()["role"], backup.vrrp()["role"]) == ("active", "backup")

        with unseen(pair), Probe(pair) as probe:
            done = ask(active, "handover")
            assert done.returncode == 0, done.stdout + done.stderr
            assert "fra-gw2 serves now; this gateway is Backup (handed_over" in done.stdout
            until(lambda: backup.vrrp()["role"] == "active", "it serves", within_s=2)
        assert probe.lost == 0
        assert backup.vrrp()["silent_us"] == 0
        assert "no silence before it" in ask(backup, "status").stdout
        assert "handed_over: handed over" in ask(active, "why").stdout

        held, other = backup, active
        with Probe(pair) as probe:
            assert ask(held, "hold", "withdraw", "--for", "1h", "--reason", "disk swap").returncode == 0
            until(lambda: other.vrrp()["role"] == "active", "the other one serves", within_s=3)
            until(lambda: pair.router.routes() == 2, "what is held back announces nothing", within_s=3)
        assert probe.lost == 0, "the addresses had gone before the route"
        assert pair.transit.prefixes() >= pair.prefixes, "the site serves on"
        assert held.vrrp()["priority"] == 0
        refused = ask(other, "handover")
        assert refused.returncode == 1 and "not handed over: the other gateway is unfit" in refused.stderr, refused.stderr
        assert other.vrrp()["role"] == "active"
        assert ask(held, "hold", "end").returncode == 0
        until(lambda: held.vrrp()["priority"] > 0 and pair.router.routes() == 4, "it could serve again", within_s=5)
        assert other.vrrp()["role"] == "active", "and takes nothing back"
