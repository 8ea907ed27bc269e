"""Whether two runs of one drill tell the same story: the outcome, and the order of events, milliseconds aside. Pure.

Takes reports as `anycast lab drill --json` writes them, for example one of each runner. What is compared of them:

- the outcome: passed or not, and each check by what it asserts, in the drill's order;
- which events there were, and how often each: the drill's steps, what routers saw of routes and sessions, and what the
  gateways said of verdicts (serving or not), roles, announcements and the processes that they look after;
- the order of each two events that lie clearly apart in both runs. Two that lie closer than `ASIDE_MS` in one of them
  are a race there, and the other way round they are no other story.

Not compared: figures; evidence and alarms, which tell of a busy machine and of leftover packets, too (what a drill is about
stands in its checks); and whether a client had a gap at all, of which the checks judge the length. Where a site's gateways
had each other's role in the other run, they are called by each other's names.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

ASIDE_MS = 250.0
"""What a machine with one processor for all of a lab may be late with anything."""
CLIENT_ASIDE_MS = 1000.0
"""The same where a client's packets are one of the two: it tries again about once a second."""

_CLIENTS = frozenset({"last_good_packet", "first_good_packet"})
_BESIDE = frozenset({
    "EvidenceChanged", "AlarmRaised", "AlarmCleared", "ClockGapSeen",
    "RouteIntentChanged",  # SiteVerdictChanged says the same
    "crowd_good_again", "crowd_answered", "download_stalls", "download_goes_on",
})  # fmt: skip

Report = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One moment without its time. `nth` tells two that are otherwise the same apart."""

    source: str
    event: str
    subject: str
    detail: str
    nth: int = 1

    def __str__(self) -> str:
        words = " ".join(word for word in (self.source, self.event, self.subject, self.detail) if word)
        return words + (f", number {self.nth}" if self.nth > 1 else "")


def differences(one: Report, other: Report) -> list[str]:
    """A sentence for each thing that is not the same; none where both tell one story."""
    if one["drill"] != other["drill"]:
        return [f"the first is {one['drill']}, the second {other['drill']}"]
    first = _events(one, {})
    second = _events(other, _other_names(_victim(other), _victim(one)))
    return [*_of_outcome(one, other), *_of_events(first, second), *_of_order(first, second)]


def pairs(ones: Sequence[Report], others: Sequence[Report]) -> list[tuple[Report, Report]]:
    """The n-th run of a drill here and there, in the first list's order. What only one list has is left out."""
    left = list(others)
    found = []
    for one in ones:
        other = next((report for report in left if report["drill"] == one["drill"]), None)
        if other is not None:
            left.remove(other)
            found.append((one, other))
    return found


def _of_outcome(one: Report, other: Report) -> list[str]:
    told = [
        f"{word.replace('_', ' ')}: the first {_yes(one[word])}, the second {_yes(other[word])}"
        for word in ("passed", "as_expected")
        if one[word] != other[word]
    ]
    names = _other_names(_victim(other), _victim(one))
    asserted = [check["assert"] for check in one["checks"]], [_renamed(check["assert"], names) for check in other["checks"]]
    if asserted[0] != asserted[1]:
        only = Counter(asserted[0]), Counter(asserted[1])
        told += [f"only the first has the check: {text}" for text in only[0] - only[1]]
        told += [f"only the second has the check: {text}" for text in only[1] - only[0]]
        return told or ["the checks are in another order"]
    for mine, its in zip(one["checks"], other["checks"], strict=True):
        if mine["passed"] != its["passed"]:
            told.append(f"{mine['assert']}: the first {_held(mine)}, the second {_held(its)}")
    return told


def _of_events(first: Mapping[Event, float], second: Mapping[Event, float]) -> list[str]:
    judged = [{event for event in events if event.event not in _CLIENTS} for events in (first, second)]
    told = [f"only the first has: {event}" for event in sorted(judged[0] - judged[1], key=lambda e: first[e])]
    return told + [f"only the second has: {event}" for event in sorted(judged[1] - judged[0], key=lambda e: second[e])]


def _of_order(first: Mapping[Event, float], second: Mapping[Event, float]) -> list[str]:
    both = sorted((event for event in first if event in second), key=lambda event: first[event])
    told = []
    for before, after in itertools.combinations(both, 2):
        aside = CLIENT_ASIDE_MS if {before.event, after.event} & _CLIENTS else ASIDE_MS
        earlier_ms, later_ms = first[after] - first[before], second[before] - second[after]
        if earlier_ms > aside and later_ms > aside:
            apart = f"{earlier_ms:.0f} ms before it in the first, {later_ms:.0f} ms after it in the second"
            told.append(f"order of {before} and {after}: {apart}")
    return told


def _events(report: Report, names: Mapping[str, str]) -> dict[Event, float]:
    """What is compared, and when it was, in ms after the fault."""
    found, seen, verdicts = dict[Event, float](), Counter[Event](), dict[str, str]()
    for moment in sorted(report["timeline"], key=lambda moment: moment["t_ms"]):
        if moment["event"] in _BESIDE:
            continue
        # What stands in brackets is a figure, a process's number or an address.
        detail = re.sub(r"\s*\([^()]*\)", "", moment["detail"])
        if moment["event"] == "AgentStarted":
            verdicts[moment["source"]] = ""
        elif moment["event"] == "SiteVerdictChanged":
            detail = "not serving" if detail.startswith("not serving") else "serving"
            # Every drill begins with health. Where only the reasons are others: how many facts are stale at once is a
            # matter of milliseconds.
            if verdicts.get(moment["source"], "serving") == detail:
                continue
            verdicts[moment["source"]] = detail
        source, event, subject = (_renamed(moment[key], names) for key in ("source", "event", "subject"))
        one = Event(source, event, subject, _renamed(detail, names))
        seen[one] += 1
        found[dataclasses.replace(one, nth=seen[one])] = moment["t_ms"]
    return found


def _victim(report: Report) -> str:
    """Whom the first step was done to."""
    return next((str(m["subject"]) for m in report["timeline"] if m["source"] == "drill" and m["subject"]), "")


def _other_names(one: str, other: str) -> dict[str, str]:
    return {one: other, other: one} if one and other and one != other else {}


def _renamed(text: str, names: Mapping[str, str]) -> str:
    """Also where a name is part of a BIRD session's, which has underscores for hyphens."""
    if not names:
        return text
    spelt = {**names, **{old.replace("-", "_"): new.replace("-", "_") for old, new in names.items()}}
    words = "|".join(sorted(map(re.escape, spelt), key=len, reverse=True))
    return re.sub(rf"(?<![A-Za-z0-9])({words})(?![A-Za-z0-9])", lambda match: spelt[match[1]], text)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _held(check: Report) -> str:
    return f"{'held' if check['passed'] else 'did not'} ({check['seen']})"
