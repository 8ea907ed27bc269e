"""Whom one does not hear because nothing of it is good, and what an operator is told then."""

from __future__ import annotations

import pytest

from site_agent.vrrp.deafness import LEAST, REMEDIES, Deafness
from site_agent.vrrp.packet import Discard

WINDOW_S = 1.0


def deaf(cause: Discard, *, count: int = LEAST) -> Deafness:
    made = Deafness(WINDOW_S, now=0.0)
    for n in range(count):
        made.discarded(cause, 0.9 + n / 100)
    return made


@pytest.mark.parametrize("cause", REMEDIES)
def test_what_is_discarded_for_a_lease_is_a_fault_that_says_what_to_do(cause: Discard) -> None:
    made = deaf(cause)
    assert made.faults(WINDOW_S - 0.01) == [], "a good one may still come"
    (fault,) = made.faults(WINDOW_S)
    assert f"({cause})" in fault and REMEDIES[cause] in fault
    assert made.faults(3.0) == [], "it says nothing any more: that is silence"


def test_a_good_one_ends_it() -> None:
    made = deaf(Discard.SEAL)
    made.accepted(1.1)
    made.discarded(Discard.SEAL, 2.2)
    assert made.faults(1.2) == made.faults(2.3) == []


def test_a_record_or_two_are_no_gateway() -> None:
    assert deaf(Discard.REPLAY, count=LEAST - 1).faults(WINDOW_S) == []


@pytest.mark.parametrize("cause", [cause for cause in Discard if cause not in REMEDIES])
def test_what_nobody_here_can_end_is_counted_only(cause: Discard) -> None:
    assert deaf(cause).faults(WINDOW_S) == []
