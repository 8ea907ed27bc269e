"""How many inner addresses were in use, as samples that grow old: what is asked for, what is kept, and for how long. Pure.

A sample is the most that one pool had in use within an hour, or that a site's pools of one family had together: the sum of
each pool's most would count clients twice that moved from one pool to another meanwhile. Hours are kept for a week, then
only each day's most (UTC), and those for 400 days: a year's rhythm and a month to see it end. A pool that nothing is said
of any more goes by that age, too, so what is kept is bounded by the fleet's pools; what gateways make up is bounded per
site.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import pydantic

from anycast.content.canonical import is_prefix
from anycast.fleet.values import FAMILIES, Family
from anycast.link_wire import MOST_LEASED, Report

HOUR_S, DAY_H = 3600, 24
HOURS_KEPT = 7 * DAY_H
DAYS_KEPT = 400
AHEAD_H = 2 * DAY_H
"""A sample of a later hour than that is of a clock that was wrong."""
MOST_POOLS = 64 + len(FAMILIES)
"""Of one site, with what its families have together; those that were said last stay."""
MOST_PENDING = 100_000
"""Samples that wait for a disk."""


class Sample(NamedTuple):
    site: str
    pool: str
    """Its prefix; or a family, `ipv4`: all pools of it together, at one time."""
    hour: int
    """Since the epoch of Unix time."""
    most: int


class PoolDays(pydantic.BaseModel):
    """One pool's days."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    site: str
    pool: str
    days: dict[str, Annotated[int, pydantic.Field(ge=0)]]
    """The most that was in use, by day (UTC, ISO 8601)."""


class FamilyDays(pydantic.BaseModel):
    """A site's pools of one family together."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    site: str
    family: Family
    days: dict[str, Annotated[int, pydantic.Field(ge=0)]]


class Leases(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    v: Literal[1] = 1
    pools: tuple[PoolDays, ...]
    together: tuple[FamilyDays, ...] = ()
    """Not of days before this was kept."""


class Collector:
    """Fed with every report; gives what is to be stored. Of a pair only who serves counts: a Backup's copies are the same
    clients, and its own charon may have forgotten."""

    def __init__(self) -> None:
        self._most: dict[tuple[str, str, int], int] = {}
        self.lost = 0
        """Samples that found no room, since the start."""

    def reported(self, site: str, report: Report, now: float) -> None:
        """`now`: Unix time."""
        if report.leased is None or report.role == "backup":
            return
        hour, together = int(now // HOUR_S), dict[str, int]()
        for pool, count in report.leased.items():
            if (site, pool, hour) in self._most or is_prefix(pool):
                self._add((site, pool, hour), count)
                family = "ipv6" if ":" in pool else "ipv4"
                together[family] = together.get(family, 0) + count
        for family, count in together.items():
            self._add((site, family, hour), min(count, MOST_LEASED))

    def _add(self, key: tuple[str, str, int], count: int) -> None:
        if key not in self._most and len(self._most) >= MOST_PENDING:
            self.lost += 1
        else:
            self._most[key] = max(self._most.get(key, 0), count)

    def take(self) -> list[Sample]:
        """All that waits; `back` has it wait on."""
        found, self._most = [Sample(*key, most) for key, most in self._most.items()], {}
        return found

    def back(self, samples: list[Sample]) -> None:
        for each in samples:
            key = each.site, each.pool, each.hour
            self._most[key] = max(self._most.get(key, 0), each.most)
