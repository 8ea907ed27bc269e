"""What routes of the whole fleet did while one site of it was the drill's: by BIRD's logs. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from anycast_lab.drills.report import Checked
from anycast_lab.drills.timeline import ROUTE_MOVES

if TYPE_CHECKING:
    from anycast_lab.drills.checks import Observation, Watched


def moves_only(seen: Observation, sites: tuple[str, ...]) -> Checked:
    """BIRD's word of all sites but some."""
    text = f"no route of a site but {', '.join(sites)} comes, goes or changes at any router"
    routes = [route for site, found in seen.by_site.items() if site not in sites for route in found]
    return _stay(text, seen, routes, up=bool(routes) and all(route.present(seen.moments) for route in routes))


def own_stays(seen: Observation, sites: tuple[str, ...]) -> Checked:
    """BIRD's word of the unicast prefixes; `sites` must have some."""
    there = [bool(routes) and all(each.present(seen.moments) for each in routes)
             for site in sites for routes in (seen.own_by_site.get(site, ()),)]  # fmt: skip
    text = f"no site's own prefix comes, goes or changes at any router, and those of {', '.join(sites)} are there"
    routes = [route for found in seen.own_by_site.values() for route in found]
    return _stay(text, seen, routes, up=bool(there) and all(there))


def _stay(text: str, seen: Observation, routes: list[Watched], *, up: bool) -> Checked:
    """Whether nothing happened to them from the fault to the end. `up`: those that must be there at the end are."""
    moved = [
        f"{route} of {route.protocol} {m.event.removeprefix('route_')} after {(m.at_ns - seen.fault_ns) / 1e6:.0f} ms"
        for route in routes
        for m in route.moments(seen.moments)
        if m.event in ROUTE_MOVES and seen.fault_ns <= m.at_ns <= seen.end_ns
    ]
    return Checked(text, "; ".join(moved) or ("none" if up else "routes missing"), "none", up and not moved)


def dark_at_most(seen: Observation, most: int) -> Checked:
    """A site is dark from the first of its routes that goes, until the last one is back."""
    before = [moment for moment in seen.moments if moment.at_ns < seen.fault_ns]
    missing = {site: {r for r in routes if not r.present(before)} for site, routes in seen.by_site.items()}
    worst = [site for site, routes in missing.items() if routes]
    for moment in sorted(m for m in seen.moments if m.event in ROUTE_MOVES and seen.fault_ns <= m.at_ns <= seen.end_ns):
        for site, routes in seen.by_site.items():
            for route in routes:
                if any(route.moments((moment,))):
                    (missing[site].add if moment.event == "route_removed" else missing[site].discard)(route)
        worst = max(worst, [site for site, routes in missing.items() if routes], key=len)
    text, told = "at most so many sites are without a route at once", f"{len(worst)}{': ' * bool(worst)}{', '.join(worst)}"
    return Checked(text, told, str(most), bool(seen.by_site) and len(worst) <= most)


def away_for(seen: Observation, seconds: float) -> Checked:
    """BIRD's word of how long the victim's routes were away."""
    text, shortest = f"{seen.victim}'s routes stay away", math.inf
    for route in seen.routes:
        since = [m for m in route.moments(seen.moments) if m.at_ns >= seen.fault_ns]
        gone = next((m.at_ns for m in since if m.event == "route_removed"), None)
        if gone is None:
            return Checked(text, f"{route} never went", f"≥ {seconds:g} s", False)
        back = next((m.at_ns for m in since if m.event == "route_added" and m.at_ns > gone), seen.end_ns)
        shortest = min(shortest, (back - gone) / 1e9)
    return Checked(text, f"{shortest:.1f} s", f"≥ {seconds:g} s", bool(seen.routes) and shortest >= seconds)


def every_kill(seen: Observation, limit: float) -> Checked:
    """BIRD's word of what each of several kills did."""
    text, worst = f"{seen.victim}'s routes go at each kill", 0.0
    kills = [m.at_ns for m in seen.moments if m.source == "drill" and m.event == "signal" and "SIGKILL" in m.detail]
    for number, kill in enumerate(kills, 1):
        for route in seen.routes:
            gone = (m.at_ns for m in route.moments(seen.moments) if m.event == "route_removed" and m.at_ns >= kill)
            worst = max(worst, (next(gone, seen.end_ns) - kill) / 1e6)
        if worst > limit:
            return Checked(text, f"kill {number} of {len(kills)}: {worst:.1f} ms", f"{limit:g} ms", False)
    return Checked(text, f"{len(kills)} kills, at most {worst:.1f} ms", f"{limit:g} ms", bool(kills and seen.routes))
