"""Protection begins with the first sign, ends with the last, and nothing that could not be seen ends it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anycast.events import EvidenceChanged, ProtectionEnded, ProtectionStarted
from anycast.model import EvidenceClass, Status
from anycast.policy.protection import BLOCK_THRESHOLD, COOKIE_THRESHOLD, INIT_LIMIT, Protection
from anycast.reasons import Reason
from site_agent.checks import half_open

HIGH = ("half_open", Status.FAILING, Reason.HALF_OPEN_HIGH)
LOW = ("half_open", Status.PASSING, Reason.HEALTHY)
BLIND = ("half_open", Status.UNKNOWN, Reason.VICI_SILENT)
COOKIE = ("ike_probe", Status.UNKNOWN, Reason.IKE_COOKIE)
ANSWERED = ("ike_probe", Status.PASSING, Reason.HEALTHY)
UNANSWERED = ("ike_probe", Status.FAILING, Reason.IKE_UNANSWERED)
OTHER = ("conntrack", Status.FAILING, Reason.CONNTRACK_FILLING)
Step = tuple[str, Status, Reason]


def play(*steps: Step) -> list[ProtectionStarted | ProtectionEnded]:
    protection, said = Protection(), []
    for check, status, reason in steps:
        seen = EvidenceChanged(
            check=check, evidence_class=EvidenceClass.LOAD, status=status, reason=reason, detail="40 half-open IKE_SAs"
        )
        if (news := protection.take(seen)) is not None:
            said.append(news)
    return said


def test_it_begins_once_and_ends_with_the_last_sign() -> None:
    started, ended = play(OTHER, HIGH, COOKIE, LOW, OTHER, ANSWERED, LOW)
    assert started == ProtectionStarted(kind="cookies", reason=Reason.HALF_OPEN_HIGH, detail="40 half-open IKE_SAs")
    assert ended == ProtectionEnded(kind="cookies", reason=Reason.IKE_COOKIE), "charon demands them for longest"


def test_what_cannot_be_seen_ends_nothing() -> None:
    assert [type(news) for news in play(HIGH, BLIND)] == [ProtectionStarted]
    assert [type(news) for news in play(COOKIE, UNANSWERED)] == [ProtectionStarted]
    assert [type(news) for news in play(HIGH, BLIND, LOW)] == [ProtectionStarted, ProtectionEnded]


@given(st.lists(st.sampled_from([HIGH, LOW, BLIND, COOKIE, ANSWERED, OTHER])))
def test_beginning_and_end_take_turns(steps: list[Step]) -> None:
    said = [type(news) for news in play(*steps)]
    assert said == [ProtectionStarted, ProtectionEnded] * (len(said) // 2) + [ProtectionStarted] * (len(said) % 2)


def test_the_thresholds_are_in_order() -> None:
    assert half_open.LIMIT == COOKIE_THRESHOLD < BLOCK_THRESHOLD < INIT_LIMIT, "cookies, long before anybody is blocked"
