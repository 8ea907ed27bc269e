"""What an agent would have done with the route, and when. Pure: verdicts in, decisions out."""

from __future__ import annotations

import dataclasses
import datetime
import enum

from anycast.events import SiteVerdictChanged
from anycast.model import Cause
from anycast.reasons import Reason


class Act(enum.StrEnum):
    ANNOUNCE = "announce"
    WITHDRAW = "withdraw"
    STAY_WITHDRAWN = "stay_withdrawn"
    """Nothing to do, for another reason than before."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One thing that an agent would have done."""

    at: datetime.datetime
    act: Act
    causes: tuple[Cause, ...]


class Decisions:
    """A gateway that is only observed begins without a route."""

    def __init__(self) -> None:
        self._announced = False
        self.made: list[Decision] = []

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
        self._announced = verdict.serving
        decision = Decision(at=at, act=act, causes=verdict.causes)
        self.made.append(decision)
        return decision
