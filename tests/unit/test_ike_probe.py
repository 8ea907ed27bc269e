"""What the ends' answers mean together, and which connections are missing."""

from __future__ import annotations

import pytest

from anycast.errors import PeerError
from anycast.model import EvidenceClass, Status
from anycast.reasons import Reason
from site_agent.checks import connections
from site_agent.checks.ike_probe import IkeProbeCheck, judge
from site_agent.checks.vici import ViciCheck
from site_agent.ike.prober import Asked, Outcome


def ends(*outcomes: Outcome, slowest: float = 0.001) -> list[Asked]:
    return [
        Asked("203.0.113.1", 500, outcome, slowest if outcome is W else None, cookie=outcome is C) for outcome in outcomes
    ]


W, C, S, N = Outcome.WORKER, Outcome.COOKIE, Outcome.SILENT, Outcome.NOBODY


@pytest.mark.parametrize(
    ("asked", "status", "reason"),
    [
        (ends(W, W), Status.PASSING, Reason.HEALTHY),
        (ends(W, W, slowest=0.5), Status.FAILING, Reason.IKE_SLOW),
        (ends(W, C), Status.UNKNOWN, Reason.IKE_COOKIE),
        ([*ends(W), Asked("203.0.113.1", 4500, W, 0.001, cookie=True)], Status.UNKNOWN, Reason.IKE_COOKIE),
        ([*ends(W), Asked("203.0.113.1", 4500, S, cookie=True)], Status.UNKNOWN, Reason.IKE_COOKIE),
        (ends(C, S), Status.FAILING, Reason.IKE_UNANSWERED),
        (ends(W, N), Status.FAILING, Reason.IKE_UNANSWERED),
    ],
)
def test_the_worst_end_decides(asked: list[Asked], status: Status, reason: Reason) -> None:
    found = judge(asked)
    assert (found.status, found.reason) == (status, reason)


def test_the_value_is_the_slowest_answer_in_ms_and_an_unanswered_end_is_named() -> None:
    assert judge(ends(W, slowest=0.012)).value == 12.0
    assert "203.0.113.1 port 500 (silent)" in judge(ends(W, S)).detail


def test_rendered_connections_that_are_not_loaded_are_named_and_are_no_evidence() -> None:
    found = connections.judge({"theirs"}, ("vpn", "staff"))
    assert (found.status, found.reason) == (Status.FAILING, Reason.CONNECTIONS_NOT_LOADED)
    assert found.detail == "charon has not loaded staff, vpn"
    assert connections.judge({"theirs", "vpn"}, ("vpn",)).status is Status.PASSING
    assert connections.judge(set(), ()).reason is Reason.CONNECTIONS_NOT_LOADED
    for check in (ViciCheck, IkeProbeCheck):
        assert set(check.reports.values()) == {EvidenceClass.LOAD}, "an alarm, whatever it says"


@pytest.mark.parametrize("conns", [{"conns": [b"\xff"]}, {"conns": [{}]}, {"conns": 3}])
def test_an_answer_that_makes_no_sense_is_charons_error(conns: dict[str, object]) -> None:
    with pytest.raises(PeerError, match="get-conns"):
        connections.loaded_connections(conns)
