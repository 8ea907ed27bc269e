"""Which ranges are offered when, and what two gateways tell each other of them."""

from __future__ import annotations

import dataclasses

import pytest

from anycast.errors import DecodeError
from site_agent.ike import inner_address_words as words
from site_agent.ike.address_ranges import EMPTY, Ranges, assignable
from site_agent.ike.inner_addresses import shares
from tests.support.address_core import LIMITS, POOL, V6, One, active, of, offered, said, span


def test_a_share_each_and_no_address_twice() -> None:
    one, other = shares((POOL, V6), 0, 2), shares((POOL, V6), 1, 2)
    assert not one & other
    assert one | other == Ranges((assignable(POOL), assignable(V6)))
    assert assignable(POOL) == span("1-30"), "charon itself skips the first and the last (mem_pool_create)"
    assert len(assignable(V6)) == 2**31 - 2, "charon's own limit"
    assert assignable("203.0.113.7/32") == span("7")


def test_a_backup_offers_nothing_and_an_active_its_own_share() -> None:
    one = One()
    one.look()
    one.hear()
    assert one.offer == ()
    assert offered(one.tell(words.RoleIs(True))) == of("1-4")
    assert offered(one.tell(words.RoleIs(False))) == EMPTY
    assert active(rank=1).ranges == of("16-19")


def test_nothing_is_offered_before_charon_was_looked_at() -> None:
    one = One()
    one.hear()
    assert offered(one.tell(words.RoleIs(True))) is None
    assert offered(one.look("1-2")) == of("3-6"), "what an SA has is nobody else's"


def test_new_clients_wait_while_waiting_helps() -> None:
    one = One()
    assert not one.core.hands_out
    one.tell(words.RoleIs(True))
    assert not one.core.hands_out, "charon's SAs are not known"
    one.look()
    assert not one.core.hands_out and one.offer == (), "the other gateway may hand out still"
    one.wait(LIMITS.peer_stops_s)
    assert one.core.hands_out and one.offer
    one.look("1-15")
    one.tell(words.PoolsSeen(dict.fromkeys(one.offer, 4)))
    assert one.offer == () and one.core.hands_out, "none is left: that is an answer"
    one.tell(words.CharonStarted())
    assert not one.core.hands_out
    one.look()
    one.tell(words.RoleIs(False))
    assert not one.core.hands_out


def test_what_the_other_gateway_uses_in_this_share_is_not_offered() -> None:
    one = One()
    one.look()
    one.hear(uses=of("2-9"))
    one.tell(words.RoleIs(True))
    assert one.offer == (span("1"), span("10-13")), "the half that may be lent first, where it has more than crumbs"
    one.tell(words.PeerLost())
    assert not one.ranges & of("2-9"), "its last word stands"


def test_a_handed_out_range_closes_and_rests_before_it_comes_back() -> None:
    one = active()
    one.look("1-4")
    assert offered(one.tell(words.PoolsSeen({span("1-4"): 4}))) == of("5-8"), "the next one opens in the same step"
    one.now = 1.0
    one.look("1", "5-8")  # three have left
    assert offered(one.tell(words.PoolsSeen({span("5-8"): 4}))) == of("9-12")
    one.tell(words.PoolsSeen({span("9-12"): 4}))
    one.tell(words.PoolsSeen({span("13-15"): 2}))
    assert one.ranges == of("13-15"), "one is left, and nothing has rested"
    one.wait(59)
    assert one.ranges == of("13-15")
    one.wait(2)
    assert one.ranges == of("2-4", "13-15"), "one is in use still"


def test_a_look_that_began_before_a_range_closed_says_nothing_of_it() -> None:
    one = active()
    one.now = 10.0
    one.tell(words.PoolsSeen({span("1-4"): 4}))  # closed and applied at 10
    one.look(began=9.0)
    one.wait(61)
    for rest in ("5-8", "9-12", "13-15"):
        one.tell(words.PoolsSeen({span(rest): 4}))
    assert one.offer == (), "somebody may have one of 1-4 since 9.5"
    one.look("1-4", "5-15")
    one.wait(200)
    assert one.offer == ()


def test_an_older_offer_that_was_under_way_does_not_close_what_it_has() -> None:
    one = active()
    one.tell(words.PoolsSeen({span("1-4"): 1}), apply=False)
    assert one.offer == (span("1-4"), span("5-8"))
    one.tell(words.PoolsSeen({span("1-4"): 4, span("5-8"): 1}), apply=False)
    assert one.offer == (span("5-8"), span("9-12"))
    one.now = 1.0
    one.tell(words.Applied((span("1-4"), span("5-8"))))
    one.now = 2.0
    one.look(began=1.5)  # charon handed out from 1-4 then
    one.now = 3.0
    one.tell(words.Applied(one.offer))
    one.wait(100)
    one.tell(words.PoolsSeen({span("5-8"): 4, span("9-12"): 3}))
    assert not one.ranges & of("1-4"), "no look has seen it since it closed"


def test_who_never_heard_the_other_gateway_waits_for_it_to_stop() -> None:
    one = One()
    one.look()
    one.now = 100.0
    assert offered(one.tell(words.RoleIs(True))) is None
    assert offered(one.wait(4.9)) is None
    assert offered(one.wait(0.2)) == of("1-4")


def test_with_the_other_one_known_nobody_waits_though_it_is_silent() -> None:
    one = One()
    one.look()
    one.hear(uses=of("3"))
    one.tell(words.PeerLost())
    one.now = 200.0
    assert offered(one.tell(words.RoleIs(True))) == of("4-7")


def test_after_a_long_silence_as_backup_it_counts_with_the_other_having_taken_everything() -> None:
    one = One()
    one.look()
    one.hear()
    one.tell(words.PeerLost())
    one.now = 301.0
    assert offered(one.tell(words.RoleIs(True))) is None
    assert offered(one.wait(5)) is not None


def test_both_shares_after_being_active_alone_for_long_and_back_when_the_other_returns() -> None:
    one = active()
    one.tell(words.PeerLost())
    one.look("1-15")
    one.tell(words.PoolsSeen({span("1-4"): 4}))
    one.wait(599)
    assert not one.ranges
    one.wait(2)
    assert one.ranges and not one.ranges - of("16-30")
    actions = one.hear()
    assert one.offer == (), "that share is the other's again"
    assert said(actions).uses == of("16-19"), "perhaps: they were on offer until now"


def test_one_whose_channel_is_up_is_not_gone_though_it_says_nothing() -> None:
    one = active()
    one.tell(words.PeerLost())
    one.tell(words.PoolsSeen({span("1-4"): 4}))
    one.look("1-15")
    one.tell(words.PeerConnected())
    one.wait(1000)
    assert not one.ranges & of("16-30")


def test_the_first_word_after_a_silence_closes_what_it_contradicts() -> None:
    one = One()
    one.look()
    one.tell(words.RoleIs(True))
    one.wait(6)
    one.tell(words.PoolsSeen({span("1-4"): 1}))
    assert one.offer == (span("1-4"), span("5-8"))
    one.hear(uses=of("6"))
    assert one.offer == (span("1-4"), span("9-12"))
    one.tell(words.PeerSaid(words.Word(active=False, uses=of("6", "10"))))
    assert one.offer == (span("1-4"), span("9-12")), "what a mirror says of this charon's own is no contradiction"


def test_a_new_process_says_nothing_before_it_knows_what_charon_hands_out() -> None:
    one = One()
    one.tell(words.RoleIs(True))
    assert one.hear() == []
    looked = words.Looked(began=0.0, uses=EMPTY, listed=(span("16-17"),), loaded=(span("16-17"), span("5-8")))
    word = said(one.tell(looked))
    assert word.uses == of("16-17") and not word.asks & of("1-15")
    one.wait(30)
    one.tell(words.PoolsSeen({span("1-4"): 4}))
    assert one.ranges == of("9-12"), "a handshake in flight may have the old list"


def test_a_new_process_takes_up_what_the_one_before_it_offered() -> None:
    one = One()
    one.look()
    assert one.offer == ()
    one = One()
    one.tell(words.RoleIs(True))
    one.tell(words.Looked(began=0.0, uses=of("1-2"), listed=(span("1-4"),), loaded=(span("1-4"),)))
    one.tell(words.PoolsSeen({span("1-4"): 2}))
    one.wait(6)
    assert one.ranges == of("1-8"), "and opens what is missing once the other one has stopped"


def test_after_charon_started_what_the_other_gateway_may_have_taken_over_rests() -> None:
    one = active()
    one.look("1-2")
    one.tell(words.CharonStarted())
    assert offered(one.look()) == of("5-8")
    one.tell(words.PoolsSeen({span("5-8"): 4}))
    one.tell(words.PoolsSeen({span("9-12"): 4}))
    one.tell(words.PoolsSeen({span("13-15"): 3}))
    assert one.offer == ()
    one.wait(61)
    assert one.ranges == of("1-4")


def test_a_gateway_without_another_has_everything_at_once() -> None:
    one = One(gateways=1)
    one.look("1-3")
    actions = one.tell(words.RoleIs(True))
    assert offered(actions) == of("4-7")
    assert not [action for action in actions if isinstance(action, words.TellPeer)]
    one.tell(words.CharonStarted())
    assert offered(one.look()) == of("1-4"), "nobody can have taken them over"


def test_an_empty_pool_is_told_once_and_so_is_its_recovery() -> None:
    one = active()
    actions = one.look("1-15")
    assert [a for a in actions if isinstance(a, words.PoolExhausted)] == []
    actions = one.tell(words.PoolsSeen({span("1-4"): 4}))
    assert [a for a in actions if isinstance(a, words.PoolExhausted)] == [words.PoolExhausted(POOL)]
    assert one.tell(words.PoolsSeen({span("1-4"): 4})) == []
    one.now = 1.0
    one.look("2-15")
    assert [a for a in one.wait(61) if isinstance(a, words.PoolRecovered)] == [words.PoolRecovered(POOL)]


def test_each_pool_has_its_own_reserve_and_few_ranges_are_open() -> None:
    one = One(
        prefixes=("203.0.113.0/24", V6), limits=dataclasses.replace(LIMITS, reserve=100, longest_range=64, most_ranges=3)
    )
    one.look(*(str(number) for number in range(1, 120, 2)))
    one.hear()
    one.tell(words.RoleIs(True))
    assert sum(one_range.first < 1 << 64 for one_range in one.offer) == 3, "scattered: no more than charon walks through"
    assert sum(len(one_range) for one_range in one.offer if one_range.first >> 64) >= 100


@pytest.mark.parametrize("data", [b"", b"\x02" + bytes(40), b"\x01\x01" + bytes(16) + b"\xff" * 12, bytes(31)])
def test_a_word_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        words.decode_word(data)


def test_a_word_travels_and_a_large_one_is_told_too_large() -> None:
    word = words.Word(serial=7, heard=2**63, active=True, uses=of("1", "3-4"), asks=of("20"), lends=EMPTY)
    assert words.decode_word(words.encode_word(word)) == word
    scattered = Ranges.of(2 * number for number in range(5000))
    told = words.decode_word(words.encode_word(dataclasses.replace(word, uses=scattered, asks=scattered)))
    assert len(told.uses.ranges) == words.MOST_RANGES and not scattered - told.uses
    assert len(told.asks.ranges) == words.MOST_RANGES and not told.asks - scattered
    assert len(words.encode_word(told)) < 256 * 1024, "one message of the channel"
