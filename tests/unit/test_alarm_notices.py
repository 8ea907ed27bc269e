"""What an operator is told of, and that it is told in the log's words."""

from __future__ import annotations

import json

from anycast.events import (
    AgentAlive,
    AlarmCleared,
    AlarmRaised,
    Event,
    HoldStarted,
    RouteIntentChanged,
    SiteVerdictChanged,
)
from anycast.model import Cause
from anycast.reasons import Reason
from site_agent.alarms.notices import Notices, to_notice


def route(announce: bool, reason: Reason) -> RouteIntentChanged:
    return RouteIntentChanged(announce=announce, causes=(Cause(reason=reason, check="a_check"),), penalty=0)


def news(*events: Event) -> list[bool]:
    notices = Notices()
    return [notices.is_news(event) for event in events]


def test_an_alarm_is_told_when_it_begins_and_when_it_ends() -> None:
    raised, cleared = AlarmRaised(reason=Reason.MEMORY_LOW, detail="1 MiB"), AlarmCleared(reason=Reason.MEMORY_LOW)
    other = AlarmRaised(reason=Reason.CPU_PRESSURE, detail="")
    assert news(cleared, raised, raised, other, cleared, cleared) == [False, True, False, True, True, False]


def test_the_route_is_told_when_it_goes_and_when_it_comes_whatever_follows_in_between() -> None:
    start, well = route(False, Reason.NO_EVIDENCE_YET), route(True, Reason.HEALTHY)
    dead, again = route(False, Reason.CHARON_EXITED), route(False, Reason.RECOVERING)
    assert news(start, well, dead, again, well) == [False, True, True, False, True]
    assert news(start, dead) == [False, True], "a gateway that comes up and cannot serve"
    assert news(route(False, Reason.OPERATOR)) == [True], "a start under a hold"
    assert news(well, route(False, Reason.CLOCK_GAP), well) == [True, True, True]


def test_nothing_else_is_news() -> None:
    verdict = SiteVerdictChanged(serving=False, causes=(Cause(reason=Reason.VIP_MISSING),))
    assert news(verdict, AgentAlive(serving=True, lease_s=1.0)) == [False, False], "what moves the route is told once"


def notice(event: Event) -> dict[str, object]:
    made = to_notice(
        event, wall=1e9, boot_ns=7, gateway="fra-gw1", site="fra", fleet="two-site", instance="abc", lost=3
    )  # fmt: skip
    return json.loads(json.dumps(made))


def test_every_notice_has_its_reason_and_a_sentence() -> None:
    said = notice(route(False, Reason.CHARON_EXITED))
    assert said["reason"] == "charon_exited", "the same word as everywhere"
    assert said["text"] == "fra-gw1 (fra): the route is withdrawn: charon_exited"
    assert (said["v"], said["event"], said["announce"], said["lost"]) == (1, "RouteIntentChanged", False, 3)
    assert notice(AlarmRaised(reason=Reason.MEMORY_LOW, detail="1 MiB"))["text"] == "fra-gw1 (fra): alarm memory_low: 1 MiB"
    assert notice(AlarmCleared(reason=Reason.MEMORY_LOW))["text"] == "fra-gw1 (fra): alarm memory_low is over"
    held = notice(HoldStarted(kind="withdraw", reason=Reason.OPERATOR, detail="fibre", despite=(), left_s=7200.0))
    assert held["text"] == "fra-gw1 (fra): hold withdraw for 7200 s: fibre"
