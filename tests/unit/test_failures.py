"""When a site failed, out of what its gateways told: a fact took a route that was wanted, and nothing else did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anycast.cli import simulate
from anycast.cli.coordinator_client import Denied, Target, Unreachable
from anycast.coordinator.event_store import Batch, EventStore, Retention, Seen
from anycast.coordinator.failures import Intent, failures
from anycast.event_wire import read
from anycast.policy.whatif import what_if
from tests.support.contents import made, state_of

DAY_S = 86_400.0


def intent(at: float, announce: Any, *reasons: str, gateway: str = "fra-gw1", site: str = "fra") -> Intent:
    return Intent(site, gateway, at, {"announce": announce, "causes": [{"reason": reason} for reason in reasons]})


def test_a_fact_that_took_a_route_is_a_failure_and_what_people_did_is_none() -> None:
    assert failures([intent(0, True), intent(100, False, "charon_exited")]) == {"fra": [100]}
    assert failures([intent(0, True), intent(100, False, "recovering", "link_down")]) == {"fra": [100]}
    assert failures([intent(0, True), intent(1, False, "address_unheld")]) == {"fra": [1]}
    for reason in ("drained", "operator_hold", "dns_wrong", "no_evidence_yet", "document_old"):
        assert failures([intent(0, True), intent(100, False, reason)]) == {}, reason
    assert failures([intent(0, False, "charon_absent"), intent(5, False, "charon_exited")]) == {}, "it never announced"
    drained = [intent(0, True), intent(1, False, "drained"), intent(9, False, "charon_exited")]
    assert failures(drained) == {}, "nobody was here any more"
    twice = [intent(0, True), intent(1, False, "vip_missing"), intent(90, True), intent(500, False, "vip_missing")]
    assert failures(twice) == {"fra": [1, 500]}


def test_both_gateways_of_a_site_fail_once_and_another_site_for_itself() -> None:
    both = [intent(0, True), intent(0, True, gateway="fra-gw2"), intent(0, True, gateway="sin-gw1", site="sin")]
    both += [intent(100, False, "link_down"), intent(130, False, "link_down", gateway="fra-gw2")]
    both += [intent(131, False, "link_down", gateway="sin-gw1", site="sin")]
    assert failures(both) == {"fra": [100], "sin": [131]}


@pytest.mark.parametrize("causes", [None, 7, [7], [{"reason": ["charon_exited"]}], {}, [[]]])
def test_what_a_gateway_makes_up_is_no_failure(causes: Any) -> None:
    made_up = [intent(0, True), Intent("fra", "fra-gw1", 1, {"announce": False, "causes": causes})]
    assert failures(made_up) == {}


def test_the_store_gives_them_oldest_first_with_the_site_of_each(tmp_path: Path) -> None:
    store = EventStore(tmp_path / "events.db", "example", Retention())
    store.add([Seen("fra-gw1", "fra", 1.0, {"at": "2026-11-01T00:00:00.000Z", "event": "GatewayHeard"})])
    lines = []
    for seq, (announce, reason) in enumerate([(True, "healthy"), (False, "charon_exited"), (True, "healthy")], start=1):
        at = f"2026-11-01T00:0{seq}:00.000Z"
        record = {"event": "RouteIntentChanged", "announce": announce, "causes": [{"reason": reason}], "penalty": 0}
        lines.append({"v": 1, "seq": seq, "at": at, "gateway": "fra-gw1", "stream": "0" * 32, "cause": "", **record})
    store.add([Batch("fra-gw1", 2.0, [read(json.dumps(each), "fra-gw1") for each in lines])])
    told = store.intents()
    assert [(each.site, each.record["announce"]) for each in told] == [("fra", True), ("fra", False), ("fra", True)]
    assert failures(told) == {"fra": [told[1].at]}
    store.close()


def test_simulate_says_how_often_and_how_long_ago_and_what_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    content = made().content
    state, _ = state_of(content)
    now = 1e9
    known = {"fra": [now - 40 * DAY_S, now - 3.5 * DAY_S]}
    found = what_if(content, state, ["fra", "ams"], "fail", failures=known, now=now)
    assert {each.site: (each.failed, each.failed_days) for each in found.seen} == {"ams": (0, None), "fra": (2, 3)}
    said = list(simulate._lines(found, 90.0))
    days = "as its gateways told in the 90 days that events are kept at most"
    assert f"seen before: fra failed 2 times, the last time 3 days ago, {days}" in said
    assert f"seen before: ams failed never, {days}" in said
    unknown = what_if(content, state, ["fra"], "fail", now=now)
    assert "seen before: whether fra failed is unknown" in list(simulate._lines(unknown, None))

    def older(*_: object) -> Any:
        raise Denied("there is no /v1/failures")

    monkeypatch.setattr(simulate, "ask", older)
    assert simulate._failures(Target("unix:/x", None, None)) == (None, None)

    def away(*_: object) -> Any:
        raise Unreachable("coordinator", "no answer")

    monkeypatch.setattr(simulate, "ask", away)
    with pytest.raises(Unreachable):
        simulate._failures(Target("unix:/x", None, None))
