"""A late verdict is an alarm that says whether we computed; a frozen machine and an ordinary tick are none."""

from __future__ import annotations

from anycast.events import AlarmCleared, AlarmRaised
from anycast.reasons import Reason
from site_agent.punctuality import QUIET_S, Punctuality

LEASE_S = 1.0


def test_a_callback_that_keeps_the_loop_is_told_once_and_ends_after_quiet() -> None:
    seen = Punctuality(lease_s=LEASE_S)
    assert [seen.after(at, 0.0) for at in (10.0, 10.2, 10.4, 10.85)] == [None] * 4, "a third of a lease is let pass"
    raised = seen.after(11.45, 0.55)
    assert isinstance(raised, AlarmRaised)
    assert raised.detail.startswith("no verdict for 0.60 s, 0.55 s of it computing")
    assert seen.after(12.1, 0.55) is None, "it stands"
    assert seen.after(12.3, 0.55) is None
    at, said = 12.3, []
    while at < 12.1 + QUIET_S + 1:
        at += 0.2
        said.append(seen.after(at, 0.6))
    assert [event for event in said if event is not None] == [AlarmCleared(reason=Reason.LOOP_LATE)]


def test_a_thaw_is_not_ours_and_a_long_computation_is() -> None:
    seen = Punctuality(lease_s=LEASE_S)
    seen.after(10.0, 0.0)
    assert seen.after(50.0, 0.0) is None, "ClockGapSeen says it"
    assert isinstance(seen.after(52.0, 1.9), AlarmRaised)
