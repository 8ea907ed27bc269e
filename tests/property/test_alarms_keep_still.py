"""However evidence shakes, an alarm is told at most twice in `ALARM_KEPT_S`, and is true of something in that time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.events import AlarmCleared, AlarmRaised
from anycast.model import Evidence, EvidenceClass, Status
from anycast.policy import verdict
from anycast.policy.verdict import ALARM_KEPT_S, VerdictCore
from anycast.reasons import Reason
from anycast.runtime import TimerExpired

CHECKS = {"charon": EvidenceClass.FACT, "vici": EvidenceClass.LOAD, "dns": EvidenceClass.SHARED}
SEEN = {
    "well": (Status.PASSING, Reason.HEALTHY),
    "silent": (Status.UNKNOWN, Reason.VICI_SILENT),
    "timed out": (Status.UNKNOWN, Reason.CHECK_TIMED_OUT),
    "failing": (Status.FAILING, Reason.HALF_OPEN_HIGH),
}
LOOKS = st.lists(
    st.tuples(st.sampled_from(sorted(CHECKS)), st.sampled_from(sorted(SEEN)), st.floats(0.01, 15.0)), max_size=60
)


def alarms_keep_still(looks: list[tuple[str, str, float]]) -> None:
    now = 100.0
    core = VerdictCore(CHECKS, lease_s=1.0, recovery_s=0.0, now=now)
    last: dict[str, tuple[Status, Reason]] = {}
    stood: dict[Reason, float] = {}
    told: dict[Reason, list[tuple[type, float]]] = {}

    def step(event: Evidence | TimerExpired) -> None:
        for check, (status, reason) in last.items():
            if status is Status.UNKNOWN or (status is Status.FAILING and CHECKS[check] is not EvidenceClass.FACT):
                stood[reason] = now
        for action in core.handle(event, now):
            if isinstance(action, AlarmRaised):
                assert stood.get(action.reason) == now, "at once"
                told.setdefault(action.reason, []).append((AlarmRaised, now))
            elif isinstance(action, AlarmCleared):
                assert now - stood[action.reason] >= ALARM_KEPT_S
                told[action.reason].append((AlarmCleared, now))
        assert set(core.alarms) == {reason for reason, at in stood.items() if now - at < ALARM_KEPT_S}

    for check, word, pause_s in [*looks, *[(check, "well", 60.0) for check in CHECKS]]:
        last[check] = status, reason = SEEN[word]
        step(Evidence(check=check, evidence_class=CHECKS[check], status=status, reason=reason, at=now))
        until = now + pause_s
        while core.deadline <= until:
            now = max(now, core.deadline)
            step(TimerExpired())
        now = until
    assert not core.alarms
    for events in told.values():
        assert [kind for kind, _ in events] == [AlarmRaised, AlarmCleared] * (len(events) // 2)
        for (_, earlier), (_, third) in zip(events, events[2:], strict=False):
            assert third - earlier >= ALARM_KEPT_S, "twice in that time"


def test_alarms_keep_still() -> None:
    given(LOOKS)(alarms_keep_still)()


def test_an_alarm_that_shakes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "ALARM_KEPT_S", 0.0)
    with pytest.raises(AssertionError):
        alarms_keep_still([("vici", "silent", 2.0), ("vici", "well", 2.0)] * 3)
