"""What an observer concludes: decisions from verdicts, sockets and addresses from what the kernel and charon say."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.events import SiteVerdictChanged
from anycast.model import Cause
from anycast.reasons import Reason
from site_agent.observe.decisions import Act, Decisions, Sight
from site_agent.observe.discovery import is_service_address, parse_unix_sockets
from site_agent.observe.view import WORDS

AT = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
UNIX = b"""Num       RefCount Protocol Flags    Type St Inode Path
00000000: 00000002 00000000 00010000 0001 01 101 /run/charon.vici
00000000: 00000003 00000000 00000000 0001 03 102 /run/charon.vici
00000000: 00000002 00000000 00010000 0001 01 103 /run/with a space
00000000: 00000002 00000000 00000000 0002 01 104
"""


def verdict(serving: bool, *reasons: Reason) -> SiteVerdictChanged:
    return SiteVerdictChanged(serving=serving, causes=tuple(Cause(reason=reason) for reason in reasons))


def test_where_a_fact_was_not_looked_at_health_cannot_be_told_and_a_failing_fact_can() -> None:
    decisions = Decisions(Sight(limits=("no VIP",)))
    for seen, act in (
        (verdict(True, Reason.HEALTHY), Act.CANNOT_TELL),
        (verdict(False, Reason.VIP_MISSING), Act.WITHDRAW),
    ):
        made = decisions.take(seen, AT)
        assert made is not None and made.act is act
    assert "cannot tell" in WORDS[Act.CANNOT_TELL] and "announced" not in WORDS[Act.CANNOT_TELL]


def test_what_happens_to_one_of_several_strangers_says_nothing_of_this_machine() -> None:
    sight = Sight(limits=("nine charons",), strangers=True)
    assert not sight.tells(False, verdict(False, Reason.CHARON_EXITED).causes)
    assert sight.tells(False, verdict(False, Reason.CHARON_EXITED, Reason.VIP_MISSING).causes)


def test_each_verdict_is_the_decision_that_an_agent_would_have_taken() -> None:
    decisions = Decisions()
    story = [
        (verdict(False, Reason.NO_EVIDENCE_YET), None),
        (verdict(True, Reason.HEALTHY), Act.ANNOUNCE),
        (verdict(False, Reason.CHARON_EXITED), Act.WITHDRAW),
        (verdict(False, Reason.CHARON_EXITED, Reason.VIP_MISSING), Act.STAY_WITHDRAWN),
        (verdict(False, Reason.RECOVERING), Act.STAY_WITHDRAWN),
        (verdict(True, Reason.HEALTHY), Act.ANNOUNCE),
        (verdict(False, Reason.CLOCK_GAP), Act.WITHDRAW),
    ]
    for n, (seen, act) in enumerate(story):
        made = decisions.take(seen, AT + datetime.timedelta(seconds=n))
        assert (made.act if made is not None else None) == act
        assert made is None or (made.causes, made.at.second) == (seen.causes, n)
    assert len(decisions.made) == len(story) - 1


def test_a_repair_is_told_in_its_place_and_is_no_move_of_the_route() -> None:
    decisions = Decisions()
    decisions.take(verdict(True, Reason.HEALTHY), AT)
    decisions.rekey(Cause(reason=Reason.SA_STATE_LOST, check="sa_state", detail="2 of 2"), AT)
    decisions.take(verdict(False, Reason.SA_STATE_LOST), AT)
    assert [made.act for made in decisions.made] == [Act.ANNOUNCE, Act.REKEY, Act.WITHDRAW]
    assert Act.REKEY in WORDS, "and it can be said"


@given(st.lists(st.booleans()))
def test_announcements_and_withdrawals_take_turns(servings: list[bool]) -> None:
    decisions = Decisions()
    for serving in servings:
        decisions.take(verdict(serving, Reason.HEALTHY if serving else Reason.VIP_MISSING), AT)
    moves = [d.act for d in decisions.made if d.act is not Act.STAY_WITHDRAWN]
    changes = [act for before, act in zip([None, *moves], moves, strict=False) if act != before]
    assert not moves or moves[0] is Act.ANNOUNCE
    assert (changes[-1] is Act.ANNOUNCE) == servings[-1] if moves else not any(servings)


def test_only_sockets_that_listen_are_found() -> None:
    assert parse_unix_sockets(UNIX) == {101: "/run/charon.vici", 103: "/run/with a space"}


@given(st.binary(max_size=300))
def test_any_bytes_of_the_socket_table_are_survived(data: bytes) -> None:
    parse_unix_sockets(UNIX + data)
    parse_unix_sockets(data)


@pytest.mark.parametrize("text", ["%any", "%any4", "0.0.0.0", "::", "127.0.0.1", "vpn.example.org", "203.0.113.0/24", ""])
def test_what_is_no_address_of_a_service(text: str) -> None:
    assert not is_service_address(text)


@pytest.mark.parametrize("text", ["203.0.113.1", "2001:db8::1"])
def test_what_is_one(text: str) -> None:
    assert is_service_address(text)
