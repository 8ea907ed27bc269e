"""A lab's gateways are as a gateway should be: the doctor finds nothing wrong with them. Native: without ESP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab_watch import ends_with_us

pytestmark = [pytest.mark.root, pytest.mark.lab, pytest.mark.xdist_group("lab-gateways")]

ANYCAST = str(Path(sys.executable).with_name("anycast"))
TOPOLOGY = Path(__file__).resolve().parents[2] / "labs" / "topologies" / "two-site.clab.yml"
LIMIT_S = 120


@pytest.fixture(scope="module")
def lab(testrun_uid: str, worker_id: str) -> Iterator[str]:
    name = ends_with_us(f"doctor-{testrun_uid[:4]}-{worker_id}")
    environment = {**os.environ, "LAB_KERNEL": "native"}
    command = [ANYCAST, "lab", "up", "-t", str(TOPOLOGY), "-n", name]
    subprocess.run(command, check=True, timeout=LIMIT_S, env=environment)
    yield name
    subprocess.run([ANYCAST, "lab", "down", "-n", name], check=True, timeout=LIMIT_S)


def examined(lab: str, gateway: str, *words: str) -> tuple[int, dict[str, Any]]:
    command = [ANYCAST, "lab", "exec", "-n", lab, gateway, "site-agent", "doctor", "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert not done.stderr, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, answer


@pytest.mark.parametrize("gateway", ["fra-gw1", "sin-gw1"])
def test_nothing_is_wrong_with_a_gateway_of_a_lab(lab: str, gateway: str) -> None:
    status, answer = examined(lab, gateway, "--fleet", "/etc/anycast/fleet.yaml", "--gateway", gateway)
    assert [finding for finding in answer["findings"] if finding["severity"] == "wrong"] == []
    assert status == 0 and answer["gateway"] == gateway


def test_without_a_document_only_the_missing_esp_is_wrong(lab: str) -> None:
    _, answer = examined(lab, "fra-gw1")
    assert {finding["id"] for finding in answer["findings"] if finding["severity"] == "wrong"} <= {"esp"}
