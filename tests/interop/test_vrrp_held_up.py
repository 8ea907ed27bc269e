"""Below 50 ms: who has no real-time priority, no locked memory or a machine that holds it up offers nothing, and says so."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from site_agent.vrrp.realtime import AGAIN_AFTER_S
from tests.support.namespace import in_namespace
from tests.support.vrrp_pair import KEYS, NO_LOCKED_MEMORY, NO_REAL_TIME, PROVEN_WITHIN_S, Lan, never_active, wait

pytestmark = [pytest.mark.root, pytest.mark.alone]

HOG = """
import os, time
os.sched_setaffinity(0, {0})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(60))
while True:
    end = time.monotonic() + 0.003
    while time.monotonic() < end:
        pass
    time.sleep(0.007)
"""
"""A process of higher priority that takes the first processor 3 ms of every ten."""


@in_namespace
def test_below_50_ms_it_offers_nothing_without_real_time_priority_and_locked_memory() -> None:
    with Lan() as lan:
        for n, prefix, what in ((1, NO_REAL_TIME, "real-time priority"), (2, NO_LOCKED_MEMORY, "locked memory")):
            process = lan.start(n, interval=4, keys=KEYS, prefix=prefix)
            status = process.wait("says that it cannot", lambda status: status.self_test == "failed")
            assert what in status.faults[0] and "an interval of 40 ms is not kept" in status.faults[0], status.faults
        seen = len(lan.processes[0].heard)
        wait(lambda: lan.processes[0].status and len(lan.processes[0].heard) > seen + 1, "two more reports")
        assert all(never_active(process) for process in lan.processes), "nobody else is there, and it took over"
        for process in lan.processes:
            process.child.kill()
        without = lan.start(1, interval=5, keys=KEYS, prefix=NO_REAL_TIME)
        status = without.role("active")
        assert status.self_test == "" and "real-time priority" in status.faults[0]
        assert lan.start(2, interval=1, keys=KEYS).proven().faults == []


@in_namespace
def test_who_was_held_up_at_its_start_serves_once_it_is_not() -> None:
    hog = subprocess.Popen([sys.executable, "-c", HOG])
    with Lan() as lan:
        try:
            process = lan.start(1, interval=1, keys=KEYS, prefix=("taskset", "-c", "0"))
            status = process.wait("has failed", lambda status: status.self_test == "failed")
            assert "holds up real-time processes" in status.faults[0]
            time.sleep(2 * AGAIN_AFTER_S)
            assert process.status is not None and process.status.self_test == "failed" and never_active(process)
        finally:
            hog.kill()
            hog.wait()
        status = process.role("active", within=PROVEN_WITHIN_S)
        assert (status.self_test, status.faults) == ("passed", [])
