"""What the log says of one moment, and what it must not claim."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from site_agent.history import account_at, first_cause, last_flaps, parse_moment, parse_span, read_records

NOON = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


def at(seconds: float, event: str, **fields: Any) -> dict[str, Any]:
    when = (NOON + datetime.timedelta(seconds=seconds)).isoformat()
    return {"v": 1, "at": when, "boot_ns": 0, "gateway": "fra-gw1", "event": event, **fields}


def cause(reason: str) -> list[dict[str, str]]:
    return [{"reason": reason, "check": "charon_process", "detail": "pid 7 killed by SIGKILL"}]


ROUTE = {"neighbor": "198.51.100.1", "prefix": "203.0.113.0/28"}
DAY = [
    at(0, "AgentStarted", instance="a"),
    at(1, "SiteVerdictChanged", serving=True, causes=cause("healthy")),
    at(2, "PrefixAnnounced", **ROUTE, reason="healthy"),
    at(60, "EvidenceChanged", check="charon_process", status="failing", reason="charon_exited", detail=""),
    at(60, "SiteVerdictChanged", serving=False, causes=cause("charon_exited")),
    at(60.1, "PrefixWithdrawn", **ROUTE, reason="charon_exited"),
    at(61, "AlarmRaised", reason="vici_refused", detail=""),
    at(70, "AlarmCleared", reason="vici_refused"),
    at(71, "SiteVerdictChanged", serving=True, causes=cause("healthy")),
    at(71.1, "PrefixAnnounced", **ROUTE, reason="healthy"),
    at(3600, "AgentStarted", instance="b"),
]


def moment(seconds: float) -> datetime.datetime:
    return NOON + datetime.timedelta(seconds=seconds)


def test_the_verdict_of_then_with_its_cause_and_what_was_withdrawn() -> None:
    account = account_at(DAY, moment(65))
    assert (account.serving, account.causes[0]["reason"]) == (False, "charon_exited")
    assert account.verdict_since == moment(60)
    assert [(route.announced, route.reason) for route in account.routes] == [(False, "charon_exited")]
    assert [alarm["reason"] for alarm in account.alarms] == ["vici_refused"]
    assert account.trail[-1]["event"] == "AlarmRaised", "nothing after the moment is told"


def test_an_hour_later_it_serves_again() -> None:
    account = account_at(DAY, moment(100))
    assert (account.serving, account.agent, account.alarms) == (True, "running", ())


def test_an_agent_that_left_no_farewell_ended_at_some_time_before_its_successor() -> None:
    assert account_at(DAY, moment(3000)).ended_before == moment(3600)
    assert account_at(DAY[:-1], moment(3000)).ended_before is None, "not known to have ended: says when it was last heard"
    assert account_at(DAY[:-1], moment(3000)).heard_until == moment(71.1)
    farewell = [*DAY[:-1], at(80, "AgentStopping", reason="operator", grace_s=15.0), DAY[-1]]
    account = account_at(farewell, moment(3000))
    assert (account.agent, account.grace_s, account.ended_before) == ("stopped", 15.0, None)


def test_a_new_agent_knows_nothing_of_its_predecessors_checks() -> None:
    account = account_at(DAY, moment(3601))
    assert (account.serving, account.checks, account.agent) == (None, (), "running")


def test_a_time_before_the_log_is_unknown() -> None:
    assert account_at(DAY, moment(-1)).known is False
    assert account_at([], moment(0)).known is False


def test_a_torn_or_foreign_line_is_passed_over() -> None:
    lines = [json.dumps(DAY[0]).encode(), b'{"v":1,"at":"2026', b"[]", b"\xff\n", json.dumps({"event": 1}).encode(), b""]
    assert list(read_records(lines)) == DAY[:1]
    assert account_at([at(0, "Unheard", new=True), {**DAY[0], "at": "yesterday"}], moment(9)).known, "N and N+1 together"


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h ago", 7200), ("90 s", 90), ("1.5 min ago", 90), ("1 day ago", 86400), ("2 hours ago", 7200)]
)
def test_times_ago(text: str, seconds: float) -> None:
    assert parse_moment(text, NOON) == NOON - datetime.timedelta(seconds=seconds)


def test_iso_times_and_nonsense() -> None:
    assert parse_moment("2026-03-01T12:00:00+00:00", NOON) == NOON
    assert parse_moment(str(int(NOON.timestamp() * 1e9)), NOON) == NOON, "a drill's clock"
    assert parse_moment("2026-03-01 12:00", NOON).tzinfo is not None, "local time where no zone is named"
    with pytest.raises(ValueError):
        parse_moment("yesterday", NOON)


def first(records: list[dict[str, Any]], seconds: float) -> str | None:
    found = first_cause(records, moment(seconds))
    return None if found is None else found.reason


def test_the_first_cause_after_a_moment() -> None:
    assert first(DAY, 30) == "charon_exited"
    assert first(DAY, 61) == "agent_gone", "the next thing that was wrong: an agent without a farewell"
    assert first(DAY[:-1], 61) is None
    killed = [*DAY[:-1], at(80, "HolderKilled", name="exabgp", pid=9, reason="bridge_silent")]
    assert first(killed, 75) == "bridge_silent"


def test_a_new_agent_without_evidence_is_no_cause() -> None:
    stopped = [*DAY[:-1], at(80, "AgentStopping", reason="operator", grace_s=15.0), at(81, "AgentStarted", instance="b")]
    verdict = at(81, "SiteVerdictChanged", serving=False, causes=cause("no_evidence_yet"))
    assert first([*stopped, verdict], 75) is None, "a clean restart is no fault"


def test_a_thawed_process_hears_of_the_consequences_first() -> None:
    thaw = [at(100, "PrefixWithdrawn", **ROUTE, reason="lease_lapsed"), at(100.01, "ClockGapSeen", gap_s=30.0)]
    assert first([*DAY[:-1], *thaw], 90) == "clock_gap"
    late = [thaw[0], at(140, "ClockGapSeen", gap_s=30.0)]
    assert first([*DAY[:-1], *late], 90) == "lease_lapsed", "a gap much later is another story"


def test_a_hold_and_what_it_made_of_the_route_are_told_until_it_ends_by_itself() -> None:
    held = [
        *DAY[:3],
        at(10, "HoldStarted", kind="withdraw", reason="operator", detail="disk swap", despite=[], left_s=600),
        at(10, "RouteIntentChanged", announce=False, causes=cause("operator"), penalty=1000),
    ]
    account = account_at(held, moment(20))
    assert account.hold is not None
    assert account.hold["detail"] == "disk swap"
    assert account.intent is not None
    assert (account.serving, account.intent["announce"]) == (True, False), "the machine is well, the route is held"
    assert account_at(held, moment(609)).hold is not None
    assert account_at(held, moment(611)).hold is None, "also where nobody was there to record its end"
    ended = [*held, at(30, "HoldEnded", kind="withdraw", reason="operator", detail="ended")]
    assert account_at(ended, moment(31)).hold is None


def test_the_last_penalty_is_found_unless_it_was_cleared() -> None:
    assert last_flaps(DAY) is None
    flaps = [at(1, "RouteIntentChanged", announce=False, penalty=2000)]
    found = last_flaps(flaps)
    assert found is not None
    assert (found.at, found.penalty, found.announce) == (moment(1), 2000, False)
    cleared = last_flaps([*flaps, at(2, "FlapCleared", penalty=1999)])
    assert cleared is not None
    assert cleared.penalty == 0


@pytest.mark.parametrize(("text", "seconds"), [("2h", 7200), ("90 s", 90), ("1.5min", 90), ("1 day", 86400)])
def test_spans(text: str, seconds: float) -> None:
    assert parse_span(text) == seconds


@pytest.mark.parametrize("text", ["2h ago", "h", "-1 s", "1e9 s", "inf s"])
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(ValueError, match="no time span"):
        parse_span(text)
