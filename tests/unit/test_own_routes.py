"""A site's own routes, its unicast prefix first: compiled, planned, judged, and renewed apart from the service's."""

from __future__ import annotations

import datetime

import pytest

from anycast.content.content import Content, Intent
from anycast.content.state import nothing_yet
from anycast.document import Document
from anycast.events import OwnRouteAnnounced, OwnRouteWithdrawn, PrefixWithdrawn
from anycast.fleet.compile import compile_fleet
from anycast.fleet.compile_content import compile_content
from anycast.fleet.loading import loads
from anycast.lease_wire import Ack, Hello, Renew, Session
from anycast.model import Cause, Route, SessionState
from anycast.policy.budget import shortfalls
from anycast.policy.flap import FlapControl
from anycast.policy.hold import Clocks, HoldKind, begin
from anycast.policy.plan_view import announcements, moves
from anycast.policy.route import RoutePolicy
from anycast.policy.verdict import VerdictReached
from anycast.prefixes.origins import told_outside
from anycast.prefixes.planning import plan_file
from anycast.reasons import Reason
from site_agent.announce.holder import Happened, RouteLease, TellBridge, Verdicts
from site_agent.announce.routes import own_routes_of, routes_of
from tests.support.documents import TREE

DAY = datetime.date(2026, 11, 30)
TEXT = (TREE / "docs" / "fleet-planned.yaml").read_text() + "budget: {min_sites: 1}\n"
FLEET = loads(TEXT, lock=plan_file(TEXT, None, DAY).after)
DOCUMENTS = compile_fleet(FLEET)
CONTENT = compile_content(FLEET, DOCUMENTS)
SITE, OTHER = "fra", "sin"
GATEWAY = next(iter(CONTENT.sites[SITE].gateways))
UNICAST = {str(FLEET.sites[SITE].unicast_prefix.of(family)) for family in ("ipv4", "ipv6")}


def drained(content: Content) -> Content:
    return content.with_intent(SITE, Intent.DRAINED)


def test_each_upstream_hears_the_unicast_prefix_of_its_family_with_the_services_next_hop() -> None:
    document = DOCUMENTS[GATEWAY]
    own = [route for route in own_routes_of(document) if route.prefix in UNICAST]
    assert {route.prefix for route in own} == UNICAST
    hops = {route.neighbor: route.next_hop for route in routes_of(document)}
    assert {route.neighbor: route.next_hop for route in own} == hops
    assert not UNICAST & {route.prefix for route in routes_of(document)}


def test_a_document_without_one_is_byte_for_byte_what_it_was() -> None:
    neighbor = DOCUMENTS[GATEWAY].bgp.neighbors[0]
    assert "unicast" not in neighbor.model_copy(update={"unicast": ()}).model_dump()


def test_what_the_budget_counts_is_never_announced_as_unicast() -> None:
    data = DOCUMENTS[GATEWAY].model_dump(mode="json")
    data["bgp"]["neighbors"][0]["unicast"] = [DOCUMENTS[GATEWAY].service.prefixes[0]]
    with pytest.raises(ValueError, match="is unicast, and the service's"):
        Document.model_validate(data)


def test_a_drain_keeps_the_budget_and_the_unicast_prefix() -> None:
    assert not UNICAST & CONTENT.sites[SITE].attracts
    dark = drained(CONTENT)
    assert shortfalls(CONTENT, dark) == ()
    assert frozenset().union(*dark.sites[SITE].unicast.values()) == UNICAST


def test_a_plan_shows_it_beside_the_services_and_a_drain_leaves_it() -> None:
    rows = announcements({}, CONTENT.sites, nothing_yet(FLEET.fleet))
    assert {prefix for row in rows if row.unicast and row.site == SITE for prefix in row.after} == UNICAST
    assert all(row.changes for row in rows)
    after = drained(CONTENT).sites
    changed = [row for row in announcements(CONTENT.sites, after, nothing_yet(FLEET.fleet)) if row.changes]
    assert changed and not any(row.unicast for row in changed)
    worse = announcements(CONTENT.sites, CONTENT.with_intent(SITE, Intent.DEGRADED).sites, nothing_yet(FLEET.fleet))
    assert not any(row.worse_after for row in worse if row.unicast)


def test_a_new_unicast_prefix_draws_nobody_from_other_sites() -> None:
    site = CONTENT.sites[SITE]
    without = site.model_copy(
        update={"gateways": {name: each.model_copy(update={"unicast": {}}) for name, each in site.gateways.items()}}
    )
    before = {**CONTENT.sites, SITE: without}
    rows = announcements(before, CONTENT.sites, nothing_yet(FLEET.fleet))
    assert {row.site for row in rows if row.changes} == {SITE}
    assert moves(rows, before, CONTENT.sites, {SITE: 5, OTHER: 7}).worst == 0


def test_rpki_judges_what_documents_say() -> None:
    told = {(each.site, each.prefix) for each in told_outside(DOCUMENTS.values()) if each.purpose == "unicast"}
    assert {prefix for site, prefix in told if site == SITE} == UNICAST


SERVICE = Route(neighbor="198.51.100.1", prefix="203.0.113.0/28", next_hop="198.51.100.4")
OWN = Route(neighbor="198.51.100.1", prefix="203.0.113.16/28", next_hop="198.51.100.4")
UP = (Session(neighbor=SERVICE.neighbor, state=SessionState.UP),)
CLOCKS = Clocks(wall=1e9, boot=100.0, boot_id="b")


def verdict(*against: Reason, at: float = 100.0) -> VerdictReached:
    causes = tuple(Cause(reason=reason) for reason in against or (Reason.HEALTHY,))
    return VerdictReached(serving=not against, causes=causes, at=at)


def policy() -> RoutePolicy:
    return RoutePolicy(FlapControl(gateway="fra-gw1", threshold=3000.0))


def own(made: RoutePolicy) -> bool:
    assert made.own is not None
    return made.own.announce


def test_drain_and_token_leave_it_and_facts_and_holds_do_not() -> None:
    made = policy()
    made.decide(verdict(), None, 100.0, drained="drain by alice", site=verdict())
    assert own(made) and made.intent is not None and not made.intent.announce
    made.decide(verdict(Reason.TOKEN), None, 100.1, site=verdict())
    assert own(made)
    made.decide(verdict(Reason.CHARON_EXITED), None, 100.2, site=verdict(Reason.CHARON_EXITED))
    assert not own(made)
    hold = begin(HoldKind.WITHDRAW, for_s=60.0, reason="power", clocks=CLOCKS)
    made = policy()
    made.decide(verdict(), hold, 100.0, site=verdict())
    assert not own(made)


def test_one_fault_counts_once_and_while_drained_it_counts_all_the_same() -> None:
    both, alone = policy(), policy()
    for at, reasons in ((100.0, ()), (101.0, (Reason.CHARON_EXITED,))):
        both.decide(verdict(*reasons), None, at, site=verdict(*reasons))
        alone.decide(verdict(*reasons), None, at)
    assert both.flap.penalty(101.0) == alone.flap.penalty(101.0) > 0
    dark = policy()
    for at in range(100, 120, 2):
        dark.decide(verdict(), None, at, drained="d", site=verdict())
        dark.decide(verdict(Reason.CHARON_EXITED), None, at + 1, drained="d", site=verdict(Reason.CHARON_EXITED))
    dark.decide(verdict(), None, 121.0, drained="d", site=verdict())
    assert dark.own is not None and [cause.reason for cause in dark.own.causes] == [Reason.FLAP_DELAYED]


def test_one_renewal_holds_what_is_left_of_both_and_each_has_its_own_reason() -> None:
    lease = RouteLease(instance="i", routes=(SERVICE,), own=(OWN,), lease_s=1.0, grace_s=15.0, now=100.0)
    lease.handle(Hello(pid=1, exabgp_pid=2, exabgp_version="5", announced=(), sessions=UP, grace_ns=0), 100.0)

    def said(service: VerdictReached, site: VerdictReached, now: float) -> Renew:
        (action,) = lease.handle(Verdicts(service=service, own=site), now)
        assert isinstance(action, TellBridge) and isinstance(action.message, Renew)
        return action.message

    def acknowledged(renew: Renew, now: float) -> list[object]:
        ack = Ack(seq=renew.seq, announced=renew.routes, exabgp_answered_ns=round(now * 1e9), sessions=UP)
        return [action.event for action in lease.handle(ack, now) if isinstance(action, Happened)]

    first = said(verdict(), verdict(), 100.0)
    assert first.routes == first.candidates == (SERVICE, OWN)
    acknowledged(first, 100.0)
    second = said(verdict(Reason.DRAINED, at=100.3), verdict(at=100.3), 100.3)
    assert (second.routes, second.candidates, second.expires_ns) == ((OWN,), (SERVICE, OWN), 101_300_000_000)
    key = {"neighbor": SERVICE.neighbor, "prefix": SERVICE.prefix}
    assert acknowledged(second, 100.3) == [PrefixWithdrawn(**key, reason=Reason.DRAINED)]
    assert (lease.announced, lease.own_announced) == ((), (OWN,))
    third = said(verdict(Reason.CHARON_EXITED, at=100.5), verdict(Reason.CHARON_EXITED, at=100.5), 100.5)
    assert third.routes == ()
    key = {"neighbor": OWN.neighbor, "prefix": OWN.prefix}
    assert acknowledged(third, 100.5) == [OwnRouteWithdrawn(**key, reason=Reason.CHARON_EXITED)]
    fourth = said(verdict(Reason.DRAINED, at=100.7), verdict(at=100.7), 100.7)
    assert acknowledged(fourth, 100.7) == [OwnRouteAnnounced(**key, reason=Reason.HEALTHY)]
