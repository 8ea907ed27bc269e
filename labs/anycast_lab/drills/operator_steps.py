"""Steps and checks of drill files about what operators do: holds, flap control, a configuration that is pushed."""

from __future__ import annotations

from typing import Literal

from anycast.reasons import Reason
from anycast_lab.drills.limits import Strict


class Hold(Strict):
    """`site-agent hold withdraw|announce` at the victim."""

    do: Literal["hold"]
    kind: Literal["withdraw", "announce"]
    seconds: float
    despite: tuple[Reason, ...] = ()


class HoldEnd(Strict):
    do: Literal["hold_end"]


class FlapClear(Strict):
    do: Literal["flap_clear"]


class BreakFleet(Strict):
    """Put a fleet file with mistakes onto the victim, as a push of somebody's would."""

    do: Literal["break_fleet"]


class MendFleet(Strict):
    do: Literal["mend_fleet"]


class Screens(Strict):
    """Go on when log, metrics, `status` and `why` of the victim all show this reason; remember what they showed."""

    do: Literal["screens"]
    reason: Reason
    limit: str


class SameWord(Strict):
    """A `screens` step found the reason on every screen, with its time left where it has one."""

    check: Literal["same_word"]
    reason: Reason
    says: str = ""
    """What `status` must say beside it."""


class AwayFor(Strict):
    """Once gone, the victim's routes stay away for at least this long."""

    check: Literal["away_for"]
    seconds: float


class EveryKill(Strict):
    """Each SIGKILL of the drill is followed by the routes' going within the limit, not only the first."""

    check: Literal["every_kill"]
    limit: str
