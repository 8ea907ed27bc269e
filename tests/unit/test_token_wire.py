"""What agent and coordinator say about darkness: both ways, and whatever else arrives."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast import token_wire as wire
from anycast.errors import DecodeError
from anycast.model import Status

REPORT = wire.Report(
    seq=7,
    quotes=3,
    announcing=False,
    reason="token",
    looks=(wire.Look(check="exec_my-own", status=Status.FAILING, reason="exec_failed", age_ms=1500, span_ms=80_000),),
    held=(wire.Held(id="L1x-1", kind="token", by="dns", until=14_400.0),),
    ended=("L1x-0",),
    asks=True,
)
ANSWER = wire.Answer(
    n=4,
    to=7,
    grant=wire.Grant(id="L1x-1", check="dns", life_ms=30_000, dark=("fra", "sin")),
    refused="grants_spaced",
    detail="5 s of 30 s",
    recalls=(wire.Recall(id="L1x-2", reason="check_suspected"),),
    acknowledged=("L1x-0",),
)


def changed(message: wire.Report | wire.Answer, **changes: object) -> bytes:
    return json.dumps(json.loads(wire.encode(message)) | changes).encode()


def test_both_ways() -> None:
    assert wire.decode_report(wire.encode(REPORT)) == REPORT
    assert wire.decode_answer(wire.encode(ANSWER)) == ANSWER


def test_what_a_newer_one_adds_is_passed_over_and_what_it_demands_is_refused() -> None:
    assert wire.decode_report(changed(REPORT, colour="blue")) == REPORT
    assert wire.decode_report(changed(REPORT, reason="a_word_of_tomorrow")).reason == "a_word_of_tomorrow"
    with pytest.raises(DecodeError, match="regions_of_regions: not known here"):
        wire.decode_answer(changed(ANSWER, requires=["regions_of_regions"]))
    with pytest.raises(DecodeError):
        wire.decode_answer(changed(ANSWER, v=2))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seq", 0), ("seq", 2**53 + 1), ("seq", "7"), ("seq", True), ("seq", 7.5), ("announcing", "yes"), ("announcing", 1),
        ("reason", "Not A Word"), ("reason", "x" * 65), ("reason", "token\n"), ("ended", ["a/../b"]), ("ended", ["a"] * 65),
        ("looks", [{}]), ("looks", [{"check": "dns", "status": "maybe", "reason": "x", "age_ms": 0, "span_ms": 0}]),
        ("looks", [{"check": "dns", "status": "failing", "reason": "x", "age_ms": -1, "span_ms": 0}]),
        ("held", [{"id": "", "kind": "token"}]), ("held", [{"id": "a", "kind": "token", "until": 1e300}]),
        ("held", None), ("asks", None), ("quotes", -1),
    ],
)  # fmt: skip
def test_reports_that_mean_nothing_are_refused(field: str, value: object) -> None:
    with pytest.raises(DecodeError) as caught:
        wire.decode_report(changed(REPORT, **{field: value}))
    assert "\n" not in str(caught.value) and field in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0), ("to", -1), ("acknowledged", ["x" * 97]), ("detail", "x" * 201),
        ("grant", {"id": "a", "check": "dns", "life_ms": 30_001, "dark": []}),
        ("grant", {"id": "a", "check": "dns", "life_ms": 0, "dark": []}),
        ("grant", {"id": "a", "check": "dns", "life_ms": 1, "dark": ["Fra"]}),
        ("grant", {"id": "a", "check": "dns", "life_ms": 1, "dark": ["fra\n"]}),
    ],
)  # fmt: skip
def test_answers_that_mean_nothing_are_refused(field: str, value: object) -> None:
    with pytest.raises(DecodeError):
        wire.decode_answer(changed(ANSWER, **{field: value}))


@pytest.mark.parametrize(
    "data", [b"", b"null", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b"{" + b" " * wire.MAX_BYTES + b"}"]
)
def test_bytes_that_mean_nothing_are_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        wire.decode_report(data)
    with pytest.raises(DecodeError):
        wire.decode_answer(data)


@given(st.binary(max_size=300))
def test_any_bytes_decode_or_raise(data: bytes) -> None:
    for decode in (wire.decode_report, wire.decode_answer):
        try:
            decode(data)
        except DecodeError:
            pass


def test_the_largest_messages_fit() -> None:
    look = wire.Look(
        check="e" * 80, status=Status.FAILING, reason="r" * 64, age_ms=wire.MAX_SPAN_MS, span_ms=wire.MAX_SPAN_MS
    )
    held = wire.Held(id="i" * 96, kind="k" * 64, by="\U0001f600" * 200, why="\U0001f600" * 200, until=1e11)
    report = REPORT.model_copy(
        update={"looks": (look,) * wire.MAX_LOOKS, "held": (held,) * wire.MAX_HELD, "ended": ("i" * 96,) * wire.MAX_ENDED}
    )
    assert wire.decode_report(wire.encode(report)) == report
    grant = wire.Grant(id="i" * 96, check="c" * 80, life_ms=30_000, dark=("s" * 63,) * 1000)
    recall = wire.Recall(id="i" * 96, reason="r" * 64)
    ids = ("i" * 96,) * wire.MAX_ENDED
    answer = ANSWER.model_copy(update={"grant": grant, "recalls": (recall,) * wire.MAX_ENDED, "acknowledged": ids})
    assert wire.decode_answer(wire.encode(answer)) == answer
