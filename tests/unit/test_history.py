"""What the log says of one moment, and what it must not claim."""

from __future__ import annotations

import datetime
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from anycast.history import (
    account_at,
    first_cause,
    last_flaps,
    parse_moment,
    read_records,
    settled,
)
from anycast.span import parse_span
from anycast.trail import LENGTH
from site_agent import views

NOON = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


def at(seconds: float, event: str, **fields: Any) -> dict[str, Any]:
    when = (NOON + datetime.timedelta(seconds=seconds)).isoformat()
    return {"v": 1, "at": when, "boot_ns": 0, "gateway": "fra-gw1", "event": event, **fields}


def cause(reason: str) -> list[dict[str, str]]:
    return [{"reason": reason, "check": "charon_process", "detail": "pid 7 killed by SIGKILL"}]


def site_agent(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from site_agent.cli import main; main()", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


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
    assert account.trail[-1]["event"] == "PrefixWithdrawn", "nothing after the moment is told, and no alarm"
    assert account.raised == (("vici_refused", 1),)


def test_alarms_of_a_busy_machine_are_counted_and_push_nothing_away(capsys: pytest.CaptureFixture[str]) -> None:
    noise = [
        record
        for n in range(40)
        for record in (
            at(200 + n, "EvidenceChanged", check="cpu", evidence_class="load", status="failing", reason="cpu_pressure"),
            at(200 + n, "AlarmRaised", reason="cpu_pressure", detail=""),
            at(200.5 + n, "AlarmCleared", reason="cpu_pressure"),
        )
    ]
    intent = at(150, "RouteIntentChanged", announce=False, causes=cause("operator"), penalty=0)
    held = at(149, "HoldStarted", kind="withdraw", reason="operator", detail="x", despite=[], left_s=119.95741605758667)
    account = account_at([*DAY[:-1], held, intent, *noise], moment(300))
    assert account.trail[-1]["event"] == "RouteIntentChanged"
    assert "PrefixWithdrawn" in {record["event"] for record in account.trail}
    assert dict(account.raised)["cpu_pressure"] == 40
    views.show_account(account)
    said = capsys.readouterr().out
    assert "cpu_pressure 40 times" in said and "announce=no" in said and "left_s=120.0" in said
    assert "False" not in said and "119.957" not in said


def test_clients_and_their_rekeys_push_no_takeover_away() -> None:
    names = (
        "ClientConnected",
        "ClientMoved",
        "ClientGone",
        "TunnelNotMirrored",
        "TunnelEnded",
        "RekeyRefused",
        "RekeysProgressed",
    )
    takeover = at(80, "VrrpStateChanged", old="backup", new="active", cause="peer_silent")
    crowd = [at(81 + n / 10, name, identity=str(n)) for n in range(LENGTH) for name in names]
    assert takeover in account_at([*DAY[:-1], takeover, *crowd], moment(300)).trail


def test_an_alarm_older_than_the_trail_is_not_counted() -> None:
    moves = [at(100 + n, "SessionChanged", neighbor="198.51.100.1", state="up", detail=str(n)) for n in range(LENGTH)]
    account = account_at([*DAY[:-1], *moves], moment(300))
    assert (len(account.trail), account.raised) == (LENGTH, ())


def test_the_last_withdrawal_is_named_with_its_reason_also_when_all_is_well_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    account = account_at(DAY[:-1], moment(100))
    assert account.away is not None and account.away.reason == "charon_exited"
    assert (account.away.since, account.away.until) == (moment(60.1), moment(71.1))
    views.show_account(account)
    assert ", charon_exited" in next(line for line in capsys.readouterr().out.splitlines() if "Last away" in line)
    open_still = account_at(DAY, moment(65)).away
    assert open_still is not None and open_still.until is None
    assert account_at(DAY, moment(10)).away is None


def test_under_a_hold_the_headline_speaks_of_the_hold(capsys: pytest.CaptureFixture[str]) -> None:
    answer: dict[str, Any] = {
        "gateway": "fra-gw1",
        "site": "fra",
        "verdict": {"serving": True, "causes": [{"reason": "healthy"}]},
        "routes": [{"announced": False}],
        "hold": {"kind": "withdraw", "reason": "disk swap", "despite": [], "left_s": 60.0},
        "route": {"announce": False, "causes": [{"reason": "operator", "detail": "hold withdraw: disk swap"}]},
        "flap": {"left_s": 0.0},
        "protection": [],
        "alarms": [],
    }
    views.show_verdict(answer)
    headline, hold, *rest = capsys.readouterr().out.splitlines()
    assert "hold withdraw" in headline and "serving" not in headline and "disk swap" in hold
    assert any("the checks, for themselves, say serving" in line for line in rest)
    views.show_verdict({**answer, "hold": None, "route": {"announce": True, "causes": []}})
    assert "is serving" in capsys.readouterr().out.splitlines()[0]


def test_an_hour_later_it_serves_again() -> None:
    account = account_at(DAY[:-1], moment(100))
    assert (account.serving, account.agent, account.alarms) == (True, "running", ())


def test_an_agent_that_left_no_farewell_ended_at_some_time_before_its_successor() -> None:
    assert account_at(DAY, moment(3000)).ended_before == moment(3600)
    assert account_at(DAY[:-1], moment(3000)).ended_before is None, "not known to have ended: says when it was last heard"
    assert account_at(DAY[:-1], moment(3000)).heard_until == moment(71.1)
    farewell = [*DAY[:-1], at(80, "AgentStopping", reason="operator", grace_s=15.0), DAY[-1]]
    account = account_at(farewell, moment(3000))
    assert (account.agent, account.grace_s, account.ended_before) == ("stopped", 15.0, None)


QUIET = [at(-1, "AgentStarted", instance="a", lease_s=3.0), *DAY[1:3]]
ALIVE = {"serving": True, "lease_s": 3.0}


def routes(account: Any) -> list[tuple[bool | None, str, datetime.datetime | None]]:
    return [(route.announced, route.state, route.until) for route in account.routes]


def test_nothing_is_announced_after_an_agent_that_nobody_hears_any_more() -> None:
    now = moment(1000)
    account = settled(account_at(QUIET, now), now, answers=False)
    assert (account.agent, account.serving, account.causes) == ("gone", None, ())
    assert account.gone_by == moment(2 + 120), "it would have said that it is alive"
    assert routes(account) == [(False, "lapsed", moment(125))]
    assert account.routes[0].reason == "agent_gone", "not `healthy`"
    alive = settled(account_at(QUIET, now), now, answers=True)
    assert (alive.agent, alive.serving, routes(alive)) == ("running", True, [(True, "announced", None)])


def test_a_lease_after_the_last_word_the_route_may_be_there_still() -> None:
    within, later = moment(4.5), moment(8)
    assert settled(account_at(QUIET, within), within, answers=False).serving is True, "the lease that it renewed"
    assert routes(settled(account_at(QUIET, later), later, answers=False)) == [(None, "unknown", moment(11))]


def test_a_log_that_goes_on_is_not_doubted_because_nobody_answers_now() -> None:
    account = settled(account_at(DAY, moment(65)), moment(5000), answers=False)
    assert (account.agent, account.serving) == ("running", False)
    longer = [*QUIET, at(700, "AgentAlive", **ALIVE)]
    assert settled(account_at(longer, moment(600)), moment(5000), answers=False).serving is True


def test_in_the_gap_before_a_successor_nothing_is_announced() -> None:
    records = [*QUIET, at(62, "AgentAlive", **ALIVE), at(3600, "AgentStarted", instance="b", lease_s=3.0)]
    account = account_at(records, moment(3000))
    assert (account.agent, account.serving, account.gone_by) == ("gone", None, moment(182))
    assert routes(account) == [(False, "lapsed", moment(185))]
    soon = [*QUIET, at(30, "AgentStarted", instance="b", lease_s=3.0)]
    assert account_at(soon, moment(20)).gone_by == moment(30), "the successor bounds it closer"
    assert routes(account_at(soon, moment(31))) == [(None, "unknown", moment(33))], "until the new agent hears of it"
    assert routes(account_at(soon, moment(40))) == [(False, "lapsed", moment(33))]
    told = [*soon, at(31, "PrefixWithdrawn", **ROUTE, reason="agent_gone")]
    assert routes(account_at(told, moment(40))) == [(False, "withdrawn", moment(30))], "before the new agent, not when told"


def test_a_stopped_agent_serves_for_its_grace_and_then_no_more() -> None:
    records = [*QUIET, at(80, "AgentStopping", reason="operator", grace_s=15.0)]
    assert routes(account_at(records, moment(90))) == [(True, "left", moment(95))]
    account = settled(account_at(records, moment(100)), moment(100), answers=False)
    assert (account.agent, account.serving, account.causes, account.gone_by) == ("stopped", False, (), None)
    assert routes(account) == [(False, "lapsed", moment(95))]


def test_being_alive_keeps_an_account_when_the_start_has_been_rotated_away() -> None:
    account = account_at([at(0, "AgentAlive", **ALIVE)], moment(1))
    assert (account.agent, account.serving, account.heard_until, account.trail) == ("running", True, moment(0), ())


def test_what_people_read_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    def told(account: Any) -> str:
        views.show_account(account)
        return capsys.readouterr().out

    now = moment(1000)
    gone = told(settled(account_at(QUIET, now), now, answers=False))
    assert "no verdict" in gone and "lease of 3 s" in gone and "announced" not in gone.split("What led")[0]
    assert "agent answers now, last record at" in told(settled(account_at(QUIET, now), now, answers=True))
    assert "heard" not in told(account_at(QUIET, now))
    stopped = told(account_at([*QUIET, at(80, "AgentStopping", reason="operator", grace_s=15.0)], now))
    assert "not serving" in stopped and "at most the grace of 15 s" in stopped and "lapsed" in stopped
    assert datetime.datetime.fromisoformat(stopped.split(" at ")[1].split(": ")[0]) == now, "a time with its zone"


@pytest.mark.parametrize(("answer", "said"), [(b'{"v":2}\n', "serving since"), (b"", "no verdict")])
def test_an_agent_of_another_version_is_not_a_dead_one(answer: bytes, said: str, tmp_path: Path) -> None:
    """It answers, which is what the account needs to know; one that closes without a word does not."""
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(record) + "\n" for record in QUIET))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "control.sock"))
        listener.listen()

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1024)
                client.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        done = site_agent("why", "--run-dir", str(tmp_path), "--state-dir", str(tmp_path))
        server.join()
    assert said in done.stdout


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
    today = parse_moment("11:25", NOON)
    assert (today.astimezone().date(), today.astimezone().strftime("%H:%M")) == (NOON.astimezone().date(), "11:25")
    assert parse_moment("11:25:30Z", NOON) == moment(-35 * 60 + 30)
    for nonsense in ("yesterday", "2026", "25:00", "12"):
        with pytest.raises(ValueError):
            parse_moment(nonsense, NOON)


@pytest.mark.parametrize(
    ("time", "said"), [("2999-01-01T00:00Z", "is in the future"), ("noonish", "`23:25` (today), or an ISO 8601 time, as 20")]
)
def test_a_time_that_cannot_be_answered_is_refused_in_one_sentence(time: str, said: str, tmp_path: Path) -> None:
    folders = ("--run-dir", str(tmp_path), "--state-dir", str(tmp_path))
    done = site_agent("why", "--at", time, *folders)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr


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


def test_a_route_from_before_a_power_loss_is_not_called_announced() -> None:
    log = [
        at(0, "AgentStarted", instance="a"),
        at(1, "SessionChanged", neighbor=ROUTE["neighbor"], state="up"),
        at(2, "PrefixAnnounced", **ROUTE, reason="healthy"),
        at(600, "AgentStarted", instance="b"),
        at(601, "HolderStarted", name="exabgp", pid=9, adopted=False),
    ]
    account = account_at(log, moment(700))
    assert [(route.announced, route.reason) for route in account.routes] == [(False, "exabgp_exited")]
    assert account.sessions == ((ROUTE["neighbor"], "down"),)
    told = at(602, "PrefixAnnounced", **ROUTE, reason="healthy")  # by the bridge, at its hello
    kept = account_at([*log[:-1], {**log[-1], "adopted": True}, told], moment(700))
    assert [route.announced for route in kept.routes] == [True], "adopted: the route stayed"


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
