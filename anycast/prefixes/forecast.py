"""When a site's pools run out, by the leases that were seen in use. Pure.

A straight line through each day's most (least squares) is all that is claimed: a bound that people can check by hand, beside
"unknown" wherever too little was seen.
"""

from __future__ import annotations

import datetime
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from anycast.errors import ConfigError, Problem
from anycast.fleet.schema import Fleet
from anycast.fleet.values import FAMILIES, Family
from anycast.link_wire import MOST_LEASED
from anycast.prefixes.sizes import given_out

LEAST_DAYS = 7
"""Fewer say nothing: weekends differ from weekdays."""
WINDOW_DAYS = 90
"""What is older tells of another time."""
HORIZON_DAYS = 730


class Sample(NamedTuple):
    """Inner addresses in use at one time."""

    site: str
    family: Family
    day: datetime.date
    leased: int


class Forecast(NamedTuple):
    site: str
    family: Family
    room: int
    """Addresses that the site can give to clients at one time."""
    most: int | None
    """The most that were in use on one day; None: nothing was seen."""
    days: int
    """On which something was seen."""
    runs_out: datetime.date | None
    """None: not within the horizon, or unknown."""
    what: str


def decode_samples(text: str, *, file: str) -> list[Sample]:
    """One JSON object a line: ``{"site":"fra","family":"ipv4","day":"2026-11-29","leased":41}``; other fields are ignored.

    Raises ConfigError.
    """
    samples, problems = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            day, leased = datetime.date.fromisoformat(record["day"]), record["leased"]
            counted = type(leased) is int and 0 <= leased <= MOST_LEASED
            if record["family"] not in FAMILIES or not counted or type(record["site"]) is not str:
                raise ValueError
            samples.append(Sample(record["site"], record["family"], day, leased))
        except (ValueError, KeyError, TypeError, RecursionError):
            what = 'is no sample: {"site":"fra","family":"ipv4","day":"2026-11-29","leased":41}'
            problems.append(Problem("", what, file, number, 1))
            if len(problems) == 10:
                break
    if problems:
        raise ConfigError(problems)
    return samples


def samples_of(answer: Mapping[str, Any]) -> list[Sample]:
    """Of the coordinator's answer to `GET /v1/leases`: a site's pools of one family together. Of a day from before they
    were counted so, it is the sum of each pool's most, which is never less, and more where clients have moved from pool to
    pool. Raises KeyError, TypeError, ValueError, AttributeError."""
    most: dict[tuple[str, Family, datetime.date], int] = defaultdict(int)
    largest: dict[tuple[str, Family, datetime.date], int] = defaultdict(int)
    for each in answer["pools"]:
        family: Family = "ipv6" if ":" in each["pool"] else "ipv4"
        for day, count in each["days"].items():
            key = str(each["site"]), family, datetime.date.fromisoformat(day)
            most[key] += int(count)
            largest[key] = max(largest[key], int(count))
    for each in answer.get("together", ()):
        for day, count in each["days"].items():
            # The day on which this began to be counted has hours of before it.
            key = str(each["site"]), "ipv6" if each["family"] == "ipv6" else "ipv4", datetime.date.fromisoformat(day)
            most[key] = max(int(count), largest[key])
    return [Sample(site, family, day, leased) for (site, family, day), leased in most.items()]


def forecasts(fleet: Fleet, samples: Iterable[Sample], today: datetime.date) -> list[Forecast]:
    """For each site and family that has pools."""
    by_pool: dict[tuple[str, Family], dict[datetime.date, int]] = defaultdict(dict)
    for each in samples:
        if today - datetime.timedelta(days=WINDOW_DAYS) <= each.day <= today:
            days = by_pool[each.site, each.family]
            days[each.day] = max(days.get(each.day, 0), each.leased)
    rows = []
    for name, site in fleet.sites.items():
        for family in FAMILIES:
            holders = [holder for holder in (site.pools, *site.more_pools.values()) if family in holder.families]
            if holders:
                room = sum(_room(holder.of(family)) for holder in holders) // (2 if site.sync is not None else 1)
                rows.append(forecast(name, family, room, by_pool.get((name, family), {}), today))
    return rows


def forecast(site: str, family: Family, room: int, days: dict[datetime.date, int], today: datetime.date) -> Forecast:
    """`days`: the most leases in use, by day; `room`: how many there can be."""
    if len(days) < LEAST_DAYS:
        seen = "1 day was seen" if len(days) == 1 else f"{len(days)} days were seen" if days else "nothing was seen"
        return Forecast(site, family, room, max(days.values(), default=None), len(days), None, f"unknown: {seen}")
    most = max(days.values())
    if most >= room:
        return Forecast(site, family, room, most, len(days), today, "full already")
    xs = [(day - today).days for day in days]
    mean_x, mean_y = sum(xs) / len(xs), sum(days.values()) / len(days)
    spread = sum((x - mean_x) ** 2 for x in xs)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, days.values(), strict=True)) / spread
    now = mean_y - slope * mean_x
    ahead = (room - now) / slope if slope > 0 else float("inf")
    if ahead > HORIZON_DAYS:
        return Forecast(site, family, room, most, len(days), None, "not within two years")
    runs_out = today + datetime.timedelta(days=max(0, int(ahead)))
    return Forecast(site, family, room, most, len(days), runs_out, f"full on {runs_out}: {slope * 7:.1f} more a week")


def _room(prefix: object) -> int:
    length = int(str(prefix).rpartition("/")[2])
    return given_out(length) if "." in str(prefix) else 1 << (128 - length)
