"""Clients' traffic at a site over a span, from reports of agents that begin anew, of pairs, and of older agents."""

from __future__ import annotations

from typing import Any, Literal

from anycast.coordinator.traffic_log import TrafficLog
from anycast.link_wire import Report
from anycast.policy.gates import Counted

Role = Literal["active", "backup", "none"]


def report(packets: int, established: int | None = 0, *, role: Role = "none", **more: Any) -> Report:
    return Report(
        number=1, document="d", generation=1, serving=True, announced=1, routes=1, role=role, tunnels=1, decrypted=packets,
        encrypted=packets, established=established, **more,
    )  # fmt: skip


def told(log: TrafficLog, *reports: tuple[float, str, str, Report]) -> TrafficLog:
    for at, gateway, instance, each in reports:
        log.reported("fra", gateway, instance, each, at)
    return log


def test_a_new_agents_count_goes_on_from_what_the_one_before_it_had_said() -> None:
    log = told(
        TrafficLog(), (0, "g", "a", report(100, 5)), (10, "g", "a", report(150, 7)), (20, "g", "b", report(30, 1)),
        (30, "g", "b", report(40, 2)),
    )  # fmt: skip
    assert log.counted("fra", 0, 30) == Counted(span_s=30, decrypted=90, encrypted=90, established=4)
    assert log.counted("fra", 15, 30) == Counted(span_s=10, decrypted=10, encrypted=10, established=1)
    assert log.counted("fra", 25, 30) == Counted(span_s=0), "one report is no span"
    assert log.counted("sin", 0, 30) == Counted(span_s=0)


def test_an_agent_that_does_not_say_how_many_are_new_makes_that_unknown_and_nothing_else() -> None:
    log = told(TrafficLog(), (0, "g", "a", report(0, None)), (10, "g", "a", report(50, None)))
    assert log.counted("fra", 0, 10) == Counted(span_s=10, decrypted=50, encrypted=50, established=None)
    told(log, (20, "g", "b", report(10, 1)), (30, "g", "b", report(20, 3)))
    assert log.counted("fra", 0, 30).established is None
    assert log.counted("fra", 15, 30).established == 2, "known since it says so"


def test_of_a_pair_only_what_the_active_carries_counts_also_after_a_failover() -> None:
    log = told(
        TrafficLog(), (0, "a", "a", report(0, 0, role="active")), (0, "b", "b", report(0, 0, role="backup")),
        (10, "a", "a", report(100, 4, role="active")), (10, "b", "b", report(0, 4, role="backup")),
        (20, "b", "b", report(0, 6, role="active")), (30, "b", "b", report(80, 7, role="active")),
    )  # fmt: skip
    assert log.counted("fra", 0, 10) == Counted(span_s=10, decrypted=100, encrypted=100, established=4)
    assert log.counted("fra", 15, 30) == Counted(span_s=10, decrypted=80, encrypted=80, established=1), "copies are nobody's"


def heartbeats(new: dict[int, int]) -> TrafficLog:
    """Five minutes, a report every 10 s, with 100 packets each; `new`: SAs newly made in a minute, spread over it."""
    log, packets, made = TrafficLog(), 0, 0.0
    for at in range(0, 301, 10):
        log.reported("fra", "g", "a", report(packets, int(made)), float(at))
        packets, made = packets + 100, made + new.get(at // 60, 12) / 6
    return log


def test_what_is_usual_is_not_a_wave_of_clients_that_came_all_at_once() -> None:
    usual = heartbeats({}).baseline("fra", 0, 300)
    assert usual == Counted(span_s=300, decrypted=3000, encrypted=3000, established=60)
    assert heartbeats({3: 6000}).baseline("fra", 0, 300) == usual
    assert heartbeats({3: 6000}).counted("fra", 0, 300).established == 6048, "and still it was seen"
    assert heartbeats({minute: 0 for minute in range(5)}).baseline("fra", 0, 300).established == 0
    assert TrafficLog().baseline("fra", 0, 300) == Counted(span_s=0)


def test_a_baseline_that_has_just_begun_is_that_of_the_parts_that_it_has() -> None:
    log = heartbeats({})
    assert log.baseline("fra", -240, 60) == Counted(span_s=60, decrypted=600, encrypted=600, established=12)
