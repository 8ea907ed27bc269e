"""What a plan does not look at twice goes on as it was; one thing that is otherwise is enough to be looked at."""

from __future__ import annotations

import dataclasses
import datetime

import pytest

from anycast.prefixes import numbers
from anycast.prefixes.allocation import Kind, Lock, nothing
from anycast.prefixes.blocks import Blocks
from anycast.prefixes.planner import Change, plan
from anycast.prefixes.staying import stays
from tests.support.prefix_world import asked, block, block6, judge, site, tree

DAY = datetime.date(2026, 11, 29)
WORLD = tree(
    {"four": (block(1, 16), ["anycast", "unicast", "pools", "management"]), "six": (block6(1), ["anycast", "management"])},
    {name: site(clients=60, gateways=2) for name in ("a", "b")},
)
WANTED = asked(WORLD)
LOCK = plan(WANTED, nothing("world"), DAY).lock
BLOCKS = Blocks(WANTED.addressing).of_use


def certain(key: str, lock: Lock = LOCK) -> bool:
    return stays(WANTED.wants[key], lock.held[key], lock.held, BLOCKS)


def with_record(key: str, **fields: object) -> Lock:
    return LOCK._replace(held={**LOCK.held, key: LOCK.held[key]._replace(**fields)})  # type: ignore[arg-type]


def test_all_of_a_plan_stays() -> None:
    assert [key for key in LOCK.held if not certain(key)] == []


@pytest.mark.parametrize(
    "fields",
    [
        {"why": "another reason"},
        {"pinned": True},
        {"kind": Kind.SERVICE_ADDRESS},
        {"source": "service.prefixes.ipv6"},
        {"value": "192.0.2.1"},
        {"value": "2001:db8::1"},
        {"value": "1"},
    ],
)
def test_an_address_of_which_one_thing_is_otherwise_is_looked_at(fields: dict[str, object]) -> None:
    assert not certain("service.vips.ipv4", with_record("service.vips.ipv4", **fields))


def test_what_is_larger_than_its_block_or_shorter_than_what_is_wanted_is_looked_at() -> None:
    key = "service.prefixes.ipv4"
    start = LOCK.held[key].value.split("/")[0]
    assert certain(key)
    assert not certain(key, with_record(key, value=f"{start}/32"))
    assert not certain(key, with_record(key, value=f"{block(1, 15).split('/')[0]}/15"))


def test_a_pin_an_address_around_which_it_is_to_lie_or_another_family_is_looked_at() -> None:
    want, old = WANTED.wants["service.prefixes.ipv4"], LOCK.held["service.prefixes.ipv4"]
    for other in (want._replace(pin=old.value), want._replace(at=0), want._replace(family="ipv6")):
        assert not stays(other, old, LOCK.held, BLOCKS)


def test_what_does_not_lie_in_its_prefix_gets_a_place_there_and_nothing_else_moves() -> None:
    """As after a merge in which one branch moved the prefix."""
    key = "sites.a.gateways.gw1.management.ipv4"
    merged = with_record(key, value="192.0.2.1")
    made = plan(WANTED, merged, DAY)
    assert made.changes == (Change("moved", key, "192.0.2.1", LOCK.held[key].value),)
    judge(WANTED, made.lock)
    assert {each for each in made.lock.held if made.lock.held[each].value != LOCK.held[each].value} == set()


def test_another_reason_is_written_though_nothing_changes() -> None:
    made = plan(WANTED, with_record("service.vips.ipv4", why="of an older version"), DAY)
    assert made.changes == () and made.lock == LOCK


def test_nothing_is_copied_where_nothing_changes() -> None:
    assert plan(WANTED, LOCK, DAY).lock is LOCK
    assert plan(dataclasses.replace(WANTED), LOCK, DAY + datetime.timedelta(days=900)).lock is LOCK


def test_what_is_known_of_texts_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "_MOST_KNOWN", 3)
    known = numbers._Known()
    texts = ["192.0.2.1", "192.0.2.0/24", "2001:db8::/32", "no address", "192.0.2.1/24"]
    assert [known[text] for text in texts + texts] == [numbers._read(text) for text in texts + texts]
    assert len(known) <= 3
