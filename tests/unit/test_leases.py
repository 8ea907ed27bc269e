"""Leases as samples: what of a report counts, what of it is kept for how long, and what a forecast makes of it."""

from __future__ import annotations

import asyncio
import datetime
import json
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anycast import link_wire
from anycast.coordinator import leases
from anycast.coordinator.fleet_view import FleetView
from anycast.coordinator.lease_keeper import LeaseKeeper
from anycast.coordinator.lease_store import LeaseStore
from anycast.coordinator.leases import DAY_H, DAYS_KEPT, HOUR_S, HOURS_KEPT, MOST_POOLS, Collector, Sample
from anycast.errors import ConfigError
from anycast.link_wire import Hello, Report
from anycast.prefixes.forecast import samples_of
from site_agent.ike.pool_counts import counted

FOUR, SIX = "203.0.113.0/26", "2001:db8:c::/112"
NOW = 20_800 * DAY_H + 12
"""An hour at noon."""


def report(leased: dict[str, int] | None, role: Any = "none") -> Report:
    return Report(
        number=1, document="d", generation=0, serving=True, announced=1, routes=1, role=role, tunnels=3, leased=leased
    )  # fmt: skip


def days(store: LeaseStore, since: int = 0) -> dict[tuple[str, str], list[int]]:
    return {(each.site, each.pool): list(each.days.values()) for each in store.days(since)}


@pytest.fixture
def store(tmp_path: Path) -> LeaseStore:
    return LeaseStore(tmp_path / "leases.db", "example")


def test_of_an_hour_the_most_is_kept_of_who_serves_and_of_what_is_a_pool() -> None:
    collector = Collector()
    for count in (5, 9, 2):
        collector.reported("fra", report({FOUR: count, SIX: 1, "203.0.113.1/26": 4, "203.0.113/9": 4}), NOW * HOUR_S + 7)
    collector.reported("fra", report({FOUR: 50}, "backup"), NOW * HOUR_S)
    collector.reported("sin", report(None), NOW * HOUR_S)
    collector.reported("fra", report({FOUR: 3}), (NOW + 1) * HOUR_S)
    found = collector.take()
    assert found == [
        *(Sample("fra", what, NOW, most) for what, most in ((FOUR, 9), (SIX, 1), ("ipv4", 9), ("ipv6", 1))),
        *(Sample("fra", what, NOW + 1, 3) for what in (FOUR, "ipv4")),
    ]
    assert collector.take() == []
    collector.reported("fra", report({FOUR: 10}), NOW * HOUR_S)
    collector.back(found)
    assert Sample("fra", FOUR, NOW, 10) in collector.take(), "what could not be written lowers nothing"


def test_who_makes_pools_up_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "MOST_PENDING", 3)
    collector = Collector()
    for n in range(5):
        collector.reported("fra", report({f"203.0.113.{n}/32": 1}), NOW * HOUR_S)
    collector.reported("fra", report({"203.0.113.0/32": 7}), NOW * HOUR_S)
    assert collector.lost == 3 and len(found := collector.take()) == 3 and found[0].most == 7


def test_a_report_of_before_this_field_and_one_to_a_coordinator_of_before_it() -> None:
    old = json.loads(report(None).model_dump_json(exclude={"leased"}))
    assert link_wire.decode(json.dumps(old).encode()) == report(None), "unknown, not none in use"
    new = json.loads(link_wire.encode(report({FOUR: 3}))[4:])
    assert new["leased"] == {FOUR: 3} and new.keys() - old.keys() == {"leased"}
    many = {f"203.0.113.{n}/32": 1 for n in range(65)}
    for wrong in ({FOUR: -1}, {FOUR: 2**53 + 1}, many, {"pool": 1}):
        with pytest.raises(link_wire.DecodeError):
            link_wire.decode(json.dumps({**old, "leased": wrong}).encode())


def test_a_client_that_comes_is_no_news_for_everybody() -> None:
    view = FleetView()
    view.connected(Hello(protocols=(1,), fleet="f", site="fra", gateway="g", agent="1", instance="i", boot="b"), 0.0)
    assert view.reported("g", report({FOUR: 1}), 0.0)
    assert not view.reported("g", report({FOUR: 2}), 1.0)


def test_hours_become_days_and_days_end(store: LeaseStore) -> None:
    first = (NOW - HOURS_KEPT) // DAY_H * DAY_H - DAY_H
    store.add([Sample("fra", FOUR, first + n, 10 + n % DAY_H) for n in range(3 * DAY_H)])
    store.add([Sample("fra", FOUR, first, 2), Sample("fra", FOUR, NOW - DAYS_KEPT * DAY_H - 1, 5)])
    store.add([Sample("fra", SIX, NOW + 100 * DAY_H, 5)])
    store.thin(NOW)
    assert days(store) == {("fra", FOUR): [33, 33, 33]}, "too old, and of a clock that was wrong, is gone"
    with sqlite3.connect(store.path) as db:
        spans = dict(db.execute("SELECT span, count(*) FROM samples GROUP BY span"))
    assert spans == {1: 2 * DAY_H, DAY_H: 1}
    store.add([Sample("fra", FOUR, first + 3, 40)])  # a coordinator's disk that hung
    store.thin(NOW)
    assert days(store)["fra", FOUR] == [40, 33, 33] and days(store, NOW // DAY_H * DAY_H) == {}
    store.close()


def test_of_pools_that_a_site_makes_up_the_last_ones_stay(store: LeaseStore) -> None:
    store.add([Sample("fra", f"203.0.113.{n}/32", NOW - 100 + n, 1) for n in range(MOST_POOLS + 2)])
    store.add([Sample("sin", FOUR, NOW - 150, 1)])
    store.thin(NOW)
    kept = days(store)
    assert len(kept) == MOST_POOLS + 1 and ("sin", FOUR) in kept
    assert ("fra", "203.0.113.1/32") not in kept and ("fra", "203.0.113.2/32") in kept


def test_a_year_of_a_large_fleet_is_bounded(tmp_path: Path) -> None:
    store = LeaseStore(tmp_path / "leases.db", "example")
    with sqlite3.connect(store.path) as db:
        db.executemany(
            "INSERT INTO samples VALUES ('fra', ?, 1, ?, 1)", [(FOUR, NOW - n) for n in range(500 * DAY_H)]
        )  # fmt: skip
    store.thin(NOW)
    with sqlite3.connect(store.path) as db:
        (rows,) = db.execute("SELECT count(*) FROM samples").fetchone()
    assert rows <= HOURS_KEPT + DAY_H + DAYS_KEPT


@given(
    st.lists(st.tuples(st.integers(0, 30 * DAY_H), st.integers(0, 1000)), min_size=1, max_size=40),
    st.sets(st.integers(0, 40), max_size=4),
)
@settings(max_examples=40, deadline=None)
def test_thinning_changes_no_days_most(samples: list[tuple[int, int]], thinned: set[int]) -> None:
    """Whenever it is done, how often, and whatever comes late."""
    with tempfile.TemporaryDirectory() as folder:
        thinning_changes_no_days_most(LeaseStore(Path(folder) / "leases.db", "example"), samples, thinned)


def thinning_changes_no_days_most(store: LeaseStore, samples: list[tuple[int, int]], thinned: set[int]) -> None:
    wanted: dict[int, int] = {}
    for n, (ago, count) in enumerate(samples):
        hour = NOW - ago
        wanted[hour // DAY_H] = max(wanted.get(hour // DAY_H, 0), count)
        store.add([Sample("fra", FOUR, hour, count)])
        if n in thinned:
            store.thin(NOW)
    store.thin(NOW)
    assert days(store)["fra", FOUR] == [wanted[day] for day in sorted(wanted)]
    store.close()


def test_a_store_of_another_fleet_or_of_nobody_is_refused_in_a_sentence(store: LeaseStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="belongs to the fleet example, not to other"):
        LeaseStore(store.path, "other")
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(ConfigError, match="is no store of ours"):
        LeaseStore(tmp_path / "text", "example")


def test_pools_of_one_family_are_one_forecasts() -> None:
    answer = {"v": 1, "pools": [
        {"site": "fra", "pool": FOUR, "days": {"2026-11-28": 4, "2026-11-29": 5}},
        {"site": "fra", "pool": "203.0.113.64/26", "days": {"2026-11-29": 7}},
        {"site": "fra", "pool": SIX, "days": {"2026-11-29": 1}},
    ]}  # fmt: skip
    found = {(each.site, each.family, each.day.day): each.leased for each in samples_of(answer)}
    assert found == {("fra", "ipv4", 28): 4, ("fra", "ipv4", 29): 12, ("fra", "ipv6", 29): 1}
    assert all(each.day <= datetime.date(2026, 11, 29) for each in samples_of(answer))


def test_clients_that_move_from_one_pool_to_another_are_counted_once(tmp_path: Path) -> None:
    """`anycast prefixes renumber`: the old pool has them in the morning, the new one in the evening."""
    other, yesterday = "203.0.113.64/26", int(time.time() // HOUR_S) // DAY_H * DAY_H - 12
    collector, store = Collector(), LeaseStore(tmp_path / "leases.db", "example")
    for ago, leased in ((6, {FOUR: 40}), (4, {FOUR: 40, other: 3}), (4, {FOUR: 2, other: 41}), (1, {other: 42})):
        collector.reported("fra", report(leased), (yesterday - ago) * HOUR_S)
    store.add(collector.take())

    async def answer() -> Any:
        keeper = LeaseKeeper(store.path, "example")
        try:
            return (await keeper.leases(7)).model_dump(mode="json")
        finally:
            await keeper.close()

    found = asyncio.run(answer())
    [sample] = samples_of(found)
    assert (sample.site, sample.family, sample.leased) == ("fra", "ipv4", 43)
    assert {each["pool"] for each in found["pools"]} == {FOUR, other}, "an older command line adds up what it knows as pools"
    [before] = samples_of({"pools": found["pools"]})
    assert before.leased == 82, "of days before this was counted: never less than it was"
    partly = {**found, "together": [{**found["together"][0], "days": dict.fromkeys(found["together"][0]["days"], 5)}]}
    assert samples_of(partly)[0].leased == 42, "the day on which it began: the largest pool's most at least"


@pytest.mark.parametrize("answer", [{}, {"a": {}}, {"a": {"online": b"x"}}, {"a": {"online": []}}, {"a": 3}])
def test_what_charon_does_not_say_is_unknown(answer: dict[str, Any]) -> None:
    assert counted(answer, {"a": FOUR}) is None
    assert counted({"a": {"online": b"3", "offline": b"9"}, "theirs": {"online": b"7"}}, {"a": FOUR}) == {FOUR: 3}
