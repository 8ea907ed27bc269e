"""What the numbers of records say: where a reader goes on, what is missing, what is no record."""

from __future__ import annotations

import json
from typing import Any

import pytest

from anycast import event_wire
from anycast.errors import DecodeError
from anycast.event_wire import NOWHERE, Cause, Missing, Position, missing_before, passed_over, position_of
from anycast.events import ClockGapSeen, to_record

A, B = "aa", "bb"


def line(stream: str, seq: int, **more: Any) -> bytes:
    wall, event = 1_795_470_000.0 + seq, ClockGapSeen(gap_s=1.5)
    record = to_record(event, wall=wall, boot_ns=1, gateway="fra-gw1", stream=stream, seq=seq)
    return json.dumps({**record, **more}, separators=(",", ":")).encode()


LOG = [line(A, 1), line(A, 2), b"torn", line(A, 3), line(B, 4), line(B, 5)]


def test_a_line_tells_its_place_without_being_read_whole() -> None:
    assert position_of(line(A, 7)) == Position(A, 7)
    old = json.dumps(to_record(ClockGapSeen(gap_s=1.0), wall=1.0, boot_ns=1, gateway="g"), separators=(",", ":")).encode()
    assert [position_of(each) for each in (old, b"", b"\x00", b'{"v":1,"seq":1}')] == [None] * 4


@pytest.mark.parametrize(
    ("after", "passed"),
    [
        (NOWHERE, 0),
        (Position(A, 2), 2),
        (Position(A, 3), 4),
        (Position(A, 900), 4),  # sent from memory while the disk was full: what its successor wrote follows
        (Position(B, 4), 5),
        (Position(B, 5), 6),
        (Position("cc", 2), 0),  # nothing of it is in the log: everything may be new
    ],
)
def test_who_has_everything_up_to_a_record_is_told_what_follows(after: Position, passed: int) -> None:
    assert passed_over(LOG, after) == passed


def test_a_hole_is_known_by_the_numbers() -> None:
    def between(last: Position, new: Position, *, farewell: bool = False) -> Missing | None:
        return missing_before(new, last, farewell=farewell)

    assert between(Position(A, 7), Position(A, 8)) is None
    assert between(Position(A, 7), Position(A, 11)) == Missing(first=8, last=10, count=3, cause=Cause.DROPPED)
    assert between(Position(A, 7), Position(B, 8), farewell=True) is None, "a restart"
    assert between(Position(A, 7), Position(B, 11), farewell=True) == Missing(first=8, last=10, count=3, cause=Cause.DROPPED)
    killed = between(Position(A, 7), Position(B, 8))
    assert killed == Missing(first=None, last=None, count=None, cause=Cause.NO_FAREWELL), "nobody can count those"
    assert between(Position(A, 9), Position(B, 8), farewell=True) is None, "A's last came past a full disk"
    anew = between(Position(A, 7), Position(B, 1), farewell=True)
    assert anew is not None and (anew.cause, anew.count) == (Cause.BEGAN_ANEW, None)
    assert between(NOWHERE, Position(A, 1)) is None
    assert between(NOWHERE, Position(A, 5)) == Missing(first=1, last=4, count=4, cause=Cause.DROPPED)


def test_a_batch_fits_a_frame_and_begins_with_the_first() -> None:
    some = [line(A, n) for n in range(1, 1000)]
    assert len(event_wire.batch(some)) == event_wire.MOST_RECORDS
    wide = [line(A, n, detail="x" * 10_000) for n in range(1, 100)]
    found = event_wire.batch(wide)
    assert len(found) > 1 and sum(map(len, found)) <= event_wire.BATCH_BYTES
    assert event_wire.batch([]) == ()


def test_a_record_that_is_too_long_says_when_and_what_and_how_long() -> None:
    long = line(A, 3, error="x" * 100_000)
    [text] = event_wire.batch([long])
    told = event_wire.read(text, "fra-gw1")
    assert (told.position, told.event) == (Position(A, 3), "ClockGapSeen")
    assert json.loads(text)["cut"] == len(long)


GOOD = json.loads(line(A, 3))


@pytest.mark.parametrize(
    "bad",
    [
        "", "[]", "7", "{", '{"seq":1}', "[" * 50_000,
        json.dumps({**GOOD, "seq": 0}), json.dumps({**GOOD, "seq": 2**60}), json.dumps({**GOOD, "seq": "1"}),
        json.dumps({**GOOD, "stream": "ZZ"}), json.dumps({**GOOD, "stream": ""}), json.dumps({**GOOD, "event": "a b"}),
        json.dumps({**GOOD, "at": "yesterday"}), json.dumps({**GOOD, "at": "2026-11-29T10:00:00"}),
        json.dumps({**GOOD, "at": "9999-12-31T23:59:59Z"}),
        json.dumps({**GOOD, "gateway": "sin-gw1"}), json.dumps({**GOOD, "gap_s": float("nan")}),
        json.dumps({**GOOD, "detail": "\ud800"}),
    ],
)  # fmt: skip
def test_what_is_no_record_of_the_gateway_is_refused(bad: str) -> None:
    with pytest.raises(DecodeError):
        event_wire.read(bad, "fra-gw1")


def test_a_newer_record_is_kept_as_it_is() -> None:
    text = json.dumps({**GOOD, "v": 2, "event": "SomethingNewer", "colour": "blue"})
    told = event_wire.read(text, "fra-gw1")
    assert (told.event, told.text) == ("SomethingNewer", text)
