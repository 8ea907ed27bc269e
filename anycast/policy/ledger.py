"""The one list of everything that is dark on purpose, and whether one more site may be. Pure; the store is the shell's.

Theory of operation
-------------------
A site with at least one entry takes one slot, however many entries and gateways it has. Counted with them, because nobody
else attracts their traffic either, are sites that say they do not announce (a fact, or whatever else) and sites that have
not been heard of for the freshness limit, which may be anything. Together they are *dark*, and an entry is granted only
while they, and the site it is for, leave the floors of `budget` standing. So hard failures leave fewer slots, a partition
hides no darkness, and a coordinator that has heard nobody grants nothing.

An operator's `hold withdraw` asks nobody. It is entered when its gateway reports it, counts, and may go beyond the budget;
then nothing else is granted.

A slot returns by the site's word alone: every gateway that may hold the entry has said, while it announced, that it has
ended it (`Report.ended`). No clock here ends anything; `until` is for people. A gateway that left the fleet's content holds
nothing.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Iterable, Mapping, Set

from anycast.model import Cause
from anycast.policy.floors import Budget, allowed, broken_by
from anycast.reasons import Reason


class Kind(enum.StrEnum):
    """What makes a site dark on purpose. Degrading (prepend, MED, GRACEFUL_SHUTDOWN) moves clients and counts the same."""

    DRAIN = "drain"
    ROLLOUT = "rollout"
    MAINTENANCE = "maintenance"
    DEGRADE = "degrade"
    TOKEN = "token"
    HOLD = "hold"
    """An operator's `hold withdraw` at the gateway: never refused."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One reason for one site to be dark. What the store keeps."""

    id: str
    """Never used twice, also by a coordinator whose store was restored: it begins with the leader's key."""
    kind: str
    """A `Kind`, or the word of an agent that knows more of them."""
    site: str
    gateways: tuple[str, ...]
    """Which may hold it."""
    by: str
    """The operator; of a token the check."""
    why: str = ""
    until: float | None = None
    """Unix time, for people."""
    ending: str = ""
    """Why it is being ended; empty while it stands. It is never granted or renewed again."""
    returned: tuple[str, ...] = ()
    """Gateways that have said that they ended it, announcing."""


class Site(enum.StrEnum):
    """What is known of a site apart from the ledger."""

    ANNOUNCES = "announces"
    DARK = "dark"
    UNHEARD = "unheard"


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """A site as its gateways last told."""

    state: Site
    detail: str = ""
    """Why it is dark; for how long it is unheard."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether something may be dark, and why."""

    granted: bool
    cause: Cause
    dark: frozenset[str] = frozenset()
    """What would be, or is, counted with it."""


class Ledger:
    """Entries by id. Changes nothing by itself; whoever changes it writes to the store before anybody hears of it."""

    def __init__(self, budget: Budget, entries: Iterable[Entry] = ()) -> None:
        self.budget = budget
        self._entries = {entry.id: entry for entry in entries}

    @property
    def entries(self) -> Mapping[str, Entry]:
        """What stands, oldest first."""
        return self._entries

    def of_site(self, site: str) -> list[Entry]:
        """The site's entries, oldest first."""
        return [entry for entry in self._entries.values() if entry.site == site]

    def put(self, entry: Entry) -> None:
        """Enter it, or what has become of it."""
        self._entries[entry.id] = entry

    def remove(self, entry_id: str) -> None:
        """Its slot has returned."""
        del self._entries[entry_id]

    def dark(self, standings: Mapping[str, Standing]) -> frozenset[str]:
        """Every site that is counted."""
        silent = {site.name for site in self.budget.sites if standings[site.name].state is not Site.ANNOUNCES}
        return frozenset(silent | {entry.site for entry in self._entries.values()})

    def known_dark(self, standings: Mapping[str, Standing], *, apart_from: Set[str] = frozenset()) -> frozenset[str]:
        """As `dark`, without those that are counted only because nobody knows; `apart_from` are ids of entries that end."""
        held = {entry.site for entry in self._entries.values() if entry.id not in apart_from}
        ends = {self._entries[entry_id].site for entry_id in apart_from} - held
        hard = {name for name, standing in standings.items() if standing.state is Site.DARK} - ends
        return frozenset(held | hard)

    def may_darken(self, site: str, standings: Mapping[str, Standing]) -> Decision:
        """May `site` be dark, by one entry more or by the ones it has?"""
        if site not in standings:
            return Decision(granted=False, cause=Cause(reason=Reason.SITE_UNKNOWN, detail=f"no site {site}"))
        dark = self.dark(standings) | {site}
        if standings[site].state is Site.UNHEARD:
            cause = Cause(reason=Reason.SITE_UNHEARD, detail=f"{site} {standings[site].detail}")
            return Decision(granted=False, cause=cause, dark=dark)
        if (cause_against := broken_by(self.budget, dark)) is not None:
            detail = f"{cause_against.detail}; {self.summary(standings)}"
            return Decision(granted=False, cause=dataclasses.replace(cause_against, detail=detail), dark=dark)
        detail = f"{len(dark)} of {allowed(self.budget)} with {site}"
        return Decision(granted=True, cause=Cause(reason=Reason.WITHIN_BUDGET, detail=detail), dark=dark)

    def may_change_dark(self, site: str, refused: Decision) -> Decision:
        """May a site that facts alone have dark be changed, to attract as before, though others' have spent the budget?
        It darkens nobody, and may mend it. Only what is dark on purpose counts, and this site with it: should it announce
        before it is changed, that budget stands; and a change that mends nobody stops where its slots, which return by
        announcing sites alone, have come to as many as may be dark."""
        on_purpose = {entry.site for entry in self._entries.values()} | {site}
        if broken_by(self.budget, on_purpose) is not None:
            return refused
        cause = Cause(reason=Reason.WITHIN_BUDGET, detail=f"{site} is dark by a fact: to change it darkens nobody")
        return Decision(granted=True, cause=cause, dark=refused.dark)

    def overdue(self, wall: float) -> list[Entry]:
        """Entries of operators that were meant to end before `wall` (Unix time) and stand. That is an alarm and no more: a
        clock here ends nothing."""
        clockless = (Kind.TOKEN, Kind.HOLD)  # those end by their gateway's clock
        entries = self._entries.values()
        return [e for e in entries if e.until is not None and e.until <= wall and not e.ending and e.kind not in clockless]

    def summary(self, standings: Mapping[str, Standing], region: str | None = None) -> str:
        """``dark 2 of 4 allowed: fra drain by alice until 04:00, sin token dns``: of all sites, or of one region."""
        names = [site.name for site in self.budget.sites if region in (None, site.region)]
        dark = self.dark(standings)
        told = [words for name in names if name in dark for words in self._words(name, standings[name])]
        where = "" if region is None else f" in {region}"
        head = f"dark {len(dark & set(names))} of {allowed(self.budget, region)} allowed{where}"
        return f"{head}: {', '.join(told)}" if told else head

    def words_of(self, site: str) -> str:
        """``degrade by alice until 04:00``: what stands for the site; empty where nothing does."""
        return ", ".join(_line(entry).removeprefix(f"{site} ") for entry in self.of_site(site))

    def _words(self, site: str, standing: Standing) -> list[str]:
        entries = self.of_site(site)
        if not entries:
            return [f"{site} {'not announcing' if standing.state is Site.DARK else 'unheard'} ({standing.detail})"]
        return [_line(entry) for entry in entries]


def _line(entry: Entry) -> str:
    by = f" {entry.by}" if entry.kind == Kind.TOKEN else f" by {entry.by}" if entry.by else ""
    until = "" if entry.until is None else f" until {_clock(entry.until)}"
    return f"{entry.site} {entry.kind}{by}{until}{f' (ending: {entry.ending})' if entry.ending else ''}"


def _clock(wall: float) -> str:
    """UTC. The day is left to the tables that have room for it."""
    return datetime.datetime.fromtimestamp(wall, datetime.UTC).strftime("%H:%M")
