"""Rule 8: the Reason of one drill is the same word in the event log, the metrics, `why` and the drill's own JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anycast.reasons import Reason
from tests.support.lab_watch import ends_with_us

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.xdist_group("one-reason")]

ANYCAST = str(Path(sys.executable).with_name("anycast"))
DRILL, GATEWAYS, WORD = "dns-wrong-all", ("fra-gw1", "sin-gw1"), Reason.DNS_WRONG.value
SCRAPE = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9717/metrics', timeout=5).read().decode())"
LIMIT_S = 300
"""Only an end to waiting."""


def anycast(*words: str) -> str:
    done = subprocess.run([ANYCAST, "lab", *words], capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def lab(testrun_uid: str, worker_id: str) -> Iterator[str]:
    """On the machine's own kernel: nothing here needs ESP."""
    name = ends_with_us(f"reason-{testrun_uid[:4]}-{worker_id}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAB_KERNEL", "native")
        anycast("up", "-n", name)
        yield name
        anycast("down", "-n", name)


def test_the_reason_of_a_drill_is_one_word_everywhere(lab: str, tmp_path: Path) -> None:
    report = tmp_path / "drill.json"
    anycast("drill", DRILL, "-n", lab, "--json", str(report))
    (drill,) = json.loads(report.read_text())
    assert drill["passed"]
    for gateway in GATEWAYS:
        told = [m for m in drill["timeline"] if m["source"] == f"{gateway}/site-agent"]
        raised = next(m for m in told if m["event"] == "AlarmRaised")
        seen = next(m for m in told if m["event"] == "EvidenceChanged" and m["subject"] == "dns")
        assert WORD in raised["detail"].split() and WORD in seen["detail"].split(), "the drill's JSON"

        log = [
            json.loads(line)
            for line in anycast("exec", "-n", lab, gateway, "cat", "/var/lib/site-agent/events.jsonl").splitlines()
        ]
        (alarm,) = (r for r in log if r["event"] == "AlarmRaised" and r["reason"] == WORD)
        (evidence,) = (r for r in log if r["event"] == "EvidenceChanged" and r["reason"] == WORD)
        assert evidence["check"] == "dns", "the event log"

        metrics = anycast("exec", "-n", lab, gateway, "python3", "-c", SCRAPE)
        for event in ("AlarmRaised", "EvidenceChanged", "AlarmCleared"):
            assert re.search(rf'^anycast_events_total{{event="{event}",reason="{WORD}"}} 1\.0$', metrics, re.MULTILINE), (
                event
            )

        why: dict[str, Any] = json.loads(
            anycast("exec", "-n", lab, gateway, "site-agent", "why", "--json", "--at", alarm["at"])
        )
        assert WORD in [a["reason"] for a in why["log"]["alarms"]], "why, asked later about then"
        assert why["log"]["serving"] is True, "and it moved nothing"
