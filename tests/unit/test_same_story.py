"""Two runs of a drill compared: one story, whatever the milliseconds; or what is not the same, in words."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from anycast_lab import cli
from anycast_lab.drills.same_story import differences, pairs

Row = tuple[float, str, str, str, str]
KILLED: tuple[Row, ...] = (
    (0.0, "drill", "signal", "fra-gw1", "SIGKILL → charon"),
    (17.5, "fra-gw1/site-agent", "EvidenceChanged", "charon_process", "failing charon_exited (pid 10 killed by SIGKILL)"),
    (24.0, "fra-gw1/site-agent", "SiteVerdictChanged", "", "not serving charon_exited"),
    (30.7, "roamer", "last_good_packet", "", ""),
    (44.8, "fra-rtr", "route_removed", "203.0.113.0/28", "fra_gw1_ipv4"),
    (47.7, "transit", "route_removed", "203.0.113.0/28", "fra_rtr_ipv4"),
    (388.7, "fra-gw1/site-agent", "HolderStarted", "charon", ""),
    (1418.6, "fra-gw1/site-agent", "SiteVerdictChanged", "", "not serving recovering"),
    (6686.9, "roamer", "first_good_packet", "", ""),
    (11310.8, "fra-gw1/site-agent", "SiteVerdictChanged", "", "serving healthy"),
    (11330.4, "fra-rtr", "route_added", "203.0.113.0/28", "fra_gw1_ipv4"),
    (11373.6, "transit", "route_added", "203.0.113.0/28", "fra_rtr_ipv4"),
)


def _run(rows: tuple[Row, ...] = KILLED, drill: str = "charon-sigkill", passed: bool = True) -> dict[str, Any]:
    names = ("t_ms", "source", "event", "subject", "detail")
    checks = [
        {"assert": "transit loses fra-gw1's routes", "seen": "48 ms", "limit": "1500 ms", "passed": passed},
        {"assert": "fra-gw1's routes are back", "seen": "11 s", "limit": "45 s", "passed": True},
    ]
    timeline = [dict(zip(names, row, strict=True)) for row in rows]
    told = {"drill": drill, "runner": "embedded", "passed": passed, "as_expected": passed}
    gap_ms = max((row[0] for row in rows if row[2] == "first_good_packet"), default=0.0)
    clients = {"roamer": {"longest_gap_ms": gap_ms}}
    return {**told, "checks": checks, "timeline": timeline, "clients": clients, "ended_ms": 60_000.0}


def _with(*changes: tuple[int, Row]) -> dict[str, Any]:
    rows = list(KILLED)
    for index, row in changes:
        rows[index] = row
    return _run(tuple(sorted(rows)))


def test_milliseconds_figures_evidence_and_alarms_are_no_other_story() -> None:
    slower = tuple((t * 1.4 + 20 * i, *rest) for i, (t, *rest) in enumerate(KILLED))
    other = _run((*slower, (900.0, "sin-gw1/site-agent", "AlarmRaised", "", "cpu_pressure")))
    other["checks"][0]["seen"] = "93 ms"
    assert differences(_run(), other) == []


def test_a_race_may_end_either_way() -> None:
    acknowledged = (49.0, "fra-gw1/site-agent", "PrefixWithdrawn", "203.0.113.0/28", "charon_exited")
    earlier = (40.0, *acknowledged[1:])
    assert differences(_run((*KILLED, acknowledged)), _run((*KILLED, earlier))) == []


def test_an_order_that_is_clear_in_both_runs_and_not_the_same_is_told() -> None:
    late = (2000.0, *KILLED[6][1:])
    early = (20.0, *KILLED[6][1:])
    long_after = (4000.0, *KILLED[5][1:])
    assert differences(_with((6, late)), _with((6, early))) == [], "beside which the withdrawal is at the same moment"
    (told,) = differences(_with((6, late)), _with((6, early), (5, long_after)))
    assert told.startswith("order of transit route_removed 203.0.113.0/28 fra_rtr_ipv4 and fra-gw1/site-agent HolderStarted")
    assert "1952 ms before it in the first, 3980 ms after it in the second" in told


def test_a_clients_packets_are_given_a_second() -> None:
    def good_at(t_ms: float) -> dict[str, Any]:
        return _with((8, (t_ms, *KILLED[8][1:])))

    assert differences(good_at(10_000), good_at(12_300)) == []
    assert len(differences(good_at(10_000), good_at(12_400))) == 3, "verdict, router and transit"


def test_whether_a_client_had_a_gap_is_a_checks_business() -> None:
    short = _with((3, (20_000.0, *KILLED[3][1:])), (8, (21_300.0, *KILLED[8][1:])))
    short["clients"]["roamer"]["longest_gap_ms"] = 1300.0
    assert differences(_run(), short) == []
    without = tuple(row for row in KILLED if row[1] != "roamer")
    assert differences(_run(), _run(without)) == []


def test_an_event_that_only_one_has_is_told_and_so_is_one_more() -> None:
    once_more = (11400.0, *KILLED[5][1:])
    assert differences(_run(), _run((*KILLED, once_more))) == [
        "only the second has: transit route_removed 203.0.113.0/28 fra_rtr_ipv4, number 2"
    ]
    assert differences(_run(), _run(KILLED[:-1])) == ["only the first has: transit route_added 203.0.113.0/28 fra_rtr_ipv4"]


def test_when_a_drill_is_over_nothing_is_compared_and_a_gateways_last_words_need_no_twin() -> None:
    later = (70_000.0, "transit", "route_removed", "203.0.113.0/28", "fra_rtr_ipv4")
    assert differences(_run(), _run((*KILLED, later))) == [], "the lab is made whole for the next drill"
    settled = (12_000.0, "fra-gw1/site-agent", "PromotionSettled", "", "backup ()")
    assert differences(_run(), _run((*KILLED, settled))) == []
    in_between = (9_000.0, *settled[1:])
    (told,) = differences(_run(), _run((*KILLED, in_between)))
    assert told == "only the second has: fra-gw1/site-agent PromotionSettled backup"


def test_a_session_that_ends_by_its_hold_time_is_given_two_seconds() -> None:
    def powered_off(four_ms: float, six_ms: float, six_protocol: str = "gw1_ipv6") -> dict[str, Any]:
        ends: list[Row] = []
        for at, prefix, protocol in ((four_ms, "203.0.113.0/28", "gw1_ipv4"), (six_ms, "2001:db8:a::/56", six_protocol)):
            ends.append((at, "rtr", "route_removed", prefix, protocol))
            ends.append((at + 0.5, "rtr", "protocol_down", "", protocol))
        return _run(((0.0, "drill", "power_off", "gw1", "power off gw1"), *ends))

    assert differences(powered_off(6000, 7900), powered_off(7900, 6000)) == []
    assert len(differences(powered_off(6000, 8100), powered_off(8100, 6000))) == 4


def test_a_takeovers_figures_and_a_role_that_is_said_twice_are_no_other_story() -> None:
    took: tuple[Row, ...] = (
        (890.0, "gw2", "first_packet_of_takeover", "198.51.100.66", "gw2 goes on under c6b1c825 at 268,435,457 after 1,742"),
        (900.0, "gw2/site-agent", "VrrpStateChanged", "", "active (peer_silent)"),
    )
    other = ((920.0, *took[0][1:4], "gw2 goes on under c56b9609 at 268,435,457 after 1,383"), took[1])
    again = (950.0, *took[1][1:4], "active (told again)")
    back = (970.0, "rtr", "route_updated", "203.0.113.0/28", "gw2_ipv4")
    assert differences(_run((*took, back)), _run((*other, again, back))) == []
    one, two = _run((*took, back)), _run((*took, (950.0, *took[1][1:4], "backup (handed_over)"), back))
    assert differences(one, two) == ["only the second has: gw2/site-agent VrrpStateChanged backup"]


def test_of_a_verdict_only_serving_counts_until_the_agent_begins_anew() -> None:
    fra = ("fra-gw1/site-agent", "SiteVerdictChanged", "")
    reasons = [(5.0 + i, *fra, f"not serving {'clock_gap ' * i}") for i in (1, 2, 3)]
    assert differences(_run((reasons[0],)), _run(tuple(reasons))) == []
    healthy = (1.0, *fra, "serving healthy")
    assert differences(_run(()), _run((healthy,))) == [], "as every drill begins"
    started = (0.5, "fra-gw1/site-agent", "AgentStarted", "", "")
    route = (2.0, *KILLED[-1][1:])
    assert differences(_run((started, route)), _run((started, healthy, route))) != []


def test_an_outcome_that_differs_is_told_check_by_check() -> None:
    assert differences(_run(), _run(passed=False)) == [
        "passed: the first yes, the second no",
        "as expected: the first yes, the second no",
        "transit loses fra-gw1's routes: the first held (48 ms), the second did not (48 ms)",
    ]
    fewer = _run()
    del fewer["checks"][1]
    assert differences(_run(), fewer) == ["only the first has the check: fra-gw1's routes are back"]
    turned = _run()
    turned["checks"].reverse()
    assert differences(_run(), turned) == ["the checks are in another order"]


def test_gateways_that_had_each_others_role_are_called_by_each_others_names() -> None:
    def taken_over(victim: str, peer: str) -> dict[str, Any]:
        rows: tuple[Row, ...] = (
            (0.0, "drill", "power_off", victim, f"power off {victim}"),
            (1100.0, f"{peer}/site-agent", "VrrpStateChanged", "", "active (peer_silent)"),
            (1900.0, "fra-rtr", "protocol_down", "", f"{victim.replace('-', '_')}_ipv4"),
        )
        run = _run(rows)
        run["checks"] = [{**run["checks"][0], "assert": f"{peer} is active, {peer}1 and x{peer} are not"}]
        return run

    assert differences(taken_over("fra-gw1", "fra-gw2"), taken_over("fra-gw2", "fra-gw1")) == [
        "only the first has the check: fra-gw2 is active, fra-gw21 and xfra-gw2 are not",
        "only the second has the check: fra-gw2 is active, fra-gw11 and xfra-gw1 are not",
    ], "fra-gw1 is no part of fra-gw11 or xfra-gw1"
    one, other = taken_over("fra-gw1", "fra-gw2"), taken_over("fra-gw2", "fra-gw1")
    del one["checks"][0], other["checks"][0]
    assert differences(one, other) == []


def test_another_drill_is_another_story_and_runs_are_paired_by_drill() -> None:
    assert differences(_run(), _run(drill="bridge-sigstop")) == ["the first is charon-sigkill, the second bridge-sigstop"]
    one, two, three = _run(), _run(), _run(drill="bridge-sigstop")
    both = pairs([one, three, two], [two, one, _run(drill="vip-removed")])
    assert [(first is one, second is two) for first, second in both] == [(True, True), (False, False)]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    changed = copy.deepcopy(_run())
    changed["runner"] = "containerlab"
    red = _run(passed=False)
    names = []
    for name, run in (("one", _run()), ("other", changed), ("red", red)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps([run]))
        names.append(str(path))
    return names[0], names[1], names[2]


def test_the_command_says_so_and_its_exit_status_too(files: tuple[str, str, str]) -> None:
    one, other, red = files
    done = CliRunner().invoke(cli.app, ["compare", one, other])
    assert (done.exit_code, done.output) == (0, "charon-sigkill (embedded, containerlab): the same\n")
    done = CliRunner().invoke(cli.app, ["compare", one, red])
    assert done.exit_code == 1
    assert "charon-sigkill (embedded, embedded): 3 differences\n  passed: the first yes" in done.output
