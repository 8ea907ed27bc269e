"""A gateway's log as the spool of what a coordinator has not: real files, rotated, full, killed."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from anycast.event_wire import NOWHERE, Position
from anycast.events import ClockGapSeen
from site_agent import event_spool
from site_agent.event_spool import EventSpool
from site_agent.record import EventLog


class Process:
    """One agent's life: its log and its spool."""

    def __init__(self, path: Path, stream: str, *, max_bytes: int = 1 << 20) -> None:
        self.stream = stream
        self.spool = EventSpool(path, "fra-gw1", stream, lambda: None)
        self.log = EventLog(path, max_bytes=max_bytes, gateway="fra-gw1", stream=stream, made=self.spool.take)
        self.written = 0

    def writes(self, count: int) -> None:
        for _ in range(count):
            self.log.write(ClockGapSeen(gap_s=1.0))
            self.written += 1
            if self.written % 1000 == 0:
                time.sleep(0.05)  # the queue is not what is tested here

    def ends(self) -> None:
        self.log.close()


def told(spool: EventSpool, after: Position) -> list[Position]:
    """Everything that follows, asked for as a coordinator does: batch by batch."""
    found: list[Position] = []

    async def ask() -> None:
        at = after
        while records := await spool.batch(at):
            positions = [Position(r["stream"], r["seq"]) for r in map(json.loads, records)]
            found.extend(positions)
            at = positions[-1]

    asyncio.run(ask())
    return found


def run(stream: str, first: int, last: int) -> list[Position]:
    return [Position(stream, seq) for seq in range(first, last + 1)]


def test_each_process_goes_on_counting_and_everything_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for stream, count in (("aa", 700), ("bb", 1), ("cc", 300)):
        process = Process(path, stream)
        process.writes(count)
        process.ends()
    everything = run("aa", 1, 700) + run("bb", 701, 701) + run("cc", 702, 1001)
    assert told(process.spool, NOWHERE) == everything
    assert told(process.spool, Position("aa", 650)) == everything[650:]
    assert told(process.spool, Position("bb", 701)) == run("cc", 702, 1001)
    assert told(process.spool, Position("cc", 1001)) == []


def test_what_was_rotated_away_is_a_hole_in_the_numbers(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    process = Process(path, "aa", max_bytes=20_000)
    process.writes(2000)
    process.ends()
    later = EventSpool(path, "fra-gw1", "bb", lambda: None)
    found = told(later, Position("aa", 10))
    assert found == run("aa", found[0].seq, 2000), "the newest, without another hole"
    assert 11 < found[0].seq < 2000
    assert told(later, Position("aa", 1990)) == run("aa", 1991, 2000)


def test_a_log_that_goes_on_while_it_is_read_is_told_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    Process(path, "aa").ends()
    process = Process(path, "bb", max_bytes=100_000)
    process.writes(300)
    reader = EventSpool(path, "fra-gw1", "cc", lambda: None)  # without the other's memory

    async def ask() -> list[int]:
        found, at = list[int](), NOWHERE
        for _ in range(100):
            records = [json.loads(text) for text in await reader.batch(at)]
            found += [r["seq"] for r in records]
            at = Position(records[-1]["stream"], records[-1]["seq"]) if records else at
            process.writes(5)
            await asyncio.sleep(0.005)
        process.ends()
        while records := [json.loads(text) for text in await reader.batch(at)]:
            found += [r["seq"] for r in records]
            at = Position(records[-1]["stream"], records[-1]["seq"])
        return found

    assert asyncio.run(ask()) == list(range(1, 801))
    assert (tmp_path / "events.jsonl.1").exists(), "it was rotated on the way"


def test_a_disk_that_takes_nothing_keeps_no_event_from_whoever_listens(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "events.jsonl"
    process = Process(path, "aa")
    process.writes(50)
    process.ends()
    found = told(process.spool, NOWHERE)
    assert found[:50] == run("aa", 1, len(found))[:50] and len(found) >= 50
    assert process.log.dropped >= 50, "the disk has none of it"


def test_memory_is_bounded_and_what_is_beyond_it_comes_off_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_spool, "MEMORY_BYTES", 2000)
    process = Process(tmp_path / "events.jsonl", "aa")
    process.writes(500)
    process.ends()
    assert sum(len(line) for _, line in process.spool._newest) <= 2000
    assert told(process.spool, NOWHERE) == run("aa", 1, 500)
    assert told(process.spool, Position("aa", 498)) == run("aa", 499, 500)


def test_without_disk_what_is_beyond_memory_is_a_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_spool, "MEMORY_BYTES", 2000)
    process = Process(tmp_path / "absent" / "events.jsonl", "aa")
    process.writes(500)
    process.ends()
    found = told(process.spool, NOWHERE)
    assert found == run("aa", found[0].seq, process.spool.last_seq) and found[0].seq > 400


def test_lines_of_an_older_agent_have_no_number_and_are_not_told(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    old = EventLog(path, max_bytes=1 << 20, gateway="fra-gw1")
    old.write(ClockGapSeen(gap_s=1.0))
    old.close()
    process = Process(path, "aa")
    process.writes(3)
    process.ends()
    assert told(process.spool, NOWHERE) == run("aa", 1, 3)


def test_a_dropped_event_uses_up_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("site_agent.record.QUEUED_RECORDS", 4)
    process = Process(tmp_path / "events.jsonl", "aa")
    original = process.log._append
    monkeypatch.setattr(process.log, "_append", lambda data: (time.sleep(0.2), original(data)))
    for _ in range(20):
        process.log.write(ClockGapSeen(gap_s=1.0))
    time.sleep(1.5)
    process.log.write(ClockGapSeen(gap_s=1.0))
    process.ends()
    seqs = [position.seq for position in told(process.spool, NOWHERE)]
    assert process.log.dropped > 0
    assert seqs[-1] - len(seqs) == process.log.dropped, "so many are missing, and the numbers say it"


def test_a_line_that_the_disk_garbled_is_a_hole_and_keeps_nothing_else_back(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    process = Process(path, "aa")
    process.writes(10)
    process.ends()
    lines = path.read_bytes().splitlines()
    lines[3] = lines[3][:60] + b"\x00\xff" + lines[3][62:]
    lines[6] = lines[6].replace(b"fra-gw1", b"old-gw1")
    path.write_bytes(b"\n".join(lines) + b"\n")
    found = [position.seq for position in told(EventSpool(path, "fra-gw1", "bb", lambda: None), NOWHERE)]
    assert found == [1, 2, 3, 5, 6, 8, 9, 10]
