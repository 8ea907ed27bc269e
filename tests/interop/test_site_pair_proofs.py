"""Two real agents behind one router: their keys change by the command line, and one's uplink dies without a sign."""

from __future__ import annotations

import subprocess

import pytest

from anycast.document import Vrrp
from site_agent import control
from tests.support.gateway import ENVIRONMENT
from tests.support.namespace import in_namespace
from tests.support.site_pair import Member, Probe, SitePair, unseen
from tests.support.upstream import until

pytestmark = [pytest.mark.root, pytest.mark.alone]

LEASE_S = 1.0
SLACK_S = 0.5
APPLY_S = 30.0
WITNESSES = ["198.51.100.1", "2001:db8:1::1"]


def keys(member: Member, *words: str) -> subprocess.CompletedProcess[str]:
    assert isinstance(member.document.vrrp, Vrrp) and member.document.vrrp.keys_file is not None
    command = member.command("keys", *words, member.document.vrrp.keys_file, "--run-dir", str(member.run_dir))
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def takes(member: Member) -> None:
    answer = control.ask(member.run_dir / "control.sock", "apply", patience_s=APPLY_S)
    assert "vrrp" in answer["applied"], answer


def told(member: Member, kind: str) -> bool:
    return any(event["reason"] == "uplink_unproven" for event in member.events(kind))


def forwarding(port: str, *, on: bool) -> None:
    """A bridge port that drops everything, while both ends keep their carrier."""
    subprocess.run(["bridge", "-n", "lan", "link", "set", "dev", port, "state", "3" if on else "0"], check=True)


@in_namespace
def test_keys_change_by_the_command_line_and_a_silent_uplink_gives_way() -> None:
    with SitePair(witnesses=WITNESSES) as pair:
        active, backup = pair.up()
        until(lambda: all(m.vrrp()["uplink_proven"] for m in pair.members), "the router answers both", within_s=5)
        before = {member.name: (member.transitions(), member.pid("vrrp")) for member in pair.members}
        with unseen(pair):
            for step, seals in (("add", 1), ("use", 2), ("drop", 2)):
                done = keys(active, "rotate", "--step", step)
                assert done.returncode == 0, done.stderr
                again = keys(active, "rotate")
                assert again.returncode == 1 and "apply" in again.stderr, "a step waits until it is in force"
                takes(active)
                if step == "add":
                    early = keys(active, "rotate")
                    assert early.returncode == 1 and "the other gateway does not have this key 2 yet" in early.stderr, early
                takes(backup)
                for member in pair.members:
                    until(lambda: member.vrrp()["peer_keys"] == [seals], "sealed with it", within_s=5)  # noqa: B023
            for member in pair.members:
                vrrp = member.vrrp()
                assert (vrrp["keys"], vrrp["key_in_use"], vrrp["discarded"]) == ([2], 2, {})
                assert (member.transitions(), member.pid("vrrp")) == before[member.name]

            with Probe(pair) as probe:
                forwarding(f"o{active.n}", on=False)
                until(lambda: backup.vrrp()["role"] == "active", "it gives way", within_s=LEASE_S + SLACK_S)
            assert probe.gap_s < LEASE_S + SLACK_S
            assert active.vrrp()["uplink_proven"] is False
            until(lambda: told(active, "AlarmRaised"), "an alarm is in the log", within_s=2)
            forwarding(f"o{active.n}", on=True)
            until(lambda: active.vrrp()["uplink_proven"], "it is proven again", within_s=LEASE_S)
            until(lambda: told(active, "AlarmCleared"), "and that it is over", within_s=2)
            assert backup.vrrp()["role"] == "active" and active.vrrp()["role"] == "backup"
