"""What each role announces: alike where the uplink is shared, the Backup worse where each gateway has a link of its own."""

from __future__ import annotations

import dataclasses

from anycast.document import Document
from anycast.fleet.compile import compile_gateway
from anycast.fleet.loading import load
from anycast.model import Route
from anycast.policy.drain import Plan, RouteWord
from site_agent.announce.routes import Worse, own_routes_of, roles_differ, routes_of, word_of
from tests.support.documents import TREE


def made(name: str, gateway: str) -> Document:
    return compile_gateway(load(TREE / "tests" / "data" / f"{name}.fleet.yaml"), gateway)


def test_behind_a_shared_uplink_no_role_and_no_gateway_shows() -> None:
    one, two = made("pair", "fra-gw1"), made("pair", "fra-gw2")
    assert not roles_differ(one)
    told, own = routes_of(one), own_routes_of(one)
    assert told == routes_of(one, active=False) == routes_of(two) == routes_of(two, active=False)
    assert own == own_routes_of(one, active=False) == own_routes_of(two) == own_routes_of(two, active=False)
    assert (*told, *own) == (
        Route(neighbor="198.51.100.1", prefix="203.0.113.0/28", next_hop="198.51.100.4"),
        Route(neighbor="2001:db8:1::1", prefix="2001:db8:a::/56", next_hop="2001:db8:1::4"),
        Route(neighbor="192.0.2.9", prefix="203.0.113.64/27", next_hop="192.0.2.1"),
        Route(neighbor="2001:db8:b::9", prefix="2001:db8:c:1::/64", next_hop="2001:db8:b::1"),
    )


def test_with_a_link_of_its_own_each_announces_itself_and_the_backup_worse() -> None:
    active, backup = routes_of(made("pair-routed", "fra-gw1")), routes_of(made("pair-routed", "fra-gw2"), active=False)
    assert roles_differ(made("pair-routed", "fra-gw1"))
    assert active == (
        Route(neighbor="198.51.100.0", prefix="203.0.113.0/28", next_hop="198.51.100.1", med=0),
        Route(neighbor="2001:db8:1::", prefix="2001:db8:a::/56", next_hop="2001:db8:1::1", med=0),
    )
    assert backup == (
        Route(neighbor="198.51.100.2", prefix="203.0.113.0/28", next_hop="198.51.100.3", med=100, prepend=1),
        Route(neighbor="2001:db8:1::2", prefix="2001:db8:a::/56", next_hop="2001:db8:1::3", med=100, prepend=1),
    )


def test_a_change_of_role_replaces_and_withdraws_nothing() -> None:
    document = made("pair-routed", "fra-gw1")
    assert [route.key for route in routes_of(document)] == [route.key for route in routes_of(document, active=False)]


def test_inside_no_role_shows_either_way() -> None:
    shared = made("pair", "fra-gw1")
    assert shared.vrrp is not None
    document = shared.model_copy(update={"vrrp": shared.vrrp.model_copy(update={"uplink": "routed"})})
    assert own_routes_of(document) == own_routes_of(document, active=False) != ()
    for one, other in zip(routes_of(document), routes_of(document, active=False), strict=True):
        assert one != other
        assert dataclasses.replace(other, med=one.med, prepend=one.prepend) == one


def test_one_gateway_alone_announces_as_ever() -> None:
    document = made("small", "fra-gw1")
    assert routes_of(document) == routes_of(document, active=False)
    assert routes_of(document) == (Route(neighbor="198.51.100.1", prefix="203.0.113.0/28", next_hop="198.51.100.2"),)


PLAN = Plan(id="d", by="alice", why="optics", to=())


def test_a_drain_has_the_services_routes_worse_and_those_inside_as_they_are() -> None:
    document = made("pair", "fra-gw1")
    plain, worse = routes_of(document), routes_of(document, worse=dataclasses.replace(PLAN, prepend=2))
    assert [(route.communities, route.prepend) for route in worse] == [(("65535:0",), 2)] * 2
    assert {(route.communities, route.prepend) for route in own_routes_of(document)} == {((), 0)}
    assert [route.key for route in worse] == [route.key for route in plain], "an implicit withdrawal, never a moment without"
    backup = made("pair-routed", "fra-gw2")
    both = routes_of(backup, active=False, worse=dataclasses.replace(PLAN, community=False, prepend=2))
    assert {(route.med, route.prepend, route.communities) for route in both} == {(100, 3, ())}


def test_a_degraded_site_looks_worse_as_a_drain_has_it_look() -> None:
    document = made("pair", "fra-gw1")
    assert routes_of(document, worse=Worse(prepend=3)) == routes_of(document, worse=dataclasses.replace(PLAN, prepend=3))
    assert {route.communities for route in routes_of(document, worse=Worse())} == {("65535:0",)}


def test_the_bridges_word_as_a_drain_reads_it() -> None:
    document = made("pair", "fra-gw1")
    plain, worse = routes_of(document), routes_of(document, worse=PLAN)

    def word(*routes: Route, knows: bool = True) -> RouteWord:
        return word_of(routes, document, PLAN, knows=knows)

    assert word(*plain) is RouteWord.NORMAL
    assert word(*worse) is RouteWord.WORSE
    assert word(worse[0]) is RouteWord.WORSE, "the other session is down"
    assert word(worse[0], plain[1]) is RouteWord.NORMAL, "one still attracts"
    assert word() is RouteWord.NONE
    assert word(*plain, knows=False) is word(knows=False) is RouteWord.UNKNOWN, "nothing heard is not nothing there"
