"""When an agent calls a coordinator again: further apart while nobody is there, soon where somebody was."""

from __future__ import annotations

from itertools import accumulate, repeat

from anycast.link_wire import HEARTBEAT_S
from site_agent.coordinator_link import FIRST_WAIT_S, LONGEST_WAIT_S, next_wait


def test_nobody_there_is_called_less_and_less_often() -> None:
    waits = list(accumulate(repeat(0.0, 9), next_wait))[1:]
    assert waits == [0.5, 1, 2, 4, 8, 16, LONGEST_WAIT_S, LONGEST_WAIT_S]


def test_after_a_connection_that_stood_the_first_wait_comes_again() -> None:
    assert next_wait(LONGEST_WAIT_S, HEARTBEAT_S + 0.1) == FIRST_WAIT_S


def test_a_coordinator_that_dies_of_being_called_is_called_less_often() -> None:
    assert next_wait(4.0, HEARTBEAT_S / 2) == 8.0
