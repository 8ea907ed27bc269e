"""What happened, in one order on one clock.

Every witness writes wall-clock time of the same kernel: the drill's own actions, BIRD's log (`timeformat log iso long us`,
`debug protocols { routes, states }`), the agents' event streams and the clients' packets. This module turns each of them
into `Moment`s. It is pure; the shell hands it the text.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

LATE_AFTER = 0.5
"""A probe sent later than this share of the interval is late (testing.md: marked and not counted)."""

_BIRD_ROUTE = re.compile(
    r"^(?P<at>\S+ \S+) <TRACE> (?P<proto>[A-Za-z0-9_]+)\.(?P<channel>ipv[46]) > "
    r"(?P<what>added|removed|updated)(?: \[[^\]]*\])? (?P<prefix>\S+)"
)
_BIRD_STATE = re.compile(r"^(?P<at>\S+ \S+) <TRACE> (?P<proto>[A-Za-z0-9_]+): State changed to (?P<what>up|down)")


ROUTE_MOVES = frozenset({"route_added", "route_removed", "route_updated"})
"""Events of a router."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Moment:
    """One thing that one witness saw."""

    at_ns: int
    """CLOCK_REALTIME."""
    source: str
    """Who saw it: a node's name, `drill`, or `NODE/site-agent`."""
    event: str
    """A short stable word, e.g. ``route_removed``."""
    subject: str = ""
    """What it is about: a prefix, a check, a client."""
    detail: str = ""
    data: dict[str, Any] = dataclasses.field(default_factory=dict, compare=False)


def bird_name(node: str, family: str = "") -> str:
    """A node's name as a BIRD protocol name (letters, digits, underscore)."""
    return node.replace("-", "_") + (f"_{family}" if family else "")


def from_bird_log(node: str, text: str) -> Iterator[Moment]:
    """Routes that came, changed and went, and BGP sessions, as one router's BIRD logged them."""
    for line in text.splitlines():
        if match := _BIRD_ROUTE.match(line):
            yield Moment(_wall_ns(match["at"]), node, f"route_{match['what']}", match["prefix"], match["proto"])
        elif match := _BIRD_STATE.match(line):
            yield Moment(_wall_ns(match["at"]), node, f"protocol_{match['what']}", "", match["proto"])


def from_event_log(node: str, lines: Iterable[str]) -> Iterator[Moment]:
    """One gateway's event stream. A line cut short by a crash is skipped: the agent writes whole lines only."""
    for line in lines:
        try:
            record = json.loads(line)
            at = datetime.datetime.fromisoformat(record["at"])
            event = record["event"]
        except (ValueError, KeyError, TypeError):
            continue
        subject = record.get("check") or record.get("prefix") or record.get("name") or record.get("neighbor")
        subject = subject or record.get("step") or ""
        detail = _event_detail(record)
        yield Moment(_to_ns(at), f"{node}/site-agent", event, str(subject), detail, record)


def _event_detail(record: dict[str, Any]) -> str:
    parts = []
    if "serving" in record:
        parts.append("serving" if record["serving"] else "not serving")
    if "status" in record and record["status"] is not None:
        parts.append(str(record["status"]))
    if record.get("role"):
        parts.append(f"{record['role']} ({record.get('cause', '')})")
    if record.get("reason"):
        parts.append(str(record["reason"]))
    parts += [str(cause["reason"]) for cause in record.get("causes", ())]
    if record.get("detail"):
        parts.append(f"({record['detail']})")
    return " ".join(parts)


@dataclasses.dataclass(frozen=True, slots=True)
class Packets:
    """One client's probes over a drill. `sent` counts those sent on time; `lost` are those without an answer."""

    sent: int
    lost: int
    late: int
    longest_gap_ms: float
    """Longest time between two good packets, less what the prober itself was late."""
    gap_from_ns: int
    gap_to_ns: int
    """0 where the gap had not ended."""


def judge_packets(record: dict[str, Any], from_ns: int = 0, to_ns: int | None = None) -> Packets:
    """Read a probe's record (`anycast_lab.drills.probe`) between two times."""
    sent_ns, good_ns, late = record["sent_ns"], record["good_ns"], set(record["late"])
    sent = lost = n_late = 0
    longest = gap_from = gap_to = 0
    last_good = last_good_index = -1
    interval_ns = int(record["interval_ms"] * 1e6)

    def left_ns(index: int) -> int:
        """A probe was sent by `sent_ns` at the latest: who was stopped just after it had an answer before."""
        return int(min(sent_ns[index], good_ns[index] or sent_ns[index]))

    def close(until_ns: int, index: int, ended: bool) -> None:
        nonlocal longest, gap_from, gap_to
        if last_good < 0:
            return
        own = 0  # the prober's: it had no processor, or was stopped, and sent nothing meanwhile
        for i in range(max(1, last_good_index + 1), index + 1):
            pause = sent_ns[i] - left_ns(i - 1) - interval_ns
            own += max(0, pause) if i in late or pause > LATE_AFTER * interval_ns else 0
        gap = until_ns - last_good - own
        if gap > longest:
            longest, gap_from, gap_to = gap, last_good, until_ns if ended else 0

    for index, at in enumerate(sent_ns):
        if at < from_ns or (to_ns is not None and at > to_ns):
            continue
        good = good_ns[index]
        if index in late and not good:
            n_late += 1
            continue
        n_late += index in late
        sent += 1
        if good:
            close(good, index, True)
            last_good, last_good_index = max(last_good, good), index
        else:
            lost += 1
    in_range = [i for i, at in enumerate(sent_ns) if to_ns is None or at <= to_ns]
    if in_range and not good_ns[in_range[-1]]:
        close(sent_ns[in_range[-1]], in_range[-1], False)
    return Packets(sent, lost, n_late, round(longest / 1e6, 1), gap_from, gap_to)


def first_good_ns(record: dict[str, Any], after_ns: int) -> int | None:
    """When the first answer came to a probe that was sent after this moment."""
    goods = zip(record["sent_ns"], record["good_ns"], strict=True)
    return min((good for sent, good in goods if sent > after_ns and good), default=None)


def _wall_ns(text: str) -> int:
    """BIRD prints local time without a zone; labs run it with TZ=UTC."""
    return _to_ns(datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC))


def _to_ns(when: datetime.datetime) -> int:
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return (when - epoch) // datetime.timedelta(microseconds=1) * 1000
