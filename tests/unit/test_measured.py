"""The figures of one drill, and the table that is made of many."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

import pytest

from anycast_lab.capture.numbers import Numbers, Reuse, Takeover
from anycast_lab.drills import baseline_table, measured
from anycast_lab.drills.checks import ClientSeen, Observation
from anycast_lab.drills.mirror_checks import IkeSeen
from anycast_lab.drills.timeline import Moment, Packets
from tests.unit.test_mirror_checks import SEEN
from tests.unit.test_pair_checks import seen as site_seen

AT = ipaddress.ip_address("198.51.100.66")
TAKEOVER = Takeover(at_ns=9, destination=AT, spi=0xC0000001, gateway="gw1", before=4_000, first=1)
AGAIN = Reuse(destination=AT, spi=0xC0000001, sequence=3_990, first=("gw2", 1), again=("gw1", 9))
NUMBERS = Numbers(packets={"gw1": 9}, sas=1, numbers_twice=(AGAIN, AGAIN), ivs_twice=(), takeovers=(TAKEOVER,))
MS = 1_000_000
UNSENT = Packets(0, 0, 9, 0, 0, 0)
LOST = Moment(5, "transit", "route_removed", "203.0.113.0/28", "rtr_ipv4")


def client(gap_ms: float, lost: int, *, ended: bool = True) -> ClientSeen:
    to = 9_001 * MS if ended else 0
    packets = Packets(sent=100, lost=lost, late=0, longest_gap_ms=gap_ms, gap_from_ns=MS, gap_to_ns=to)
    return ClientSeen(packets=packets, site_before="home", site_after="home")


def observed(**changes: Any) -> Observation:
    ike = {name: IkeSeen(before=(), after=(), built=n) for name, n in (("direct", 1), ("roamer", 2))}
    seen = Observation(
        victim="gw2", site="home", kernel="uml", esp=True, fault_ns=0, heal_ns=0, end_ns=61_001 * MS, routes=(), withdraws=1,
        moments=(dataclasses.replace(LOST, at_ns=-1), LOST, dataclasses.replace(LOST, source="rtr")),
        clients={"direct": client(6_700, 30), "roamer": client(20, 1)}, withdraws_everywhere=2,
        child_sas_at_announcement=None, first_reason="",
        mirror=dataclasses.replace(SEEN, ike=ike, numbers=NUMBERS, problems=()), at_site=site_seen(transit_node="transit"),
    )  # fmt: skip
    return dataclasses.replace(seen, **changes)


def test_every_figure_is_there() -> None:
    found = measured.figures(observed())
    assert (found["gap_ms"], found["outage_ms"], found["gaps_open"]) == (6_700, 9_000, 0)
    assert (found["sent"], found["lost"], found["service_gap_ms"]) == (200, 31, 362)
    assert (found["withdrawals"], found["withdrawals_at_transit"]) == (2, 1), "not what was before the fault, or elsewhere"
    assert (found["ike_sas_built"], found["numbers_twice"]) == (3, 2)
    assert (found["number_before"], found["number_after"]) == (4_000, 1)
    assert measured.check(observed()).passed


def test_a_gap_that_does_not_end_is_a_figure_and_no_verdict() -> None:
    seen = observed(clients={"direct": client(60_000, 99, ended=False)})
    found = measured.figures(seen)
    assert (found["gaps_open"], found["outage_ms"]) == (1, 61_000) and measured.check(seen).passed


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clients": {}}, "no gap_ms"),
        ({"mirror": dataclasses.replace(SEEN, ike={})}, "no ike_sas_built"),
        ({"clients": {"direct": dataclasses.replace(client(1, 0), packets=UNSENT)}}, "no packet was sent"),
        ({"mirror": dataclasses.replace(SEEN, problems=("gw1: a packet was dropped",))}, "a packet was dropped"),
    ],
)
def test_what_was_not_measured_is_red(changes: dict[str, Any], said: str) -> None:
    checked = measured.check(observed(**changes))
    assert not checked.passed and said in checked.seen


def test_without_tunnels_the_services_address_is_enough() -> None:
    seen = observed(esp=False, clients={}, mirror=None)
    assert measured.check(seen).passed
    assert measured.check(observed(mirror=None)).passed, "a drill of gateways' addresses, where the kernel has ESP"
    assert not measured.check(dataclasses.replace(seen, at_site=None)).passed


def report(name: str, **figures: float | None) -> dict[str, Any]:
    every = {**dict.fromkeys((*baseline_table.COLUMNS, "gaps_open"), 0.0), "number_before": None, "number_after": None}
    return {"drill": name, "figures": {**every, **figures}}


def test_the_table_has_medians_and_ranges_and_says_what_did_not_end() -> None:
    reports = [
        report("baseline-power-off", outage_ms=6_700, lost=1_340, number_before=1_647, number_after=1),
        report("mirror-power-off", outage_ms=900),
        report("baseline-power-off", outage_ms=61_000, lost=12_000, gaps_open=1),
        report("baseline-power-off", outage_ms=8_000, lost=1_500),
        report("mirror-power-off", outage_ms=900, ike_sas_built=None),
        report("vrrp-power-off", service_gap_ms=300),
        report("uplink-down", outage_ms=1),
        {"drill": "mirror-power-off", "figures": {}},
    ]
    ours, documented, address = list(baseline_table.rows(reports))
    assert address[1] == "ours" and address[5] == "0.30"
    assert ours[:4] == ("power off", "ours", "2", "0.90")
    assert documented[:4] == ("power off", "documented", "3", "> 8.00 (6.70 to 61.0)")
    assert documented[6] == "1,500 (1,340 to 12,000)"
    assert (ours[-1], documented[-1]) == ("-", "1 after 1,647")
    assert baseline_table.table(reports).count("\n") == 4


def test_a_figure_that_no_run_has_is_none() -> None:
    assert baseline_table.cell("lost", [{"lost": None}]) == "-"
