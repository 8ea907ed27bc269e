"""The plan: from what a fleet file asks for and the records so far to the records from now on.

What is held and still asked for stays, whatever comes, goes, or changes its name or its place in the file: nothing is taken
from one to make room for another. What is given up rests until the quarantine is over. What is new comes in the order of its
size and then of its key, never of the file. The day is an input. So the same inputs give the same records.

Where something cannot be had, the plan has findings and is not to be applied. Pure.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections import defaultdict
from typing import NamedTuple

from anycast.fleet.finding import Finding
from anycast.prefixes.allocation import Allocation, Kind, Lock, Resting
from anycast.prefixes.blocks import Blocks
from anycast.prefixes.conflicts import conflicts, of_others
from anycast.prefixes.filling import of_another_fleet
from anycast.prefixes.intervals import Intervals
from anycast.prefixes.numbers import WIDTH, Range, Ranges, address, plain, prefix, read
from anycast.prefixes.renames import under_new_names
from anycast.prefixes.sizes import given_out, length_for
from anycast.prefixes.space import Space
from anycast.prefixes.spi import LABELS
from anycast.prefixes.staying import stays
from anycast.prefixes.wants import Declared, Want, unserved, unsized

PIN = "written in the fleet file"


class Change(NamedTuple):
    """What differs from the records before."""

    what: str
    """``new``, ``returned`` (from its rest), ``grown``, ``moved`` (by a pin, or with the prefix around it), ``pinned``,
    ``unpinned``, ``renamed``, ``freed``."""
    key: str
    before: str
    after: str


@dataclasses.dataclass(frozen=True, slots=True)
class Planned:
    lock: Lock
    """What is to be written. The same object as before where nothing changes, however long ago that was."""
    changes: tuple[Change, ...]
    """By key."""
    findings: tuple[Finding, ...]
    """Why it is not to be applied; none: it may."""


def plan(wanted: Declared, lock: Lock, today: datetime.date) -> Planned:
    """`lock`: as read; `allocation.nothing` at the beginning."""
    return _Planner(wanted, lock, today).run()


class _Planner:
    def __init__(self, wanted: Declared, lock: Lock, today: datetime.date) -> None:
        self._wanted, self._lock, self._today = wanted, lock, today.isoformat()
        days = min(wanted.addressing.quarantine, (today - datetime.date.min).days)
        self._still_resting_after = (today - datetime.timedelta(days=days)).isoformat()
        self._blocks = Blocks(wanted.addressing)
        self._foreign = [
            (f"addressing.foreign.{name}", found)
            for name, networks in wanted.addressing.foreign.items()
            for network in networks
            if (found := read(str(network))) is not None
        ]
        self._others = Ranges(found for _, found in self._foreign)
        self._written = Ranges(wanted.written)
        self._before: dict[str, Allocation] = {}
        self._displaced: list[Allocation] = []
        """What a site had whose name is another one's now."""
        self._held: dict[str, Allocation] = {}
        self._touched: dict[str, Allocation] = {}
        """What was held and is not certain to go on as it was."""
        self._resting: dict[str, list[Resting]] = {}
        """By key, the last one given up at the end."""
        self._pending: list[Want] = []
        """What has no value yet, parents first."""
        self._changes: list[Change] = []
        self._findings: list[Finding] = []

    def run(self) -> Planned:
        self._rename()
        self._keep()
        self._free()
        self._findings += unserved(self._wanted)
        taken = Intervals.of_records(self._records(), self._held)
        self._findings += conflicts(self._held.values(), self._all_resting(), taken)
        self._findings += of_others(self._held.values(), self._foreign, self._wanted.written)
        foreign = [found for _, found in self._foreign]
        spaces = self._blocks.spaces(taken, [*foreign, *self._wanted.written], self._wanted.reached)
        second = self._grow(spaces)
        self._take(spaces, second)
        self._lay_inside()
        self._number()
        self._findings += unsized(self._wanted)
        if (strange := of_another_fleet(self._wanted.fleet, self._lock)) is not None:
            self._findings.append(strange)
        same = not self._changes and self._held == self._lock.held
        after = self._lock if same else Lock(self._wanted.fleet, self._held, self._all_resting())
        # What went with the same edit (a site and its gateways under new names) was never anything under the new one.
        told = (each for each in self._changes if each.what != "renamed" or each.key in self._held)
        return Planned(after, tuple(sorted(told, key=lambda each: each.key)), tuple(self._findings))

    # What there is already

    def _rename(self) -> None:
        found = under_new_names(self._lock, self._wanted.renamed, self._wanted.wants)
        self._before, self._displaced = found.held, found.displaced
        self._findings += found.findings
        self._changes += [Change("renamed", key, old, found.held[key].value) for key, old in found.former.items()]
        for rest in sorted(found.resting, key=lambda rest: (rest.freed, rest)):
            self._resting.setdefault(rest.key, []).append(rest)

    def _keep(self) -> None:
        """What is written in the file, and what is held and asked for, in the order of the wants: parents first."""
        before, held, wants = self._before, self._held, self._wanted.wants
        held.update(before)
        for key in [key for key in before if key not in wants]:
            # A second pool that was planned stays with the first; one that the file wrote was asked for by the file alone.
            if ".more_pools." not in key or before[key].pinned or _first_pool(key) not in wants:
                self._touched[key] = held.pop(key)
        blocks = self._blocks.of_use
        for want, old in zip(wants.values(), map(before.get, wants), strict=True):
            if old is None:
                self._renew(want, None)
            elif not stays(want, old, held, blocks):
                self._touched[want.key] = held.pop(want.key)
                self._renew(want, old)

    def _renew(self, want: Want, old: Allocation | None) -> None:
        if want.pin:
            self._pin(want, old)
        elif old is not None and (kept := self._kept(want, old)) is not None:
            self._held[want.key] = kept
        elif want.at is not None:
            self._at(want)
        else:
            self._pending.append(want)

    def _at(self, want: Want) -> None:
        """Take the prefix around an address that the file writes."""
        assert want.at is not None
        found = Range(want.family, want.at, want.length)
        self._hold(want, prefix(*found), found)

    def _pin(self, want: Want, old: Allocation | None) -> None:
        """Take what the file writes. What it writes wrongly is said when it is read."""
        value, source = want.pin, ""
        if want.kind is Kind.SPI_LABEL:
            if not (value.isascii() and value.isdecimal()) or len(value) > 9 or int(value) not in LABELS:
                return
            value = str(int(value))
        else:
            found = read(value)
            if found is None or found.family != want.family:
                return
            value = prefix(*found) if "/" in value else plain(found)
            source = want.parent if want.parent in self._wanted.wants else self._blocks.of(found, want.use)
        since = old.since if old is not None and old.value == value else self._today
        self._held[want.key] = Allocation(want.key, want.kind, value, source, True, since, PIN)
        if old is None or old.value != value or not old.pinned:
            before = "" if old is None else old.value
            self._changes.append(Change("pinned" if before in ("", value) else "moved", want.key, before, value))

    def _kept(self, want: Want, old: Allocation) -> Allocation | None:
        """The record as it goes on; None where its place is no longer there, and another is to be found."""
        source = old.source
        if want.kind is Kind.ROUTER_ID:
            return None  # follows its gateway's address
        if want.kind is not Kind.SPI_LABEL:
            found = read(old.value)
            if found is None or found.family != want.family:
                return None
            if want.use:
                if want.at is not None and not (found.start <= want.at < found.behind):
                    return None
                around = self._range_of(old.source) if want.kind is Kind.TUNNEL else None
                if around is None or not around.holds(found):  # a tunnel stays in the unicast prefix that it ended in
                    if not self._blocks.still(old.source, found, want.use):
                        source = self._blocks.of(found, want.use)
                    self._judge_place(want, old, found, source)
            else:
                around = self._around(want)
                if around is None or not around.holds(found):
                    return None
                source = want.parent
        if old.pinned:
            self._changes.append(Change("unpinned", want.key, old.value, old.value))
        if not old.pinned and (old.kind, old.source, old.why) == (want.kind, source, want.why):
            return old
        return old._replace(kind=want.kind, source=source, pinned=False, why=want.why)

    def _judge_place(self, want: Want, old: Allocation, found: Range, source: str) -> None:
        if not source:
            was = f" of block {old.source}" if old.source else ""
            what = (
                f"holds {old.value}{was}, and no block with {want.use} in its use holds that now: bring it back, or write"
                " here what it shall be"
            )
            self._findings.append(Finding(want.path, what))
        if want.kind in (Kind.COVERING, Kind.UNICAST_PREFIX) and found.length > want.length:
            what = (
                f"holds {old.value}, and nothing longer than /{want.length} is heard everywhere: write here what it shall be"
            )
            self._findings.append(Finding(want.path, what))

    def _free(self) -> None:
        """What nobody asks for any more, and what was replaced, rests. What rested long enough is forgotten."""
        before, held = self._before, self._held
        other = [(old, new) for key, old in sorted(self._touched.items()) if (new := held.get(key)) is not old]
        gone = [old for old, new in other if new is None or new.value != old.value]
        gone = [old for old in gone if old.kind is not Kind.ROUTER_ID or old.key not in self._wanted.wants]  # they follow
        written, shared = set(), set()
        if gone or self._displaced:
            # A site that writes what it has under another of its keys gives up nothing.
            written = {(each.site, each.value) for each in held.values() if each.pinned}
            # Nor is anything given up that another one had, too, and goes on having: a LAN behind several sites.
            staying = (old for key, old in before.items() if (new := held.get(key)) and new.value == old.value)
            shared = {old.value for old in staying if old.kind is not Kind.ROUTER_ID}
        for old in gone:
            if self._was_given(old, before) and old.value not in shared and (old.site, old.value) not in written:
                self._rest(old)
            if old.key not in held and old.key not in self._wanted.wants:
                self._judge_end(old)
                self._changes.append(Change("freed", old.key, old.value, ""))
        for old in self._displaced:
            if self._was_given(old, self._lock.held) and old.value not in shared:
                self._rest(old)
            self._changes.append(Change("freed", old.key, old.value, ""))
        for key in list(self._resting):
            own = self._held.get(key)
            self._resting[key] = [
                each
                for each in self._resting[key]
                if each.freed > self._still_resting_after and (own is None or own.value != each.value)
            ]

    def _judge_end(self, old: Allocation) -> None:
        """What the world reaches a service by does not end because a word of a block's `use` went."""
        if old.service is None or old.service not in self._wanted.services:
            return
        here = "service" if not old.service else f"addressing.services.{old.service}"
        written = (want.pin for key, want in self._wanted.wants.items() if key.startswith(f"{here}."))
        if not any(written):  # otherwise the file says which families it has
            family = old.path[-1]
            what = (
                f"holds {old.value}, and no {family} block has anycast in its use now: bring it back, or write {here}.vips"
                f" and {here}.prefixes of the families that it shall keep"
            )
            self._findings.append(Finding(old.path, what))

    def _was_given(self, old: Allocation, among: dict[str, Allocation]) -> bool:
        """Whether the plan gave it out, or the file did from what the plan gives out. What somebody else gave is theirs to
        give again."""
        if old.kind is Kind.ROUTER_ID:
            return False
        around = among.get(old.source)
        return not old.pinned or old.kind is Kind.SPI_LABEL or bool(old.source and (around is None or around.source))

    def _rest(self, old: Allocation) -> None:
        self._resting.setdefault(old.key, []).append(Resting(old.key, old.kind, old.value, old.source, self._today))

    # What is new

    def _grow(self, spaces: dict[tuple[str, frozenset[str]], Space]) -> list[Want]:
        """Pools that became too small: in their place where the neighbour is free; otherwise a second one is wanted."""
        second = []
        pool = Kind.POOL
        pools = sorted(each.key for each in self._held.values() if each.kind is pool)
        more = defaultdict(list)
        for key in pools:
            if ".more_pools." in key:
                more[_first_pool(key)].append(key)
        for key in pools:
            want = self._wanted.wants.get(key)
            if want is None or want.need is None:
                continue
            if (found := _range(self._held[key])) is not None and found.length <= want.length:
                continue  # alone it is large enough
            keys = [key, *more[key]]
            lengths = {each: found.length for each in keys if (found := _range(self._held[each])) is not None}
            lacking = want.need.addresses - sum(map(given_out, lengths.values()))
            if lacking <= 0:
                continue
            for each in sorted(lengths, key=lambda each: (lengths[each], each)):
                if self._grown(spaces, want, each, length_for(lacking + given_out(lengths[each]))):
                    break
            else:
                names = {step.split(".")[3] for step in keys[1:]}
                name = next(each for number in range(2, len(names) + 3) if (each := f"p{number}") not in names)
                beside = ", ".join(self._held[each].value for each in keys)
                other = key.replace(".pools.", f".more_pools.{name}.")
                why = f"{want.why}; {lacking} more than {beside} gives out"
                second.append(Want(other, Kind.POOL, want.family, "pools", length_for(lacking), "", "", why))
        return second

    def _grown(self, spaces: dict[tuple[str, frozenset[str]], Space], want: Want, key: str, length: int) -> bool:
        old = self._held[key]
        found = _range(old)
        if found is None or old.pinned or not old.source:
            return False
        mask = (1 << (WIDTH[want.family] - length)) - 1
        if not self._blocks.of(Range(want.family, found.start & ~mask, length), "pools"):
            return False
        for space in self._blocks.fitting(spaces, want.family, "pools"):
            if (start := space.grow(found.start, found.length, length)) is not None:
                value = prefix(want.family, start, length)
                self._held[key] = old._replace(value=value, since=self._today, why=want.why)
                self._changes.append(Change("grown", key, old.value, value))
                return True
        return False

    def _take(self, spaces: dict[tuple[str, frozenset[str]], Space], second: list[Want]) -> None:
        """What comes from blocks: what comes back, then the largest first."""
        new = [*(want for want in self._pending if want.use), *second]
        new.sort(key=lambda want: (want.length, want.key))
        fitting = {pair: self._blocks.fitting(spaces, *pair) for pair in sorted({(want.family, want.use) for want in new})}
        refused: dict[tuple[str, str], list[Want]] = defaultdict(list)
        for want in new:
            if self._return(want):
                continue
            for space in fitting[want.family, want.use]:
                single = want.length == WIDTH[want.family]
                if (start := space.take_address() if single else space.take(want.length)) is not None:
                    found = Range(want.family, start, want.length)
                    self._hold(want, plain(found), found)
                    break
            else:
                refused[want.family, want.use].append(want)
        self._findings += self._blocks.too_small(refused, spaces, self._wanted.reached)

    def _return(self, want: Want, *taken: set[int]) -> bool:
        """Who asks again while it rests gets back what was its own. It was taken as long as it rested, but for what the
        file writes. `taken`: addresses around that are somebody's."""
        for rest in reversed(self._resting.get(want.key, [])):
            found = _range(rest)
            if found is None or found.family != want.family:
                continue
            if want.use:
                larger = want.kind in (Kind.POOL, Kind.SUBNET) and found.length <= want.length
                fits = (found.length == want.length or larger) and bool(self._blocks.of(found, want.use))
                fits = fits and not self._others.meet(found)
                # What stands in a LAN is written in it.
                fits = fits and (want.kind is Kind.SUBNET or not self._written.meet(found))
            else:
                fits = found.single and (around := self._around(want)) is not None and around.holds(found)
                fits = fits and not any(found.start in each for each in taken)
            if fits:
                self._resting[want.key].remove(rest)
                self._hold(want, rest.value, found if want.use else None, returned=True)
                return True
        return False

    def _hold(self, want: Want, value: str, found: Range | None = None, *, returned: bool = False) -> None:
        """`found`: the range of a value from a block."""
        source = want.parent if found is None else self._blocks.of(found, want.use)
        old = self._before.get(want.key)
        self._held[want.key] = Allocation(want.key, want.kind, value, source, False, self._today, want.why)
        what = "returned" if returned else "new" if old is None else "moved"
        self._changes.append(Change(what, want.key, "" if old is None else old.value, value))

    def _lay_inside(self) -> None:
        """Addresses in prefixes: the lowest that nobody there has. All management LANs count as one: sites may share one."""
        new = [want for want in self._pending if want.parent]
        lans = {"management" if ".management." in want.key else want.parent for want in new}
        used: dict[str, set[int]] = {lan: set() for lan in lans}
        resting: dict[str, set[int]] = {lan: set() for lan in lans}
        records, parents = self._records() if lans else [], {want.parent for want in new}
        shared = "management" in lans
        near = [each for each in records if each.source in parents or (shared and ".management." in each.key)]
        for record in near:
            lan = "management" if ".management." in record.key else record.source
            if lan in lans and (found := read(record.value)) is not None and found.single:
                (resting if isinstance(record, Resting) else used)[lan].add(found.start)
        written: dict[str, set[int]] = {family: set() for family in WIDTH}
        for each in self._wanted.written:
            if each.single:
                written[each.family].add(each.start)
        after: dict[str, int] = {}
        refused: dict[str, list[Want]] = defaultdict(list)
        for want in new:
            if want.kind is Kind.ROUTER_ID:
                self._follow(want)
                continue
            around = self._around(want)
            if around is None:
                continue  # no prefix: it was refused, and that was said
            lan = "management" if ".management." in want.key else want.parent
            there, rests = used[lan], resting[lan]
            if self._return(want, there, written[want.family]):
                continue
            ends = 0 if around.length >= WIDTH[want.family] - 1 else 1  # RFC 3021, RFC 6164
            number = max(after.get(want.parent, 0), around.start + ends)
            last = around.behind - (ends if want.family == "ipv4" else 0)
            while number < last and (number in there or number in rests or number in written[want.family]):
                number += 1
            if number >= last:
                refused[want.parent].append(want)
                continue
            after[want.parent] = number + 1
            there.add(number)
            self._hold(want, address(want.family, number))

        for parent, wants in refused.items():
            lan = "management" if ".management." in wants[0].key else parent
            taken = used[lan] | resting[lan] | written[wants[0].family]
            self._findings.append(self._full(parent, wants, taken))

    def _full(self, parent: str, wants: list[Want], taken: set[int]) -> Finding:
        """A LAN in which some find no room, and the size that has it for all of them."""
        around = self._around(wants[0])
        assert around is not None
        width = WIDTH[around.family]
        for length in range(around.length - 1, -1, -1):
            start = around.start >> (width - length) << (width - length)
            first, last = start + 1, start + (1 << (width - length)) - (1 if around.family == "ipv4" else 0)
            if last - first - sum(first <= each < last for each in taken) >= len(wants):
                break
        named = ", ".join(want.key for want in wants[:3]) + (f" and {len(wants) - 3} more" if len(wants) > 3 else "")
        path = tuple(parent.split(".")) if parent in self._wanted.wants else wants[0].path
        return Finding(path, f"no address of {plain(around)} is free for {named}; a /{length} would do")

    def _follow(self, want: Want) -> None:
        """A router id is its gateway's address. One that the file wrote otherwise stays when the file leaves it out: another
        one would end each of the gateway's sessions."""
        own, old = self._held.get(want.parent), self._before.get(want.key)
        if own is None:
            return
        if old is not None and (old.value == own.value or old.pinned or not old.source):
            source = want.parent if old.value == own.value else ""
            self._held[want.key] = old._replace(source=source, pinned=False, why=want.why if source else "was written")
            if old.pinned:
                self._changes.append(Change("unpinned", want.key, old.value, old.value))
        else:
            self._hold(want, own.value)

    def _number(self) -> None:
        """SPI labels: the lowest that is nobody's and rests for nobody."""
        if not any(want.kind is Kind.SPI_LABEL for want in self._pending):
            return
        label = Kind.SPI_LABEL
        held = {each.value for each in self._held.values() if each.kind is label}
        rests = {each.value for each in self._all_resting() if each.kind is label}
        used = set(map(int, held | rests))
        free = iter(LABELS)
        for want in self._pending:
            if want.kind is not Kind.SPI_LABEL:
                continue
            rested = [each for each in self._resting.get(want.key, ()) if each.value not in held]
            if rested:
                self._resting[want.key].remove(rested[-1])
                self._hold(want, rested[-1].value, returned=True)
            elif (number := next((each for each in free if each not in used), None)) is not None:
                self._hold(want, str(number))
            else:
                self._findings.append(Finding(want.path, f"no SPI label is free: there are {len(LABELS)}"))

    def _range_of(self, key: str) -> Range | None:
        """Of what is held under that key."""
        record = self._held.get(key)
        return None if record is None else read(record.value)

    def _around(self, want: Want) -> Range | None:
        """The prefix that an address lies in; None where nobody has it."""
        record = self._held.get(want.parent)
        return read(want.parent if record is None else record.value)

    def _records(self) -> list[Allocation | Resting]:
        return [*self._held.values(), *self._all_resting()]

    def _all_resting(self) -> tuple[Resting, ...]:
        return tuple(sorted(each for rests in self._resting.values() for each in rests))


def _range(each: Allocation | Resting) -> Range | None:
    return None if each.kind is Kind.SPI_LABEL else read(each.value)


def _ends(around: Allocation) -> tuple[int, int]:
    """The first address of a prefix, and the one behind it; of what is none, nothing lies between them."""
    found = read(around.value)
    return (0, 0) if found is None else (found.start, found.behind)


def _first_pool(key: str) -> str:
    """The first pool beside which the second one of that key stands; of anything else a key that nothing has."""
    steps = key.split(".")
    return f"sites.{steps[1]}.pools.{steps[-1]}"
