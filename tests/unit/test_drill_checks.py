"""Each assertion of a drill, once held and once broken: a check that cannot fail proves nothing."""

from __future__ import annotations

import dataclasses

from anycast.reasons import Reason
from anycast_lab.drills import alarms, drill
from anycast_lab.drills.checks import ClientSeen, Observation, Watched, judge
from anycast_lab.drills.drill import Limit
from anycast_lab.drills.report import Checked, Report
from anycast_lab.drills.strangers import Flooded, Stranger
from anycast_lab.drills.timeline import Moment, Packets

MS = 1_000_000
UPSTREAM = Watched(node="fra-rtr", protocol="fra_gw1_ipv4", prefix="203.0.113.0/28")
TRANSIT = Watched(node="transit", protocol="fra_rtr_ipv4", prefix="203.0.113.0/28")
LIMITS = {"bound": Limit(ms=100, uml_ms=1000, reason="test")}


def _at(ms: float, route: Watched, event: str) -> Moment:
    return Moment(int(ms * MS), route.node, event, route.prefix, route.protocol)


def _verdict(ms: float, serving: bool) -> Moment:
    return Moment(int(ms * MS), "fra-gw1/site-agent", "SiteVerdictChanged", "", "", {"serving": serving})


def _seen(*moments: Moment, **changes: object) -> Observation:
    before = [_at(-1000, UPSTREAM, "route_added"), _at(-1000, TRANSIT, "route_added")]
    seen = Observation(
        victim="fra-gw1",
        site="fra",
        kernel="native",
        esp=True,
        fault_ns=0,
        heal_ns=0,
        end_ns=10_000 * MS,
        moments=tuple(sorted([*before, *moments])),
        routes=(UPSTREAM, TRANSIT),
        withdraws=0,
        first_reason="charon_exited",
        clients={},
        child_sas_at_announcement=None,
    )
    return dataclasses.replace(seen, **changes)


def _alarm(ms: float, event: str, reason: str = "dns_wrong", gateway: str = "fra-gw1") -> Moment:
    return Moment(int(ms * MS), f"{gateway}/site-agent", event, "", reason, {"reason": reason})


def _client(gap_ms: float, before: str, after: str, ended: bool = True, lost: int = 3) -> ClientSeen:
    packets = Packets(sent=100, lost=lost, late=0, longest_gap_ms=gap_ms, gap_from_ns=1, gap_to_ns=2 if ended else 0)
    return ClientSeen(packets=packets, site_before=before, site_after=after)


GONE = drill.RouteGone(check="route_gone", limit="bound")


def test_route_gone_takes_the_slower_of_upstream_and_transit() -> None:
    held = judge(GONE, _seen(_at(5, UPSTREAM, "route_removed"), _at(90, TRANSIT, "route_removed")), LIMITS)
    assert held.passed and held.seen == "90.0 ms"
    assert not judge(GONE, _seen(_at(5, UPSTREAM, "route_removed"), _at(101, TRANSIT, "route_removed")), LIMITS).passed


def test_route_gone_fails_when_the_route_never_goes_or_went_before_the_fault() -> None:
    assert not judge(GONE, _seen(_at(5, UPSTREAM, "route_removed")), LIMITS).passed
    early = _seen(_at(-5, UPSTREAM, "route_removed"), _at(-5, TRANSIT, "route_removed"))
    assert not judge(GONE, early, LIMITS).passed


def test_route_gone_without_any_route_to_watch_is_not_a_pass() -> None:
    assert not judge(GONE, _seen(routes=()), LIMITS).passed


def test_the_bound_is_the_kernels() -> None:
    seen = _seen(_at(500, UPSTREAM, "route_removed"), _at(500, TRANSIT, "route_removed"))
    assert not judge(GONE, seen, LIMITS).passed
    assert judge(GONE, dataclasses.replace(seen, kernel="uml"), LIMITS).passed


def test_route_stays_fails_on_a_removal_on_a_withdraw_and_on_a_missing_route() -> None:
    stays = drill.RouteStays(check="route_stays")
    assert judge(stays, _seen(), LIMITS).passed
    blink = _seen(_at(5, TRANSIT, "route_removed"), _at(6, TRANSIT, "route_added"))
    assert not judge(stays, blink, LIMITS).passed
    assert not judge(stays, _seen(withdraws=1), LIMITS).passed
    assert not judge(stays, _seen(moments=()), LIMITS).passed


def test_route_back_counts_from_the_heal() -> None:
    back = drill.RouteBack(check="route_back", limit="bound")
    went = (_at(5, UPSTREAM, "route_removed"), _at(5, TRANSIT, "route_removed"))
    came = (_at(560, UPSTREAM, "route_added"), _at(570, TRANSIT, "route_added"))
    assert judge(back, _seen(*went, *came, heal_ns=500 * MS), LIMITS).passed
    assert not judge(back, _seen(*went, *came, heal_ns=400 * MS), LIMITS).passed
    assert not judge(back, _seen(*went, came[0], heal_ns=500 * MS), LIMITS).passed


def test_route_up_looks_at_the_end_only() -> None:
    up = drill.RouteUp(check="route_up")
    blink = (_at(5, TRANSIT, "route_removed"), _at(6, TRANSIT, "route_added"))
    assert judge(up, _seen(*blink), LIMITS).passed
    assert not judge(up, _seen(*blink, _at(7, TRANSIT, "route_removed")), LIMITS).passed
    assert not judge(up, _seen(routes=()), LIMITS).passed


def test_the_reason_must_be_the_one() -> None:
    because = drill.Because(check="because", reason="charon_exited")
    assert judge(because, _seen(), LIMITS).passed
    assert not judge(because, _seen(first_reason="lease_lapsed"), LIMITS).passed
    assert not judge(because, _seen(first_reason=""), LIMITS).passed


def test_clients_move_means_another_site_and_a_gap_that_ended_in_time() -> None:
    moves = drill.ClientsMove(check="clients_move", limit="bound")

    def one(client: ClientSeen) -> bool:
        return judge(moves, _seen(clients={"direct": client}), LIMITS).passed

    assert one(_client(90, "fra", "sin"))
    assert not one(_client(110, "fra", "sin"))
    assert not one(_client(90, "fra", "fra"))
    assert not one(_client(90, "fra", ""))
    assert not one(_client(90, "fra", "sin", ended=False))
    assert not judge(moves, _seen(), LIMITS).passed, "no client at all is no proof"


def test_clients_stay_means_no_gap_and_the_same_site() -> None:
    stay = drill.ClientsStay(check="clients_stay", limit="bound")

    def one(client: ClientSeen) -> bool:
        return judge(stay, _seen(clients={"direct": client}), LIMITS).passed

    assert one(_client(90, "fra", "fra"))
    assert not one(_client(110, "fra", "fra"))
    assert not one(_client(90, "fra", "sin"))
    assert not one(_client(0, "fra", "fra", lost=100)), "all lost has no gap between good packets"
    assert not judge(stay, _seen(), LIMITS).passed


def test_after_the_thaw_the_verdict_comes_before_the_announcement() -> None:
    quiet = drill.QuietUntilVerdict(check="quiet_until_verdict")
    assert judge(quiet, _seen(_verdict(510, True), _at(520, UPSTREAM, "route_added"), heal_ns=500 * MS), LIMITS).passed
    early = _seen(_at(505, UPSTREAM, "route_added"), _verdict(510, True), heal_ns=500 * MS)
    assert not judge(quiet, early, LIMITS).passed
    assert not judge(quiet, _seen(_at(520, UPSTREAM, "route_added"), heal_ns=500 * MS), LIMITS).passed
    assert not judge(quiet, _seen(_verdict(510, False), _at(520, UPSTREAM, "route_added"), heal_ns=500 * MS), LIMITS).passed


def test_an_idle_gateway_must_announce_and_be_idle() -> None:
    idle = drill.NoClients(check="announced_without_clients")
    assert judge(idle, _seen(child_sas_at_announcement=0), LIMITS).passed
    assert not judge(idle, _seen(child_sas_at_announcement=1), LIMITS).passed
    assert not judge(idle, _seen(child_sas_at_announcement=None), LIMITS).passed
    assert not judge(idle, _seen(_at(5, TRANSIT, "route_removed"), child_sas_at_announcement=0), LIMITS).passed


def test_an_alarm_is_raised_after_the_fault_and_cleared_after_the_heal_each_in_time() -> None:
    alarm = drill.Alarm(check="alarm", reason=Reason.DNS_WRONG, limit="bound")

    def held(*moments: Moment, **changes: object) -> bool:
        return judge(alarm, _seen(*moments, **{"heal_ns": 500 * MS, **changes}), LIMITS).passed

    raised, cleared = _alarm(90, "AlarmRaised"), _alarm(590, "AlarmCleared")
    assert held(raised, cleared)
    assert not held(raised), "still standing"
    assert not held(cleared), "never raised"
    assert not held(_alarm(-5, "AlarmRaised"), cleared), "stood before the fault"
    assert not held(_alarm(110, "AlarmRaised"), cleared), "late"
    assert not held(raised, _alarm(610, "AlarmCleared")), "late"
    assert not held(raised, cleared, _alarm(595, "AlarmRaised")), "back again"
    assert not held(raised, cleared, heal_ns=0), "nothing was healed"
    assert not held(_alarm(90, "AlarmRaised", "dns_silent"), cleared), "another reason"
    assert not held(_alarm(90, "AlarmRaised", gateway="sin-gw1"), cleared), "another gateway"
    both = drill.Alarm(check="alarm", reason=Reason.DNS_WRONG, at=("fra-gw1", "sin-gw1"), limit="bound")
    assert not judge(both, _seen(raised, cleared, heal_ns=500 * MS), LIMITS).passed, "one of two"


def test_an_alarm_stands_until_it_is_cleared_or_its_agent_starts_anew() -> None:
    raised, started = _alarm(1, "AlarmRaised"), Moment(2 * MS, "fra-gw1/site-agent", "AgentStarted")
    assert alarms.stands([raised], "fra-gw1", Reason.DNS_WRONG)
    assert not alarms.stands([raised, started], "fra-gw1", Reason.DNS_WRONG)
    assert not alarms.stands([_alarm(3, "AlarmCleared"), raised], "fra-gw1", Reason.DNS_WRONG)
    assert not alarms.stands([raised], "sin-gw1", Reason.DNS_WRONG)


def test_nothing_moves_means_no_route_at_any_router() -> None:
    nothing = drill.NothingMoves(check="nothing_moves")
    elsewhere = Watched(node="sin-rtr", protocol="sin_gw1_ipv4", prefix="203.0.113.0/28")
    assert judge(nothing, _seen(_at(-5, elsewhere, "route_added")), LIMITS).passed
    assert not judge(nothing, _seen(_at(5, elsewhere, "route_added")), LIMITS).passed
    assert not judge(nothing, _seen(_at(5, TRANSIT, "route_updated")), LIMITS).passed, "an attribute changed"
    assert not judge(nothing, _seen(moments=()), LIMITS).passed, "no route to watch"


def _report(must_fail: bool, *passed: bool) -> Report:
    return Report(
        drill="x",
        message="",
        runner="embedded",
        kernel="native",
        esp=False,
        passed=bool(passed) and all(passed),
        must_fail=must_fail,
        zero_ns=0,
        ended_ns=0,
        timeline=(),
        clients={},
        checks=tuple(Checked("a", "b", "c", one) for one in passed),
    )


def test_a_red_drill_is_right_only_when_every_check_is_red() -> None:
    assert _report(True, False, False).as_expected
    assert not _report(True, True, False).as_expected
    assert not _report(True).as_expected, "nothing was asserted"
    assert _report(False, True, True).as_expected
    assert not _report(False, True, False).as_expected
    assert not _report(False).as_expected


def test_every_drill_of_the_project_loads_and_asserts_something() -> None:
    drills = drill.load_drills()
    assert len(drills) >= 11
    assert all(one.checks for one in drills.values())


def _rekeyed(ms: float, count: int, reason: str = "sa_state_lost", gateway: str = "fra-gw1") -> Moment:
    return Moment(int(ms * MS), f"{gateway}/site-agent", "TunnelsRekeyed", "", "", {"count": count, "reason": reason})


def test_tunnels_rekeyed_counts_the_victims_own_with_their_reason_in_time() -> None:
    check = drill.TunnelsRekeyed(check="tunnels_rekeyed", reason="sa_state_lost", at_least=2, limit="bound")
    assert judge(check, _seen(_rekeyed(50, 2)), LIMITS).passed
    assert judge(check, _seen(_rekeyed(50, 1), _rekeyed(90, 1), _rekeyed(5000, 1)), LIMITS).passed
    assert not judge(check, _seen(_rekeyed(50, 1), _rekeyed(101, 1)), LIMITS).passed
    assert not judge(check, _seen(_rekeyed(-5, 2)), LIMITS).passed
    assert not judge(check, _seen(_rekeyed(50, 2, "sa_state_partial")), LIMITS).passed
    assert not judge(check, _seen(_rekeyed(50, 2, gateway="sin-gw1")), LIMITS).passed
    assert not judge(check, _seen(), LIMITS).passed


def _flooded(received: float, sent: float = 55_000) -> Flooded:
    return Flooded(gateway="fra-gw1", sent_per_s=sent, received_per_s=received, seconds=10)


def test_a_weak_flood_does_not_pass() -> None:
    check, limits = drill.FloodRate(check="flood_rate", rate="pps"), {"pps": Limit(amount=50_000, unit="/s", reason="test")}
    assert judge(check, _seen(floods=(_flooded(50_000), _flooded(54_000))), limits).passed
    assert not judge(check, _seen(floods=(_flooded(55_000), _flooded(49_999))), limits).passed, "both sites, not one"
    assert not judge(check, _seen(floods=(_flooded(55_000, sent=40_000),)), limits).passed, "somebody else's packets"
    assert not judge(check, _seen(), limits).passed


def test_nothing_withdrawn_looks_at_every_site() -> None:
    check = drill.NothingWithdrawn(check="nothing_withdrawn")
    other = Watched(node="sin-rtr", protocol="sin_gw1_ipv4", prefix="203.0.113.0/28")
    both, there = (UPSTREAM, TRANSIT, other), _at(-1000, other, "route_added")
    assert judge(check, _seen(there, by_site={"fra": both}), LIMITS).passed
    flapped = (_at(5, other, "route_removed"), _at(6, other, "route_added"))
    assert not judge(check, _seen(there, *flapped, by_site={"fra": both}), LIMITS).passed
    assert not judge(check, _seen(by_site={"fra": both}), LIMITS).passed, "never there"
    assert not judge(check, _seen(there, by_site={"fra": both}, withdraws_everywhere=1), LIMITS).passed
    assert not judge(check, _seen(there), LIMITS).passed, "nothing watched"


SIN = Watched(node="transit", protocol="sin_gw1_ipv4", prefix="203.0.113.0/28")
TWO_SITES = {"fra": (UPSTREAM, TRANSIT), "sin": (SIN,)}
STAND = tuple(_at(-1000, route, "route_added") for route in (UPSTREAM, TRANSIT, SIN))


def test_only_the_named_sites_routes_may_move() -> None:
    check = drill.MovesOnly(check="moves_only", sites=("fra",))
    gone = _at(5, UPSTREAM, "route_removed")
    assert judge(check, _seen(*STAND, gone, by_site=TWO_SITES), LIMITS).passed
    for event in ("route_removed", "route_updated"):
        found = judge(check, _seen(*STAND, gone, _at(6, SIN, event), _at(7, SIN, "route_added"), by_site=TWO_SITES), LIMITS)
        assert not found.passed and "sin_gw1_ipv4" in found.seen
    assert judge(check, _seen(*STAND, _at(-6, SIN, "route_updated"), by_site=TWO_SITES), LIMITS).passed, "before the fault"
    assert not judge(check, _seen(*STAND, by_site={"fra": (UPSTREAM,)}), LIMITS).passed, "nobody else was watched"


def test_a_drained_sites_own_prefix_stays_and_the_services_does_not_count() -> None:
    check = drill.OwnStays(check="own_stays", sites=("fra",))
    own = Watched(node="transit", protocol="fra_gw1_ipv4", prefix="203.0.113.160/28")
    stand, gone = (*STAND, _at(-1000, own, "route_added")), _at(5, UPSTREAM, "route_removed")
    assert judge(check, _seen(*stand, gone, own_by_site={"fra": (own,)}), LIMITS).passed
    for event in ("route_removed", "route_updated"):
        found = judge(check, _seen(*stand, gone, _at(6, own, event), own_by_site={"fra": (own,)}), LIMITS)
        assert not found.passed and "203.0.113.160/28 at transit" in found.seen
    back = _at(7, own, "route_added")
    assert not judge(check, _seen(*stand, _at(6, own, "route_removed"), back, own_by_site={"fra": (own,)}), LIMITS).passed
    assert not judge(check, _seen(*STAND, gone, own_by_site={"fra": (own,)}), LIMITS).passed, "never there"
    assert not judge(check, _seen(*stand, gone, own_by_site={"fra": ()}), LIMITS).passed, "nothing watched"


def test_dark_at_most_counts_sites_at_one_moment() -> None:
    none, one = (drill.DarkAtMost(check="dark_at_most", sites=count) for count in (0, 1))
    gone, back = _at(5, UPSTREAM, "route_removed"), _at(9, UPSTREAM, "route_added")
    after, meanwhile = _at(10, SIN, "route_removed"), _at(7, SIN, "route_removed")
    assert judge(none, _seen(*STAND, by_site=TWO_SITES), LIMITS).passed
    assert not judge(none, _seen(*STAND, gone, back, by_site=TWO_SITES), LIMITS).passed
    assert judge(one, _seen(*STAND, gone, back, after, by_site=TWO_SITES), LIMITS).passed, "one after the other"
    found = judge(one, _seen(*STAND, gone, meanwhile, back, by_site=TWO_SITES), LIMITS)
    assert (found.passed, found.seen) == (False, "2: fra, sin")
    half = judge(one, _seen(*STAND, gone, _at(6, TRANSIT, "route_removed"), back, meanwhile, by_site=TWO_SITES), LIMITS)
    assert not half.passed, "dark until its last route is back"
    assert not judge(one, _seen(*STAND), LIMITS).passed, "nothing watched"


def test_a_stranger_is_refused_only_by_silence_and_only_when_asked() -> None:
    refused = drill.StrangerRefused(check="stranger_refused")
    cookie = drill.StrangerAskedForCookie(check="stranger_asked_for_cookie")
    served, silent = Stranger(echo=True, ike="answered"), Stranger(echo=False, ike="silent")
    assert judge(refused, _seen(strangers=(served, silent, served)), LIMITS).passed
    for half in (Stranger(echo=True, ike="silent"), Stranger(echo=False, ike="cookie"), served):
        assert not judge(refused, _seen(strangers=(served, half, served)), LIMITS).passed
    for vacuous in ((silent,), (silent, silent, silent), (served, silent), (silent, silent, served), (served, served)):
        assert not judge(refused, _seen(strangers=vacuous), LIMITS).passed, "nobody was ever answered, or is again"
    assert not judge(refused, _seen(strangers=(served, silent, silent)), LIMITS).passed
    assert judge(cookie, _seen(strangers=(Stranger(echo=True, ike="cookie"),)), LIMITS).passed
    assert not judge(cookie, _seen(strangers=(Stranger(echo=True, ike="answered"),)), LIMITS).passed
    for check in (refused, cookie):
        assert not judge(check, _seen(), LIMITS).passed


def test_a_verdict_is_the_first_after_the_fault_and_for_its_reason() -> None:
    check = drill.Verdict(check="verdict", reason=Reason.LINK_DOWN, limit="bound")

    def verdict(ms: float, reason: str, serving: bool = False) -> Moment:
        data = {"serving": serving, "causes": [{"reason": reason}]}
        return dataclasses.replace(_verdict(ms, serving), data=data)

    assert judge(check, _seen(verdict(90, "link_down")), LIMITS).passed
    assert not judge(check, _seen(verdict(101, "link_down")), LIMITS).passed, "the hold time is no fact's bound"
    assert not judge(check, _seen(verdict(50, "charon_exited"), verdict(60, "link_down")), LIMITS).passed
    assert not judge(check, _seen(verdict(-5, "link_down"), verdict(50, "link_down", serving=True)), LIMITS).passed
    assert not judge(check, _seen(), LIMITS).passed
