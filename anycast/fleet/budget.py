"""How much of the fleet may be dark on purpose, as fleet.yaml says it, and the rules about that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pydantic

from anycast.fleet.finding import Finding
from anycast.fleet.section import Section
from anycast.fleet.values import Name, Network, Sites, Tunnels
from anycast.fleet.yaml_text import Path

if TYPE_CHECKING:
    from anycast.fleet.schema import Fleet


class Floor(Section):
    """What must be left."""

    min_sites: Sites
    """Sites that attract traffic, at least one."""
    min_capacity: Tunnels | None = None
    """Tunnels that they can carry together, by the sites' `capacity`. Default: not asked for."""


class Budget(Floor):
    """Needed for `anycast plan`; a fleet that nobody coordinates has none."""

    regions: dict[Name, Floor] = pydantic.Field(default_factory=dict)
    """Floors of single regions, besides the fleet's. Default: none."""
    retiring: tuple[Network, ...] = ()
    """Prefixes that a later file may leave out everywhere. Default: none."""


def budget_can_be_kept(fleet: Fleet) -> Iterator[Finding]:
    """A floor that the fleet never reaches would refuse every plan; a capacity that nobody wrote counts nothing."""
    if (budget := fleet.budget) is None:
        return
    yield from _reached(fleet, budget, ("budget",), None)
    for region, floor in budget.regions.items():
        path: Path = ("budget", "regions", region)
        if not any(site.region == region for site in fleet.sites.values()):
            yield Finding(path, "is the region of no site", at_key=True, judged=(("sites",),))
        else:
            yield from _reached(fleet, floor, path, region)


def _reached(fleet: Fleet, floor: Floor, path: Path, region: str | None) -> Iterator[Finding]:
    sites = {name: site for name, site in fleet.sites.items() if region is None or site.region == region}
    place = "there are" if region is None else "the region has"
    if floor.min_sites > len(sites):
        yield Finding((*path, "min_sites"), f"{floor.min_sites}, and {place} {len(sites)}", judged=(("sites",),))
    if floor.min_capacity is not None:
        for name, site in sites.items():
            if site.capacity is None:
                what = f"has no capacity, which {'.'.join(map(str, path))}.min_capacity counts by"
                yield Finding(("sites", name), what, judged=(path,))
