"""What a drill asserts of a crowd, from what its clients have: their charon's list and log, their addresses. Pure."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from anycast_lab.drills.in_flight_checks import ANSWERED_JUST_NOW_NS, Cut
from anycast_lab.drills.report import Checked
from anycast_lab.drills.timeline import Moment

_IKE = re.compile(r"^(\S+): #\d+, (\w+), IKEv2, ([0-9a-f]{16})_i\*? ([0-9a-f]{16})_r\*?$")
_LOCAL = re.compile(r"^  local  '.*' @ \S+\[\d+\](?: \[([^\]]*)\])?$")
_CHILD = re.compile(r"^  \S+: #\d+, reqid \d+, (\w+), ")
_LOG = re.compile(r"^(\S+) \d+\[\w+\] <([^|>]+)\|(\d+)> (.*)$", re.MULTILINE)
_ANSWER = re.compile(r"parsed INFORMATIONAL response \d+ \[ \]")
_EXCHANGE = re.compile(r"(?:generating (\w+) request|parsed (\w+) response) (\d+) ")
COUNT = re.compile(r"unprotected: (\d+) of (\d+)")
_LEFT = re.compile(r"(\d+) s left")
_SHOWN = 3
GAP_NS = 250_000_000
"""Nothing but a takeover makes one for everybody; User Mode Linux alone makes up to 100 ms."""
PACE_WINDOW_NS = 5_000_000_000
IN_FLIGHT_SHARE = 0.02
"""Of the clients, at most, may have had an exchange in flight when the power went (docs/sync.md, exceptions): each asks
whether its peer lives every ten seconds, and an answer that left the gateway within `ANSWERED_JUST_NOW_NS` counts."""
OPEN_FOR_NS = 10_000_000_000
"""Longer than a client tries: a request that has been open for longer is of an IKE_SA that it has given up."""
_EPOCH = datetime.datetime(1970, 1, 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Sa:
    """One IKE_SA as `swanctl --list-sas` shows it."""

    state: str
    spis: tuple[str, str]
    inner: tuple[str, ...]
    """Virtual addresses."""
    children: int
    """CHILD_SAs that are installed."""

    @property
    def whole(self) -> bool:
        return self.state == "ESTABLISHED" and self.children == 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Every client at one moment."""

    at_ns: int
    sas: Mapping[str, tuple[Sa, ...]]
    """By connection, as `CLIENT/CONNECTION` for machines with one client."""
    addresses: frozenset[str]
    """On the interfaces of all machines."""


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """A request of a client's."""

    exchange: str
    message: int
    at_ns: int
    answered_ns: int = 0
    """0: it was not."""

    def flies(self, cut_ns: int) -> bool:
        """When the power was cut it had no answer, or one that only the client is sure to know of."""
        began = cut_ns - OPEN_FOR_NS < self.at_ns <= cut_ns
        return began and (not self.answered_ns or self.answered_ns > cut_ns - ANSWERED_JUST_NOW_NS)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """What the crowd's charon says, by client."""

    built: Mapping[str, int]
    """IKE_SAs established anew; a rekey establishes none."""
    answered: Mapping[str, tuple[int, ...]]
    """When an answer came to its question whether the peer lives, in ns."""
    asked_to_rekey: tuple[int, ...]
    """When the gateway began an exchange that rekeys something, in ns."""
    asked: Mapping[str, tuple[Asked, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """Packets of one inner address."""

    name: str
    source: str
    sent: int
    good: int
    longest_gap_ms: float
    back_ns: tuple[int, ...] = ()
    """When the first packet came back after a gap of at least `GAP_NS`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Takeover:
    """Another gateway has become Active."""

    at_ns: int
    there: tuple[str, ...]
    """Who had a tunnel then, and asks: while packets come, nobody asks whether its peer lives."""

    def answers(self, log: Log) -> dict[str, int]:
        """When each one's question whether its peer lives was first answered after it, in ns, but for who had no answer."""
        found = ((n, next((at for at in log.answered.get(n, ()) if at >= self.at_ns), None)) for n in self.there)
        return {name: at for name, at in found if at is not None}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CrowdSeen:
    """Everything that was seen of a crowd."""

    members: tuple[str, ...]
    """Those that have connected."""
    looks: tuple[Look, ...]
    log: Log
    takeovers: tuple[Takeover, ...]
    """After each of which somebody waited for answers."""
    pinged: Mapping[str, Sequence[str]] | None
    """Inner addresses without an answer, by client; None: nobody was asked."""
    probed: tuple[Probed, ...]
    feed: tuple[tuple[int, str], ...]
    """(ns, what the status said of the protection)."""
    cuts: tuple[Cut, ...] = ()
    losses_ns: tuple[int, ...] = ()
    """When a gateway lost its power."""

    def flying(self, name: str) -> Asked | None:
        """What this client had asked when a gateway lost its power, of what nobody else may know."""
        asked = self.log.asked.get(name, ())
        return next((one for one in asked for cut_ns in self.losses_ns if one.flies(cut_ns)), None)


def sas(listed: str) -> dict[str, tuple[Sa, ...]]:
    """By connection, of the output of `swanctl --list-sas`."""
    found: dict[str, list[Sa]] = {}
    last: list[Sa] = []
    for line in listed.splitlines():
        if match := _IKE.match(line):
            last = found.setdefault(match[1], [])
            last.append(Sa(match[2], (match[3], match[4]), (), 0))
        elif last and (match := _LOCAL.match(line)):
            last[-1] = dataclasses.replace(last[-1], inner=tuple((match[1] or "").split()))
        elif last and (match := _CHILD.match(line)):
            last[-1] = dataclasses.replace(last[-1], children=last[-1].children + (match[1] == "INSTALLED"))
    return {name: tuple(one) for name, one in found.items()}


def read_log(text: str) -> Log:
    built: dict[str, int] = {}
    answered: dict[str, list[int]] = {}
    asked, rekeys = set[tuple[str, str]](), list[int]()
    exchanges: dict[str, dict[tuple[str, str, str], Asked]] = {}
    for when, name, unique_id, said in _LOG.findall(text):
        if said.startswith("IKE_SA ") and " established between " in said:
            built[name] = built.get(name, 0) + 1
        elif said == "sending DPD request":
            asked.add((name, unique_id))
        elif _ANSWER.match(said) and (name, unique_id) in asked:
            asked.discard((name, unique_id))
            answered.setdefault(name, []).append(_ns(when))
        elif said.startswith("parsed CREATE_CHILD_SA request "):
            rekeys.append(_ns(when))
        if found := _EXCHANGE.match(said):
            key, mine = (unique_id, found[1] or found[2], found[3]), exchanges.setdefault(name, {})
            if found[1]:
                mine[key] = Asked(found[1], int(found[3]), _ns(when))
            elif key in mine:
                mine[key] = dataclasses.replace(mine[key], answered_ns=_ns(when))
    return Log(
        built=built,
        answered={n: tuple(times) for n, times in answered.items()},
        asked_to_rekey=tuple(rekeys),
        asked={n: tuple(mine.values()) for n, mine in exchanges.items()},
    )


def _ns(when: str) -> int:
    """charon's `%Y-%m-%dT%H:%M:%S` and milliseconds, in UTC as every machine of a lab has it."""
    return int((datetime.datetime.fromisoformat(when) - _EPOCH) / datetime.timedelta(milliseconds=1)) * 1_000_000


def judge_probes(records: Iterable[Mapping[str, Any]], from_ns: int, to_ns: int) -> tuple[Probed, ...]:
    """Of the record of `crowd_actor probe`, between two times. What was sent is judged by when it came back."""
    found = []
    for record in records:
        sent = [i for i, at in enumerate(record["sent_ns"]) if from_ns <= at <= to_ns]
        arrivals = sorted(at for i in sent if (at := record["good_ns"][i]))
        begin, end = (record["sent_ns"][sent[0]], record["sent_ns"][sent[-1]]) if sent else (from_ns, to_ns)
        gaps = [b - a for a, b in itertools.pairwise([begin, *arrivals, max([end, *arrivals[-1:]])])]
        found.append(
            Probed(
                name=record["name"],
                source=record["source"],
                sent=len(sent),
                good=len(arrivals),
                longest_gap_ms=round(max(gaps) / 1e6, 1),
                back_ns=tuple(b for a, b in itertools.pairwise(arrivals) if b - a >= GAP_NS),
            )
        )
    return tuple(found)


def crowd_stays(seen: CrowdSeen, clients: int) -> Checked:
    last = seen.looks[-1].sas if seen.looks else {}
    first: dict[str, tuple[str, ...]] = {}
    moved = set[str]()
    for look in seen.looks:
        for name, found in look.sas.items():
            for inner in {sa.inner for sa in found if sa.whole}:
                moved |= {name} if first.setdefault(name, inner) != inner else set()
    broken = [name for name in seen.members if [sa.whole for sa in last.get(name, ())] != [True]]
    anew = {name: count - 1 for name in seen.members if (count := seen.log.built.get(name, 0)) != 1}
    flying = {name: one for name, count in anew.items() if 0 < count <= len(seen.losses_ns) and (one := seen.flying(name))}
    others = [name for name in moved if name in seen.members]
    said = [f"{len(seen.members)} clients, {len(anew)} built anew, {len(broken)} without one whole tunnel at the end"]
    said += [f"{len(others)} with other inner addresses than at first"]
    said += [f"{name} had {one.exchange} {one.message} in flight when the power went" for name, one in flying.items()]
    said += [", ".join(sorted({*anew, *broken, *others} - flying.keys())[:_SHOWN])]
    most = max(1, int(IN_FLIGHT_SHARE * clients))
    passed = len(seen.members) == clients and not broken and {*anew, *others} <= flying.keys() and len(flying) <= most
    bound = f"{clients}, 0 built anew but for what was in flight ({most} at most)"
    return Checked("each client of the crowd keeps its tunnel", "; ".join(filter(None, said)), bound, passed)


def addresses_once(seen: CrowdSeen, ipv4: int, ipv6: int) -> Checked:
    """Also of clients outside the crowd. What a client's charon has, its machine must have."""
    owners: dict[str, set[str]] = {}
    absent = set[str]()
    for look in seen.looks:
        for name, found in look.sas.items():
            for inner in {one for sa in found for one in sa.inner}:
                owners.setdefault(inner, set()).add(name)
                absent |= set() if inner in look.addresses else {inner}
    twice = {inner: names for inner, names in owners.items() if len(names) > 1}
    six = sum(":" in inner for inner in owners)
    four = len(owners) - six
    said = [f"{four} of IPv4 and {six} of IPv6 in {len(seen.looks)} looks, {len(twice)} at two clients"]
    said += [f"{inner} at {' and '.join(sorted(names))}" for inner, names in sorted(twice.items())[:_SHOWN]]
    said += [f"not on the machine: {', '.join(sorted(absent)[:_SHOWN])}"] if absent else []
    passed = not twice and not absent and four >= ipv4 and six >= ipv6
    text = "no inner address is given to two clients"
    return Checked(text, "; ".join(said), f"≥ {ipv4} and ≥ {ipv6} different ones, none twice", passed)


def crowd_answered(seen: CrowdSeen, limit: float) -> Checked:
    """`limit` in milliseconds."""
    parts, passed = list[str](), bool(seen.takeovers)
    for takeover in seen.takeovers:
        found = takeover.answers(seen.log)
        silent = [name for name in takeover.there if name not in found]
        worst = max(((at - takeover.at_ns) / 1e6 for at in found.values()), default=0.0)
        said = f"{len(found)} of {len(takeover.there)} who asked answered, the last after {worst:.0f} ms"
        parts.append(said + (f", not {', '.join(silent[:_SHOWN])}" if silent else ""))
        passed = passed and bool(found) and not silent and worst <= limit
    text = "the new Active answers each client's dead peer detection"
    return Checked(text, "; ".join(parts) or "nobody waited", f"{limit:g} ms", passed)


def crowd_packets(seen: CrowdSeen, limit: float) -> Checked:
    """`limit` in milliseconds."""
    longest = max((one.longest_gap_ms for one in seen.probed), default=0.0)
    said = [f"{len({one.name for one in seen.probed})} at random: longest gap {longest:.0f} ms"] if seen.probed else []
    silent = sorted(seen.pinged or {})
    if seen.pinged is not None:
        said.append(f"no answer to {len(silent)} of {len(seen.members)} clients {', '.join(silent[:_SHOWN])}".strip())
    passed = seen.pinged is not None and not silent and bool(seen.members)
    passed = passed and all(one.good and one.longest_gap_ms <= limit for one in seen.probed)
    return Checked(
        "packets come back through each client's tunnel", "; ".join(said) or "nobody asked", f"{limit:g} ms", passed
    )


def fed_with_progress(seen: CrowdSeen, limit: float) -> Checked:
    """`limit` in milliseconds, from the first look at the status."""
    counts = [(at, int(m[1]), int(m[2])) for at, line in seen.feed if (m := COUNT.search(line))]
    left = [(int(m[1])) for _at, line in seen.feed if (m := _LEFT.search(line))]
    steps = [count for count, _ in itertools.groupby(count for _at, count, _of in counts)]
    took = (counts[-1][0] - counts[0][0]) / 1e6 if counts else 0.0
    shown = " → ".join(map(str, steps)) or "never shown"
    said = f"unprotected {shown} in {took / 1000:.0f} s; time left {left or 'never shown'}"
    whole = bool(counts) and counts[-1][1] == 0 and counts[-1][2] >= 2 * len(seen.members)
    passed = whole and len(steps) >= 3 and steps[0] >= 2 * len(seen.members) and len(set(left)) >= 2 and took <= limit
    return Checked("the Backup is fed, and the status shows how far", said, f"to 0 within {limit:g} ms", passed)


def rekeys_paced(seen: CrowdSeen, per_second: float) -> Checked:
    """Over the time in which the status was watched."""
    if not seen.feed:
        return Checked("rekeys stay within the budget", "nothing was fed", f"{per_second:g}/s", False)
    times = sorted(at for at in seen.log.asked_to_rekey if seen.feed[0][0] <= at <= seen.feed[-1][0])
    most, first = 0, 0
    for last, at in enumerate(times):
        while times[first] <= at - PACE_WINDOW_NS:
            first += 1
        most = max(most, last - first + 1)
    rate = most / (PACE_WINDOW_NS / 1e9)
    said = f"{len(times)} in all, at most {most} in five seconds ({rate:.1f}/s)"
    return Checked("rekeys stay within the budget", said, f"{per_second:g}/s", bool(times) and rate <= per_second)


def moments(seen: CrowdSeen) -> Iterator[Moment]:
    """For the timeline: when packets came back to those who sent all the time, and who was answered by when."""
    for one in seen.probed:
        yield from (Moment(at, one.name, "crowd_good_again", one.source) for at in one.back_ns)
    for takeover in seen.takeovers:
        if found := takeover.answers(seen.log):
            said = f"{len(found)} of {len(takeover.there)} since the takeover"
            yield Moment(max(found.values()), "crowd", "crowd_answered", "", said)
