"""What an agent would have done with route and tunnels, and when. Pure: verdicts and repairs in, decisions out.

An observer repairs nothing, so a withdrawal that follows a rekey it did not make is what would have happened had no client
answered; both are told, in their order.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Iterable

from anycast.events import SiteVerdictChanged
from anycast.model import Cause
from anycast.reasons import Reason

OF_CHARON = frozenset({Reason.CHARON_ABSENT, Reason.CHARON_EXITED, Reason.CHARON_STOPPED, Reason.CHARON_SILENT})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """How far an observer sees."""

    limits: tuple[str, ...] = ()
    """Each a fact that could not be looked at. A verdict against serving needs only one fact, one for it needs all."""
    strangers: bool = False
    """The charon that is watched is one of several whose network namespace may not be seen: perhaps somebody else's."""

    def tells(self, serving: bool, causes: Iterable[Cause]) -> bool:
        """Whether an agent would have come to this verdict as well."""
        if serving:
            return not self.limits
        return not (self.strangers and all(cause.reason in OF_CHARON for cause in causes))


class Act(enum.StrEnum):
    ANNOUNCE = "announce"
    CANNOT_TELL = "cannot_tell"
    """What was seen is not enough to say what an agent would have done."""
    WITHDRAW = "withdraw"
    STAY_WITHDRAWN = "stay_withdrawn"
    """Nothing to do, for another reason than before."""
    REKEY = "rekey"
    """Have tunnels made anew whose kernel state is lost."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One thing that an agent would have done."""

    at: datetime.datetime
    act: Act
    causes: tuple[Cause, ...]


class Decisions:
    """A gateway that is only observed begins without a route."""

    def __init__(self, sight: Sight | None = None) -> None:
        self._sight = sight or Sight()
        self._announced = False
        self.made: list[Decision] = []

    def rekey(self, cause: Cause, at: datetime.datetime) -> Decision:
        """The decision to rekey, also kept in `made`."""
        decision = Decision(at=at, act=Act.REKEY, causes=(cause,))
        self.made.append(decision)
        return decision

    def take(self, verdict: SiteVerdictChanged, at: datetime.datetime) -> Decision | None:
        """The decision that follows, also kept in `made`. None while the checks have not looked for the first time."""
        if verdict.serving:
            act = Act.ANNOUNCE
        elif self._announced:
            act = Act.WITHDRAW
        elif not self.made and any(cause.reason is Reason.NO_EVIDENCE_YET for cause in verdict.causes):
            return None
        else:
            act = Act.STAY_WITHDRAWN
        if not self._sight.tells(verdict.serving, verdict.causes):
            act = Act.CANNOT_TELL
        self._announced = verdict.serving
        decision = Decision(at=at, act=act, causes=verdict.causes)
        self.made.append(decision)
        return decision
