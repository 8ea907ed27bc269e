"""From which figure on each `load` check speaks, and that one look alone changes nothing."""

from __future__ import annotations

import pytest

from anycast.model import Status
from anycast.reasons import Reason
from site_agent.checks import conntrack, half_open, memory, pressure, xfrm_stat
from site_agent.checks.base import Finding, failing, passing, unknown
from site_agent.checks.steady import Rates, Steady
from site_agent.proc_counters import Memory

GIB = 1 << 30


@pytest.mark.parametrize(
    ("finding", "reason"),
    [
        (conntrack.judge(79, 100, None), Reason.HEALTHY),
        (conntrack.judge(80, 100, None), Reason.CONNTRACK_FILLING),
        (conntrack.judge(10**6, 0, None), Reason.HEALTHY),
        (conntrack.judge(100, 100, {"drop": 900.0}), Reason.CONNTRACK_REFUSING),
        (conntrack.judge(1, 100, {"insert_failed": 49.0}), Reason.HEALTHY),
        (conntrack.judge(1, 100, {"insert_failed": 50.0}), Reason.CONNTRACK_REFUSING),
        (xfrm_stat.judge(None), Reason.HEALTHY),
        (xfrm_stat.judge({}), Reason.HEALTHY),
        (xfrm_stat.judge({"XfrmInNoStates": 19.9}), Reason.HEALTHY),
        (xfrm_stat.judge({"XfrmInNoStates": 20.0}), Reason.XFRM_ERRORS),
        (half_open.judge(29), Reason.HEALTHY),
        (half_open.judge(30), Reason.HALF_OPEN_HIGH),
        (pressure.judge_stalled(79.9), Reason.HEALTHY),
        (pressure.judge_stalled(80.0), Reason.CPU_PRESSURE),
        (pressure.judge_queue(3.9, 0.09), Reason.HEALTHY),
        (pressure.judge_queue(4.0, 0.0), Reason.CPU_PRESSURE),
        (pressure.judge_queue(0.0, 0.1), Reason.CPU_PRESSURE),
        (memory.judge(Memory(16 * GIB, GIB)), Reason.HEALTHY),
        (memory.judge(Memory(32 * GIB, GIB)), Reason.MEMORY_LOW),
    ],
)
def test_limits(finding: Finding, reason: Reason) -> None:
    assert finding.reason is reason
    assert finding.status is (Status.PASSING if reason is Reason.HEALTHY else Status.FAILING)


def test_a_change_counts_from_the_second_look_in_a_row() -> None:
    good, bad, blind = passing("x"), failing("x", Reason.MEMORY_LOW), unknown("x", Reason.CHECK_TIMED_OUT)
    seen = [good, bad, good, bad, blind, bad, good, bad, good, good]
    steady = Steady(rise=2, fall=2)
    assert "".join(steady.settle(finding).status[0] for finding in seen) == "ppppuffffp"


def test_a_first_look_that_fails_waits_for_the_second() -> None:
    steady = Steady(rise=2, fall=2)
    bad = failing("x", Reason.MEMORY_LOW, "1 MiB")
    assert [steady.settle(bad).status for _ in range(2)] == [Status.PASSING, Status.FAILING]


def test_only_what_grows_now_has_a_rate() -> None:
    rates = Rates()
    assert rates.since_last({"a": 5_000_000, "b": 1}, 10.0) is None
    assert rates.since_last({"a": 5_000_000, "b": 21}, 12.0) == {"b": 10.0}
    assert rates.since_last({"a": 4, "b": 21}, 14.0) == {"a": 2.0}, "a counter that was reset counts from zero"
