"""What was in flight when the power went, and what is said of it, once held and once broken."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address

import pytest

from anycast_lab.capture.frames import Address, Exchange, Ike
from anycast_lab.drills.in_flight_checks import Cut, InFlight, in_flight, in_flight_recover

MS = 1_000_000
CLIENT, VIP, STRANGER = map(ip_address, ("198.51.100.98", "203.0.113.1", "198.51.100.66"))
CUT_MS = 1000


def ike(at_ms: float, exchange: int, message: int, *, response: bool = False, spi: int = 1, client: Address = CLIENT) -> Ike:
    source, destination = (VIP, client) if response else (client, VIP)
    return Ike(
        at_ns=int(at_ms * MS), source=source, destination=destination, spis=(spi, spi),
        exchange=exchange, response=response, message=message,
    )  # fmt: skip


def flying(*messages: Ike) -> dict[int, InFlight]:
    return {one.spis[0]: one for one in in_flight(messages, CLIENT, CUT_MS * MS)}


def test_what_was_answered_long_before_is_not_in_flight() -> None:
    found = flying(
        ike(900, 36, 2, spi=1), ike(950, 36, 2, spi=1, response=True),
        ike(900, 36, 2, spi=2), ike(990, 36, 2, spi=2, response=True),
        ike(100, 37, 5, spi=3),
    )  # fmt: skip
    assert {spi: one.answered for spi, one in found.items()} == {2: True, 3: False}


def test_fragments_and_a_request_that_is_sent_again_are_one_exchange() -> None:
    again = [ike(at, 35, 1) for at in (700, 701, 702, 990)]
    assert in_flight(again, CLIENT, CUT_MS * MS) == (InFlight(35, (1, 1), 1, answered=False, kept=False),)


@pytest.mark.parametrize(("after", "kept"), [
    ([], False),
    ([ike(1500, 36, 2)], False),  # the client asks again, and nobody answers
    ([ike(1500, 36, 2, response=True)], True),
    ([ike(1500, 37, 0, response=False, spi=1, client=CLIENT)], False),
    ([ike(1500, 36, 2, response=True, spi=9)], False),
])  # fmt: skip
def test_an_ike_sa_is_kept_where_the_other_gateway_speaks_under_it(after: list[Ike], kept: bool) -> None:
    assert flying(ike(990, 36, 2), *after)[1].kept is kept


def test_neither_a_gateways_own_requests_nor_other_exchanges_nor_other_clients_count() -> None:
    own = dataclasses.replace(ike(990, 36, 0), source=VIP, destination=CLIENT)
    assert not flying(own, ike(990, 34, 0), ike(990, 36, 2, client=STRANGER))


ONE = tuple(InFlight(kind, (kind, 1), 1, answered=False, kept=kind != 35) for kind in (35, 36, 37))
CUTS = (Cut(placed_by=Exchange.IKE_AUTH, after_ms=1.0, flying=ONE, recovered_ms=5000),) * 2


def test_two_of_each_kind_and_everybody_back() -> None:
    found = in_flight_recover(CUTS, 2, 6000)
    assert found.passed
    assert "IKE_AUTH: 2 unanswered (0 IKE_SAs went on, 2 were built anew)" in found.seen
    assert "CREATE_CHILD_SA: 2 unanswered (2 IKE_SAs went on, 0 were built anew)" in found.seen


@pytest.mark.parametrize(("cuts", "each", "limit"), [
    ((), 0, 6000),
    (CUTS, 3, 6000),
    (CUTS, 2, 4000),
    ((*CUTS, dataclasses.replace(CUTS[0], recovered_ms=None, missing="crowd-0001 has no tunnel")), 2, 6000),
    (tuple(dataclasses.replace(cut, flying=ONE[:2]) for cut in CUTS), 2, 6000),
])  # fmt: skip
def test_red_where_too_few_or_too_slow(cuts: tuple[Cut, ...], each: int, limit: float) -> None:
    assert not in_flight_recover(cuts, each, limit).passed
