"""What an update of a zone changes, and its way back. Pure.

A record is the fleet's if the fleet file declares it now, or the journal says that it was written for the fleet. Whatever
else stands at the same name and type is somebody's, and stays; other types at a name are not even looked at. An RRset is
written whole, under the condition that it still is what it was when it was looked at (RFC 2136 section 2.4), so nothing that
somebody changes meanwhile is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from anycast.prefixes.names import Key, Records

NOTHING: frozenset[str] = frozenset()


class Seen(NamedTuple):
    """An RRset as the server has it."""

    values: frozenset[str] = NOTHING
    ttl: int = 0
    cname: str = ""
    """What the name is another name for; then it has no other records (RFC 1034 section 3.6.2)."""


class Change(NamedTuple):
    """Of one RRset; no values: it is not there."""

    key: Key
    before: frozenset[str]
    before_ttl: int
    after: frozenset[str]
    after_ttl: int
    foreign: frozenset[str] = NOTHING
    """Of `after`, what is somebody else's."""

    @property
    def back(self) -> Change:
        return Change(self.key, self.after, self.after_ttl, self.before, self.before_ttl)


class Diff(NamedTuple):
    changes: tuple[Change, ...]
    foreign: tuple[tuple[Key, frozenset[str]], ...]
    """What is somebody else's at the fleet's names, and stays."""
    problems: tuple[str, ...]
    """Why this zone cannot be written; a sentence each."""


def keys_to_look_at(wanted: Records, written: Records) -> list[Key]:
    return sorted(wanted.keys() | written.keys())


def diff(wanted: Records, written: Records, seen: Mapping[Key, Seen], ttl: int, *, replace: bool = False) -> Diff:
    """`written`: what the journal says was written. `replace`: what is somebody else's at declared names goes."""
    changes, foreign, problems = [], [], []
    for key in keys_to_look_at(wanted, written):
        there, want, own = seen.get(key, Seen()), wanted.get(key, NOTHING), written.get(key, NOTHING)
        if there.cname:
            if want:
                problems.append(_cname(key, there.cname))
            continue
        others = NOTHING if replace and want else there.values - own - want
        if others:
            foreign.append((key, others))
        after = want | others
        after_ttl = ttl if want else there.ttl
        if after != there.values or (after and after_ttl != there.ttl):
            changes.append(Change(key, there.values, there.ttl, after, after_ttl, others))
    return Diff(tuple(changes), tuple(foreign), tuple(problems))


def _cname(key: Key, target: str) -> str:
    if key.type == "PTR":
        return f"{key.name} is a CNAME to {target}: it was delegated (RFC 2317); declare that zone with its prefix"
    return f"{key.name} is a CNAME to {target}: it can have no {key.type} record beside it; remove it, or name it otherwise"


def way_back(done: Iterable[Change], seen: Mapping[Key, Seen]) -> tuple[list[Change], list[str]]:
    """What restores the state before `done`, and why it cannot be: an RRset that somebody changed since."""
    changes, problems = [], []
    for each in done:
        there = seen.get(each.key, Seen())
        if there.values == each.before and (not there.values or there.ttl == each.before_ttl):
            continue  # never came to pass, or is undone
        if there.values != each.after:
            now = ", ".join(sorted(there.values)) or "nothing"
            said = ", ".join(sorted(each.after)) or "nothing"
            problems.append(f"{each.key.name} {each.key.type} was changed since: {said} was written, and {now} is there")
        else:
            changes.append(Change(each.key, there.values, there.ttl, each.before, each.before_ttl))
    return changes, problems
