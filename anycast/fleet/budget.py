"""fleet.yaml: how much of the service may be dark on purpose at once, and the rules that it must obey."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pydantic

from anycast.fleet.finding import Finding
from anycast.fleet.section import Section
from anycast.fleet.values import Capacity, Name, SiteCount
from anycast.fleet.yaml_text import Path

if TYPE_CHECKING:
    from anycast.fleet.schema import Fleet


class Floor(Section):
    """What must be left of a region."""

    min_sites: SiteCount | None = None
    """Sites of the region that are not dark. Default: all but one, and at least one."""
    min_capacity: Capacity | None = None
    """Sum of `capacity` of the region's sites that are not dark. Default: not counted."""


class Budget(Section):
    """What must be left of the service before anybody may make a site dark on purpose. ``budget: {}`` is all defaults."""

    min_sites: SiteCount | None = None
    """Sites that are not dark. Default: all but one, and at least one."""
    min_capacity: Capacity | None = None
    """Sum of `capacity` of the sites that are not dark. Default: not counted."""
    regions: dict[Name, Floor] = pydantic.Field(default_factory=dict)
    """By `sites.SITE.region`: floors of their own, besides the service's. Default: none."""


def default_min_sites(sites: int) -> int:
    """One at a time; of a single site none."""
    return max(1, sites - 1)


def budget_is_possible(fleet: Fleet) -> Iterator[Finding]:
    """A floor above what there is would forbid everything and look like a working budget."""
    if (budget := fleet.service.budget) is None:
        return
    place: Path = ("service", "budget")
    floors: list[tuple[Path, Budget | Floor, str | None]] = [(place, budget, None)]
    floors += [((*place, "regions", name), floor, name) for name, floor in budget.regions.items()]
    for path, floor, region in floors:
        sites = {name: site for name, site in fleet.sites.items() if region in (None, site.region)}
        whose = "the fleet" if region is None else f"region {region}"
        regions_of = tuple[Path, ...](("sites", name, "region") for name in fleet.sites) if region else (("sites",),)
        if not sites:
            yield Finding(path, "is no site's region", at_key=True, judged=regions_of)
            continue
        if floor.min_sites is not None and floor.min_sites > len(sites):
            what = f"{floor.min_sites} sites of {len(sites)} that {whose} has"
            yield Finding((*path, "min_sites"), what, judged=regions_of)
        if floor.min_capacity is None:
            continue
        without = [name for name, site in sites.items() if site.capacity is None]
        if without:
            what = f"needs the capacity of every site it counts; {', '.join(without)} states none"
            yield Finding((*path, "min_capacity"), what, judged=tuple(("sites", name, "capacity") for name in without))
        elif (whole := sum(site.capacity or 0 for site in sites.values())) < floor.min_capacity:
            yield Finding((*path, "min_capacity"), f"{floor.min_capacity} is more than the {whole} that {whose} has")


BUDGET_RULES = (budget_is_possible,)
