"""When sites failed, by what their gateways told: the moments at which a fact took a route that was wanted. Pure.

A gateway that loses its power tells nothing, and a site whose second gateway takes over has not failed: neither is here. Of
a site whose gateways go one after the other within `ONE_S` that is one failure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import pydantic

from anycast.reasons import FACTS, Reason

INTENT = "RouteIntentChanged"
ONE_S = 60.0
MOST = 1000
"""Of one site; the newest stay."""
_FAILS = frozenset(map(str, FACTS)) | {str(Reason.ADDRESS_UNHELD)}


class Intent(NamedTuple):
    """One record of `INTENT`."""

    site: str
    gateway: str
    at: float
    """Unix time, by the gateway's clock."""
    record: Mapping[str, Any]


class SiteFailures(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    site: str
    at: tuple[float, ...]
    """Unix time of each, oldest first."""


class Failures(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    v: Literal[1] = 1
    days: float
    """So far back events are kept at most."""
    sites: tuple[SiteFailures, ...]


def failures(intents: Iterable[Intent]) -> dict[str, list[float]]:
    """By site. `intents`: of all gateways, oldest first."""
    wanted: dict[str, bool] = {}
    found: dict[str, list[float]] = {}
    for each in intents:
        before, now = wanted.get(each.gateway, False), each.record.get("announce") is True
        wanted[each.gateway] = now
        if before and not now and _by_a_fact(each.record.get("causes")):
            times = found.setdefault(each.site, [])
            if not times or each.at - times[-1] > ONE_S:
                times.append(each.at)
    return {site: times[-MOST:] for site, times in found.items()}


def _by_a_fact(causes: Any) -> bool:
    """Records are a gateway's own words, and may be anything."""
    named = [each.get("reason") for each in causes if isinstance(each, Mapping)] if isinstance(causes, list) else []
    return any(isinstance(reason, str) and reason in _FAILS for reason in named)
