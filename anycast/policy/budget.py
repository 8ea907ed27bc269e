"""Would these sites, dark at once, leave enough? The rule behind the ledger, and behind each holder's own check. Pure."""

from __future__ import annotations

from collections.abc import Set

from anycast.document import Budget, Floor, SiteShare
from anycast.model import Cause
from anycast.reasons import Reason


def allowed(budget: Budget, region: str | None = None) -> int:
    """How many sites, of `region` or of all, may be dark at once."""
    return len(_sites(budget, region)) - _floor(budget, region).min_sites


def broken_by(budget: Budget, dark: Set[str]) -> Cause | None:
    """The first floor that `dark` would break; None where it breaks none. Names that are no sites count for nothing."""
    for region in (None, *sorted(budget.regions)):
        floor, of = _floor(budget, region), "" if region is None else f" of {region}"
        left = [site for site in _sites(budget, region) if site.name not in dark]
        if len(left) < floor.min_sites:
            total = len(_sites(budget, region))
            detail = f"{total - len(left)} sites{of} would be dark, {allowed(budget, region)} may be"
            return Cause(reason=Reason.BUDGET_SPENT, detail=detail)
        capacity = sum(site.capacity or 0 for site in left)
        if floor.min_capacity is not None and capacity < floor.min_capacity:
            detail = f"a capacity{of} of {capacity} would be left, {floor.min_capacity} must be"
            return Cause(reason=Reason.CAPACITY_SHORT, detail=detail)
    return None


def sites(budget: Budget) -> frozenset[str]:
    """Names of all sites."""
    return frozenset(site.name for site in budget.sites)


def _floor(budget: Budget, region: str | None) -> Floor:
    return budget if region is None else budget.regions[region]


def _sites(budget: Budget, region: str | None) -> list[SiteShare]:
    return [site for site in budget.sites if region is None or site.region == region]
