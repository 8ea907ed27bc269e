"""`site-agent doctor` and what else is on the machine: other charons, upgrades, profiles, names, BGP; what it cannot see."""

from __future__ import annotations

import ctypes
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from anycast_lab.machines import pki
from site_agent.ike.charon_process import CHARON
from tests.support.documents import TWO_SITE
from tests.support.namespace import in_namespace
from tests.support.sick_machine import BASE, SickMachine, mend, names_mends_and_is_content, sysctl
from tests.support.upstream import until

pytestmark = pytest.mark.root

CLONE_NEWUTS = 0x0400_0000


@in_namespace
def test_another_charon() -> None:
    with SickMachine().running() as machine:
        text = machine.conf.read_text().replace("charon.vici", "second.vici").replace("charon {", "charon {\nport = 0\n", 1)
        text = text.replace("port = 0", "port = 0\nport_nat_t = 0")
        (BASE / "second.conf").write_text(text)
        Path("/run/charon.pid").unlink()
        second: list[subprocess.Popen[bytes]] = []

        def start() -> None:
            environment = {**machine.environment, "STRONGSWAN_CONF": str(BASE / "second.conf")}
            second.append(subprocess.Popen([CHARON], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            until((machine.paths.run_dir / "second.vici").exists, "the second charon", within_s=20)

        names_mends_and_is_content(machine, "two_charons", "wrong", start, lambda: second[0].wait(20))

        def enabled() -> None:
            Path("/run/systemd/system").mkdir(parents=True)
            wants = Path("/etc/systemd/system/multi-user.target.wants")
            wants.mkdir(parents=True, exist_ok=True)
            (wants / "strongswan-starter.service").symlink_to("/lib/systemd/system/strongswan-starter.service")

        names_mends_and_is_content(machine, "two_charons", "wrong", enabled)
        assert os.readlink("/etc/systemd/system/strongswan-starter.service") == "/dev/null"


@in_namespace
def test_automatic_upgrades_and_restarts() -> None:
    with SickMachine().running() as machine:

        def upgrades() -> None:
            Path("/etc/apt/apt.conf.d/20auto-upgrades").write_text('APT::Periodic::Unattended-Upgrade "1";\n')

        def restarts() -> None:
            Path("/etc/needrestart").mkdir()
            Path("/etc/needrestart/needrestart.conf").write_text("$nrconf{restart} = 'a';\n")

        names_mends_and_is_content(machine, "restarts_charon", "risky", upgrades)
        names_mends_and_is_content(machine, "restarts_charon", "risky", restarts)


@in_namespace
def test_apparmor() -> None:
    with SickMachine().running() as machine:
        assert not machine.found("apparmor")
        folder = Path("/sys/module/apparmor/parameters")
        folder.mkdir(parents=True)
        (folder / "enabled").write_text("Y\n")
        for name in ("usr.lib.ipsec.charon", "usr.sbin.swanctl"):
            profile = Path("/etc/apparmor.d") / name
            profile.parent.mkdir(exist_ok=True)
            profile.touch()
            (profile.parent / "local").mkdir(exist_ok=True)
            (profile.parent / "local" / name).write_text("")
        found = machine.found("apparmor")
        assert [finding.severity for finding in found] == ["wrong", "wrong"]
        for finding in found:
            mend(*finding.mend)
        assert not machine.found("apparmor")


@in_namespace
def test_a_host_whose_name_does_not_resolve() -> None:
    with SickMachine().running() as machine:

        def rename() -> None:
            assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUTS) == 0
            socket.sethostname("nowhere-gw1")

        names_mends_and_is_content(machine, "hostname", "risky", rename)


@in_namespace
def test_hold_times() -> None:
    with SickMachine().running() as machine:
        usual = machine.paths.exabgp_conf.read_text()

        def other() -> None:
            machine.paths.exabgp_conf.write_text(usual.replace("hold-time 9;", "hold-time 90;"))

        def restarted() -> None:
            machine.paths.exabgp_conf.write_text(usual)  # what a restart of the agent renders

        names_mends_and_is_content(machine, "hold_time_differs", "wrong", other, restarted)
        fleet = BASE / "fleet.yaml"
        fleet.write_text(re.sub(r"hold_time: 9 s", "hold_time: 90 s", TWO_SITE.read_text()))
        by_fleet = ("--fleet", str(fleet), "--gateway", "fra-gw1")

        def long() -> list[dict[str, Any]]:
            findings = machine.examined(*by_fleet, planned=False)["findings"]
            return [f for f in findings if f["id"] == "hold_time_long" and f["severity"] != "ok"]

        (finding,) = long()
        assert finding["severity"] == "risky" and "90 s" in finding["seen"]
        mend(*finding["mend"])
        assert not long()


@in_namespace
def test_on_somebodys_gateway_without_a_document() -> None:
    machine = SickMachine()
    # Their own place, without anything of ours but what their charon's environment says.
    theirs = BASE / "theirs"
    machine.paths.etc_dir.rename(theirs)
    machine.environment |= {"STRONGSWAN_CONF": str(theirs / "strongswan.conf"), "SWANCTL_DIR": str(theirs / "swanctl")}
    with machine.running():
        answer = machine.examined(planned=False)
        assert answer["gateway"] == "" and answer["counts"]["wrong"] == 0 and answer["exit_status"] == 0
        seen = {finding["id"]: finding["seen"] for finding in answer["findings"]}
        assert "203.0.113.64/27" in str([finding["seen"] for finding in answer["findings"] if finding["id"] == "pool_route"])
        assert machine.document.service.identity in seen["certificate_identity"], "found by their swanctl.conf"
        machine.key.chmod(0o644)
        (finding,) = machine.found("secret_mode", planned=False)
        mend(*finding.mend)
        assert not machine.found("secret_mode", planned=False)
        pki.write_secret(machine.key, machine.vpn.issue("x").private_key)
        (finding,) = machine.found("certificate_key", planned=False)
        assert finding.severity == "wrong" and machine.ask(planned=False).returncode == 1


@in_namespace
def test_without_privileges_it_says_what_is_missing_and_that_not_all_was_seen() -> None:
    with SickMachine().running() as machine:
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
        answer = machine.examined(planned=False, prefix=nobody)
        assert answer["exit_status"] == 2, "nothing wrong was seen, but not all could be looked at"
        needs = {missed["needs"] for missed in answer["unseen"]}
        assert {"CAP_SYS_PTRACE", "CAP_NET_ADMIN"} <= needs and any("charon's group" in each for each in needs)
        seen = {finding["id"] for finding in answer["findings"]}
        assert {"rp_filter", "default_route", "clock_behind"} <= seen, "what needs no privilege is looked at"
        pid = machine.charon.pid if machine.charon else 0
        assert answer["pids"] == [] and answer["uncertain"] == [pid], "it may be a stranger's: who may not look cannot tell"
        assert any(f"whose network namespace charon (pid {pid})" in missed["what"] for missed in answer["unseen"])
        (finding,) = [each for each in answer["findings"] if each["id"] == "two_charons"]
        assert finding["severity"] == "note" and not finding["mend"] and str(pid) in finding["seen"]
        assert not [line for each in answer["findings"] for line in each["mend"] if str(pid) in line]
        assert "initiates" not in seen and "firewall_drops" not in seen, "and what was not seen is not judged"


@in_namespace
def test_the_agents_own_gateway_is_judged_by_what_its_agent_runs_by() -> None:
    machine = SickMachine()
    machine.paths.state_dir.mkdir(exist_ok=True)
    kept = machine.paths.document
    kept.write_bytes(machine.document.canonical())
    assert machine.examined(planned=False)["gateway"] == "fra-gw1"
    kept.chmod(0o600)
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
    answer = machine.examined(planned=False, prefix=nobody)
    assert answer["gateway"] == "" and any(str(kept) in missed["what"] for missed in answer["unseen"])
    kept.write_text("{}")
    done = machine.ask(planned=False)
    assert done.returncode == 2 and str(kept) in done.stderr


@in_namespace
def test_ipv6_is_forwarded_where_clients_have_it() -> None:
    machine = SickMachine()
    sysctl("net.ipv6.conf.all.forwarding", 0)
    assert [finding.severity for finding in machine.found("ip_forward")] == ["wrong"]
    service = machine.document.service
    only = tuple(pool for pool in service.pools if "." in pool.prefix)
    machine.document = machine.document.model_copy(update={"service": service.model_copy(update={"pools": only})})
    assert not machine.found("ip_forward")
    sysctl("net.ipv4.ip_forward", 0)
    assert machine.found("ip_forward")


@in_namespace
def test_a_document_that_cannot_be_used() -> None:
    machine = SickMachine()
    machine.document_file.write_text("{}")
    done = machine.ask()
    assert done.returncode == 2 and "document.json" in done.stderr and "Traceback" not in done.stderr
