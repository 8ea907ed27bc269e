"""The drills' look at an operator's screens, and the checks about holds and flaps: each once held and once broken."""

from __future__ import annotations

import json

from anycast_lab.drills import drill, screens
from anycast_lab.drills.checks import judge
from anycast_lab.drills.timeline import Moment
from tests.unit.test_drill_checks import LIMITS, MS, TRANSIT, UPSTREAM, _at, _seen

RECORD = {"event": "RouteIntentChanged", "boot_ns": 50, "causes": [{"reason": "operator", "detail": "hold withdraw: drill"}]}
STATUS = {
    "route": {"announce": False, "causes": [{"reason": "operator", "detail": "hold withdraw: drill"}]},
    "hold": {"kind": "withdraw", "left_s": 8.5},
    "flap": {"left_s": 0.0},
}
GOOD = {
    "log": json.dumps(RECORD) + "\n",
    "metric": 'anycast_route_cause{check="",reason="operator"} 1.0\n',
    "status": json.dumps(STATUS),
    "why": json.dumps({"agent": STATUS, "log": {}}),
}


def look(since_ns: int = 0, reason: str = "operator", **changed: str) -> screens.ScreensSeen:
    return screens.read(reason, **{**GOOD, **changed}, since_ns=since_ns)


def passed(seen: screens.ScreensSeen, says: str = "") -> bool:
    return judge(drill.SameWord(check="same_word", reason="operator", says=says), _seen(screens=(seen,)), LIMITS).passed


def test_the_word_has_to_be_on_every_screen() -> None:
    assert passed(look())
    assert passed(look(), says="hold withdraw")
    for screen in screens.SCREENS:
        seen = look(**{screen: GOOD[screen].replace("operator", "healthy")})
        assert set(seen.found_on) == set(screens.SCREENS) - {screen}
        assert not passed(seen)
        assert not passed(look(**{screen: "an error message"}))


def test_the_time_left_and_the_words_have_to_be_there() -> None:
    assert not passed(look(status=GOOD["status"].replace("8.5", "0.0")))
    assert not passed(look(), says="hold announce")


def test_a_log_of_the_drill_before_is_not_enough() -> None:
    assert not passed(look(since_ns=51))


def test_a_counter_of_the_drill_before_is_not_enough() -> None:
    assert not passed(look(metric='anycast_events_total{event="HoldStarted",reason="operator"} 1.0\n'))
    assert not passed(look(metric=GOOD["metric"].replace("1.0", "0.0")))


def test_a_word_that_was_never_looked_for_is_not_there() -> None:
    assert not judge(drill.SameWord(check="same_word", reason="flap_delayed"), _seen(screens=(look(),)), LIMITS).passed


AWAY = drill.AwayFor(check="away_for", seconds=5)


def test_away_for() -> None:
    gone = [_at(10, UPSTREAM, "route_removed"), _at(12, TRANSIT, "route_removed")]
    assert judge(AWAY, _seen(*gone, _at(6000, UPSTREAM, "route_added"), _at(6000, TRANSIT, "route_added")), LIMITS).passed
    early = _seen(*gone, _at(6000, UPSTREAM, "route_added"), _at(4000, TRANSIT, "route_added"))
    assert not judge(AWAY, early, LIMITS).passed
    assert not judge(AWAY, _seen(gone[0]), LIMITS).passed, "one that never went"
    assert judge(AWAY, _seen(*gone), LIMITS).passed, "still away at the end"


def kill(ms: float) -> Moment:
    return Moment(int(ms * MS), "drill", "signal", "fra-gw1", "SIGKILL → charon")


def test_every_kill_counts_not_only_the_first() -> None:
    check = drill.EveryKill(check="every_kill", limit="bound")
    both = [_at(t, route, "route_removed") for t in (10, 1010) for route in (UPSTREAM, TRANSIT)]
    assert judge(check, _seen(kill(0), kill(1000), *both), LIMITS).passed
    assert not judge(check, _seen(kill(0), kill(1000), *both[:3]), LIMITS).passed
    assert not judge(check, _seen(kill(0), kill(850), *both), LIMITS).passed, "160 ms late"
    assert not judge(check, _seen(), LIMITS).passed, "nothing was killed"
