"""What an Active wants rekeyed: what it took over, what nears an end; and how old an IKE_SA is on two clocks."""

from __future__ import annotations

import pytest

from anycast.reasons import Reason
from site_agent.ike.mirror_view import CharonView, IkeSa, Tunnel
from site_agent.ike.rekey_queue import SaId
from site_agent.netlink.xfrm_keys import SaKey
from site_agent.sync import numbers, rekey_wishes
from site_agent.sync import numbers_words as words
from site_agent.sync import plan as plans
from site_agent.sync.ages import KEPT_S, Ages
from site_agent.sync.bodies import Age
from site_agent.sync.numbers_words import Role
from tests.support.documents import TREE

HOUR = 3600.0
LIMITS = {"rekey_s": 4 * HOUR, "over_s": 0.4 * HOUR}


def tunnel(number: int, *, rekey_in_s: int | None = 1800, life_in_s: int = 2160, carrying: bool = True) -> Tunnel:
    ends = number.to_bytes(4) + b"in" * 16, (number + 100).to_bytes(4) + b"to" * 16
    return Tunnel(
        number, str(number), f"i{number}", f"vpn{{{number}}} of c{number}", b"", ends, carrying, False, rekey_in_s,
        life_in_s, f"c{number}",
    )  # fmt: skip


def view(*tunnels: Tunnel, ike: dict[bytes, IkeSa] | None = None) -> CharonView:
    return CharonView(frozenset(), tunnels=list(tunnels), ike=ike or {})


def spis(number: int) -> bytes:
    return bytes([number]) * 16


def test_what_was_taken_over_is_named_by_the_spi_that_it_sends_with() -> None:
    seen = view(tunnel(1), tunnel(2), tunnel(3, carrying=False))
    wished = rekey_wishes.taken_over(seen, [(102).to_bytes(4), (103).to_bytes(4)], 50.0)
    assert wished.reason is Reason.TAKEN_OVER and not wished.more
    (wish,) = wished.wishes
    assert (wish.sa, wish.ike, wish.client, wish.deadline) == (SaId("child", "2"), "i2", "c2", 50.0 + 2160)


def test_a_child_sa_whose_soft_mark_has_passed_or_whose_numbers_are_spent_is_overdue() -> None:
    seen = view(tunnel(1), tunnel(2, rekey_in_s=-5, life_in_s=100), tunnel(3), tunnel(4, rekey_in_s=None))
    wished = rekey_wishes.overdue(seen, [(103).to_bytes(4)], Ages(), 1000.0, **LIMITS)
    assert {wish.sa.unique: wish.deadline for wish in wished.wishes} == {"2": 1100.0, "3": 1000.0}
    assert all(wish.end_at == float("inf") for wish in wished.wishes), "the kernel's own limits end a CHILD_SA"


@pytest.mark.parametrize(("age_s", "overdue"), [(4 * HOUR - 1, False), (4 * HOUR, True)])
def test_an_ike_sa_is_as_old_as_its_maker_says_whatever_this_charon_says(age_s: float, overdue: bool) -> None:
    """charon here counts from its promotion a minute ago; the peer told the age a while before, by a clock of its own."""
    ages, told_at = Ages(), 7000.0
    ages.told([Age(spis(1), round(age_s - 300))], told_at)
    now = told_at + 300
    ages.looked({spis(1): 60}, now)
    seen = view(ike={spis(1) + b"rest": IkeSa("9", False, 60, identity="phone1")})
    wishes = rekey_wishes.overdue(seen, [], ages, now, **LIMITS).wishes
    assert [(wish.sa, wish.end_at) for wish in wishes] == (
        [(SaId("ike", "9"), pytest.approx(now - age_s + 4.4 * HOUR))] if overdue else []
    ), "its hard mark is the original one"


def test_a_copy_is_at_least_as_old_as_its_first_sight() -> None:
    ages = Ages()
    ages.looked({spis(1): None}, 1000.0)
    ages.looked({spis(1): None}, 1010.0)
    assert ages.made_at(spis(1)) == 1000.0
    ages.looked({}, 1010.0 + KEPT_S)
    assert ages.made_at(spis(1)) is None


def test_each_age_is_told_once_a_connection_and_two_gateways_end_with_the_same() -> None:
    one, two = Ages(), Ages()
    one.looked({spis(1): 500, spis(2): 20}, 1000.0)
    told = one.to_tell(1000.0)
    assert sorted(told) == [Age(spis(1), 500), Age(spis(2), 20)] and one.to_tell(1000.0) == []
    two.told(told, 77.0)
    assert (two.made_at(spis(1)), two.made_at(spis(2))) == (-423.0, 57.0)
    one.looked({spis(1): 511, spis(2): 30}, 1010.6)
    assert one.to_tell(1010.6) == [], "charon tells whole seconds: that is no news"
    two.connected()
    assert sorted(two.to_tell(87.0)) == [Age(spis(1), 510), Age(spis(2), 30)]
    one.told([Age(spis(2), 400)], 1010.6)
    assert one.to_tell(1010.6) == [Age(spis(2), 400)], "older than it was told"


def test_after_lost_messages_every_ike_sa_that_is_up_is_wished_for() -> None:
    seen = view(ike={spis(1) + b"r": IkeSa("1", False, 5), spis(2) + b"r": IkeSa("2", False, None)})
    wished = rekey_wishes.every_ike_sa(seen)
    assert [wish.sa.unique for wish in wished.wishes] == ["1"] and wished.more, "one that is PASSIVE is not ours"


@pytest.mark.parametrize(
    ("rank", "block", "spent", "at_its_end"),
    [(1, 3, False, False), (1, 5, False, False), (1, 7, True, True), (0, 4, False, False), (0, 6, True, False)],
)
def test_an_sa_is_spent_when_two_more_takeovers_would_find_no_block(
    rank: int, block: int, spent: bool, at_its_end: bool
) -> None:
    key, bits = SaKey(bytes(21)), 4
    core = numbers.Numbers(rank, Role.ACTIVE, now=0.0, block_bits=bits)
    core.handle(words.SaListed(key=key, oseq=(block << bits) + 1), 0.0)
    core.handle(words.ListingEnded(), 0.0)
    assert core.taken_over == [key]
    assert core.spent == ([key] if spent else [])
    assert core.at_their_end == ([key] if at_its_end else []), "the next takeover would find none"


def test_the_lifetime_is_that_of_the_rendered_connection() -> None:
    (path,) = (TREE / "site-agent/site_agent/render").rglob("swanctl.conf.j2")
    source = path.read_text()
    assert source.count("rekey_time = 4h") == 1 and "over_time" not in source
    assert (plans.IKE_REKEY_S, plans.IKE_OVER_S) == (4 * HOUR, 4 * HOUR / 10)
