"""Did clients fare as before? Evidence for, against, and none."""

from __future__ import annotations

from typing import Any

import pytest

from anycast.policy.gates import Counted, Verdict, judge


def counted(span_s: float = 60.0, **counts: Any) -> Counted:
    return Counted(span_s=span_s, **counts)


BUSY = counted(300, decrypted=300_000, encrypted=600_000, established=100)


@pytest.mark.parametrize(
    ("now", "verdict", "word"),
    [
        (counted(decrypted=55_000, encrypted=110_000, established=18), Verdict.PASSES, "55000 decrypted, 60000 expected"),
        (counted(decrypted=0, encrypted=110_000, established=18), Verdict.FAILS, "0 decrypted"),
        (counted(decrypted=55_000, encrypted=0, established=18), Verdict.FAILS, "0 encrypted"),
        (counted(decrypted=55_000, encrypted=110_000, established=0), Verdict.FAILS, "0 established"),
        (counted(decrypted=20_000, encrypted=110_000, established=18), Verdict.FAILS, "20000 decrypted"),
        (counted(), Verdict.UNKNOWN, "no client"),
        (counted(decrypted=55_000), Verdict.PASSES, "decrypted"),
        (counted(canary=False, decrypted=55_000), Verdict.FAILS, "canary"),
        (counted(canary=True), Verdict.PASSES, "canary"),
    ],
)
def test_a_busy_site_is_judged_by_its_own_rates(now: Counted, verdict: Verdict, word: str) -> None:
    found = judge(BUSY, now)
    assert found.verdict is verdict, found
    assert word in found.why


def test_an_idle_site_has_no_evidence_but_its_canary() -> None:
    idle = counted(300, decrypted=4, encrypted=4, established=0)
    assert judge(idle, counted(decrypted=0, encrypted=0, established=0)).verdict is Verdict.UNKNOWN, "zero of nothing"
    assert judge(idle, counted(decrypted=0, encrypted=0, established=0, canary=True)).verdict is Verdict.PASSES
    assert judge(idle, counted(decrypted=0, canary=False)).verdict is Verdict.FAILS


def test_small_counts_scatter_and_nothing_at_all_does_not() -> None:
    few = counted(300, established=60)
    assert judge(few, counted(established=3)).verdict is Verdict.PASSES, "12 expected, 6 asked for, 3 happen by chance"
    assert judge(few, counted(established=0)).verdict is Verdict.FAILS


def test_a_fleet_that_goes_to_lunch_is_no_fault_of_the_change() -> None:
    now = counted(decrypted=20_000)
    lunch = [(counted(300, decrypted=500_000), counted(decrypted=33_000))] * 3
    assert judge(BUSY, now).verdict is Verdict.FAILS
    assert judge(BUSY, now, lunch).verdict is Verdict.PASSES
    busier = [(counted(300, decrypted=500_000), counted(decrypted=500_000))]
    assert judge(BUSY, counted(decrypted=40_000), busier).verdict is Verdict.PASSES, "more elsewhere asks no more here"


def test_clients_that_came_here_from_all_other_sites_hide_no_loss() -> None:
    empty = [(counted(300, decrypted=500_000), counted(decrypted=0))] * 2
    assert judge(BUSY, counted(decrypted=0, canary=True), empty).verdict is Verdict.FAILS
    assert judge(BUSY, counted(decrypted=15_000), empty).verdict is Verdict.PASSES, "a quarter is left of it"


def test_two_reports_of_one_listing_are_no_loss() -> None:
    moment = counted(0.1, decrypted=0, encrypted=0, established=0)
    assert judge(BUSY, moment).verdict is Verdict.UNKNOWN
    assert judge(BUSY, counted(16, decrypted=0, encrypted=0)).verdict is Verdict.FAILS
    assert judge(BUSY, counted(0.1, decrypted=0, canary=False)).verdict is Verdict.FAILS, "the canary has a time of its own"


def test_what_was_not_reported_is_unknown_and_not_zero() -> None:
    assert judge(counted(300), counted(decrypted=5)).verdict is Verdict.UNKNOWN
    assert judge(BUSY, counted(), [(counted(300), counted())]).verdict is Verdict.UNKNOWN
    assert judge(counted(0, decrypted=0), counted(decrypted=0)).verdict is Verdict.UNKNOWN
