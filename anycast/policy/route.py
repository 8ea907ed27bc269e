"""From the site verdict to what the route lease is renewed for: the operator's hold first, then flap control. Pure.

    VerdictCore ──▶ RoutePolicy ──────▶ RouteLease
      evidence        hold, flap, drain   renewals

Every verdict passes through in the same call, so no layer can make a withdrawal later than the verdict made it: a hold
may turn it into an announcement (`hold.py` says which), flap control acts on nothing but the step from withdrawn to
announced, and a drain only turns an announcement into none. What an operator announces waits for nothing, no drain either:
`hold announce` is root's own word on this machine.

A site's own routes (its unicast prefix, and inside the client pools) go by the site verdict, hold and flap control alone: no
drain, token or content moves them, because nobody else could take what they lead here.
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
        self._own: Intent | None = None

    @property
    def intent(self) -> Intent | None:
        """What was decided last; None before the first verdict."""
        return self._intent

    @property
    def own(self) -> Intent | None:
        """The same for the site's own routes; None also where it has none."""
        return self._own

    def decide(
        self,
        verdict: VerdictReached,
        hold: Hold | None,
        now: float,
        *,
        drained: str = "",
        site: VerdictReached | None = None,
    ) -> list[Action]:
        """`hold` is the one in force, `drained` names the drain that wants the route withdrawn; `site`: the site verdict
        without tokens, for the site's own routes, where it has some. Returns what the lease is told, and the change if there
        is one."""
        before, intent = self._intent, apply(hold, serving=verdict.serving, causes=verdict.causes)
        held = hold is not None and hold.kind is HoldKind.ANNOUNCE
        intent = self._unless_flapping(before, intent, held, now)
        if drained and intent.announce and not held:
            intent = Intent(False, (Cause(reason=Reason.DRAINED, detail=drained),))
        own_before, self._own = self._own, None if site is None else self._of_site(site, hold, held, now)
        if _gone(before, intent, held) or _gone(own_before, self._own, held):  # together they count once: one fault
            self.flap.withdrawn(now)
        self._intent = intent
        actions: list[Action] = [dataclasses.replace(verdict, serving=intent.announce, causes=intent.causes)]
        if before is None or _why(before) != _why(intent):
            penalty = round(self.flap.penalty(now))
            actions.append(RouteIntentChanged(announce=intent.announce, causes=intent.causes, penalty=penalty))
        return actions

    def _of_site(self, site: VerdictReached, hold: Hold | None, held: bool, now: float) -> Intent:
        return self._unless_flapping(self._own, apply(hold, serving=site.serving, causes=site.causes), held, now)

    def _unless_flapping(self, before: Intent | None, intent: Intent, held: bool, now: float) -> Intent:
        # A start is no flap: whatever is found is found without a transition, and the first announcement waits for nothing.
        if not intent.announce or held or before is None or before.announce or self.flap.left_s(now) <= 0:
            return intent
        until = f"penalty {self.flap.penalty(now):.0f}, the next withdrawal would pass {self.flap.threshold:.0f}"
        return Intent(False, (Cause(reason=Reason.FLAP_DELAYED, detail=until),))


def _gone(before: Intent | None, after: Intent | None, held: bool) -> bool:
    """A withdrawal that receivers count; the end of what only an operator's word had announced was meant to be one."""
    if before is None or after is None or not before.announce or after.announce:
        return False
    return not before.overridden or held


def _why(intent: Intent) -> tuple[bool, tuple[tuple[Reason, str], ...]]:
    return intent.announce, tuple((cause.reason, cause.check) for cause in intent.causes)
