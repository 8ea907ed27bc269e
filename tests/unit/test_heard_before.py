"""Whose silence counts: only an end's that a worker of the very process has answered at."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.errors import DecodeError
from site_agent.checks.charon_answers import _said
from site_agent.checks.silence import Said
from site_agent.ike.heard_before import HeardBefore, decode, encode
from site_agent.ike.prober import Asked, Outcome

BEGAN = 100.0
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["v", "pid", "ends"]), inner, max_size=3),
)


@pytest.mark.parametrize(
    ("outcome", "heard_at", "said"),
    [
        (Outcome.SILENT, None, Said.UNHEARD),
        (Outcome.SILENT, 99.0, Said.UNHEARD),  # the charon before this one
        (Outcome.SILENT, 100.5, Said.NOTHING),
        (Outcome.WORKER, None, Said.ANSWER),
        (Outcome.COOKIE, 100.5, Said.UNCLEAR),
    ],
)
def test_silence_counts_where_this_charon_was_heard(outcome: Outcome, heard_at: float | None, said: Said) -> None:
    assert _said(Asked("203.0.113.1", 500, outcome, heard_at=heard_at), BEGAN) is said


def test_a_cookie_shows_that_the_way_is_open_so_the_silence_after_it_counts() -> None:
    assert _said(Asked("203.0.113.1", 500, Outcome.SILENT, cookie=True), BEGAN) is Said.NOTHING


HEARD = HeardBefore(
    pid=4711,
    start_ticks=123456,
    plugins=frozenset({"charon", "vici"}),
    ends=frozenset({("203.0.113.1", 500), ("2001:db8:a::1", 4500)}),
)


def test_what_was_heard_outlives_the_agent() -> None:
    assert decode(encode(HEARD)) == HEARD
    assert decode(encode(HEARD)[:-1] + b', "later": 1}') == HEARD, "an unknown field is passed over"


@given(st.binary(max_size=200) | st.builds(lambda value: json.dumps(value).encode(), VALUES))
def test_any_other_record_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(data)


@pytest.mark.parametrize(
    "field",
    [{"v": 2}, {"pid": True}, {"pid": "1"}, {"plugins": 3}, {"plugins": [1]}, {"ends": [["nowhere", 500]]}, {"ends": [[]]}],
)
def test_a_record_with_a_field_that_cannot_be_is_refused(field: dict[str, object]) -> None:
    with pytest.raises(DecodeError):
        decode(json.dumps(json.loads(encode(HEARD)) | field).encode())
