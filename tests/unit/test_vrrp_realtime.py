"""Who may advertise below 50 ms: the judgement over what was refused and how late the self-test's ticks came."""

from __future__ import annotations

import pytest

from site_agent.vrrp.realtime import AGAIN_AFTER_S, MOST_LATE_MS, TEST_TICKS, TEST_TRIES, Again, fault_of

LATE = MOST_LATE_MS * 2


class Machine:
    """Whose ticks come so late, try after try."""

    def __init__(self, *tries: list[float]) -> None:
        self.tries = list(tries)

    def measure(self, count: int, interval_s: float) -> list[float]:
        return sorted(self.tries.pop(0))


def ticks(late: int) -> list[float]:
    return [0.05] * (TEST_TICKS - late) + [LATE] * late


def test_50_ms_and_more_need_no_proof() -> None:
    assert fault_of(5, ["operation not permitted: real-time priority"], Machine().measure) == ""


@pytest.mark.parametrize("interval", [1, 4])
def test_below_it_whatever_was_refused_is_in_the_way(interval: int) -> None:
    fault = fault_of(interval, ["operation not permitted: locked memory"], Machine().measure)
    assert fault.startswith(f"an interval of {interval * 10} ms") and "locked memory" in fault and "50 ms or more" in fault


def test_two_late_ticks_of_two_hundred_pass_and_three_do_not() -> None:
    assert fault_of(1, [], Machine(ticks(2)).measure) == ""
    assert f"{LATE:.1f} ms late" in fault_of(1, [], Machine(*[ticks(3)] * TEST_TRIES).measure)


def test_one_good_try_of_three_is_enough() -> None:
    machine = Machine(ticks(9), ticks(9), ticks(0))
    assert fault_of(1, [], machine.measure) == "" and machine.tries == []


def rounds(again: Again, *lates: int) -> list[bool]:
    """What each round of ticks says, so many of them late; the one that begins a round always is."""
    said = []
    for late in lates:
        assert not again.tick(again.deadline + 3.0)
        for number in range(TEST_TICKS):
            passed = again.tick(again.deadline + (LATE / 1000 if number < late else 0.00005))
        said.append(passed)
    return said


def test_a_machine_that_was_busy_is_tested_again_until_it_passes() -> None:
    again = Again(now=100.0)
    assert again.deadline == 100.0 + AGAIN_AFTER_S
    assert rounds(again, 9, 3, 2) == [False, False, True]


def test_between_two_rounds_is_a_pause() -> None:
    again = Again(now=100.0)
    began = again.deadline
    assert rounds(again, TEST_TICKS) == [False]
    assert again.deadline - began > AGAIN_AFTER_S
