"""What led to a moment: of all records before it, the last ones that can be a step to a route's coming or going. Pure.

Alarms of load and shared evidence move nothing, and on a busy machine they come and go every few seconds: they would push
a withdrawal off the screen. They are counted instead. What happens to single clients and their tunnels moves no route
either, and a takeover brings hundreds of those.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
from typing import Any

Record = dict[str, Any]

LENGTH = 24
"""How many records are kept: a failure and its recovery are about ten, a promotion with its mirror nine, and facts that
nobody could judge for a moment come between them."""
ASIDE = frozenset(
    {"AgentAlive", "AlarmRaised", "AlarmCleared", "CheckFaulted", "GatewayVerdictChanged"}
    | {"ClientConnected", "ClientStands", "ClientWatchStarted", "ClientMoved", "ClientRefusedRekey", "ClientGone"}
    | {"TunnelNotMirrored", "TunnelEnded", "RekeyRefused", "RekeysProgressed"}
)
"""Never what moved a route; the gateway's verdict repeats the site's, and rekeys have a line of their own."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Away:
    """The last time that an upstream had not all of this gateway's routes."""

    since: datetime.datetime
    until: datetime.datetime | None
    """When all were announced again; None where they are not yet."""
    reason: str
    """Of the first withdrawal."""


class Trail:
    """Take the records oldest first."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._raised: list[tuple[int, str]] = []
        """Alarms, each with how many records had been kept by then."""
        self._kept = 0

    def take(self, record: Record) -> None:
        """Keep `record`, count it, or pass over it."""
        if record["event"] == "AlarmRaised":
            self._raised.append((self._kept, str(record.get("reason", ""))))
        if not moves(record):
            return
        self.records = [*self.records[1 - LENGTH :], record]
        self._kept += 1
        self._raised = [(kept, reason) for kept, reason in self._raised if kept > self._kept - LENGTH]

    def raised(self) -> tuple[tuple[str, int], ...]:
        """Alarms that were raised along the records, by name, each with how often."""
        return tuple(sorted(collections.Counter(reason for _, reason in self._raised).items()))


def moves(record: Record) -> bool:
    """Whether `record` can be a step on that way: of evidence, only facts (a record without a class may be one)."""
    if record["event"] == "EvidenceChanged":
        return str(record.get("evidence_class", "fact")) == "fact"
    return record["event"] not in ASIDE
