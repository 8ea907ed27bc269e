"""One moment is told in one way: log and JSON alike to the letter, screens the same in milliseconds and their own zone."""

from __future__ import annotations

import datetime
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.events import AlarmCleared, to_record, utc_text
from anycast.reasons import Reason
from site_agent.views import local_time, to_json

MOMENTS = st.datetimes(
    min_value=datetime.datetime(1971, 1, 1), max_value=datetime.datetime(2100, 1, 1), timezones=st.just(datetime.UTC)
)


@given(MOMENTS)
def test_log_and_json_say_the_same_and_sort_as_times(moment: datetime.datetime) -> None:
    told = json.loads(to_json({"at": moment}))["at"]
    assert told == utc_text(moment.astimezone(datetime.timezone(datetime.timedelta(hours=5.5))))
    assert datetime.datetime.fromisoformat(told) == moment
    assert len(told) == len("2026-03-01T12:00:00.000000Z") and told.endswith("Z"), "also for a whole second"


def test_a_record_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    record = to_record(AlarmCleared(reason=Reason.MEMORY_LOW), wall=1_772_366_400.0, boot_ns=1, gateway="g")
    assert record["at"] == "2026-03-01T12:00:00.000000Z"


@pytest.mark.parametrize(
    ("zone", "shown"), [("UTC", "2026-03-01T12:00:00.123Z"), ("IST-5:30", "2026-03-01T17:30:00.123+05:30")]
)
def test_a_screen_shows_it_in_its_own_zone(zone: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert local_time(datetime.datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=datetime.UTC)) == shown
    finally:
        monkeypatch.undo()
        time.tzset()
