"""Whatever the canary sees moves no verdict, whatever its charon says is read or refused, and there is no storm."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from anycast.errors import PeerError
from anycast.model import Evidence, EvidenceClass, Status
from anycast.policy.verdict import VerdictCore
from anycast.reasons import Reason
from anycast.runtime import TimerExpired
from site_agent.canary import tunnels
from site_agent.canary.tunnels import FIRST_RETRY_S, LONGEST_RETRY_S, NAME, Echo, Reconnect, Tunnel, judge, read_tunnels
from site_agent.checks.base import unknown
from site_agent.checks.canary import CanaryCheck
from site_agent.checks.steady import Steady

NAMES = ("canary-ipv4", "canary-ipv6")
TUNNELS = st.dictionaries(
    st.sampled_from(NAMES),
    st.builds(Tunnel, unique_id=st.just("1"), established=st.booleans(), installed=st.booleans(), inner=st.just(())),
)
ECHOES = st.lists(st.builds(Echo, st.sampled_from(NAMES), st.just("192.0.2.10"), st.none() | st.floats(0, 1e4)), max_size=4)
LOOKS = st.lists(
    st.builds(judge, st.just(NAMES), TUNNELS, ECHOES, st.text(max_size=20))
    | st.builds(
        unknown,
        st.just(NAME),
        st.sampled_from([Reason.CHECK_UNAVAILABLE, Reason.CHECK_REFUSED, Reason.CHECK_TIMED_OUT, Reason.CHECK_FAULTED]),
    ),
    max_size=30,
)


def moves_nothing(looks: list) -> None:
    classes = {"charon": EvidenceClass.FACT, **CanaryCheck.reports}
    core = VerdictCore(classes, lease_s=1.0, recovery_s=0.0, now=0.0)
    now = 0.1
    charon = Evidence(
        check="charon", evidence_class=EvidenceClass.FACT, status=Status.PASSING, reason=Reason.HEALTHY, at=now
    )
    core.handle(charon, now)
    steady = Steady(rise=CanaryCheck.timing.rise, fall=CanaryCheck.timing.fall)
    for look in looks:
        now += 0.01
        settled = steady.settle(look)
        seen = Evidence(
            check=NAME,
            evidence_class=CanaryCheck.reports[NAME],
            status=settled.status,
            reason=settled.reason,
            detail=settled.detail,
            value=settled.value,
            at=now,
        )
        core.handle(seen, now)
        core.handle(TimerExpired(), now := core.deadline)
        assert core.verdict is not None and core.verdict.serving
        assert [cause.reason for cause in core.verdict.causes] == [Reason.HEALTHY]
        assert all(look.status is not Status.FAILING or look.reason is Reason.CANARY_FAILING for look in looks)


@given(LOOKS)
def test_canary_evidence_moves_no_verdict(looks: list) -> None:
    moves_nothing(looks)


LEAVES = st.sampled_from([b"ESTABLISHED", b"INSTALLED", b"CONNECTING", b"1", b"203.0.113.65", b"\xff", b""])
SECTIONS = st.recursive(
    LEAVES | st.lists(LEAVES, max_size=3),
    lambda inner: st.dictionaries(
        st.sampled_from(["uniqueid", "state", "local-vips", "child-sas", "canary-ipv4"]), inner, max_size=4
    ),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(st.sampled_from(NAMES), SECTIONS, max_size=2), max_size=4))
def test_whatever_its_charon_lists_is_read_or_refused(events: list) -> None:
    try:
        found = read_tunnels(events)
    except PeerError:
        return
    assert all(isinstance(tunnel, Tunnel) for tunnel in found.values())


STEPS = st.lists(st.tuples(st.floats(0.1, 20), st.sampled_from(["silent", "answered", "lost"])), max_size=80)


def no_storm(steps: list[tuple[float, str]]) -> None:
    pace, now, tried = Reconnect(), 0.0, [-LONGEST_RETRY_S]
    answered = True
    for wait, what in steps:
        now += wait
        if (what == "lost" and pace.due(now)) or pace.given_up(now):
            assert answered or now - tried[-1] >= FIRST_RETRY_S - 1e-9, "only what answered since may be tried sooner"
            pace.tried(now)
            tried.append(now)
            answered = False
        if what != "lost":
            pace.looked(answered=what == "answered")
            answered = answered or what == "answered"


@given(STEPS)
def test_there_is_never_a_storm_of_handshakes(steps: list[tuple[float, str]]) -> None:
    no_storm(steps)


# Broken on purpose: each rule has to be noticed.


def a_canary_becomes_a_fact(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(CanaryCheck, "reports", {NAME: EvidenceClass.FACT})


def it_does_not_wait(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(tunnels.Reconnect, "due", lambda self, now: True)


@pytest.mark.parametrize(
    ("mutate", "broken", "given_by"), [(a_canary_becomes_a_fact, moves_nothing, LOOKS), (it_does_not_wait, no_storm, STEPS)]
)
def test_each_broken_rule_is_noticed(mutate, broken, given_by, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    only_try = settings(max_examples=500, phases=[Phase.generate], database=None, derandomize=True, deadline=None)
    with pytest.raises(AssertionError):
        only_try(given(given_by)(broken))()
