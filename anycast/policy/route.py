"""From the site verdict to what the route lease is renewed for: the operator's hold first, then flap control. Pure.

    VerdictCore ──▶ RoutePolicy ──────▶ RouteLease
      evidence        hold, flap, drain   renewals

Every verdict passes through in the same call, so no layer can make a withdrawal later than the verdict made it: a hold
may turn it into an announcement (`hold.py` says which), flap control acts on nothing but the step from withdrawn to
announced, and a drain only turns an announcement into none. What an operator announces waits for nothing, no drain either:
`hold announce` is root's own word on this machine.
"""

from __future__ import annotations

import dataclasses

from anycast.events import RouteIntentChanged
from anycast.model import Cause
from anycast.policy.flap import FlapControl
from anycast.policy.hold import Hold, HoldKind, Intent, apply
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason

Action = VerdictReached | RouteIntentChanged


class RoutePolicy:
    """Driven by the verdict core's word and by a hold's beginning and end."""

    def __init__(self, flap: FlapControl) -> None:
        self.flap = flap
        self._intent: Intent | None = None

    @property
    def intent(self) -> Intent | None:
        """What was decided last; None before the first verdict."""
        return self._intent

    def decide(self, verdict: VerdictReached, hold: Hold | None, now: float, *, drained: str = "") -> list[Action]:
        """`hold` is the one in force, `drained` names the drain that wants the route withdrawn. Returns what the lease is
        told, and the change if there is one."""
        before, intent = self._intent, apply(hold, serving=verdict.serving, causes=verdict.causes)
        held = hold is not None and hold.kind is HoldKind.ANNOUNCE
        # A start is no flap: whatever is found is found without a transition, and the first announcement waits for nothing.
        if intent.announce and not held and before is not None and not before.announce and self.flap.left_s(now) > 0:
            until = f"penalty {self.flap.penalty(now):.0f}, the next withdrawal would pass {self.flap.threshold:.0f}"
            intent = Intent(False, (Cause(reason=Reason.FLAP_DELAYED, detail=until),))
        if drained and intent.announce and not held:
            intent = Intent(False, (Cause(reason=Reason.DRAINED, detail=drained),))
        if before is not None and before.announce and not intent.announce and not (before.overridden and not held):
            self.flap.withdrawn(now)
        self._intent = intent
        actions: list[Action] = [dataclasses.replace(verdict, serving=intent.announce, causes=intent.causes)]
        if before is None or _why(before) != _why(intent):
            penalty = round(self.flap.penalty(now))
            actions.append(RouteIntentChanged(announce=intent.announce, causes=intent.causes, penalty=penalty))
        return actions


def _why(intent: Intent) -> tuple[bool, tuple[tuple[Reason, str], ...]]:
    return intent.announce, tuple((cause.reason, cause.check) for cause in intent.causes)
