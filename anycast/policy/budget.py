"""How much of the fleet one content, after another, can darken: one judgement for plan, coordinator and agent. Pure.

Stage to all, activate one site at a time: for a while some sites run by the old content and some by the new one, and a
rollout may stop anywhere. So what counts is what *both* leave alone: a site that attracts in both, everything that it
attracted before. Then every mixture of the two keeps the budget, in whatever order the sites are activated.

    dark        not meant to attract; degraded; attracting nothing; gone from the content; or one prefix less than before
    floor       the higher one of the two contents': a budget is lowered by a content of its own, which darkens nothing
    last one    nobody ceases to announce what nobody else announces, unless the content before named it as retiring

A content that darkens nothing is judged by its own floor only, however dark the fleet is: what makes it lighter is
never refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from anycast.content.content import Content, Floor

Lit = dict[str, frozenset[str]]
_NAMED = 10
"""Names in a sentence before it counts."""


def shortfalls(before: Content | None, after: Content, dark: Collection[str] = ()) -> tuple[str, ...]:
    """Every way in which `after` breaks the budget, as sentences. `dark`: sites that attract nothing now, whatever the
    contents say (the ledger's, and those that nobody sees)."""
    was, will = {} if before is None else _by_region(before), _by_region(after)
    regions = {*after.budget.regions, *(() if before is None else before.budget.regions)}
    return tuple(
        problem
        for region in (None, *sorted(regions))
        for problem in _shortfalls(before, after, was.get(region, {}), will.get(region, {}), dark, region)
    )


def darkened(before: Content | None, after: Content) -> frozenset[str]:
    """Sites that lose something that they attracted by `before`."""
    return frozenset() if before is None else frozenset(_lost(before, lit(before), lit(after)))


def lit(content: Content) -> Lit:
    """By site: what it attracts. Dark sites are not in it."""
    return {name: attracted for name, site in content.sites.items() if (attracted := site.attracts)}


def named(sites: Collection[str]) -> str:
    """Some names, for a sentence."""
    some = sorted(sites)
    return ", ".join(some[:_NAMED]) + (f" and {len(some) - _NAMED} more" if len(some) > _NAMED else "")


def _by_region(content: Content) -> dict[str | None, Lit]:
    """What is lit in each region, and (None) everywhere."""
    everywhere = lit(content)
    found: dict[str | None, Lit] = {None: everywhere}
    for name, attracted in everywhere.items():
        if (region := content.sites[name].region) is not None:
            found.setdefault(region, {})[name] = attracted
    return found


def _lost(before: Content, was: Lit, will: Lit) -> Lit:
    """What retires is missed by nobody; but who attracts nothing any more is dark, though nothing else is lost."""
    retiring = frozenset(before.budget.retiring)
    lost = {name: attracted - will.get(name, frozenset()) - retiring for name, attracted in was.items()}
    return {name: missing for name, missing in lost.items() if missing or name not in will}


def _shortfalls(
    before: Content | None, after: Content, was: Lit, will: Lit, dark: Collection[str], region: str | None
) -> Iterator[str]:
    place = "" if region is None else f" of region {region}"
    own = after.budget if region is None else after.budget.regions.get(region)
    if own is not None:
        if len(will) < own.min_sites:
            yield f"{_attract(len(will))}{place} by this content; its budget wants {own.min_sites}"
        yield from _capacity(own, will, after, f"the sites{place} that attract by this content")
    if before is None or not (lost := _lost(before, was, will)):
        return
    then = before.budget if region is None else before.budget.regions.get(region)
    floors = [floor for floor in (then, own) if floor is not None]
    least = max(floor.min_sites for floor in floors)
    capacity = max((floor.min_capacity for floor in floors if floor.min_capacity is not None), default=None)
    both = {name: what for name, what in was.items() if name in will and name not in lost}
    steady = {name: what for name, what in both.items() if name not in dark}
    others = f" beside {named(both.keys() - steady.keys())}" if len(steady) < len(both) else ""
    if len(steady) < least:
        left = _attract(len(steady))
        yield f"{named(lost)}{place} would go dark{others}, and {left} all the while; the budget wants {least}"
    floor = Floor(min_sites=least, min_capacity=capacity)
    yield from _capacity(floor, steady, before, f"without {named(lost)}{others} the sites{place} that attract")
    if region is None:
        announced = frozenset().union(*steady.values())
        for missing in sorted(frozenset().union(*lost.values()) - announced):
            yield f"nobody would go on announcing {missing}; a content that names it as retiring has to come before"


def _attract(number: int) -> str:
    return {0: "no site attracts", 1: "1 site attracts"}.get(number, f"{number} sites attract")


def _capacity(floor: Floor, sites: Mapping[str, object], content: Content, who: str) -> Iterator[str]:
    """A site whose capacity nobody wrote counts nothing."""
    if floor.min_capacity is not None:
        has = sum(content.sites[name].capacity or 0 for name in sites)
        if has < floor.min_capacity:
            yield f"{who} carry {has} tunnels; the budget wants {floor.min_capacity}"
