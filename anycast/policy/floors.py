"""Would these sites, dark at once, leave enough? The rule behind the ledger, and behind each holder's own check. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Set

from anycast.content.content import Content
from anycast.content.content import Floor as WrittenFloor
from anycast.model import Cause
from anycast.reasons import Reason


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SiteShare:
    """One site as the ledger of voluntary darkness counts it."""

    name: str
    region: str | None = None
    capacity: int | None = None
    """Tunnels that it can carry; None: not stated."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What must be left, not dark, of a region's sites or of the service's."""

    min_sites: int
    min_capacity: int | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Budget(Floor):
    """What must be left of the service."""

    sites: tuple[SiteShare, ...]
    regions: Mapping[str, Floor] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        names = {site.name for site in self.sites}
        # Without any site there is nothing to keep: a fleet of which no content says who it is.
        if len(names) != len(self.sites) or (self.sites and not 1 <= self.min_sites <= len(names)):
            raise ValueError(f"min_sites {self.min_sites} of {len(self.sites)} sites, of which {len(names)} differ")


def budget_of(content: Content) -> Budget:
    """What a signed content says of floors, and of the sites that they count."""

    def floor(written: WrittenFloor) -> Floor:
        return Floor(min_sites=written.min_sites, min_capacity=written.min_capacity)

    return Budget(
        min_sites=content.budget.min_sites,
        min_capacity=content.budget.min_capacity,
        sites=tuple(
            SiteShare(name=name, region=site.region, capacity=site.capacity) for name, site in sorted(content.sites.items())
        ),
        regions={name: floor(written) for name, written in sorted(content.budget.regions.items())},
    )


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
