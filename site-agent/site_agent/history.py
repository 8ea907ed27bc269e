"""What the event log says about one moment. Pure: records in, an account out; works with everything down.

`account_at` folds the records up to a moment into what was known then: the verdict and its causes, what was announced and
why, each check's last word, standing alarms, and whether an agent was running to know any of it. An agent that was killed
writes no last record, so the account says until when it was heard of and when the next one started. It never claims more
than the log does.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from anycast.policy.hold import LONGEST_S

Record = dict[str, Any]
RouteKey = tuple[str, str]

TRAIL_LENGTH = 12
"""How many records before the moment are shown: a failure and its recovery are about ten."""
THAW_S = 1.0
"""How much later than its consequences a clock gap may be recorded: one turn of a loop that was just thawed."""
_SPAN = r"(\d{1,9}(?:\.\d{1,9})?)\s*(s|sec|seconds?|m|min|minutes?|h|hours?|d|days?)"
_AGO = re.compile(_SPAN + r"(?:\s+ago)?", re.ASCII)
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RouteAccount:
    """What the log says of one route at the moment."""

    neighbor: str
    prefix: str
    announced: bool
    since: datetime.datetime
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What was known at one moment."""

    at: datetime.datetime
    known: bool
    """False where the log has no record as old as that."""
    gateway: str = ""
    agent: str = ""
    """`running` or `stopped`, by what it said itself; empty before the first start."""
    heard_until: datetime.datetime | None = None
    """Time of the last record up to the moment."""
    ended_before: datetime.datetime | None = None
    """The next agent started then and this one had not said farewell: it ended at some time in between."""
    verdict_since: datetime.datetime | None = None
    serving: bool | None = None
    """None before the first verdict."""
    causes: tuple[Record, ...] = ()
    routes: tuple[RouteAccount, ...] = ()
    sessions: tuple[tuple[str, str], ...] = ()
    checks: tuple[Record, ...] = ()
    """The last `EvidenceChanged` of each check."""
    alarms: tuple[Record, ...] = ()
    trail: tuple[Record, ...] = ()
    """The last records up to the moment, oldest first."""
    grace_s: float | None = None
    """What a clean stop left."""
    intent: Record | None = None
    """The last `RouteIntentChanged`: what hold and flap control had made of the verdict."""
    hold: Record | None = None
    """The `HoldStarted` of the hold that was in force."""


def read_records(lines: Iterable[bytes | str]) -> Iterator[Record]:
    """The records of a log, oldest first. A torn or foreign line is passed over."""
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("event"), str) and isinstance(record.get("at"), str):
            yield record


def account_at(records: Iterable[Record], moment: datetime.datetime) -> Account:
    """What `records` (oldest first) say of `moment`."""
    fold = _Fold()
    ended_before = None
    for record in records:
        try:
            when = datetime.datetime.fromisoformat(record["at"])
        except ValueError:
            continue
        if when > moment:
            # Only a later start can tell that the agent of then ended without a word.
            if record["event"] == "AgentStarted" and fold.agent == "running":
                ended_before = when
            break
        fold.take(record, when)
    return fold.account(moment, ended_before=ended_before)


def parse_moment(text: str, now: datetime.datetime) -> datetime.datetime:
    """`2h ago`, `90 s`, an ISO 8601 time (local where it names no zone), or Unix nanoseconds. Raises ValueError."""
    if text.isdecimal() and len(text) > 15:
        return datetime.datetime.fromtimestamp(int(text) / 1e9, datetime.UTC)
    if (match := _AGO.fullmatch(text.strip())) is not None:
        return now - datetime.timedelta(seconds=float(match[1]) * _UNIT_S[match[2][0]])
    moment = datetime.datetime.fromisoformat(text.strip())
    return moment.astimezone() if moment.tzinfo is None else moment


def parse_span(text: str) -> float:
    """`2h`, `90 s`, `1.5 min`: seconds. Raises ValueError."""
    if (match := re.fullmatch(_SPAN, text.strip(), re.ASCII)) is None:
        raise ValueError(f"{text!r} is no time span")
    return float(match[1]) * _UNIT_S[match[2][0]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Flaps:
    """What was last recorded of flap control."""

    at: datetime.datetime
    penalty: float
    announce: bool


def last_flaps(records: Iterable[Record]) -> Flaps | None:
    """The penalty that the agent before this one left; None where the log has none."""
    last: Flaps | None = None
    for record in records:
        try:
            when = datetime.datetime.fromisoformat(record["at"])
        except ValueError:
            continue
        match record:
            case {"event": "RouteIntentChanged", "penalty": int(penalty), "announce": bool(announce)}:
                last = Flaps(at=when, penalty=penalty, announce=announce)
            case {"event": "FlapCleared"} if last is not None:
                last = dataclasses.replace(last, penalty=0.0)
            case _:
                pass
    return last


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FirstCause:
    """The first thing after a moment that stood against serving."""

    at: str
    event: str
    reason: str
    detail: str


def first_cause(records: Iterable[Record], since: datetime.datetime) -> FirstCause | None:
    """What went wrong first after `since`; None where nothing did.

    A process that was frozen hears what others did meanwhile before its own timer tells it that it was frozen, so a clock
    gap within `THAW_S` is the cause of what stands just before it.
    """
    found: tuple[datetime.datetime, FirstCause] | None = None
    running = False
    for record in records:
        try:
            when = datetime.datetime.fromisoformat(record["at"])
        except ValueError:
            continue
        if found is not None and (when - found[0]).total_seconds() > THAW_S:
            break
        cause = _cause_of(record, running=running)
        running = record["event"] != "AgentStopping" and (running or record["event"] == "AgentStarted")
        if when < since or cause is None:
            continue
        if record["event"] == "ClockGapSeen":
            return cause
        found = found or (when, cause)
    return None if found is None else found[1]


def _cause_of(record: Record, *, running: bool) -> FirstCause | None:
    """What `record` says against serving; `running`: the agent before it had not said farewell."""

    def cause(reason: str, detail: str = "") -> FirstCause:
        return FirstCause(at=record["at"], event=record["event"], reason=reason, detail=detail)

    match record:
        case {"event": "ClockGapSeen"}:
            return cause("clock_gap", f"{record.get('gap_s', 0):.1f} s")
        case {"event": "AgentStarted"} if running:
            return cause("agent_gone", "the agent before this one ended without a farewell")
        case {"event": "SiteVerdictChanged", "serving": False, "causes": [{"reason": str(reason), **rest}, *_]}:
            return None if reason in ("no_evidence_yet", "recovering") else cause(reason, str(rest.get("detail", "")))
        case {"event": "PrefixWithdrawn" | "HolderKilled", "reason": str(reason)}:
            return cause(reason)
        case _:
            return None


class _Fold:
    def __init__(self) -> None:
        self.agent = ""
        self.gateway = ""
        self.heard_until: datetime.datetime | None = None
        self.verdict: tuple[datetime.datetime, Record] | None = None
        self.routes: dict[RouteKey, RouteAccount] = {}
        self.sessions: dict[str, str] = {}
        self.checks: dict[str, Record] = {}
        self.alarms: dict[str, Record] = {}
        self.grace_s: float | None = None
        self.trail: list[Record] = []
        self.intent: Record | None = None
        self.hold: tuple[datetime.datetime, Record] | None = None
        """With its end, which nobody may have been there to record."""

    def take(self, record: Record, when: datetime.datetime) -> None:
        self.heard_until, self.gateway = when, str(record.get("gateway", ""))
        self.trail = [*self.trail[1 - TRAIL_LENGTH :], record]
        match record:
            case {"event": "AgentStarted"}:
                self.agent, self.grace_s, self.verdict = "running", None, None
                self.intent = None
                self.checks.clear()
                self.alarms.clear()
            case {"event": "AgentStopping"}:
                self.agent, self.grace_s = "stopped", record.get("grace_s")
            case {"event": "SiteVerdictChanged"}:
                self.verdict = when, record
            case {"event": "RouteIntentChanged"}:
                self.intent = record
            case {"event": "HoldStarted", "left_s": float() | int() as left_s}:
                self.hold = when + datetime.timedelta(seconds=min(left_s, LONGEST_S)), record
            case {"event": "HoldEnded"}:
                self.hold = None
            case {"event": "PrefixAnnounced" | "PrefixWithdrawn" as event, "neighbor": str(n), "prefix": str(p)}:
                self.routes[n, p] = RouteAccount(
                    neighbor=n,
                    prefix=p,
                    announced=event == "PrefixAnnounced",
                    since=when,
                    reason=str(record.get("reason", "")),
                )
            case {"event": "SessionChanged", "neighbor": str(n), "state": str(state)}:
                self.sessions[n] = state
            case {"event": "EvidenceChanged", "check": str(check)}:
                self.checks[check] = record
            case {"event": "AlarmRaised", "reason": str(reason)}:
                self.alarms[reason] = record
            case {"event": "AlarmCleared", "reason": str(reason)}:
                self.alarms.pop(reason, None)
            case _:
                pass

    def account(self, moment: datetime.datetime, *, ended_before: datetime.datetime | None) -> Account:
        since, verdict = self.verdict or (None, {})
        causes = verdict.get("causes")
        return Account(
            at=moment,
            known=self.heard_until is not None,
            gateway=self.gateway,
            agent=self.agent,
            heard_until=self.heard_until,
            ended_before=ended_before,
            verdict_since=since,
            serving=verdict.get("serving"),
            causes=tuple(causes) if isinstance(causes, list) else (),
            routes=tuple(self.routes[key] for key in sorted(self.routes)),
            sessions=tuple(sorted(self.sessions.items())),
            checks=tuple(self.checks.values()),
            alarms=tuple(self.alarms.values()),
            trail=tuple(self.trail),
            grace_s=self.grace_s,
            intent=self.intent,
            hold=self.hold[1] if self.hold is not None and moment < self.hold[0] else None,
        )
