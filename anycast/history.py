"""What the event log says about one moment. Pure: records in, an account out; works with everything down.

`account_at` folds the records up to a moment into what was known then: the verdict and its causes, what was announced and
why, each check's last word, standing alarms, and whether an agent was running to know any of it. An agent that was killed
writes no last record, so the account says until when it was heard of and when the next one started. It never claims more
than the log does: a verdict and its routes stand while the agent that said so was there to renew the lease. After that

    it said farewell                        not serving; the routes went with the grace at the latest
    its successor's start is the next word  no verdict; gone when the successor started at the latest
    nothing follows and nobody answers now  no verdict; gone now at the latest (`settled`)

An agent says every `ALIVE_PERIOD_S` that it is there, so one that wrote nothing for two of these was gone by then.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from anycast.events import ALIVE_PERIOD_S
from anycast.policy.hold import LONGEST_S
from anycast.trail import Away, Trail
from anycast.trail import Record as Record

RouteKey = tuple[str, str]

THAW_S = 1.0
"""How much later than its consequences a clock gap may be recorded: one turn of a loop that was just thawed."""
WITHOUT_AGENT = ("agent_gone", "restart_grace")
"""Withdrawn while no agent was there: the bridge tells the next one, whose record of it is later than the thing itself."""
_SPAN = r"(\d{1,9}(?:\.\d{1,9})?)\s*(s|sec|seconds?|m|min|minutes?|h|hours?|d|days?)"
_AGO = re.compile(_SPAN + r"(?:\s+ago)?", re.ASCII)
_CLOCK = re.compile(r"\d\d:\d\d", re.ASCII)
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RouteAccount:
    """What the log says of one route at the moment."""

    neighbor: str
    prefix: str
    announced: bool | None
    """None where nobody knows: the lease of an agent that has gone may run still."""
    state: str
    """`announced`, `withdrawn`, `left` (for a grace), `lapsed` (with lease or grace), or `unknown`."""
    since: datetime.datetime
    """When the log said what it last said of this route."""
    until: datetime.datetime | None = None
    """`left`, `lapsed`, `unknown`, or withdrawn while no agent saw it: gone at that time at the latest."""
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What was known at one moment."""

    at: datetime.datetime
    known: bool
    """False where the log has no record as old as that."""
    gateway: str = ""
    agent: str = ""
    """`running` or `stopped`, by what it said itself; `gone` without a farewell; empty before the first start."""
    answers_now: bool | None = None
    """Whether an agent answered when this was asked; None where that says nothing of the moment."""
    heard_until: datetime.datetime | None = None
    """Time of the last record up to the moment."""
    last_word: bool = True
    """The log has nothing after the moment."""
    stopped_at: datetime.datetime | None = None
    gone_by: datetime.datetime | None = None
    """Where the agent is `gone`: it was by then."""
    lease_s: float | None = None
    """None where the log does not say it."""
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
    """The last records up to the moment that can move a route, oldest first."""
    raised: tuple[tuple[str, int], ...] = ()
    """Alarms raised along the trail, each with how often."""
    away: Away | None = None
    """The last withdrawal, and its end."""
    grace_s: float | None = None
    """What a clean stop left."""
    intent: Record | None = None
    """The last `RouteIntentChanged`: what hold and flap control had made of the verdict."""
    protection: Record | None = None
    """The `ProtectionStarted` of what had not ended."""
    hold: Record | None = None
    """The `HoldStarted` of the hold that was in force."""
    role: Record | None = None
    """The last `VrrpStateChanged`: Active or Backup, and why; None without a virtual router."""
    mirror: Record | None = None
    """The last `PromotionSettled`: charon followed the role; None without a mirror."""
    rekeys: Record | None = None
    """The last `RekeysProgressed` while some waited; None where none waits."""


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
    ended_before, last_word = None, True
    for record in records:
        try:
            when = datetime.datetime.fromisoformat(record["at"])
        except ValueError:
            continue
        if when > moment:
            last_word = False
            # Only a later start can tell that the agent of then ended without a word.
            if record["event"] == "AgentStarted" and fold.agent == "running":
                ended_before = when
            break
        fold.take(record, when)
    account = dataclasses.replace(fold.account(moment), ended_before=ended_before, last_word=last_word)
    return _after_farewell(account) if ended_before is None else _gone(account, ended_before)


def settled(account: Account, now: datetime.datetime, *, answers: bool) -> Account:
    """`account` with what it adds that an agent answers `now`, or none does. That says nothing if the log goes on."""
    if not account.last_word:
        return account
    account = dataclasses.replace(account, answers_now=answers)
    return account if answers or account.agent != "running" else _gone(account, now)


def _after_farewell(account: Account) -> Account:
    """`account` without a verdict's cause once the grace of an agent that stopped has passed."""
    if account.stopped_at is None or account.at <= account.stopped_at + datetime.timedelta(seconds=account.grace_s or 0):
        return account
    return dataclasses.replace(account, serving=False, verdict_since=account.stopped_at, causes=(), alarms=())


def _gone(account: Account, by: datetime.datetime) -> Account:
    """`account` of an agent that ended without a farewell at `by` at the latest. Within a lease its word stands."""
    lease = datetime.timedelta(seconds=account.lease_s or 0)
    if account.heard_until is None or account.at <= account.heard_until + lease:
        return account
    if account.lease_s is not None:  # then it also says that it is alive
        by = min(by, account.heard_until + datetime.timedelta(seconds=2 * ALIVE_PERIOD_S))
    return dataclasses.replace(
        account,
        agent="gone",
        gone_by=by,
        serving=None,
        verdict_since=None,
        causes=(),
        alarms=(),
        routes=tuple(_at(_unheld(route, by + lease, "unknown"), account.at) for route in account.routes),
    )


def _unheld(route: RouteAccount, until: datetime.datetime, state: str) -> RouteAccount:
    """`route` from when no agent holds it any more."""
    if route.state != "announced":
        return route
    left = state == "left"
    reason = "restart_grace" if left else "agent_gone"
    return dataclasses.replace(route, announced=True if left else None, state=state, until=until, reason=reason)


def _at(route: RouteAccount, moment: datetime.datetime) -> RouteAccount:
    """`route` at `moment`: what was left to lapse has lapsed after its time."""
    if route.state in ("left", "unknown") and route.until is not None and moment > route.until:
        return dataclasses.replace(route, announced=False, state="lapsed")
    return route


def parse_moment(text: str, now: datetime.datetime) -> datetime.datetime:
    """`2h ago`, `90 s`, an ISO 8601 time, `23:25` (today), or Unix nanoseconds. Local without a zone. Raises ValueError."""
    if text.isdecimal() and len(text) > 15:
        return datetime.datetime.fromtimestamp(int(text) / 1e9, datetime.UTC)
    if (match := _AGO.fullmatch(text.strip())) is not None:
        return now - datetime.timedelta(seconds=float(match[1]) * _UNIT_S[match[2][0]])
    if _CLOCK.match(text.strip()) is not None:
        clock = datetime.time.fromisoformat(text.strip())
        moment = datetime.datetime.combine(now.astimezone(clock.tzinfo).date(), clock)
    else:
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
        self.lease_s: float | None = None
        self.started_at: datetime.datetime | None = None
        self.stopped_at: datetime.datetime | None = None
        self.trail = Trail()
        self.away: Away | None = None
        self.intent: Record | None = None
        self.protection: Record | None = None
        self.hold: tuple[datetime.datetime, Record] | None = None
        """With its end, which nobody may have been there to record."""
        self.role: Record | None = None
        self.mirror: Record | None = None
        self.rekeys: Record | None = None

    def take(self, record: Record, when: datetime.datetime) -> None:
        self.heard_until, self.gateway = when, str(record.get("gateway", ""))
        self.trail.take(record)
        match record:
            case {"event": "AgentStarted"}:
                # Whatever is still announced, the new agent announces again as soon as the bridge tells it.
                self._let_go(when + datetime.timedelta(seconds=self.lease_s or 0), "unknown")
                self.agent, self.grace_s, self.stopped_at, self.verdict = "running", None, None, None
                self.started_at, self.lease_s = when, _seconds(record.get("lease_s"))
                self.intent = self.protection = self.rekeys = None
                self.checks.clear()
                self.alarms.clear()
            case {"event": "AgentStopping"}:
                self.agent, self.stopped_at, self.grace_s = "stopped", when, _seconds(record.get("grace_s"))
                self._let_go(when + datetime.timedelta(seconds=self.grace_s or self.lease_s or 0), "left")
            case {"event": "AgentAlive"}:  # all there is of an agent whose start is no longer in the log
                self.agent, self.lease_s = "running", _seconds(record.get("lease_s"))
                if self.verdict is None and isinstance(record.get("serving"), bool):
                    self.verdict = when, record
            case {"event": "HolderStarted", "name": "sync"}:
                self.rekeys = None  # it begins with none
            case {"event": "HolderStarted", "name": "exabgp", "adopted": False}:
                # Nobody could write down the end of the one before: power was lost, or its agent had ended first.
                for key, route in self.routes.items():
                    if route.announced is not False:
                        self._leave(when, "exabgp_exited")
                        self.routes[key] = dataclasses.replace(
                            route, announced=False, state="withdrawn", since=when, until=when, reason="exabgp_exited"
                        )
                self.sessions = dict.fromkeys(self.sessions, "down")
            case {"event": "SiteVerdictChanged"}:
                self.verdict = when, record
            case {"event": "RouteIntentChanged"}:
                self.intent = record
            case {"event": "HoldStarted", "left_s": float() | int() as left_s}:
                self.hold = when + datetime.timedelta(seconds=max(0.0, min(left_s, LONGEST_S))), record
            case {"event": "ProtectionStarted"}:
                self.protection = record
            case {"event": "ProtectionEnded"}:
                self.protection = None
            case {"event": "HoldEnded"}:
                self.hold = None
            case {"event": "PrefixAnnounced" | "PrefixWithdrawn" as event, "neighbor": str(n), "prefix": str(p)}:
                announced, reason = event == "PrefixAnnounced", str(record.get("reason", ""))
                if not announced and (n, p) in self.routes and self.routes[n, p].announced is not False:
                    self._leave(when, reason)
                self.routes[n, p] = RouteAccount(
                    neighbor=n,
                    prefix=p,
                    announced=announced,
                    state="announced" if announced else "withdrawn",
                    since=when,
                    until=None if announced or reason not in WITHOUT_AGENT else self.started_at,
                    reason=reason,
                )
                if self.away is not None and self.away.until is None and all(r.announced for r in self.routes.values()):
                    self.away = dataclasses.replace(self.away, until=when)
            case {"event": "VrrpStateChanged"}:
                self.role = record
            case {"event": "PromotionSettled"}:
                self.mirror = record
            case {"event": "RekeysProgressed", "waiting": dict() as waiting}:
                self.rekeys = record if waiting else None
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

    def _leave(self, when: datetime.datetime, reason: str) -> None:
        if self.away is None or self.away.until is not None:
            self.away = Away(since=when, until=None, reason=reason)

    def _let_go(self, until: datetime.datetime, state: str) -> None:
        self.routes = {key: _unheld(route, until, state) for key, route in self.routes.items()}

    def account(self, moment: datetime.datetime) -> Account:
        since, verdict = self.verdict or (None, {})
        causes, serving = verdict.get("causes"), verdict.get("serving")
        return Account(
            at=moment,
            known=self.heard_until is not None,
            gateway=self.gateway,
            agent=self.agent,
            heard_until=self.heard_until,
            stopped_at=self.stopped_at,
            lease_s=self.lease_s,
            verdict_since=since,
            serving=serving if isinstance(serving, bool) else None,
            causes=tuple(causes) if isinstance(causes, list) else (),
            routes=tuple(_at(self.routes[key], moment) for key in sorted(self.routes)),
            sessions=tuple(sorted(self.sessions.items())),
            checks=tuple(self.checks.values()),
            alarms=tuple(self.alarms.values()),
            trail=tuple(self.trail.records),
            raised=self.trail.raised(),
            away=self.away,
            grace_s=self.grace_s,
            intent=self.intent,
            protection=self.protection,
            role=self.role,
            mirror=self.mirror,
            rekeys=self.rekeys,
            hold=self.hold[1] if self.hold is not None and moment < self.hold[0] else None,
        )


def _seconds(value: Any) -> float | None:
    """A span as a record has it; None for one that nobody means. Records of other machines are read here, too."""
    return float(value) if isinstance(value, int | float) and 0 <= value <= LONGEST_S else None
