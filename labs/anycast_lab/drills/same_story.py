"""Whether two runs of one drill tell the same story: the outcome, and the order of events, milliseconds aside. Pure.

Takes reports as `anycast lab drill --json` writes them, for example one of each runner. What is compared of them:

- the outcome: passed or not, and each check by what it asserts, in the drill's order;
- which events there were, and how often each: the drill's steps, what routers saw of routes and sessions, and what the
  gateways said of verdicts (serving or not), roles, announcements and the processes that they look after;
- the order of each two events that lie clearly apart in both runs. Two that lie closer than `ASIDE_MS` in one of them
  are a race there, and the other way round they are no other story.

Not compared: figures; evidence and alarms, which tell of a busy machine and of leftover packets, too (what a drill is about
stands in its checks); whether a client had a gap at all, of which the checks judge the length; and what came when the drill
was over and the lab was made whole for the next one. Where a site's gateways had each other's role in the other run, they
are called by each other's names.
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
CLIENT_GAP_MS = 2000.0
"""A client's longest gap that is shorter in one run may be any that the machine made."""
SESSION_ASIDE_MS = 2000.0
"""The same where a session ends, and its routes with it: a hold time ends later by up to the time between two keepalives."""
_TOGETHER_MS = 100.0

_AGENT = "/site-agent"
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
    names = _other_names(_victim(other), _victim(one))
    first, second = _events(one, {}), _events(other, names)
    long_gaps = _long_gaps(one, {}) & _long_gaps(other, names)
    for events in (first, second):
        for event in [event for event in events if event.event in _CLIENTS and event.source not in long_gaps]:
            del events[event]
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
    said = zip(("first", "second"), (_alone(first, second), _alone(second, first)), strict=True)
    return [f"only the {which} has: {event}" for which, events in said for event in events]


def _alone(one: Mapping[Event, float], other: Mapping[Event, float]) -> list[Event]:
    """What only `one` has. A gateway's last words, after all that both have, the other run may have ended too early for."""
    last = max((at for event, at in one.items() if event in other), default=0.0)
    only = [event for event in one if event not in other and event.event not in _CLIENTS]
    return [event for event in only if one[event] <= last or not event.source.endswith(_AGENT)]


def _of_order(first: Mapping[Event, float], second: Mapping[Event, float]) -> list[str]:
    both = sorted((event for event in first if event in second), key=lambda event: first[event])
    by_timer = _with_a_session(first) | _with_a_session(second)
    told = []
    for before, after in itertools.combinations(both, 2):
        aside = ASIDE_MS
        if {before.event, after.event} & _CLIENTS:
            aside = CLIENT_ASIDE_MS
        if {before, after} & by_timer:
            aside = SESSION_ASIDE_MS
        earlier_ms, later_ms = first[after] - first[before], second[before] - second[after]
        if earlier_ms > aside and later_ms > aside:
            apart = f"{earlier_ms:.0f} ms before it in the first, {later_ms:.0f} ms after it in the second"
            told.append(f"order of {before} and {after}: {apart}")
    return told


def _with_a_session(events: Mapping[Event, float]) -> set[Event]:
    """Sessions that end, and what routers lost at that moment."""
    ends = [at for event, at in events.items() if event.event == "protocol_down"]
    lost = {
        event
        for event, at in events.items()
        if event.event == "route_removed" and any(abs(at - end) < _TOGETHER_MS for end in ends)
    }
    return lost | {event for event in events if event.event == "protocol_down"}


def _events(report: Report, names: Mapping[str, str]) -> dict[Event, float]:
    """What is compared, and when it was, in ms after the fault."""
    found, seen, states = dict[Event, float](), Counter[Event](), dict[tuple[str, str], str]()
    for moment in sorted(report["timeline"], key=lambda moment: moment["t_ms"]):
        if moment["event"] in _BESIDE or moment["t_ms"] > report["ended_ms"]:
            continue
        key = (moment["source"], moment["event"])
        detail = _detail(moment)
        if moment["event"] == "AgentStarted":
            states = {kept: state for kept, state in states.items() if kept[0] != moment["source"]}
            states[moment["source"], "SiteVerdictChanged"] = ""
        elif moment["event"] in ("SiteVerdictChanged", "VrrpStateChanged"):
            # Every drill begins with health. Where only the reasons are others: how many facts are stale at once is a
            # matter of milliseconds.
            if states.get(key, "serving") == detail:
                continue
            states[key] = detail
        source, event, subject = (_renamed(moment[key], names) for key in ("source", "event", "subject"))
        one = Event(source, event, subject, _renamed(detail, names))
        seen[one] += 1
        found[dataclasses.replace(one, nth=seen[one])] = moment["t_ms"]
    return found


def _detail(moment: Mapping[str, Any]) -> str:
    match moment["event"]:
        case "SiteVerdictChanged":
            return "not serving" if moment["detail"].startswith("not serving") else "serving"
        case "first_packet_of_takeover":
            return ""
    # What stands in brackets is a figure, a process's number or an address.
    return re.sub(r"\s*\([^()]*\)", "", moment["detail"])


def _long_gaps(report: Report, names: Mapping[str, str]) -> set[str]:
    return {_renamed(name, names) for name, seen in report["clients"].items() if seen["longest_gap_ms"] >= CLIENT_GAP_MS}


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
