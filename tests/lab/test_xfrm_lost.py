"""The kernel loses its SAs under a living charon: seen, withdrawn, told, and mended. Needs ESP."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.xdist_group("lab-1")]

ANYCAST = str(Path(sys.executable).with_name("anycast"))
TOPOLOGY = Path(__file__).resolve().parents[2] / "labs" / "topologies" / "two-site.clab.yml"
GATEWAY = "fra-gw1"
POLL_S = 0.3


@pytest.fixture(scope="module")
def lab(testrun_uid: str) -> Iterator[str]:
    name = f"xfrm-{testrun_uid[:4]}"
    subprocess.run([ANYCAST, "lab", "up", "-t", str(TOPOLOGY), "-n", name], check=True, timeout=300)
    yield name
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


def until(condition: Callable[[], bool], what: str, *, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {within_s:g} s"
        time.sleep(POLL_S)


def test_a_flushed_sad_is_a_fact_and_the_gateway_mends_itself(lab: str) -> None:
    state = run(lab, "ip", "xfrm", "state")
    if not state:
        pytest.skip("needs a kernel with ESP (native, or User Mode Linux)")
    seen = check(lab, "sa_state")
    assert (seen["status"], seen["class"]) == ("passing", "fact")
    tunnels = int(seen["detail"].split()[0])
    assert state.count("proto esp") == 2 * tunnels > 0, "the codec and iproute2 see the same SAs"

    run(lab, "ip", "xfrm", "state", "flush")
    until(lambda: not status(lab)["verdict"]["serving"], "the verdict", within_s=10)
    answer = status(lab)
    assert [cause["reason"] for cause in answer["verdict"]["causes"]] == ["sa_state_lost"]
    until(lambda: not any(r["announced"] for r in status(lab)["routes"]), "the withdrawal", within_s=5)

    # charon goes on believing in tunnels whose clients have gone; the agent ends them, and health and route come back.
    until(lambda: status(lab)["verdict"]["serving"], "health", within_s=60)
    events = [json.loads(line) for line in run(lab, "site-agent", "events", "--json").splitlines()]
    forgotten = [event["count"] for event in events if event["event"] == "TunnelsForgotten"]
    assert forgotten and sum(forgotten) >= tunnels
