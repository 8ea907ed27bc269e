"""`site-agent observe` beside somebody else's charon: it finds it, says what an agent would do, and changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anycast.model import Status
from anycast.reasons import Reason
from site_agent.checks.base import Finding
from site_agent.checks.conntrack import COUNT, STATISTICS
from site_agent.checks.steady import Steady
from site_agent.checks.xfrm_stat import XfrmStatCheck
from site_agent.ike.charon_process import CHARON
from site_agent.ike.swanctl import SWANCTL
from site_agent.proc_counters import parse_conntrack_stat, parse_number, parse_xfrm_stat
from site_agent.procfs import read_file
from tests.support.gateway import ENVIRONMENT
from tests.support.namespace import in_namespace
from tests.support.upstream import until

pytestmark = pytest.mark.root

BASE = Path("/run/test")
VIP = "203.0.113.1"
SOCKET = "/run/test/theirs.vici"
STRONGSWAN_CONF = f"""
charon {{
    load = random nonce openssl pem x509 pubkey kdf kernel-netlink socket-default vici
    plugins {{ vici {{ socket = unix://{SOCKET} }} }}
}}
swanctl {{ socket = unix://{SOCKET}\n load = random }}
"""
SWANCTL_CONF = f"""
connections {{
    vpn {{ local_addrs = {VIP}
        local {{ auth = psk\n id = vpn.example.org }}
        remote {{ auth = psk }}
        children {{ vpn {{ }} }} }}
    other {{ local_addrs = %any
        local {{ auth = psk }}
        remote {{ auth = psk }} }} }}
"""
THEIRS = {"STRONGSWAN_CONF": str(BASE / "strongswan.conf"), "SWANCTL_DIR": str(BASE / "swanctl"), "PATH": os.environ["PATH"]}


@contextlib.contextmanager
def somebodys_gateway() -> Iterator[subprocess.Popen[bytes]]:
    """charon with a configuration and a control socket that nothing of ours chose."""
    (BASE / "swanctl").mkdir(parents=True)
    (BASE / "strongswan.conf").write_text(STRONGSWAN_CONF)
    (BASE / "swanctl" / "swanctl.conf").write_text(SWANCTL_CONF)
    for words in (["link", "set", "lo", "up"], ["addr", "add", f"{VIP}/32", "dev", "lo"]):
        subprocess.run(["ip", *words], check=True)
    with open(BASE / "charon.out", "wb") as log:
        charon = subprocess.Popen([CHARON], env=THEIRS, stdout=log, stderr=log)
    try:
        until(Path(SOCKET).exists, "charon's socket", within_s=10)
        subprocess.run([SWANCTL, "--load-all", "--noprompt"], env=THEIRS, check=True, capture_output=True)
        yield charon
    finally:
        charon.kill()
        charon.wait()


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "site_agent.cli", "observe", *words]


def observed(*words: str, prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    done = subprocess.run(
        [*prefix, *command(*words, "--json")], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == {"announce": 0, "stay_withdrawn": 1, "cannot_tell": 2}[answer["would"]], done.stderr
    return answer


def machine_state() -> list[str]:
    """Everything that an installation would change, as the machine's own tools tell it."""
    asked = ["ip address", "ip route show table all", "ip rule", "ip xfrm state", "ip xfrm policy"]
    said = [subprocess.run(words.split(), check=True, capture_output=True, text=True).stdout for words in asked]
    said += [subprocess.run([SWANCTL, f"--list-{what}"], env=THEIRS, check=True, capture_output=True, text=True).stdout
             for what in ("conns", "sas")]  # fmt: skip
    files = sorted(path for root in ("/run", "/etc") for path in Path(root).rglob("*") if path.is_file())
    logs = {"charon.out"}  # charon's own, and it may speak
    return said + [f"{path} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files if path.name not in logs]


def status(answer: dict[str, Any]) -> dict[str, str]:
    return {check["check"]: check["status"] for check in answer["checks"]}


@in_namespace
def test_a_healthy_gateway_is_found_and_left_as_it_was() -> None:
    with somebodys_gateway() as charon:
        before = machine_state()
        answer = observed("--once")
        assert machine_state() == before
        assert charon.poll() is None
        found = answer["found"]
        assert (found["pid"], found["vici"], found["vips"]) == (charon.pid, SOCKET, [VIP])
        assert found["guessed"] and sorted(found["connections"]) == ["other", "vpn"] and found["limits"] == []
        assert answer["would"] == "announce" and [d["act"] for d in answer["decisions"]] == ["announce"]
        assert status(answer) == dict.fromkeys(
            [
                "charon_process",
                "conntrack",
                "xfrm_stat",
                "cpu_pressure",
                "memory",
                "vip_present",
                "vici",
                "half_open",
                "connections",
                "ike_probe",
                "charon_answers",
                "sa_state",
                "sa_state_partial",
                "sa_orphans",
            ],
            "passing",
        )


@in_namespace
def test_a_killed_charon_and_a_lost_address_would_have_withdrawn_and_it_says_when() -> None:
    with somebodys_gateway() as charon:
        watching = subprocess.Popen(command("--for", "60s"), env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
        assert watching.stdout is not None
        said: list[str] = []

        def wait_for(words: str) -> None:
            for line in watching.stdout or ():
                said.append(line)
                if words in line:
                    return
            pytest.fail(f"never said {words!r}: {said}")

        wait_for("would have announced: healthy")
        killed = time.time()
        os.kill(charon.pid, signal.SIGKILL)
        wait_for(f"would have withdrawn: charon_exited (pid {charon.pid} exited)")
        seen = datetime.datetime.fromisoformat(said[-1][:23]).timestamp()
        assert -0.01 <= seen - killed < 1.0, f"said {seen - killed:.3f} s after it"
        subprocess.run(["ip", "addr", "del", f"{VIP}/32", "dev", "lo"], check=True)
        wait_for(f"vip_missing ({VIP})")
        watching.send_signal(signal.SIGINT)
        summary = watching.stdout.read()
        assert watching.wait(10) == 0
        done = summary[summary.index("What an agent would have done") :]
        assert next(line for line in said if "would have withdrawn" in line) in done, "with the same time"
        assert done.index("announced: healthy") < done.index("withdrawn: charon_exited") < done.index("stayed withdrawn")


@in_namespace
def test_a_link_that_it_was_told_of_would_have_withdrawn_and_none_is_guessed() -> None:
    for words in ("link add up0 type veth peer far0", "link set up0 up", "link set far0 up"):
        subprocess.run(["ip", *words.split()], check=True)
    with somebodys_gateway():
        assert "links" not in status(observed("--once")), "the default route may be a management network's"
        assert status(observed("--once", "--link", "up0"))["links"] == "passing"
        subprocess.run(["ip", "link", "set", "far0", "down"], check=True)
        answer = observed("--once", "--link", "up0")
        assert answer["would"] == "stay_withdrawn"
        assert [(c["reason"], c["detail"]) for c in answer["causes"]] == [("link_down", "up0: no carrier")]
    refused = subprocess.run(command("--link", "x" * 16), env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "cannot be an interface's name" in refused.stderr


@in_namespace
def test_without_privileges_it_says_what_it_cannot_see_and_does_not_guess() -> None:
    with somebodys_gateway() as charon:
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
        answer = observed("--once", "--vip", VIP, prefix=nobody)
        assert answer["found"]["pid"] == charon.pid and answer["found"]["vici"] is None
        assert answer["would"] == "cannot_tell" and {d["act"] for d in answer["decisions"]} == {"cannot_tell"}
        limits = " ".join(answer["found"]["limits"])
        assert "needs root or membership in charon's group" in limits and "CAP_NET_ADMIN" in limits
        assert "CAP_SYS_PTRACE" in limits
        unseen = {"vici", "half_open", "sa_state", "sa_orphans"}
        assert not unseen & status(answer).keys(), "what may not be looked at is not judged"
        assert status(answer)["charon_process"] == status(answer)["vip_present"] == "passing"


@in_namespace
def test_with_a_mistyped_socket_or_an_empty_charon_nothing_is_called_healthy() -> None:
    with somebodys_gateway():
        words = command("--once", "--vici", "/run/test/their.vici", "--vip", VIP)
        told = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert told.returncode == 2 and "would have announced" not in told.stdout, told.stdout
        assert "cannot tell; as far as seen: healthy" in told.stdout
        assert told.stdout.count("not seen: /run/test/their.vici") == 2, "before, and beside what it comes to"
        (BASE / "swanctl" / "swanctl.conf").write_text("connections { }\n")
        subprocess.run([SWANCTL, "--load-all", "--noprompt"], env=THEIRS, check=True, capture_output=True)
        answer = observed("--once", "--vip", VIP)
        assert answer["would"] == "cannot_tell" and "charon has no connection" in " ".join(answer["found"]["limits"])


@in_namespace
def test_one_of_several_charons_in_unseen_namespaces_is_not_judged() -> None:
    with somebodys_gateway(), contextlib.ExitStack() as others:
        for number in range(2):
            for file in Path("/run").glob("**/charon.pid"):
                file.unlink()  # it is compiled in, and one that runs keeps the next from it
            conf = BASE / f"other{number}.conf"
            conf.write_text(STRONGSWAN_CONF.replace("theirs.vici", f"other{number}.vici"))
            apart = ["unshare", "--net", CHARON]
            other = subprocess.Popen(
                apart, env={**THEIRS, "STRONGSWAN_CONF": str(conf)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            others.callback(other.wait)
            others.callback(other.kill)
            until(Path(f"/run/test/other{number}.vici").exists, "another charon", within_s=10)
            assert other.poll() is None
        assert observed("--once", "--vici", SOCKET)["would"] == "announce", "root sees which is ours"
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
        answer = observed("--once", "--vip", VIP, prefix=nobody)
        assert answer["would"] == "cannot_tell" and answer["found"]["strangers"], answer["found"]
        assert "charons run whose network namespace may not be seen" in answer["found"]["limits"][0]


@in_namespace
def test_the_counters_are_the_kernels() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    assert set(parse_xfrm_stat(read_file("/proc/net/xfrm_stat"))) >= {"XfrmInError", "XfrmInNoStates", "XfrmOutPolBlock"}
    if not Path(STATISTICS).exists():
        pytest.skip("needs nf_conntrack in the kernel")
    assert {"insert_failed", "drop", "early_drop"} <= parse_conntrack_stat(read_file(STATISTICS)).keys()
    # Only a rule that looks at the state makes the kernel track connections in this namespace.
    rules = "table inet t { chain c { type filter hook input priority 0; ct state new counter accept; }; }"
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
    before = parse_number(read_file(COUNT), "count")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for port in range(2000, 2050):
            sender.sendto(b"", ("127.0.0.1", port))
    assert parse_number(read_file(COUNT), "count") >= before + 50
    from pyroute2 import NFCTSocket

    with NFCTSocket() as ctnetlink:
        entries = ctnetlink.count()[0].get_attr("CTA_STATS_GLOBAL_ENTRIES")
        per_cpu = ctnetlink.stat()
    assert entries == parse_number(read_file(COUNT), "count"), "ctnetlink counts the same"
    ours = parse_conntrack_stat(read_file(STATISTICS))
    for name in ("insert_failed", "drop", "early_drop"):
        assert ours[name] == sum(cpu.get_attr(f"CTA_STATS_{name.upper()}") for cpu in per_cpu), "and so do its statistics"


@in_namespace
def test_packets_that_the_kernel_discards_are_seen_and_their_end_too() -> None:
    for words in (
        ["link", "add", "d0", "type", "veth", "peer", "d1"],
        ["link", "set", "d1", "up"],
        ["addr", "add", "192.0.2.1/24", "dev", "d0"],
        ["link", "set", "d0", "up"],
    ):
        subprocess.run(["ip", *words], check=True)
    block = ["src", "192.0.2.1", "dst", "192.0.2.2", "dir", "out"]
    now = 0.0
    check = XfrmStatCheck(clock=lambda: now)
    steady = Steady(rise=check.timing.rise, fall=check.timing.fall)

    def look() -> Finding:
        (finding,) = asyncio.run(check.look())
        return steady.settle(finding)

    def send(count: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(count):
                with contextlib.suppress(OSError):  # refused, which is the point
                    sender.sendto(b"", ("192.0.2.2", 9))

    assert look().status is Status.PASSING
    subprocess.run(["ip", "xfrm", "policy", "add", *block, "action", "block"], check=True)
    seen = []
    for _ in range(2):
        send(100)
        now += 2.0
        seen.append(look())
    assert [finding.status for finding in seen] == [Status.PASSING, Status.FAILING], "twice in a row, then"
    assert (seen[1].reason, seen[1].detail) == (Reason.XFRM_ERRORS, "XfrmOutPolBlock 50.0/s")
    subprocess.run(["ip", "xfrm", "policy", "delete", *block], check=True)
    seen = []
    for _ in range(2):
        send(100)
        now += 2.0
        seen.append(look())
    assert [finding.status for finding in seen] == [Status.FAILING, Status.PASSING]
