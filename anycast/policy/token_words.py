"""What the two halves of the token protocol are told, and what they say has to be done. Frozen, in the field's words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from anycast.model import Cause
from anycast.policy.floors import Budget
from anycast.policy.ledger import Decision, Entry
from anycast.reasons import Reason
from anycast.token_wire import Answer, Held, Report

# --- the coordinator's: in


@dataclasses.dataclass(frozen=True, slots=True)
class AgentConnected:
    """A gateway's later connection takes the place of its earlier one."""

    gateway: str
    """As its certificate names it."""
    session: int
    """A number that the shell gives to no other connection of this leader."""


@dataclasses.dataclass(frozen=True, slots=True)
class AgentGone:
    gateway: str
    session: int


@dataclasses.dataclass(frozen=True, slots=True)
class Reported:
    gateway: str
    session: int
    report: Report


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TakeSlot:
    """An operator, a rollout, a plan wants `site` dark."""

    kind: str
    site: str
    by: str
    why: str = ""
    until: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class EndSlot:
    """It need not be dark by this any more. The slot returns when the site says so."""

    entry_id: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class ContentChanged:
    """Operators' content with another budget, or other gateways (the site of each)."""

    budget: Budget
    gateways: Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Halted:
    """Nothing more is granted, no renewal either, and no slot given, for this reason; None: as ever."""

    cause: Cause | None


# --- the coordinator's: out, to be performed in order; a commit that fails ends this leader


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One transaction, which fails unless this leader's key is still in the store. Also with nothing to write."""

    put: tuple[Entry, ...] = ()
    remove: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Send:
    gateway: str
    session: int
    answer: Answer


@dataclasses.dataclass(frozen=True, slots=True)
class SlotTaken:
    entry: Entry
    decision: Decision


@dataclasses.dataclass(frozen=True, slots=True)
class SlotRefused:
    """Told once until the reason changes."""

    site: str
    kind: str
    by: str
    decision: Decision


@dataclasses.dataclass(frozen=True, slots=True)
class SlotEnding:
    entry: Entry


@dataclasses.dataclass(frozen=True, slots=True)
class SlotReturned:
    entry: Entry


@dataclasses.dataclass(frozen=True, slots=True)
class CheckSuspected:
    """No site is dark by this check, and none becomes so, until it fails at fewer."""

    check: str
    failing: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class CheckTrusted:
    check: str


# --- the agent's: in


@dataclasses.dataclass(frozen=True, slots=True)
class CoordinatorConnected:
    session: int


@dataclasses.dataclass(frozen=True, slots=True)
class CoordinatorGone:
    session: int


@dataclasses.dataclass(frozen=True, slots=True)
class Answered:
    session: int
    answer: Answer


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RouteStands:
    """What has become of the route, repeated at least at every heartbeat."""

    serving: bool
    """The site verdict, apart from any token."""
    announcing: bool
    """The bridge has acknowledged the route, whole."""
    reason: Reason
    held: tuple[Held, ...] = ()
    """What else makes this gateway dark on purpose: a drain, an operator's hold."""
    may_ask: bool = True
    """False while an operator's `hold announce` is in force."""


# --- the agent's: out


@dataclasses.dataclass(frozen=True, slots=True)
class SendReport:
    session: int
    report: Report


@dataclasses.dataclass(frozen=True, slots=True)
class TokenBegan:
    """Withdraw; `TokenHolder.dark` says for how long."""

    token: str
    cause: Cause


@dataclasses.dataclass(frozen=True, slots=True)
class TokenEnded:
    """Announce again, as far as facts allow. `cause`: why it ended, or was never used."""

    token: str
    cause: Cause
    used: bool


@dataclasses.dataclass(frozen=True, slots=True)
class EndWanted:
    """The coordinator wants something ended that is not a token: the shell's to do, and to say with `SlotEnded`."""

    entry_id: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class SlotEnded:
    """Input: what the ledger calls `entry_id` makes this gateway dark no more, and never will again."""

    entry_id: str
