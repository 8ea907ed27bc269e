"""Each assertion about a site's two gateways, once held and once broken: a check that cannot fail proves nothing."""

from __future__ import annotations

import dataclasses
import json
from ipaddress import ip_address

import pytest

from anycast_lab.capture.frames import Advertisement, Arp, Seen, Segment
from anycast_lab.drills import pair_checks
from anycast_lab.drills.captured import Captured
from anycast_lab.drills.checks import judge
from anycast_lab.drills.drill import Limit
from anycast_lab.drills.pair_checks import SiteSeen
from anycast_lab.drills.pair_steps import GapBelow, NothingMovesAtTransit, OneActive
from anycast_lab.drills.report import Checked
from anycast_lab.drills.timeline import Moment, Packets
from tests.unit.test_capture_bgp import ANNOUNCE, PREFIX, PREPENDED, TRANSIT, WITHDRAW, segment, stream
from tests.unit.test_drill_checks import TRANSIT as AT_TRANSIT
from tests.unit.test_drill_checks import UPSTREAM as AT_UPSTREAM
from tests.unit.test_drill_checks import _at as route_moment
from tests.unit.test_drill_checks import _seen as observation

MS = 1_000_000
GW1, GW2 = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"
ADDRESS = ip_address("198.51.100.4")
LIMITS = {"bound": Limit(ms=500, reason="test")}


def advert(ms: float, mac: bytes) -> Advertisement:
    own, other = ip_address("198.51.100.2"), ip_address("198.51.100.3")
    return Advertisement(at_ns=round(ms * MS), mac=mac, source=own, destination=other, ttl=255, vrid=51, priority=100,
                         interval_cs=10, addresses=(), flags=1)  # fmt: skip


def told(ms: float, mac: bytes) -> Arp:
    return Arp(at_ns=round(ms * MS), operation=1, mac=mac, sender=ADDRESS, target=ADDRESS)


def captured(*seen: Seen, problems: tuple[str, ...] = ()) -> Captured:
    return Captured(seen=seen, problems=problems)


def one_active(what: SiteSeen, limit: float | None) -> Checked:
    return pair_checks.one_active(what, 0, limit)


BEFORE = [advert(ms, GW1) for ms in range(-1000, 0, 100)]
AFTER = [advert(ms, GW2) for ms in range(361, 3000, 100)]
MOVED = Moment(380 * MS, "fra-gw2", "role", "", "active")


def packets(gap_ms: float = 361, *, lost: int = 361, ended: bool = True) -> Packets:
    return Packets(sent=5000, lost=lost, late=3, longest_gap_ms=gap_ms, gap_from_ns=1, gap_to_ns=2 if ended else 0)


def seen(**changes: object) -> SiteSeen:
    """The Active lost its power, and all went as it should."""
    failover = SiteSeen(
        victim="fra-gw1",
        peer="fra-gw2",
        roles_before={"fra-gw1": "active", "fra-gw2": "backup"},
        roles_after={"fra-gw1": "backup", "fra-gw2": "active"},
        changes=(Moment(1, "fra-gw1", "role", "", "off"), MOVED),
        probes={"ipv4": packets(), "ipv6": packets(362)},
        lan=captured(*BEFORE, *AFTER, told(362, GW2), told(462, GW2)),
        transit=captured(*stream(ANNOUNCE, ANNOUNCE)),
        routers={GW1: "fra-gw1", GW2: "fra-gw2"},
        virtual_outside=(ADDRESS,),
        prefixes=(PREFIX,),
        transit_node="transit",
        transit_addresses=(TRANSIT[0],),
        why={"fra-gw2": ("peer_silent",)},
    )
    return dataclasses.replace(failover, **changes)


def test_the_longest_gap_of_any_family_counts_and_must_have_ended() -> None:
    assert pair_checks.gap_below(seen(), 362).passed
    assert not pair_checks.gap_below(seen(), 361.5).passed
    assert not pair_checks.gap_below(seen(probes={}), 500).passed
    assert not pair_checks.gap_below(seen(probes={"ipv4": packets(ended=False)}), 500).passed
    assert not pair_checks.gap_below(seen(probes={"ipv4": packets(0, lost=5000, ended=False)}), 500).passed, "never answered"


def test_the_same_update_again_is_nothing_that_moves() -> None:
    held = pair_checks.nothing_moves_at_transit(seen(), ())
    assert held.passed and "2 identical UPDATEs" in held.seen


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"transit": captured(*stream(ANNOUNCE, WITHDRAW, ANNOUNCE))}, "1 withdrawals"),
        ({"transit": captured(*stream(ANNOUNCE, PREPENDED))}, "1 UPDATEs with other attributes"),
        ({"transit": captured()}, "no UPDATE to hold others against"),
        ({"transit": captured(*stream(ANNOUNCE), problems=("7 packets dropped by kernel",))}, "7 packets dropped"),
        ({"transit": captured(*stream(ANNOUNCE), segment(9, 5000, b"x"))}, "lost packets"),
        ({"transit": captured(*stream(ANNOUNCE), segment(9, 5000, rst=True))}, "RST from"),
        ({"prefixes": ()}, "no prefix"),
    ],
)
def test_whatever_moves_at_the_transit_or_cannot_be_known_is_red(changed: dict[str, object], why: str) -> None:
    broken = pair_checks.nothing_moves_at_transit(seen(**changed), ())
    assert not broken.passed and why in broken.seen


def test_the_transits_own_log_counts_as_well_and_the_upstreams_does_not() -> None:
    check = NothingMovesAtTransit(check="nothing_moves_at_transit")
    assert judge(check, observation(at_site=seen()), LIMITS).passed
    assert judge(check, observation(route_moment(20, AT_UPSTREAM, "route_updated"), at_site=seen()), LIMITS).passed
    broken = judge(check, observation(route_moment(20, AT_TRANSIT, "route_updated"), at_site=seen()), LIMITS)
    assert not broken.passed and "updated at transit after 20 ms" in broken.seen


def test_one_active_at_the_end_and_never_two() -> None:
    assert one_active(seen(), None).passed
    both = {"fra-gw1": "active", "fra-gw2": "active"}
    assert not one_active(seen(roles_after=both), None).passed
    assert not one_active(seen(roles_after={"fra-gw1": "backup", "fra-gw2": "backup"}), None).passed
    assert not one_active(seen(roles_after={"fra-gw1": "partly", "fra-gw2": "active"}), None).passed
    assert not one_active(seen(lan=captured(*AFTER, problems=("cut",))), None).passed
    assert not one_active(seen(lan=captured()), None).passed, "nothing was captured"
    overlap = sorted([*BEFORE, advert(0, GW1), *(advert(ms, GW2) for ms in range(-150, 2000, 100))], key=lambda a: a.at_ns)
    assert not one_active(seen(lan=captured(*overlap)), None).passed


def test_two_actives_end_soon_after_the_heal_and_must_have_been() -> None:
    both = [advert(ms + shift, mac) for ms in range(-1000, 400, 100) for shift, mac in ((0, GW1), (50, GW2))]
    healed = seen(lan=captured(*both, *AFTER))
    assert pair_checks.one_active(healed, 100 * MS, 200).passed
    assert not pair_checks.one_active(healed, 100 * MS, 199).passed
    assert not pair_checks.one_active(healed, 0, 5000).passed, "nothing was healed"
    assert not pair_checks.one_active(seen(), 100 * MS, 200).passed, "there never were two"


def test_the_addresses_move_in_time_and_stay() -> None:
    assert pair_checks.role_moved(seen(), 0, 380).passed
    assert not pair_checks.role_moved(seen(), 0, 379).passed
    assert not pair_checks.role_moved(seen(changes=()), 0, 500).passed
    assert not pair_checks.role_moved(seen(roles_after={"fra-gw1": "active", "fra-gw2": "backup"}), 0, 500).passed
    assert not pair_checks.role_moved(seen(roles_before={"fra-gw1": "backup", "fra-gw2": "active"}), 0, 500).passed
    early = Moment(-20 * MS, "fra-gw2", "role", "", "active")
    assert not pair_checks.role_moved(seen(changes=(early,)), 0, 500).passed, "that was before the fault"


def test_who_is_active_stays_so_and_nobody_else_claims_it() -> None:
    roles = {"fra-gw1": "active", "fra-gw2": "backup"}
    still = seen(roles_after=roles, changes=(), lan=captured(*BEFORE))
    assert pair_checks.role_stays(still).passed
    assert not pair_checks.role_stays(dataclasses.replace(still, changes=(MOVED,))).passed
    assert not pair_checks.role_stays(dataclasses.replace(still, lan=captured(*BEFORE, *AFTER))).passed
    assert not pair_checks.role_stays(dataclasses.replace(still, roles_before={"fra-gw1": "backup"})).passed
    assert not pair_checks.role_stays(dataclasses.replace(still, lan=captured(*BEFORE, problems=("cut",)))).passed


def test_the_neighbours_are_told_by_the_new_one_and_more_than_once() -> None:
    assert pair_checks.neighbours_told(seen(), 0).passed
    for heard in ((told(362, GW2),), (told(362, GW1), told(462, GW1)), (told(-300, GW2), told(-200, GW2))):
        assert not pair_checks.neighbours_told(seen(lan=captured(*heard)), 0).passed
    assert not pair_checks.neighbours_told(seen(virtual_outside=()), 0).passed


def test_why_names_the_reason_at_that_gateway() -> None:
    assert pair_checks.why(seen(), "fra-gw2", "peer_silent").passed
    assert not pair_checks.why(seen(), "fra-gw1", "peer_silent").passed
    assert not pair_checks.why(seen(), "fra-gw2", "charon_exited").passed


def test_the_trail_of_why_is_read_from_the_fault_on() -> None:
    before = {"at": "1970-01-01T00:00:01+00:00", "event": "X", "reason": "vip_missing"}
    cause = {"reason": "peer_takes_over", "check": "", "detail": "this gateway: charon_exited"}
    after = [
        {"at": "1970-01-01T00:00:02+00:00", "event": "SiteVerdictChanged", "causes": [cause]},
        {"at": "1970-01-01T00:00:02.1+00:00", "event": "VrrpStateChanged", "role": "backup", "cause": "unfit"},
    ]
    answer = json.dumps({"log": {"trail": [before, *after]}})
    assert pair_checks.reasons_named(answer, 2000 * MS) == ("peer_takes_over", "charon_exited", "unfit")
    assert pair_checks.reasons_named(answer, 2050 * MS) == ("unfit",)
    for nothing in ("", "[]", '{"log": null}', '{"log": {"trail": [{}]}}'):
        assert pair_checks.reasons_named(nothing, 0) == ()


def test_a_drill_without_captures_passes_none_of_these() -> None:
    for check in (GapBelow(check="gap_below", limit="bound"), OneActive(check="one_active")):
        assert judge(check, observation(at_site=seen()), LIMITS).passed
        assert not judge(check, observation(), LIMITS).passed


def test_a_segment_of_another_session_is_not_the_transits() -> None:
    other = dataclasses.replace(segment(9, 1, rst=True), source=(ADDRESS, 179), destination=(ADDRESS, 9))
    assert isinstance(other, Segment)
    assert pair_checks.nothing_moves_at_transit(seen(transit=captured(*stream(ANNOUNCE), other)), ()).passed
