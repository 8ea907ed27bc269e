"""A move of something that is given out, in steps that each leave everything working, where somebody asks for it. Pure.

No plan moves anything by itself. Each step here is an edit of the fleet file, to be planned, applied and rolled out as any
other; between two of them stands what has to be true first.
"""

from __future__ import annotations

import dataclasses
import datetime
from typing import NamedTuple

from anycast.fleet.finding import Finding
from anycast.prefixes.allocation import Allocation, Kind, Lock
from anycast.prefixes.planner import plan
from anycast.prefixes.wants import Declared

_ASIDE = "moving"
"""Of the place that is asked for, and of the pool that clients leave."""


class Step(NamedTuple):
    before: str
    """What has to be true first."""
    write: dict[str, str]
    """Values of the fleet file, by path; empty text: to be taken out."""
    what: str


class Refused(NamedTuple):
    findings: tuple[Finding, ...]


def renumber(wanted: Declared, lock: Lock, key: str, today: datetime.date) -> tuple[Step, ...] | Refused:
    """How `key` comes to another place of its size. `lock` has everything that `wanted` asks for."""
    old = lock.held.get(key)
    path = tuple(key.split("."))
    if old is None:
        return Refused((Finding(path, "is not in the lock file; `anycast prefixes show` lists what is"),))
    if (why := _WHY_NOT.get(old.kind)) is not None:
        return Refused((Finding(path, why),))
    want = wanted.wants.get(key)
    if want is None or not want.use:
        return Refused((Finding(path, "is no prefix that the fleet file asks for by itself; move the first one beside it"),))
    aside = want._replace(key=f"{key}.{_ASIDE}", pin="", at=None, need=None, length=int(old.value.rpartition("/")[2]))
    planned = plan(dataclasses.replace(wanted, wants={**wanted.wants, aside.key: aside}), lock, today)
    if planned.findings:
        findings = planned.findings
        return Refused(tuple(dataclasses.replace(each, path=path) if each.path == aside.path else each for each in findings))
    new = planned.lock.held[aside.key].value
    return _STEPS[old.kind](old, new)


def _pool(old: Allocation, new: str) -> tuple[Step, ...]:
    site, family = old.path[1], old.path[-1]
    leaving = f"sites.{site}.more_pools.{_ASIDE}.{family}"
    return (
        Step(
            f"firewalls and routers inside let {new} through as they do {old.value}",
            {old.key: new, leaving: old.value},
            f"new clients are given addresses of {new}; who has one of {old.value} keeps it",
        ),
        Step(
            f"no client of {site} has an address of {old.value} any more (`site-agent clients`)",
            {leaving: ""},
            f"{old.value} is nobody's, and rests",
        ),
        _unpinned(old, new),
    )


def _unicast(old: Allocation, new: str) -> tuple[Step, ...]:
    site = old.path[1]
    return (
        Step(
            f"a ROA and a route object for {new}, and no drain that moves tunnels to {site}",
            {old.key: new},
            f"{site} answers at an address of {new}; tunnels that were redirected to {old.value} are made anew",
        ),
        _unpinned(old, new),
    )


def _subnet(old: Allocation, new: str) -> tuple[Step, ...]:
    site = old.path[1]
    return (
        Step(
            f"{site} is drained, and whatever else stands in {old.value} is known",
            {old.key: new},
            f"the machines that the fleet file has in {old.value} have addresses of {new}",
        ),
        _unpinned(old, new),
        Step("both gateways say so (`anycast status`)", {}, f"{site} is announced again (`anycast undrain {site}`)"),
    )


def _unpinned(old: Allocation, new: str) -> Step:
    return Step(f"{new} is in the lock file", {old.key: ""}, "the fleet file need not say it any more: what is held stays")


_STEPS = {Kind.POOL: _pool, Kind.UNICAST_PREFIX: _unicast, Kind.SUBNET: _subnet}
_WITH_ITS_PREFIX = "moves with the prefix that it lies in; renumber that"
_WHY_NOT = {
    Kind.COVERING: "is what the world reaches the service by, one a family: reserve the next one as an entry of"
    " addressing.services, get its ROAs and filters, and move clients by name to a service of their own there",
    Kind.VIP: _WITH_ITS_PREFIX,
    Kind.SERVICE_ADDRESS: _WITH_ITS_PREFIX,
    Kind.ADDRESS: _WITH_ITS_PREFIX,
    Kind.VRRP: _WITH_ITS_PREFIX,
    Kind.ROUTER_ID: "follows its gateway's address",
    Kind.TUNNEL: "is a single address: write the one that it shall be; tunnels from other sites follow with the rollout",
    Kind.SPI_LABEL: "is a number: write the one that it shall be, while the site is drained",
}
"""Kinds that are moved otherwise, or with something else."""
