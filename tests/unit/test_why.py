"""The trail of a site at one moment: a killed charon, a drain, a hole, a gateway that is dead, and its own words."""

from __future__ import annotations

import datetime
import io
import json
import typing
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from anycast import event_wire
from anycast.cli.why import why_view
from anycast.coordinator.fleet_view import SiteState
from anycast.coordinator.store import Line
from anycast.coordinator.why import HEARD, UNHEARD, Why, concerns, explain
from anycast.event_wire import Cause as MissingCause
from anycast.event_wire import Missing
from anycast.events import (
    AgentAlive,
    AgentStarted,
    Event,
    HolderExited,
    PrefixAnnounced,
    PrefixWithdrawn,
    RouteIntentChanged,
    SiteVerdictChanged,
    to_record,
    utc_text,
)
from anycast.model import Cause
from anycast.reasons import Reason

T0 = 1_795_470_000.0
ROUTE: dict[str, Any] = {"neighbor": "192.0.2.1", "prefix": "203.0.113.0/24"}
STARTED = AgentStarted(instance="aa", version="1", document="d", pid=1, lease_s=3.0)
UP = [
    STARTED,
    SiteVerdictChanged(serving=True, causes=()),
    RouteIntentChanged(announce=True, causes=(), penalty=0),
    PrefixAnnounced(**ROUTE, reason=Reason.HEALTHY),
]
EXITED = Cause(reason=Reason.CHARON_EXITED, check="charon", detail="pid 7")
DOWN = [
    HolderExited(name="charon", pid=7, status=-9),
    SiteVerdictChanged(serving=False, causes=(EXITED,)),
    RouteIntentChanged(announce=False, causes=(EXITED,), penalty=1000),
    PrefixWithdrawn(**ROUTE, reason=Reason.CHARON_EXITED),
]
BACK = [
    SiteVerdictChanged(serving=True, causes=()),
    RouteIntentChanged(announce=True, causes=(), penalty=1000),
    PrefixAnnounced(**ROUTE, reason=Reason.HEALTHY),
]


def moment(at: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(T0 + at, datetime.UTC)


def mark(what: str, at: float) -> tuple[float, dict[str, Any]]:
    return at, {"v": 1, "event": what, "at": utc_text(moment(at)), "gateway": "fra-gw1"}


def hole(at: float, cause: MissingCause = MissingCause.DROPPED) -> tuple[float, dict[str, Any]]:
    told = Missing(first=8, last=10, count=3, cause=cause)
    return at, event_wire.missing_record(told, "fra-gw1", utc_text(moment(at)))


def told(*parts: tuple[float, list[Any] | dict[str, Any]], gateway: str = "fra-gw1") -> list[dict[str, Any]]:
    """Events at their times, a millisecond apart."""
    found: list[dict[str, Any]] = []
    for at, events in parts:
        if isinstance(events, dict):
            found.append({**events, "gateway": gateway})
            continue
        for number, event in enumerate(events):
            wall = T0 + at + number / 1000
            found.append(to_record(event, wall=wall, boot_ns=1, gateway=gateway, stream="aa", seq=len(found) + 1))
    return found


def alive(*times: float) -> list[tuple[float, list[Event]]]:
    return [(at, [AgentAlive(serving=True, lease_s=3.0)]) for at in times]


def line(seq: int, at: float, action: str, reason: str = "", **body: Any) -> Line:
    return Line(seq=seq, at=T0 + at, who="alice", action=action, reason=reason, body=body, hash="")


def why(at: float, *lines: Line, **records: list[dict[str, Any]]) -> Why:
    named = {f"fra-{name}": each for name, each in records.items()}
    return explain("fra", moment(at), named, dict.fromkeys(named), [each for each in lines if each.at <= T0 + at])


KILLED = told(mark(HEARD, 0), (1, UP), *alive(60, 120), (130, DOWN), (140, BACK), *alive(180, 240))


def test_a_killed_charon_is_the_reason_then_and_only_then() -> None:
    during = why(135, gw1=KILLED)
    assert (during.state, during.why) == (SiteState.DARK, "charon_exited (pid 7), check charon")
    assert [step.what for step in during.trail][-4:] == [
        "HolderExited", "SiteVerdictChanged", "RouteIntentChanged", "PrefixWithdrawn",
    ]  # fmt: skip
    assert {step.reason for step in during.trail[-3:]} == {"charon_exited"}, "the one word for it (rule 8)"
    assert (why(129, gw1=KILLED).state, why(129, gw1=KILLED).why) == (SiteState.ANNOUNCING, "")
    assert why(200, gw1=KILLED).state is SiteState.ANNOUNCING
    assert not why(129, gw1=KILLED).trail[-1].what.startswith("PrefixWithdrawn"), "nothing of what came later"


def test_a_site_announces_while_one_of_its_gateways_does() -> None:
    healthy = told(mark(HEARD, 0), (1, UP), *alive(60, 120, 180), gateway="fra-gw2")
    both = why(135, gw1=KILLED, gw2=healthy)
    assert (both.state, both.why) == (SiteState.ANNOUNCING, "")
    assert [(each.announced, each.why) for each in both.gateways] == [(0, "charon_exited (pid 7), check charon"), (1, "")]


def test_decisions_stand_between_the_events_they_cause() -> None:
    drained = Cause(reason=Reason.DRAINED, detail="by content")
    intent = RouteIntentChanged(announce=False, causes=(drained,), penalty=0)
    gone = [intent, PrefixWithdrawn(**ROUTE, reason=Reason.DRAINED)]
    records = told(mark(HEARD, 0), (1, UP), (50, gone), *alive(60))
    lines = [
        line(1, 40, "rollout.begin", id="r3", generation=3),
        line(2, 41, "slot.taken", "rollout r3", site="fra", kind="drain", id="x"),
        line(3, 70, "rollout.step", site="fra", step="done", id="r3"),
    ]
    found = why(55, *lines, gw1=records)
    assert (found.state, found.why) == (SiteState.DARK, "drained (by content)")
    steps = [step.what for step in found.trail][-4:]
    assert steps == ["rollout.begin", "slot.taken", "RouteIntentChanged", "PrefixWithdrawn"]
    assert [step.gateway for step in found.trail][-4:] == ["", "", "fra-gw1", "fra-gw1"]
    assert "by alice: rollout r3" in found.trail[-3].text


def test_a_hole_is_a_step_and_what_lies_in_it_is_not_known() -> None:
    records = told(mark(HEARD, 0), (1, UP), hole(100), *alive(100.5), (130, DOWN))
    inside = why(50, gw1=records)
    assert inside.state is SiteState.UNKNOWN and "1 of 1 routes announced" in inside.why
    behind = why(140, gw1=[*records, *told(*alive(180))])
    gap = next(step for step in behind.trail if step.what == event_wire.MISSING)
    assert gap.text == "3 events are missing here (numbers 8 to 10): dropped"
    assert behind.state is SiteState.DARK


def test_a_gateway_that_is_dead_by_now_is_told_of_until_its_end() -> None:
    records = told(mark(HEARD, 0), (1, UP), *alive(60, 120), (130, DOWN), mark(UNHEARD, 131))
    assert why(130.5, gw1=records).state is SiteState.DARK, "it was heard then"
    now = why(5000, gw1=records)
    assert now.state is SiteState.UNKNOWN
    assert "nothing tells of fra-gw1 then (its last word" in now.why and "charon_exited" in now.why
    assert now.trail[-1].what == UNHEARD


def test_a_coordinator_that_was_away_knows_afterwards() -> None:
    """Nobody wrote down that it was not heard: its records of that time came later."""
    records = told(mark(HEARD, 0), (1, UP), (130, DOWN), (140, BACK), mark(HEARD, 500), *alive(501))
    assert why(135, gw1=records).state is SiteState.DARK
    assert why(300, gw1=records).state is SiteState.ANNOUNCING


def test_of_nobody_and_of_before_everything_nothing_is_claimed() -> None:
    assert why(5).state is SiteState.UNKNOWN
    early = why(-5, gw1=KILLED)
    assert early.state is SiteState.UNKNOWN and early.trail == ()


def test_a_decision_is_about_a_site_that_it_names_or_changes() -> None:
    changed = {"r3": frozenset({"fra"})}
    assert concerns(line(1, 0, "rollout.begin", id="r3"), "fra", changed)
    assert not concerns(line(1, 0, "rollout.begin", id="r3"), "sin", changed)
    assert not concerns(line(1, 0, "rollout.step", id="r3", site="sin"), "fra", changed)
    assert concerns(line(1, 0, "slot.taken", id="r9", site="sin"), "sin", changed)
    assert not concerns(line(1, 0, "access.add", name="fra"), "fra", changed)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["reason", "detail", "check"]), inner),
    max_leaves=5,
)
FIELDS = [
    "lease_s", "serving", "causes", "announce", "left_s", "kind", "detail", "reason", "neighbor", "prefix", "name",
    "adopted", "role", "grace_s", "check", "evidence_class", "waiting", "state", "cause", "count", "first",
]  # fmt: skip
KINDS = [each.__name__ for each in typing.get_args(Event)]


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(FIELDS), JUNK, max_size=8)), max_size=12))
def test_whatever_a_gateway_sends_there_is_an_answer_that_can_be_printed(sent: list[tuple[str, dict[str, Any]]]) -> None:
    records = [
        {"v": 1, "event": kind, "at": utc_text(moment(at)), "gateway": "fra-gw1", **fields}
        for at, (kind, fields) in enumerate(sent)
    ]
    for at in (3, 1000):
        shown = json.loads(why(at, gw1=records).model_dump_json())
        with io.StringIO() as out:
            Console(file=out, width=200).print(why_view(shown))
            assert "\x1b" not in out.getvalue()
