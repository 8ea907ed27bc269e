"""What one gateway lends of its share to the other, and what it keeps for its own promotion."""

from __future__ import annotations

import dataclasses

import pytest

from site_agent.ike import inner_address_words as words
from site_agent.ike.address_ranges import EMPTY, Range, Ranges, assignable
from site_agent.ike.inner_addresses import Limits, lendable, shares
from tests.support.address_core import LIMITS, POOL, V6, One, active, of, offered, said, span


def test_borrowing_needs_a_yes_and_giving_back_a_word() -> None:
    borrower, lender = active(rank=0), One(rank=1)
    lender.look()
    borrower.look("1-15")
    asked = said(borrower.tell(words.PoolsSeen({span("1-4"): 4})))
    assert asked.asks == of("16-19") and not borrower.ranges & of("16-30"), "asked, not taken"
    lender.tell(words.PeerConnected())
    lent = said(lender.tell(words.PeerSaid(asked)))
    assert lent.lends == of("16-19")
    assert offered(borrower.tell(words.PeerSaid(lent))) == of("16-19")
    lender.tell(words.PeerLost())
    lender.tell(words.RoleIs(True))
    assert lender.ranges == of("20-23"), "promoted, it keeps off what it lent"
    back = said(borrower.tell(words.RoleIs(False)))
    assert back.asks == EMPTY and back.uses == of("16-19"), "handed out, for all that is known"
    lender.tell(words.PeerConnected())
    lender.tell(words.PeerSaid(back))
    lender.tell(words.PoolsSeen({span("20-23"): 3}))
    assert not lender.ranges & of("16-19")
    lender.tell(words.PeerSaid(dataclasses.replace(back, serial=back.serial + 1, uses=of("17"))))
    lender.wait(61)
    lender.tell(words.PoolsSeen({span("20-23"): 4, span("24-27"): 4}))
    assert lender.offer == (span("18-19"), span("16"), span("28-30")), "the largest part first, and before the other half"


def pools_of(size: int) -> tuple[str, ...]:
    """Neighbours that have so many addresses to hand out, of either family; those of one and two touch each other."""
    length = {1: 0, 2: 1, 6: 3, 14: 4}[size]
    fours = [f"203.0.113.{(1 << length) * (number + 1)}/{32 - length}" for number in range(3)]
    return (*fours, *(f"2001:db8:c::{(1 << length) * (number + 1):x}/{128 - length}" for number in range(3)))


@pytest.mark.parametrize("gateways", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [1, 2, 6, 14])
def test_half_of_a_share_may_be_lent_and_half_of_each_pools(size: int, gateways: int) -> None:
    prefixes = pools_of(size)
    for rank in range(gateways):
        lends = lendable(prefixes, rank, gateways)
        assert not lends - shares(prefixes, rank, gateways)
        for prefix in prefixes:
            pool = Ranges((assignable(prefix),))
            own, lent = shares((prefix,), rank, gateways), lends & pool
            assert lent == lendable((prefix,), rank, gateways), "whatever the neighbouring pools are"
            count = own.count()
            assert lent.count() == ((count + 1) // 2 if count > 1 else 0), "the middle one too, a single one not"
            assert not lent or min(lent).first == min(own).first, "the lower half: it is handed out first"


def test_the_other_half_of_a_share_is_lent_whatever_is_asked_for() -> None:
    for rank in (0, 1):
        lender = One(rank=rank)
        lender.look()
        assert said(lender.hear(active=True, asks=of("1-30"))).lends == of(("1-8", "16-23")[rank])


@pytest.mark.parametrize("rank", [0, 1])
def test_what_a_borrower_asks_for_is_what_the_lender_may_lend(rank: int) -> None:
    """Else it would ask for ever, and one that lends would answer nothing."""
    prefixes = ("203.0.113.64/27", V6, *pools_of(1), "203.0.113.128/31", "203.0.113.136/29")
    borrower, lender = One(rank, prefixes, limits=Limits()), One(1 - rank, prefixes, limits=Limits())
    for one in (borrower, lender):
        one.look()
    borrower.hear()
    asked = said(borrower.tell(words.RoleIs(True)))
    lender.tell(words.PeerConnected())
    lent = said(lender.tell(words.PeerSaid(asked)))
    small = Ranges(assignable(prefix) for prefix in prefixes if prefix != V6)
    assert asked.asks and lent.lends == asked.asks == lendable(prefixes, 1 - rank, 2) & small
    borrower.tell(words.PeerSaid(lent))
    assert borrower.ranges & small == (shares(prefixes, rank, 2) | lent.lends) & small


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("prefix", [POOL, "203.0.113.0/24", "2001:db8:c::/120"])
def test_promoted_after_the_borrowers_power_off_it_hands_out_of_the_other_half_at_once(prefix: str, rank: int) -> None:
    """Also where the borrower has asked for all it can get, and where this gateway's clients fill the first half."""
    for used in (0, 3, len(assignable(prefix)) // 4):
        borrower, lender = One(rank, (prefix,), limits=Limits()), One(1 - rank, (prefix,), limits=Limits())
        own = shares((prefix,), 1 - rank, 2)
        first = min(own).first
        clients = Ranges((Range(first, first + used - 1),)) if used else EMPTY
        for one in (borrower, lender):
            one.tell(words.Looked(began=0.0, uses=clients))
        borrower.hear(uses=clients)
        asked = said(borrower.tell(words.RoleIs(True)))
        lender.tell(words.PeerConnected())
        lent = said(lender.tell(words.PeerSaid(asked))).lends
        assert lent == lendable((prefix,), 1 - rank, 2) - clients, "the borrower has all that can be lent"
        lender.tell(words.PeerLost())
        lender.now = 1.0
        assert offered(lender.tell(words.RoleIs(True))) == own - lent - clients
        assert lender.ranges.count() >= own.count() // 2, "the whole upper half"
        assert lender.core.hands_out
        lender.wait(LIMITS.forget_s - 1)
        assert not lender.ranges & lent, "it is the borrower's, for all that is known"


def test_the_half_that_may_be_lent_is_handed_out_first_also_when_it_becomes_free_later() -> None:
    """So that the other half is there after the next promotion, however often roles have changed."""
    one = One(limits=dataclasses.replace(LIMITS, reserve=20))
    one.look("1-12")
    one.hear(lends=of("16-23"))
    one.tell(words.RoleIs(True))
    one.hear(lends=of("16-23"))
    assert one.offer == (span("13-15"), span("16-19"), span("20-23"))
    one.now = 1.0
    one.look("1-2")
    one.wait(61)
    assert one.offer == (span("3-6"), span("7-8"), span("13-15"), span("9-12"), span("16-19"), span("20-23"))


def test_crumbs_of_the_first_half_leave_room_for_the_reserve() -> None:
    """Charon walks through few ranges: of single addresses they would hold next to nothing."""
    prefix = "2001:db8:c::/112"
    one = One(prefixes=(prefix,), limits=Limits())
    first = assignable(prefix).first
    one.tell(words.Looked(began=0.0, uses=Ranges.of(first + 2 * number for number in range(8192))))
    one.hear()
    one.tell(words.RoleIs(True))
    assert one.ranges.count() >= Limits().reserve


def test_the_lender_says_what_it_has_in_what_it_lent() -> None:
    """The borrower's charon may have died with its tunnels, which the lender has mirrored."""
    lender = One(rank=1)
    lender.look()
    assert said(lender.hear(active=True, asks=of("16-19"))).lends == of("16-19")
    word = said(lender.look("3", "17", "25"))
    assert word.uses == of("3", "17") and word.lends == of("16-19")


def test_a_word_from_before_it_was_given_back_lends_nothing() -> None:
    one = active(rank=0)
    one.look("1-15")
    asked = said(one.tell(words.PoolsSeen({span("1-4"): 4})))
    yes = words.Word(active=False, lends=of("16-19"), heard=asked.serial)
    assert offered(one.tell(words.PeerSaid(yes))) == of("16-19")
    one.tell(words.RoleIs(False))
    one.now = 1.0
    one.look("1-15")
    one.wait(61)
    one.tell(words.RoleIs(True))
    assert one.offer == (), "what was lent before is not lent now"
    one.tell(words.PeerSaid(yes))
    assert one.offer == (), "it may hand out of that itself by now"
    one.tell(words.PeerSaid(dataclasses.replace(yes, heard=10**9)))
    assert one.ranges == of("16-19")


def test_the_own_share_goes_first_and_an_active_is_asked_for_nothing() -> None:
    one = active()
    one.look("1-9", "12-15")
    asked = said(one.tell(words.PoolsSeen({span("1-4"): 4})))
    assert one.ranges == of("10-11") and asked.asks == of("16-17"), "no more than is missing"
    assert said(one.hear(active=True)).asks == EMPTY
    one.tell(words.RoleIs(False))
    one.now = 1.0
    one.look("1-9", "12-15")
    one.wait(61)
    one.hear(lends=of("16-30"))
    one.tell(words.RoleIs(True))
    assert one.offer == (span("10-11"), span("16-19"))


def test_an_active_lends_nothing_and_a_backup_nothing_that_it_may_be_handing_out() -> None:
    one = active()
    assert said(one.hear(active=True, asks=of("10-14"))).lends == EMPTY
    one = active()
    one.tell(words.RoleIs(False), apply=False)  # charon has not been told yet
    one.hear(active=True, asks=of("1-8"))
    assert said(one.hear(active=True, asks=of("1-7"))).lends == of("5-7")
    one = One()
    one.look("2")
    assert said(one.hear(active=True, asks=of("1-3"))).lends == of("1", "3")
