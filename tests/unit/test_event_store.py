"""The coordinator's events on a real disk: nothing twice, holes told, bounded by size and age, each gateway by itself."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anycast import event_wire
from anycast.coordinator.event_store import Batch, EventStore, Retention, Seen
from anycast.errors import ConfigError, PeerError
from anycast.event_wire import Position
from anycast.events import AgentAlive, AgentStopping, ClockGapSeen, Event, to_record
from anycast.reasons import Reason

T0 = 1_795_470_000.0
GAP = ClockGapSeen(gap_s=1.5)
FAREWELL = AgentStopping(reason=Reason.OPERATOR, grace_s=15.0)


def record(stream: str, seq: int, event: Event = GAP, *, gateway: str = "fra-gw1", **more: Any) -> event_wire.Told:
    made = to_record(event, wall=T0 + seq, boot_ns=1, gateway=gateway, stream=stream, seq=seq)
    return event_wire.read(json.dumps({**made, **more}), gateway)


def batch(*records: event_wire.Told, gateway: str = "fra-gw1", heard: float = T0) -> Batch:
    return Batch(gateway, heard, records)


def store(path: Path, **retention: Any) -> EventStore:
    return EventStore(path / "events.db", "example", Retention(**retention))


def kept(of: EventStore, gateway: str = "fra-gw1") -> list[tuple[Any, ...]]:
    """Stream and seq of each record; of a hole its first, last, count and cause."""
    return [
        (r["first"], r["last"], r["count"], r["cause"]) if r["event"] == event_wire.MISSING else (r["stream"], r["seq"])
        for r in of.until(gateway, T0 + 1e6, 10_000, 0)
    ]


def test_what_comes_twice_is_kept_once_also_by_another_process(tmp_path: Path) -> None:
    first = store(tmp_path)
    first.add([Seen("fra-gw1", "fra", T0, {"event": "GatewayHeard", "at": "-", "stream": "-", "seq": 0})])
    first.add([batch(record("aa", 1), record("aa", 2)), batch(record("aa", 2), record("aa", 3))])
    first.close()
    again = store(tmp_path)
    assert again.positions() == {"fra-gw1": Position("aa", 3)}
    again.add([batch(record("aa", 1), record("aa", 2), record("aa", 3), record("aa", 4))])
    assert kept(again) == [("-", 0), ("aa", 1), ("aa", 2), ("aa", 3), ("aa", 4)]
    assert again.of_site("fra") == ("fra-gw1",)


def test_holes_stand_where_they_are(tmp_path: Path) -> None:
    of = store(tmp_path)
    of.add([batch(record("aa", 1), record("aa", 5))])
    of.add([batch(record("aa", 6, FAREWELL), record("bb", 7), record("cc", 8), record("dd", 20), record("ee", 1))])
    assert kept(of) == [
        ("aa", 1),
        (2, 4, 3, "dropped"),
        ("aa", 5),
        ("aa", 6),
        ("bb", 7),
        (None, None, None, "no_farewell"),
        ("cc", 8),
        (9, 19, 11, "dropped"),
        ("dd", 20),
        (None, None, None, "began_anew"),
        ("ee", 1),
    ]


def test_numbers_that_two_processes_gave_are_two_records(tmp_path: Path) -> None:
    """The disk was full: aa's last were sent from memory, and its successor began where the disk ended."""
    of = store(tmp_path)
    of.add([batch(*(record("aa", n) for n in (1, 2, 3, 4)), record("aa", 5, FAREWELL))])
    of.add([batch(record("aa", 1), record("aa", 2), record("bb", 3), record("bb", 4))])
    assert kept(of) == [("aa", 1), ("aa", 2), ("aa", 3), ("aa", 4), ("aa", 5), ("bb", 3), ("bb", 4)]
    assert of.positions()["fra-gw1"] == Position("bb", 4)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(["aa", "bb", "cc"]), st.integers(1, 30)), max_size=60), st.integers(1, 7))
def test_whatever_comes_in_whatever_order_nothing_is_there_twice(sent: list[tuple[str, int]], size: int) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        _nothing_twice(store(Path(folder)), sent, size)


def _nothing_twice(of: EventStore, sent: list[tuple[str, int]], size: int) -> None:
    for begin in range(0, len(sent), size):
        of.add([batch(*(record(stream, seq) for stream, seq in sent[begin : begin + size]))])
    found = [each for each in kept(of) if len(each) == 2]
    assert len(found) == len(set(found))
    for stream in ("aa", "bb", "cc"):
        seqs = [seq for name, seq in found if name == stream]
        assert seqs == sorted(seqs)
        if seqs:
            assert seqs[-1] == max(seq for name, seq in sent if name == stream), "the newest is never missing"
    of.close()


def test_too_much_goes_from_the_gateway_that_has_most(tmp_path: Path) -> None:
    of = store(tmp_path, most_bytes=400_000)
    of.add([batch(*(record("aa", n, gateway="sin-gw1") for n in range(1, 101)), gateway="sin-gw1")])
    for first in range(1, 5001, 100):
        of.add([batch(*(record("aa", n, detail="x" * 200) for n in range(first, first + 100)))])
        while of.prune(T0):
            pass
    fra, sin = of.kept("fra-gw1"), of.kept("sin-gw1")
    assert fra is not None and sin is not None
    assert fra.bytes + sin.bytes <= 400_000
    assert (sin.rows, sin.forgotten) == (100, None), "who does not flood loses nothing"
    assert kept(of)[-1] == ("aa", 5000) and fra.forgotten is not None and fra.forgotten > T0
    with sqlite3.connect(tmp_path / "events.db") as db:
        (pages,), (size,) = db.execute("PRAGMA page_count").fetchone(), db.execute("PRAGMA page_size").fetchone()
        counted = db.execute("SELECT COUNT(*), SUM(length(body)) FROM events WHERE gateway = 'fra-gw1'").fetchone()
    assert counted[0] == fra.rows and counted[1] + 150 * fra.rows == fra.bytes
    assert pages * size < 1_000_000, "what is taken away makes room for what comes"


def test_too_old_goes_by_the_coordinators_own_clock(tmp_path: Path) -> None:
    of = store(tmp_path, longest_s=3600.0)
    of.add([batch(*(record("aa", n) for n in range(1, 11)), heard=T0)])
    of.add([batch(*(record("aa", n) for n in range(11, 21)), heard=T0 + 3000)])
    assert not of.prune(T0 + 3500)
    assert of.prune(T0 + 3700) and not of.prune(T0 + 3700)
    assert kept(of)[0] == ("aa", 11)
    of.close()
    again = store(tmp_path)
    again.add([batch(record("aa", 5), record("aa", 21))])
    assert kept(again)[-1] == ("aa", 21) and ("aa", 5) not in kept(again), "what was forgotten is not taken for new"


def test_a_moment_is_seen_without_what_came_later_and_over_signs_of_life(tmp_path: Path) -> None:
    of = store(tmp_path)
    alive = AgentAlive(serving=True, lease_s=3.0)
    signs = [record("aa", n, alive) for n in range(2, 1000)]
    of.add([batch(record("aa", 1), *signs, record("aa", 1000), record("aa", 1001))])
    found = [r["seq"] for r in of.until("fra-gw1", T0 + 999.5, 5, 1)]
    assert found == [1, *range(900, 1000), 1000]
    assert of.until("nobody", T0, 5, 1) == []


def test_a_full_disk_is_a_sentence_and_what_was_there_stays(tmp_path: Path) -> None:
    of = store(tmp_path)
    of.add([batch(record("aa", 1))])
    of._db.execute("PRAGMA max_page_count = 1")  # SQLite's own disk that is full
    with pytest.raises(PeerError) as caught:
        for first in range(2, 5000, 100):
            of.add([batch(*(record("aa", n, detail="x" * 500) for n in range(first, first + 100)))])
    assert "the events cannot be kept" in str(caught.value)
    before = of.positions()["fra-gw1"]
    of._db.execute("PRAGMA max_page_count = 100000")
    of.add([batch(*(record("aa", n) for n in range(before.seq + 1, before.seq + 10)))])
    assert len(kept(of)) == len(set(kept(of))) and all(len(each) == 2 for each in kept(of)), "it goes on, without a hole"


def test_it_takes_no_other_fleets_file_and_nothing_that_is_none(tmp_path: Path) -> None:
    store(tmp_path).close()
    with pytest.raises(ConfigError, match="belongs to the fleet example"):
        EventStore(tmp_path / "events.db", "other", Retention())
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "events.db").write_bytes(b"no database" * 1000)
    with pytest.raises(ConfigError, match="is no store of ours"):
        store(tmp_path / "x")
    assert (tmp_path / "events.db").stat().st_mode & 0o777 == 0o600
