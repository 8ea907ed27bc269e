"""The event log is bounded, never waits, and records its own gaps."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from anycast.events import CheckFaulted, ClockGapSeen
from site_agent import record
from site_agent.record import EventLog

EVENT = ClockGapSeen(gap_s=1.5)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_event_is_one_line_with_when_and_where(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl", max_bytes=1 << 20, gateway="fra-gw1")
    log.write(EVENT)
    log.write(CheckFaulted(check="vici", error="line one\nline two"))
    log.close()
    first, second = lines(tmp_path / "events.jsonl")
    assert (first["event"], first["gap_s"], first["gateway"], first["v"]) == ("ClockGapSeen", 1.5, "fra-gw1", 1)
    assert second["error"] == "line one\nline two", "a newline in a value does not end the line"
    assert first["boot_ns"] <= second["boot_ns"]


def test_the_log_takes_at_most_twice_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for _restart in range(20):
        log = EventLog(path, max_bytes=4096, gateway="fra-gw1")
        for _ in range(10):
            log.write(EVENT)
        log.close()
    sizes = [file.stat().st_size for file in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= 4096
    assert len(lines(path)) + len(lines(tmp_path / "events.jsonl.1")) > 20, "the newest are kept"


def test_a_disk_that_stands_still_never_makes_the_caller_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "QUEUED_RECORDS", 8)
    monkeypatch.setattr(record, "BATCH_RECORDS", 1)
    stuck, free = threading.Event(), threading.Event()
    write = EventLog._append

    def append(self: EventLog, data: bytes) -> None:
        stuck.set()
        free.wait()
        write(self, data)

    monkeypatch.setattr(EventLog, "_append", append)
    log = EventLog(tmp_path / "events.jsonl", max_bytes=1 << 20, gateway="fra-gw1")
    log.write(EVENT)
    assert stuck.wait(5)
    for _ in range(20):
        log.write(EVENT)  # returns at once: 8 fit, 12 do not
    assert log.dropped == 12
    free.set()
    while log._queue.qsize():
        stuck.clear()
        stuck.wait(1)
    log.write(EVENT)
    log.close()
    written = lines(tmp_path / "events.jsonl")
    assert [r["count"] for r in written if r["event"] == "RecordsDropped"] == [12], "the gap is itself recorded"
    assert len(written) == 1 + 8 + 2


def test_a_full_disk_loses_records_and_says_so_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(tmp_path / "absent" / "events.jsonl", max_bytes=1 << 20, gateway="fra-gw1")
    log.write(EVENT)
    while not log.dropped:
        threading.Event().wait(0.01)
    (tmp_path / "absent").mkdir()
    log.write(EVENT)
    log.close()
    assert [r["event"] for r in lines(tmp_path / "absent" / "events.jsonl")] == ["RecordsDropped", "ClockGapSeen"]
