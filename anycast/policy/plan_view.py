"""What a plan shows of announcements, tunnels, capacity and ledger. Pure; each part is linear in what it looks at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pydantic

from anycast.content.canonical import Name, Part, Prefix
from anycast.content.content import Content, Intent, Site
from anycast.content.state import DarkSite, State
from anycast.policy.budget import lit


class Announcement(Part):
    """What one neighbor of one site hears."""

    site: Name
    neighbor: str
    before: tuple[Prefix, ...]
    after: tuple[Prefix, ...]
    worse_before: bool
    """Announced worse than other sites' (degraded)."""
    worse_after: bool
    seen: tuple[Prefix, ...] | None
    """What the neighbor hears now, where somebody looked."""
    unicast: bool = pydantic.Field(default=False, exclude_if=lambda unicast: not unicast)
    """The site's own prefixes, which it is reached by also while it is dark; else the service's, and last resorts."""

    @property
    def changes(self) -> bool:
        return (self.before, self.worse_before) != (self.after, self.worse_after)


class Moves(Part):
    """Tunnels that change their site, at worst. A site whose tunnels nobody counts is `unknown`, which is not zero."""

    cut: dict[Name, int]
    """At sites that lose what attracts: these tunnels lose their site."""
    may_move: dict[Name, int]
    """At other sites, of which fewer neighbors hear, or beside which somewhere somebody hears more: where BGP carries a
    client then is not ours to say, so all of them may move."""
    unknown: tuple[Name, ...]

    @property
    def worst(self) -> int:
        return sum(self.cut.values()) + sum(self.may_move.values())


class Capacity(Part):
    """Of the sites that attract afterwards."""

    tunnels: int
    """There are now, of all sites that are counted."""
    uncounted: tuple[Name, ...]
    """Sites of which nobody knows how many."""
    total: int
    without: dict[Name, int]
    """What the others can carry when this one is lost."""
    unwritten: tuple[Name, ...]
    """Sites without a capacity, which count nothing."""

    @property
    def worst(self) -> tuple[str, int] | None:
        """The site whose loss leaves least, and what that leaves; None: no site attracts."""
        return min(((name, left) for name, left in self.without.items()), key=lambda pair: (pair[1], pair[0]), default=None)


class LedgerView(Part):
    allowed: int
    dark: dict[Name, DarkSite]


def announcements(before: Mapping[str, Site], after: Mapping[str, Site], state: State) -> tuple[Announcement, ...]:
    """Every neighbor of every site that hears something, or did; by name, what is the site's own last."""
    return tuple(
        row
        for name in sorted(before.keys() | after.keys())
        for unicast in (False, True)
        for row in _rows(name, before.get(name), after.get(name), state.seen.get(name, {}), unicast=unicast)
    )


def _rows(
    name: str, old: Site | None, new: Site | None, seen: Mapping[str, tuple[str, ...] | None], *, unicast: bool
) -> Iterator[Announcement]:
    was, will = ({} if each is None else each.unicast if unicast else each.announces for each in (old, new))
    for neighbor in sorted(was.keys() | will.keys()):
        view = seen.get(neighbor)
        own = frozenset().union(*(each.unicast.get(neighbor, frozenset()) for each in (old, new) if each is not None))
        yield Announcement(
            site=name,
            neighbor=neighbor,
            before=tuple(sorted(was.get(neighbor, ()))),
            after=tuple(sorted(will.get(neighbor, ()))),
            worse_before=not unicast and old is not None and old.intent is Intent.DEGRADED,
            worse_after=not unicast and new is not None and new.intent is Intent.DEGRADED,
            seen=None if view is None else tuple(sorted(prefix for prefix in view if (prefix in own) is unicast)),
            unicast=unicast,
        )


def moves(
    rows: tuple[Announcement, ...], before: Mapping[str, Site], after: Mapping[str, Site], tunnels: Mapping[str, int | None]
) -> Moves:
    was = {name: site.attracts for name, site in before.items()}
    will = {name: site.attracts for name, site in after.items()}
    cut = {name for name, attracted in was.items() if attracted - will.get(name, frozenset())}
    fewer = {row.site for row in rows if not set(row.before) <= set(row.after)}
    # A site's own prefix draws nobody from elsewhere.
    more = {row.site for row in rows if not row.unicast and not row.worse_after and not set(row.before) >= set(row.after)}
    more |= {name for name, attracted in will.items() if attracted - was.get(name, frozenset())}
    drawn = set(before) - (more if len(more) == 1 else set()) if more else set()
    moving = ((fewer | drawn) & before.keys()) - cut
    return Moves(
        cut=_counted(cut, tunnels),
        may_move=_counted(moving, tunnels),
        unknown=tuple(sorted(name for name in cut | moving if tunnels.get(name) is None)),
    )


def capacity(content: Content, tunnels: Mapping[str, int | None]) -> Capacity:
    carried = {name: content.sites[name].capacity or 0 for name in lit(content)}
    total = sum(carried.values())
    return Capacity(
        tunnels=sum(count for count in tunnels.values() if count is not None),
        uncounted=tuple(sorted(name for name in content.sites if tunnels.get(name) is None)),
        total=total,
        without={name: total - own for name, own in carried.items()},
        unwritten=tuple(sorted(name for name in carried if content.sites[name].capacity is None)),
    )


def _counted(sites: set[str], tunnels: Mapping[str, int | None]) -> dict[str, int]:
    return {name: count for name in sorted(sites) if (count := tunnels.get(name)) is not None}
