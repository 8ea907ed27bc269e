"""The guard by the worst case: a site that may go dark must not be able to break another one's declared capacity. Pure.

The bound is that of `whatif.py`: all tunnels of the sites that go land on one other site, each in turn. A site goes where a
content has it attract less than before, for as long as the content is in force; and it may go, for a moment, where its
gateways get something new to run by. In which order sites are activated is the rollout's matter, so those that stay dark
count for every other step, and no order can be worse. Numbers without tunnels (a capacity, a region, words) move nobody.

What breaks is refused, unless somebody says why it is worth it. What is unknown (a capacity that nobody wrote, tunnels that
nobody counts) is said, and refuses nothing: it would refuse everything to whoever has no capacities written. Linear but for
one sort, over the fleet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from anycast.content.content import Content, Site
from anycast.content.state import FROM_CONTENT, State
from anycast.policy.budget import darkened, lit, named
from anycast.policy.whatif import Landing, Verdict, landing

MOST_SENTENCES = 10
DESPITE = "--despite-worst-case"


class WorstCase(NamedTuple):
    """What a change could come to."""

    breaks: tuple[str, ...] = ()
    """Each step that could be too much for another site, as a sentence."""
    unknown: str = ""
    """What nobody knows, as a sentence; empty: nothing that matters."""

    @property
    def verdict(self) -> Verdict:
        return Verdict.BREAKS if self.breaks else Verdict.UNKNOWN if self.unknown else Verdict.HOLDS

    @property
    def said(self) -> tuple[str, ...]:
        """For history."""
        return (*self.breaks, *([f"unknown: {self.unknown}"] if self.unknown else []))


def worst_case(running: Content | None, wanted: Content, state: State) -> WorstCase:
    """Of `wanted` in place of `running` (`content.state.in_force`), whole, whatever the order of its steps."""
    if running is None:
        return WorstCase()  # nobody has a tunnel by a content
    attracting = lit(running)
    dark = darkened(running, wanted)
    passing = sorted(
        name for name, new in wanted.sites.items()
        if name in attracting and name not in dark and _moves_somebody(running.sites[name], new)
    )  # fmt: skip
    steps = [(dark, f"{named(dark)} {'goes' if len(dark) == 1 else 'go'} dark")] if dark else []
    beside = f" while {named(dark)} {'is' if len(dark) == 1 else 'are'} dark" if dark else ""
    steps += [(dark | {name}, f"{name} is changed{beside}") for name in passing]
    return _World(wanted, state, attracting, dark).judged(steps)


def worst_of_step(running: Content | None, wanted: Content, state: State, site: str) -> WorstCase:
    """Of activating `wanted` at `site` now, with everything as dark as it is."""
    if running is None or site not in lit(running) or site not in wanted.sites:
        return WorstCase()
    if not _moves_somebody(running.sites[site], wanted.sites[site]):
        return WorstCase()
    what = f"{site} goes dark" if site in darkened(running, wanted) else f"{site} is changed"
    return _World(wanted, state, lit(running), {site}).judged([(frozenset({site}), what)])


def refusals(found: WorstCase) -> tuple[str, ...]:
    """What breaks, with the way to do it all the same."""
    return tuple(f"{each} ({DESPITE} --reason TEXT does it all the same)" for each in found.breaks)


def _moves_somebody(old: Site, new: Site) -> bool:
    """Its gateways have something else to do."""
    same = {"region": old.region, "capacity": old.capacity, "because": old.because}
    return new.model_copy(update=same) != old


class _World:
    """Where tunnels could land: sites that attract and are not dark on purpose, tightest first."""

    def __init__(self, wanted: Content, state: State, attracting: Iterable[str], dark: Collection[str]) -> None:
        in_ledger = {name for name, each in state.ledger.dark.items() if each.kind != FROM_CONTENT}
        self._tunnels = state.tunnels
        self._capacity = {
            name: wanted.sites[name].capacity
            for name in attracting if name in wanted.sites and name not in dark and name not in in_ledger
        }  # fmt: skip
        rooms = ((each - (self._tunnels.get(name) or 0), name) for name, each in self._capacity.items() if each is not None)
        self._tightest = sorted(rooms)
        self._unwritten = {name for name, each in self._capacity.items() if each is None}
        self._uncounted = {name for name in self._capacity if self._tunnels.get(name) is None}

    def judged(self, steps: Iterable[tuple[frozenset[str], str]]) -> WorstCase:
        """`steps`: all sites that are gone then, and what happens, in words."""
        breaks: list[str] = []
        more = 0
        unwritten, uncounted = set[str](), set[str]()
        for going, what in steps:
            nobody_counts = {name for name in going if self._tunnels.get(name) is None}
            moves = sum(self._tunnels.get(name) or 0 for name in going)
            if not moves and not nobody_counts:
                continue
            broken = self._broken(going, moves)
            if not moves or (first := next(broken, None)) is None:
                unwritten |= self._unwritten - going
                uncounted |= nobody_counts | (self._uncounted - going)
            elif len(breaks) < MOST_SENTENCES:
                found = landing(first, self._tunnels.get(first), moves, self._capacity[first], bool(nobody_counts))
                breaks.append(_sentence(what, moves, bool(nobody_counts), found, list(broken)))
            else:
                more += 1
        if more:
            breaks.append(f"{more} more steps could be too much for another site")
        return WorstCase(tuple(breaks), _unknown(unwritten, uncounted))

    def _broken(self, going: frozenset[str], moves: int) -> Iterator[str]:
        """Whose capacity is less, tightest first."""
        for room, name in self._tightest:
            if room >= moves:
                return  # so has everybody behind it
            if name not in going:
                yield name


def _sentence(what: str, moves: int, some_uncounted: bool, first: Landing, others: list[str]) -> str:
    least = "at least " if some_uncounted or first.now is None else ""
    there = first.now or 0
    more = f"; {named(others)} would break, too" if others else ""
    return (
        f"{what}: at worst {least}{moves} tunnels all land on {first.site}, which has {there} and a capacity of"
        f" {first.capacity}: {there + moves - (first.capacity or 0)} too many{more}"
    )


def _unknown(unwritten: Collection[str], uncounted: Collection[str]) -> str:
    parts = [f"nobody wrote a capacity of {named(unwritten)}"] if unwritten else []
    parts += [f"nobody counts the tunnels of {named(uncounted)}"] if uncounted else []
    return "; ".join(parts)
