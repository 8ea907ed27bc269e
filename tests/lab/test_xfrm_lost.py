"""The kernel loses its SAs under a living charon, or has more than charon knows: seen, told, mended. Needs ESP."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab_watch import ends_with_us

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.xdist_group("esp-two-site")]

ANYCAST = str(Path(sys.executable).with_name("anycast"))
TOPOLOGY = Path(__file__).resolve().parents[2] / "labs" / "topologies" / "two-site.clab.yml"
GATEWAY = "fra-gw1"
POLL_S = 0.3
PATIENCE_S = 60.0
"""Bounds are the drills' affair; here it only ends the waiting."""
VIP, CLIENTS = "203.0.113.1", "198.51.100."
"""The second is how the outer addresses of the topology's clients begin."""


@pytest.fixture(scope="module")
def lab(testrun_uid: str, worker_id: str) -> Iterator[str]:
    name = ends_with_us(f"xfrm-{testrun_uid[:4]}-{worker_id}")
    subprocess.run([ANYCAST, "lab", "up", "-t", str(TOPOLOGY), "-n", name], check=True, timeout=300)
    yield name
    print(run(name, "site-agent", "events", "--json")[-20_000:])  # shown where a test failed
    subprocess.run([ANYCAST, "lab", "down", "-n", name], check=True, timeout=300)


def run(lab: str, *words: str) -> str:
    command = [ANYCAST, "lab", "exec", "-n", lab, GATEWAY, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def status(lab: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run(lab, "site-agent", "status", "--json"))
    return answer


def check(lab: str, name: str) -> dict[str, Any]:
    (found,) = (c for c in status(lab)["checks"] if c["check"] == name)
    return dict(found)


def events(lab: str, kind: str) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in run(lab, "site-agent", "events", "--json").splitlines()]
    return [record for record in records if record["event"] == kind]


def rekeyed(lab: str) -> int:
    return sum(event["count"] for event in events(lab, "TunnelsRekeyed"))


def in_kernel(lab: str) -> int:
    """How many clients' tunnels iproute2 sees at the gateway; the canary's end at another address and are no client's."""
    return run(lab, "ip", "xfrm", "state").count(f"src {VIP} dst {CLIENTS}")


def until(condition: Callable[[], bool], what: str, *, within_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {within_s:g} s"
        time.sleep(POLL_S)


def test_a_flushed_sad_is_mended_and_what_charon_does_not_list_is_shown(lab: str) -> None:
    if not in_kernel(lab):
        pytest.skip("needs a kernel with ESP (native, or User Mode Linux)")
    # A loaded machine looks less often, and its last look may be older than the clients are.
    until(lambda: check(lab, "sa_state")["detail"].split()[0] == str(in_kernel(lab)), "as many as iproute2 sees")
    assert (check(lab, "sa_state")["status"], check(lab, "sa_state")["class"]) == ("passing", "fact")
    until(lambda: check(lab, "sa_orphans")["status"] == "passing", "all of them being charon's")
    tunnels = in_kernel(lab)

    run(lab, "ip", "xfrm", "state", "flush")
    # A client that rekeys by itself meanwhile is none that the agent counts.
    until(lambda: rekeyed(lab) > 0 and in_kernel(lab) >= tunnels, "every tunnel made anew")
    until(lambda: check(lab, "sa_state")["status"] == "passing", "and seen to be")
    reasons = {event["reason"] for event in events(lab, "PrefixWithdrawn")}
    assert "sa_state_lost" not in reasons, "a starved lab may lose its lease, but not for this"

    orphan = f"src 198.51.100.66 dst {VIP} proto esp spi 0x77 reqid 777 mode tunnel"
    run(lab, "ip", "xfrm", "state", "add", *orphan.split(), "aead", "rfc4106(gcm(aes))", "0x" + "11" * 20, "128")
    until(lambda: check(lab, "sa_orphans")["reason"] == "sa_state_orphaned", "the orphan shown")
    causes = {cause["reason"] for cause in status(lab)["verdict"]["causes"]}
    assert "sa_state_orphaned" not in causes, "and never a verdict"
    run(lab, "ip", "xfrm", "state", "delete", *orphan.split()[:8])
    until(lambda: check(lab, "sa_orphans")["status"] == "passing", "and its end")


def test_an_observer_says_what_it_would_have_rekeyed_and_rekeys_nothing(lab: str) -> None:
    if not in_kernel(lab):
        pytest.skip("needs a kernel with ESP (native, or User Mode Linux)")
    run(lab, "sh", "-c", "kill -STOP $(cut -d' ' -f1 /run/site-agent/agent.pid)")
    try:
        run(lab, "sh", "-c", "(sleep 12; ip xfrm state flush) >/dev/null 2>&1 &")
        vici = ("--vici", "/run/site-agent/charon.vici")
        answer = json.loads(run(lab, "site-agent", "observe", *vici, "--for", "30s", "--json"))
    finally:
        run(lab, "sh", "-c", "kill -CONT $(cut -d' ' -f1 /run/site-agent/agent.pid)")
    told = [(decision["act"], decision["causes"][0]["reason"]) for decision in answer["decisions"]]
    assert told[:3] == [("announce", "healthy"), ("rekey", "sa_state_lost"), ("withdraw", "sa_state_lost")]
