"""Where clients were and in which order it all happened, judged: each check once green, and red for each reason it has."""

from __future__ import annotations

from typing import Any

import pytest

from anycast_lab.drills import client_checks
from anycast_lab.drills.checks import Observation
from anycast_lab.drills.client_checks import AT, SOURCE
from anycast_lab.drills.client_steps import ClientCheck, GoodUntil, InOrder, Never, NeverAt, What
from anycast_lab.drills.drill import Limit
from anycast_lab.drills.timeline import Moment

SECOND = 1_000_000_000
FAULT = 100 * SECOND
LIMITS = {"gap": Limit(ms=200, reason="a test's")}
CUT = What(event="TunnelsCut", at="ams-gw1/site-agent")


def moment(second: float, event: str, about: str = "", detail: str = "", source: str = SOURCE) -> Moment:
    return Moment(FAULT + int(second * SECOND), source, event, about, detail)


def seen(*moments: Moment, record: dict[str, Any] | None = None) -> Observation:
    return Observation(
        victim="ams-gw1", site="ams", kernel="native", esp=True, fault_ns=FAULT, heal_ns=0, end_ns=FAULT + 90 * SECOND,
        moments=moments, routes=(), withdraws=0, first_reason="", clients={}, child_sas_at_announcement=None,
        records={} if record is None else {"second": record},
    )  # fmt: skip


def judged(check: ClientCheck, *moments: Moment, record: dict[str, Any] | None = None) -> bool:
    return client_checks.judge(check, seen(*moments, record=record), LIMITS).passed


def test_an_order_is_one_of_different_moments_after_the_fault() -> None:
    a, b = What(event="a"), What(event="b", about="x")
    order = InOrder(check="in_order", moments=(a, b, a))
    assert judged(order, moment(1, "a"), moment(2, "b", "x"), moment(3, "a"))
    assert judged(order, moment(3, "a"), moment(1, "a"), moment(2, "b", "x")), "read in whatever order they came"
    assert not judged(order, moment(1, "a"), moment(2, "b", "x")), "one moment is not two"
    assert not judged(order, moment(1, "a"), moment(2, "b", "y"), moment(3, "a"))
    assert not judged(order, moment(-1, "a"), moment(2, "b", "x"), moment(3, "a")), "before the fault"
    assert not judged(order, moment(1, "a"), moment(2, "b", "x"), moment(91, "a")), "after the end"


@pytest.mark.parametrize(
    ("what", "fits"),
    [
        (What(event="e", detail="sin"), True),
        (What(event="e", detail="ams, sin"), False),
        (What(event="e", says="si"), True),
        (What(event="e", says="fra"), False),
        (What(event="e", at="transit"), False),
        (What(event="f"), False),
    ],
)
def test_what_is_left_out_may_be_anything(what: What, fits: bool) -> None:
    assert judged(Never(check="never", moments=(what,)), moment(1, "e", "direct", "sin")) is not fits


def probes(*gaps: tuple[float, float]) -> dict[str, Any]:
    """One every 10 ms from 2 s before the fault for 20 s; answered 1 ms later but for what was sent in a gap."""
    sent = [FAULT + n * 10_000_000 for n in range(-200, 2000)]
    lost = [any(a <= (at - FAULT) / SECOND < b for a, b in gaps) for at in sent]
    good = [0 if gone else at + 1_000_000 for at, gone in zip(sent, lost, strict=True)]
    return {"sent_ns": sent, "good_ns": good, "late": [], "interval_ms": 10}


def test_packets_are_good_until_a_moment_whatever_comes_later() -> None:
    good = GoodUntil(check="good_until", client="second", moment=CUT, limit="gap")
    cut = moment(10, "TunnelsCut", source="ams-gw1/site-agent")
    assert judged(good, cut, record=probes((10, 15)))
    assert judged(good, cut, record=probes((3, 3.1)))
    assert not judged(good, cut, record=probes((9.5, 15))), "it was gone before that"
    assert not judged(good, cut, record=probes((3, 3.5)))
    assert not judged(good, record=probes()), "never cut"
    assert not judged(good, cut), "nobody sent anything"


def test_what_is_answered_after_the_moment_was_not_good_before_it() -> None:
    record = probes((9, 10))
    record["good_ns"] = [good or FAULT + 11 * SECOND for good in record["good_ns"]]
    good = GoodUntil(check="good_until", client="second", moment=CUT, limit="gap")
    assert not judged(good, moment(10, "TunnelsCut", source="ams-gw1/site-agent"), record=record)


def test_a_client_is_nowhere_that_it_must_not_be_also_not_for_a_moment() -> None:
    never = NeverAt(check="never_at", client="second", sites=("sin",))
    assert judged(never, moment(-5, AT, "second", "ams"), moment(5, AT, "second", "fra"), moment(6, AT, "direct", "sin"))
    assert not judged(never, moment(-5, AT, "second", "ams"), moment(5, AT, "second", "ams, sin"))
    assert not judged(never, moment(-5, AT, "second", "sin")), "it was there when all began"
    assert judged(never, moment(-9, AT, "second", "sin"), moment(-5, AT, "second", "ams")), "that was before"
    assert not judged(never), "nobody looked"
