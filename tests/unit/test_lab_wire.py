"""What crosses the lab's socket and User Mode Linux's serial line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.errors import ConfigError, DecodeError, Problem
from anycast_lab.control import wire
from anycast_lab.runner import LabError

LINES = st.binary(max_size=3 * wire.FRAME).map(lambda b: b.replace(b"\n", b"n").replace(b"\r", b"r") + b"\n")


@given(st.integers(1, 10_000), LINES)
def test_frames_are_short_and_come_together_again(channel: int, line: bytes) -> None:
    frames = wire.frames(channel, line)
    assert all(frame.endswith(b"\n") and len(frame) <= wire.FRAME + 16 for frame in frames)
    parts = [wire.unwrap(frame) for frame in frames]
    assert {number for number, _ in parts} == {channel}
    assert b"".join(part for _, part in parts) == (line if line != b"\n" else b""), "an empty line is the connection's end"


@given(st.integers(0, 10_000), LINES)
def test_one_frame_of_any_length(channel: int, line: bytes) -> None:
    assert wire.unwrap(wire.wrap(channel, line)) == (channel, line if line != b"\n" else b"")


def test_a_terminal_may_add_a_carriage_return() -> None:
    assert wire.unwrap(b"7 {}\r\n") == (7, b"{}\n")


@given(st.binary(max_size=50))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    try:
        number, part = wire.unwrap(data)
    except DecodeError:
        return
    assert number >= 0
    assert part in (b"", part.rstrip(b"\n") + b"\n") or data.lstrip(b"0123456789").startswith(b"+")


@pytest.mark.parametrize("line", [b"", b"[1]\n", b"{\n", b"\xff\n"])
def test_a_line_that_is_no_object_is_refused(line: bytes) -> None:
    with pytest.raises(DecodeError):
        wire.decode(line)


def test_errors_cross_as_they_are() -> None:
    config = ConfigError([Problem("a.b", "is wrong", "f.yml", 3, 4), Problem("", "is empty")])
    again = wire.decode_error(wire.decode(wire.encode(wire.encode_error(config))))
    assert isinstance(again, ConfigError)
    assert again.problems == config.problems
    assert str(wire.decode_error(wire.encode_error(LabError("no such node")))) == "no such node"
