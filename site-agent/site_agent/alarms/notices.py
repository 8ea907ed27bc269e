"""Which events an operator is told of, and in which words. Pure.

Alarms, when they begin and when they end; the route, when this gateway begins or ceases to want it announced, whatever the
cause (a fact, an operator's hold, flap control): that is the message that somebody is woken for; and a hold's beginning and
end, which colleagues must know of. What only varies is no news: an alarm that stands and is raised again, a cause that
follows another while the route stays away. Nor is a start: while nothing has been seen, nothing is known to be wrong.
"""

from __future__ import annotations

from typing import Any

from anycast.events import AlarmCleared, AlarmRaised, Event, HoldEnded, HoldStarted, RouteIntentChanged, to_record
from anycast.model import Cause
from anycast.reasons import Reason

VERSION = 1


class Notices:
    """Told of every event, in order; remembers what it let through."""

    def __init__(self) -> None:
        self._standing: set[Reason] = set()
        self._announce: bool | None = None

    def is_news(self, event: Event) -> bool:
        """Whether the operator is told of `event`."""
        match event:
            case AlarmRaised(reason=reason):
                new = reason not in self._standing
                self._standing.add(reason)
                return new
            case AlarmCleared(reason=reason):
                known = reason in self._standing
                self._standing.discard(reason)
                return known
            case RouteIntentChanged(announce=announce, causes=causes):
                unseen = self._announce is None and causes[0].reason is Reason.NO_EVIDENCE_YET
                if unseen or announce == self._announce:
                    return False
                self._announce = announce
                return True
            case HoldStarted() | HoldEnded():
                return True
            case _:
                return False


def to_notice(
    event: Event, *, wall: float, boot_ns: int, gateway: str, site: str, fleet: str, instance: str, lost: int
) -> dict[str, Any]:
    """The JSON object that a hook is given: the log's record of the event, and what a reader far away needs besides.

    `instance` names the run of the agent: whatever an earlier one raised ended with it. `lost` is how many notices before
    this one could not be delivered.
    """
    record = to_record(event, wall=wall, boot_ns=boot_ns, gateway=gateway)
    reason = getattr(event, "reason", None) or _first(event).reason
    text = f"{gateway} ({site}): {sentence(event)}"
    return {**record, "v": VERSION, "fleet": fleet, "site": site, "instance": instance, "reason": reason, "text": text,
            "lost": lost}  # fmt: skip


def sentence(event: Event) -> str:
    """What happened, for a pager."""
    match event:
        case AlarmRaised(reason=reason, detail=detail):
            return f"alarm {reason}{f': {detail}' if detail else ''}"
        case AlarmCleared(reason=reason):
            return f"alarm {reason} is over"
        case RouteIntentChanged(announce=announce):
            return f"the route is {'announced' if announce else 'withdrawn'}: {_first(event)}"
        case HoldStarted(kind=kind, detail=detail, left_s=left_s):
            return f"hold {kind} for {left_s:.0f} s: {detail}"
        case HoldEnded(kind=kind, detail=detail):
            return f"hold {kind} is over: {detail}"
        case _:
            return type(event).__name__


def _first(event: Event) -> Cause:
    return event.causes[0] if isinstance(event, RouteIntentChanged) else Cause(reason=Reason.OPERATOR)
