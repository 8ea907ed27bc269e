"""What led to a site's state at one moment: its gateways' events and the decisions about it, in one order of time. Pure.

Each gateway's records are folded as `site-agent why` folds its own log (`anycast/history.py`), so both say the same of it.
What was not heard is not known: a hole in the records is a step of the trail, and a gateway of which the moment is not
covered, by records behind it or by a connection that stood then, makes the site `unknown`, with the last that it said. Times
are those of whoever wrote them down; records of one gateway stay in its order, whatever its clock did.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import pydantic

from anycast import event_wire
from anycast.coordinator.fleet_view import SiteState
from anycast.coordinator.store import Line
from anycast.event_wire import Cause
from anycast.events import utc_text
from anycast.history import Account, account_at
from anycast.record_text import fields_text, plain, plain_cause
from anycast.trail import Record

HEARD, UNHEARD = "GatewayHeard", "GatewayUnheard"
"""What the coordinator writes among a gateway's records."""
LONGEST = 60
"""Steps of one trail."""
MOST_DECISIONS = 20
RECORDS, RECORDS_BEHIND, LINES = 5_000, 200, 5_000
"""How many records of each gateway are looked at up to the moment and behind it, and how many lines of history."""
_OWN = frozenset({HEARD, UNHEARD, event_wire.MISSING})
_ASIDE = frozenset({"RecordsDropped"})
"""Said of the gateway's own disk; what is missing here is said by the holes."""


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Step(_Model):
    """One thing on the way."""

    at: str
    """UTC, by the clock of who wrote it down."""
    gateway: str
    """Empty: the coordinator decided it."""
    what: str
    """Kind of the event, or action of the decision; `EventsMissing` is a hole."""
    reason: str
    """The `Reason` that it names, if it names one."""
    text: str
    """For people."""
    record: dict[str, Any]


class GatewayWhy(_Model):
    gateway: str
    heard: bool | None
    """Whether the coordinator heard it at that moment; None: it was not written down."""
    covered: bool
    """Whether what is kept tells of the moment: there are records behind it without a hole between, or it was heard then."""
    heard_until: str | None
    """Time of its last record up to then."""
    announced: int
    """Routes that stood at upstreams, as it had said."""
    routes: int
    why: str
    """Why it did not announce all of them; empty: it did, or said nothing."""
    forgotten: str | None
    """What is older has been taken away by retention; None: nothing has."""
    account: dict[str, Any]
    """As `site-agent why --json` has it."""


class Why(_Model):
    v: Literal[1] = 1
    site: str
    at: str
    state: SiteState
    why: str
    gateways: tuple[GatewayWhy, ...]
    trail: tuple[Step, ...]


def explain(
    site: str,
    moment: datetime.datetime,
    records: Mapping[str, Sequence[Record]],
    forgotten: Mapping[str, float | None],
    decisions: Sequence[Line],
) -> Why:
    """`records` of each gateway, oldest first, some behind the moment; `decisions` about the site up to it."""
    gateways, steps = [], [[_decided(line) for line in decisions[-MOST_DECISIONS:]]]
    for name, each in sorted(records.items()):
        before = [record for record in each if _time(record) <= moment]
        own = [record for record in each if record["event"] not in _OWN | _ASIDE]
        account = account_at(own, moment)
        behind = next((r for r in each if _time(r) > moment and r["event"] not in (HEARD, UNHEARD)), None)
        gateways.append(_gateway(name, before, behind, account, forgotten.get(name)))
        steps.append(list(_happened(name, before, account)))
    state, why = _state(gateways)
    trail = sorted((step for part in steps for step in part), key=lambda step: step[0])
    return Why(
        site=site,
        at=utc_text(moment),
        state=state,
        why=why,
        gateways=tuple(gateways),
        trail=tuple(step for _, step in trail[-LONGEST:]),
    )


def concerns(line: Line, site: str, rollouts: Mapping[str, frozenset[str]]) -> bool:
    """Whether a decision is about a site. `rollouts`: the sites that each one changes."""
    if "site" in line.body:
        return bool(line.body["site"] == site)
    return site in rollouts.get(str(line.body.get("id", "")), frozenset())


def _gateway(
    name: str, before: Sequence[Record], behind: Record | None, account: Account, forgotten: float | None
) -> GatewayWhy:
    marks = [record["event"] for record in before if record["event"] in (HEARD, UNHEARD)]
    heard = marks[-1] == HEARD if marks else None
    hole = behind is not None and behind["event"] == event_wire.MISSING and behind.get("cause") != Cause.NO_FAREWELL
    announced = sum(route.announced is True for route in account.routes)
    return GatewayWhy(
        gateway=name,
        heard=heard,
        covered=account.known and not hole and (behind is not None or bool(heard)),
        heard_until=None if account.heard_until is None else utc_text(account.heard_until),
        announced=announced,
        routes=len(account.routes),
        why="" if account.routes and announced == len(account.routes) else _cause(account),
        forgotten=None if forgotten is None else utc_text(datetime.datetime.fromtimestamp(forgotten, datetime.UTC)),
        account=plain(account),
    )


def _cause(account: Account) -> str:
    """The first thing that stood against its routes."""
    if account.hold is not None and account.hold.get("kind") == "withdraw":
        return f"hold withdraw: {account.hold.get('detail', '')}"
    match account.intent:
        case {"announce": False, "causes": [dict() as cause, *_]}:
            return plain_cause(cause)
    if account.serving is False and account.causes and isinstance(account.causes[0], Mapping):
        return plain_cause(account.causes[0])
    down = [route for route in account.routes if not route.announced]
    if down:
        return down[0].reason
    return "" if account.known else "no event of it is kept from then or before"


def _state(gateways: Sequence[GatewayWhy]) -> tuple[SiteState, str]:
    fresh = [each for each in gateways if each.covered]
    if any(each.announced for each in fresh):
        return SiteState.ANNOUNCING, ""
    silent = [each for each in gateways if each not in fresh]
    if not silent and fresh:
        return SiteState.DARK, next((each.why for each in fresh if each.why), "it speaks no BGP")
    said = [f"nothing tells of {each.gateway} then{_last_said(each)}" for each in silent]
    return SiteState.UNKNOWN, "; ".join(said) or "none of its gateways has ever been heard"


def _last_said(each: GatewayWhy) -> str:
    if each.heard_until is None:
        return ""
    state = f"{each.announced} of {each.routes} routes announced" + (f", {each.why}" if each.why else "")
    return f" (its last word, at {each.heard_until}: {state})"


Placed = tuple[float, Step]


def _happened(name: str, before: Sequence[Record], account: Account) -> Iterator[Placed]:
    """The gateway's own trail, with what is missing of it and when it was heard since its first step."""
    steps = {id(record) for record in account.trail}
    first = next((index for index, record in enumerate(before) if id(record) in steps), max(0, len(before) - 10))
    place = 0.0
    for record in before[first:]:
        place = max(place, _time(record).timestamp())
        if id(record) in steps or record["event"] in _OWN:
            yield place, _step(name, record)


def _step(name: str, record: Record) -> Step:
    match record:
        case {"event": event_wire.MISSING, "cause": cause, "count": count, "first": first, "last": last}:
            numbers = "" if first is None else f" (numbers {first} to {last})"
            text = f"{'an unknown number of' if count is None else count} events are missing here{numbers}: {cause}"
        case {"event": "GatewayHeard"}:
            text = "heard by the coordinator"
        case {"event": "GatewayUnheard"}:
            text = "not heard by the coordinator any more"
        case _:
            text = fields_text(record)
    return Step(
        at=str(record["at"]), gateway=name, what=record["event"], reason=_reason(record), text=text, record=dict(record)
    )


def _reason(record: Record) -> str:
    match record:
        case {"reason": str(reason)}:
            return reason
        case {"causes": [{"reason": str(reason)}, *_]}:
            return reason
        case _:
            return ""


def _decided(line: Line) -> Placed:
    said = ", ".join(f"{key} {value}" for key, value in line.body.items() if isinstance(value, str | int) and key != "key")
    text = f"by {line.who}{f': {line.reason}' if line.reason else ''}{f' ({said})' if said else ''}"
    at = utc_text(datetime.datetime.fromtimestamp(line.at, datetime.UTC))
    record = {"seq": line.seq, "who": line.who, "action": line.action, "reason": line.reason, "body": dict(line.body)}
    reason = line.reason.partition(":")[0]
    return line.at, Step(at=at, gateway="", what=line.action, reason=reason, text=text, record=record)


def _time(record: Record) -> datetime.datetime:
    return datetime.datetime.fromisoformat(str(record["at"]))
