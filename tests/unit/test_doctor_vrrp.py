"""The doctor on a site's two gateways: real key files, and what a running agent would say."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anycast.document import Document
from anycast.fleet.compile import compile_gateway
from anycast.fleet.loading import load
from site_agent import control
from site_agent.doctor.finding import Finding
from site_agent.doctor.judge import vrrp
from site_agent.doctor.judge.vrrp import ProcessReading, VrrpReading, judge
from site_agent.doctor.read.sight import Sight
from site_agent.doctor.read.vrrp import read_vrrp
from site_agent.vrrp import key_file, pair_keys
from tests.support.documents import TREE

NOW = datetime.datetime.now(datetime.UTC)
WELL: dict[str, Any] = {"peer": "fit", "discarded": {}, "pid": os.getpid()}


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Whoever answers `status` on the control socket; what it says of its vrrp process can be changed."""
    status = dict(WELL)
    ready, over = threading.Event(), threading.Event()

    async def serve() -> None:
        server = await control.serve(tmp_path / "control.sock", {"status": lambda: {"vrrp": status}})
        ready.set()
        async with server:
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10)
    yield status
    over.set()
    thread.join()


def planned(tmp_path: Path, fleet: str = "labs/topologies/two-site-pairs.fleet.yaml", gateway: str = "fra-gw1",
            **changed: Any) -> Document:  # fmt: skip
    data = compile_gateway(load(TREE / fleet), gateway).model_dump(mode="json")
    if data["vrrp"]["keys_file"] is not None:
        data["vrrp"]["keys_file"] = str(tmp_path / "vrrp.keys")
    data["vrrp"] |= changed
    return Document.model_validate(data)


def seen(tmp_path: Path, document: Document) -> tuple[list[Finding], list[str]]:
    """Findings, and what could not be looked at."""
    sight = Sight()
    reading = read_vrrp(sight, document, tmp_path / "control.sock")
    assert reading is not None
    return list(judge(reading)), [missed.what for missed in sight.unseen]


def severities(findings: list[Finding]) -> dict[str, str]:
    return {finding.id: finding.severity.value for finding in findings}


def keys(tmp_path: Path, *, age_days: int = 1) -> Path:
    path = tmp_path / "vrrp.keys"
    key_file.make(path, pair_keys.first(b"k" * 32, NOW - datetime.timedelta(days=age_days)))
    return path


def mend(finding: Finding) -> None:
    for line in finding.mend:
        subprocess.run(["sh", "-c", line.replace("site-agent ", "true ")], check=True)


def test_a_healthy_pair_needs_nothing(tmp_path: Path, agent: dict[str, Any]) -> None:
    keys(tmp_path)
    findings, unseen = seen(tmp_path, planned(tmp_path))
    assert severities(findings) == dict.fromkeys(["vrrp_interop", "vrrp_keys", "vrrp_peer_keys", "vrrp_pace"], "ok")
    assert not unseen


def test_a_gateway_without_a_virtual_router_is_not_asked(tmp_path: Path) -> None:
    document = planned(tmp_path).model_copy(update={"vrrp": None})
    assert read_vrrp(sight := Sight(), document, tmp_path / "none") is None and not sight.unseen


def test_a_missing_key_file_is_wrong_and_made_by_its_mend(tmp_path: Path, agent: dict[str, Any]) -> None:
    document = planned(tmp_path)
    (finding,) = (f for f in seen(tmp_path, document)[0] if f.id == "vrrp_keys")
    assert finding.severity == "wrong" and finding.mend[0].startswith(f"site-agent keys new {tmp_path}/vrrp.keys")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o602])
def test_a_key_file_that_others_may_read_is_wrong_until_its_mend(tmp_path: Path, agent: dict[str, Any], mode: int) -> None:
    path, document = keys(tmp_path), planned(tmp_path)
    path.chmod(mode)
    (finding,) = (f for f in seen(tmp_path, document)[0] if f.id == "vrrp_keys")
    assert finding.severity == "wrong" and f"{mode:04o}" in finding.seen and "keys rotate" in finding.mend[-1]
    if os.geteuid() == 0:
        mend(finding)
        assert severities(seen(tmp_path, document)[0])["vrrp_keys"] == "ok"


def test_a_folder_that_others_may_write_is_wrong(tmp_path: Path, agent: dict[str, Any]) -> None:
    keys(tmp_path)
    tmp_path.chmod(0o777)
    (finding,) = (f for f in seen(tmp_path, planned(tmp_path))[0] if f.id == "vrrp_keys")
    assert finding.severity == "wrong" and f"chmod go-w {tmp_path}" in finding.mend[0]


def test_garbage_for_a_key_file_is_wrong_and_not_shown(tmp_path: Path, agent: dict[str, Any]) -> None:
    path = keys(tmp_path)
    path.write_text(path.read_text().replace('"in_use"', '"6b6b6b"'))
    (finding,) = (f for f in seen(tmp_path, planned(tmp_path))[0] if f.id == "vrrp_keys")
    assert finding.severity == "wrong" and "6b6b" not in finding.seen


@pytest.mark.parametrize(("age_days", "severity"), [(364, "ok"), (400, "note")])
def test_an_old_key_is_noted(tmp_path: Path, agent: dict[str, Any], age_days: int, severity: str) -> None:
    keys(tmp_path, age_days=age_days)
    assert severities(seen(tmp_path, planned(tmp_path))[0])["vrrp_keys"] == severity


@pytest.mark.parametrize(("age_days", "severity"), [(6, "ok"), (8, "note")])
def test_a_rotation_left_half_way_is_noted(tmp_path: Path, agent: dict[str, Any], age_days: int, severity: str) -> None:
    path = keys(tmp_path, age_days=20)
    begun = NOW - datetime.timedelta(days=age_days, hours=1)
    key_file.replace(path, pair_keys.rotated(key_file.load(path), b"n" * 32, begun))
    assert severities(seen(tmp_path, planned(tmp_path))[0])["vrrp_keys"] == severity


@pytest.mark.parametrize(
    ("changed", "severity"),
    [
        ({"peer": "silent", "discarded": {"outside:seal": 7, "inside:seal": 7}}, "wrong"),
        ({"peer": "silent", "discarded": {"outside:replay": 7}}, "ok"),
        ({"peer": "fit", "discarded": {"outside:seal": 7}}, "ok"),
    ],
    ids=str,
)
def test_a_peer_with_other_keys_is_seen_by_what_is_refused(
    tmp_path: Path, agent: dict[str, Any], changed: dict[str, Any], severity: str
) -> None:
    keys(tmp_path)
    agent |= changed
    (finding,) = (f for f in seen(tmp_path, planned(tmp_path))[0] if f.id == "vrrp_peer_keys")
    assert finding.severity == severity
    if severity == "wrong":
        assert "fra-gw2 is not heard" in finding.seen and any("root@fra-gw2:" in line for line in finding.mend)


def test_without_an_agent_it_says_what_was_not_seen(tmp_path: Path) -> None:
    keys(tmp_path)
    findings, unseen = seen(tmp_path, planned(tmp_path))
    assert "vrrp_peer_keys" not in severities(findings) and any("no agent runs" in what for what in unseen)


def test_keepalived_as_the_other_router_is_named_with_what_follows(tmp_path: Path) -> None:
    strange = planned(tmp_path, "tests/data/beside-keepalived.fleet.yaml", beside())
    (finding,) = (f for f in seen(tmp_path, strange)[0] if f.id == "vrrp_interop")
    assert finding.severity == "note"
    for word in ("no seal", "no word from a Backup", "nothing made before it breaks"):
        assert word in finding.seen
    ours = planned(tmp_path, interop="keepalived", keys_file=None)
    (finding,) = (f for f in seen(tmp_path, ours)[0] if f.id == "vrrp_interop")
    assert finding.severity == "risky" and "remove `interop` from sites.fra.vrrp" in finding.mend[0]


def beside() -> str:
    fleet = load(TREE / "tests/data/beside-keepalived.fleet.yaml")
    return next(gateway for site in fleet.sites.values() for gateway in site.gateways)


def test_a_pace_that_the_process_cannot_keep_is_risky() -> None:
    process = ProcessReading(peer_silent=False, discarded={}, real_time=False, locked=True)
    slow = VrrpReading(site="fra", interop="none", peer="fra-gw2", interval_ms=100, key_file=None, process=process)
    fast = dataclasses.replace(slow, interval_ms=40)
    said = {finding.id: finding for finding in judge(fast)}["vrrp_pace"]
    assert said.severity == "risky" and "without real-time priority" in said.seen and "locked" not in said.seen
    assert severities(list(judge(slow)))["vrrp_pace"] == "ok"
    able = dataclasses.replace(fast, process=dataclasses.replace(process, real_time=True))
    assert severities(list(judge(able)))["vrrp_pace"] == "ok"
    for unknown in (None, dataclasses.replace(process, real_time=None)):
        assert "vrrp_pace" not in severities(list(judge(dataclasses.replace(fast, process=unknown)))), "nothing is inferred"


def test_the_kernel_is_asked_about_the_process_that_runs(tmp_path: Path, agent: dict[str, Any]) -> None:
    keys(tmp_path)
    reading = read_vrrp(Sight(), planned(tmp_path, interval_cs=4), tmp_path / "control.sock")
    assert reading is not None and reading.process is not None
    assert reading.process.real_time is (os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR))
    assert reading.process.locked is False


def test_the_thresholds_in_the_docs_are_those_of_the_judge() -> None:
    text = " ".join((TREE / "docs" / "doctor.md").read_text().split())
    assert f"older than {pair_keys.OLD_AFTER_DAYS} days" in text and f"more than {vrrp.HALF_WAY_DAYS} days ago" in text
    assert f"`vrrp_pace`: below {vrrp.FAST_MS} ms" in text
