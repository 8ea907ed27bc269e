"""Can this gateway serve? A pure core: evidence and time in, verdicts out.

Theory of operation
-------------------
Every check is known by name and class before the first look. A *fact* check votes with its last decisive look, one
that passed or failed; UNKNOWN ("could not see") changes no vote. The gateway serves only while every fact check's last
decisive look passed. A failing fact therefore acts at once and alone, and nothing that is not a fact can act at all:
`load` and `shared` evidence, and every UNKNOWN, only raise alarms (architecture, rule 2).

After a start or a gap every fact check must have looked again. For most that means a decisive look. An *objector* can only
speak against the gateway (all client SAs are lost) and must ask a daemon that a stranger can keep busy: its UNKNOWN is no
objection, or a flood at the wrong moment would keep a site dark for as long as it lasts.

The core ticks every sixth of a lease and repeats its verdict at each tick, because whoever holds a lease renews it only
from a fresh verdict (rule 1). A tick that comes more than a lease late means that this process was frozen, stopped or
starved: the leases have lapsed meanwhile and whatever was seen before proves nothing. So all evidence is void and every
fact check must look again. A look that *began* before that moment does not count, however late its result arrives.

A gateway that failed serves again only when its facts have stood for `recovery_s`. A charon that crashes every second
would otherwise flap the route every second, which upstreams punish (route flap damping, RFC 7196) and which calls clients
back before their own dead peer detection has sent them elsewhere. A start and a thaw wait for nothing.

An alarm is raised by the first evidence that has its reason, and cleared when none has had it for `ALARM_KEPT_S`. A stranger
can make charon miss every other look; without that rest each look would raise or clear an alarm, and somebody's pager would
be the stranger's. So a reason is told at most twice in that time, however often what it says comes and goes.

This is the gateway verdict, which moves VRRP's priority. What it and the other gateway make of the route is `site`'s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from anycast.errors import BugError
from anycast.events import (
    AlarmCleared,
    AlarmRaised,
    ClockGapSeen,
    EvidenceChanged,
    GatewayVerdictChanged,
)
from anycast.model import Cause, Evidence, EvidenceClass, Status
from anycast.reasons import Reason
from anycast.runtime import TimerExpired

TICKS_PER_LEASE = 6
"""Two renewals may be lost before a lease lapses (VRRP's Active_Down_Interval allows as much, RFC 9568 section 6.1), and
on a machine without a free core each of the others may be a sixth of a lease late."""


ALARM_KEPT_S = 10.0
"""Five looks of the checks that strangers can shake (2 s apart), two of the slower ones."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerdictReached:
    """A verdict, repeated at every tick: the gateway's, or what `site` makes of it, which a route lease is renewed from."""

    serving: bool
    causes: tuple[Cause, ...]
    """HEALTHY alone while serving, RECOVERING alone after a failure, otherwise one for each fact check against it."""
    at: float


Action = (
    VerdictReached
    | GatewayVerdictChanged
    | EvidenceChanged
    | AlarmRaised
    | AlarmCleared
    | ClockGapSeen
)  # fmt: skip


class VerdictCore:
    """Driven by two things only: `Evidence` from a check, and its own expired timer. Times are CLOCK_BOOTTIME seconds."""

    def __init__(
        self,
        checks: Mapping[str, EvidenceClass],
        *,
        objectors: frozenset[str] = frozenset(),
        lease_s: float,
        recovery_s: float,
        now: float,
    ) -> None:
        """`checks` is every check that will ever report, with its class; at least one fact is no objector."""
        if not any(c is EvidenceClass.FACT and name not in objectors for name, c in checks.items()):
            raise BugError("a verdict needs at least one fact check")
        self._objectors = objectors
        self._abstained: set[str] = set()
        self._checks = dict(checks)
        self._lease_s, self._recovery_s = lease_s, recovery_s
        self._last_tick = self._deadline = now
        self._trusted_since = now
        self._void_reason = Reason.NO_EVIDENCE_YET
        self._recovered_at = now
        self._recovering = False
        self._looks: dict[str, Evidence] = {}
        self._decisive: dict[str, Evidence] = {}
        self._alarms: dict[Reason, str] = {}
        self._stood: dict[Reason, float] = {}
        """When the reason of each alarm last stood."""
        self._verdict: VerdictReached | None = None

    @property
    def deadline(self) -> float:
        """When the next tick is due; or the end of the recovery time, so that a return does not wait for a tick besides."""
        return min(self._deadline, self._recovered_at) if self._recovering else self._deadline

    @property
    def verdict(self) -> VerdictReached | None:
        """The last verdict; None before the first tick."""
        return self._verdict

    @property
    def looks(self) -> Mapping[str, Evidence]:
        """The last look of each check that has looked."""
        return self._looks

    @property
    def alarms(self) -> Mapping[Reason, str]:
        """Alarms that stand, or did `ALARM_KEPT_S` ago, with their last detail."""
        return self._alarms

    def handle(self, event: Evidence | TimerExpired, now: float) -> list[Action]:
        """Take one input. A changed verdict leaves in the same call, an unchanged one at each tick."""
        actions: list[Action] = []
        tick = now >= self._deadline
        if (gap := now - self._last_tick) > self._lease_s:
            self._void_all(now)
            actions.append(ClockGapSeen(gap_s=gap))
        if tick:
            self._last_tick = now
            self._deadline = now + self._lease_s / TICKS_PER_LEASE
        if isinstance(event, Evidence):
            actions += self._take(event)
        return actions + self._conclude(now, tick)

    def _void_all(self, now: float) -> None:
        self._trusted_since = now
        self._void_reason = Reason.CLOCK_GAP
        self._decisive.clear()
        self._abstained.clear()

    def _take(self, seen: Evidence) -> list[Action]:
        if self._checks.get(seen.check) is not seen.evidence_class:
            raise BugError(f"evidence of class {seen.evidence_class} from check {seen.check!r}, which is not one of ours")
        before = self._looks.get(seen.check)
        # Looks overlap with kernel events, so an older one may be delivered last; and one from before a gap proves nothing.
        if seen.at < self._trusted_since or (before is not None and seen.at < before.at):
            return []
        self._looks[seen.check] = seen
        if seen.status is not Status.UNKNOWN:
            self._decisive[seen.check] = seen
        elif seen.check in self._objectors:
            self._abstained.add(seen.check)
        if before is not None and (before.status, before.reason) == (seen.status, seen.reason):
            return []
        return [
            EvidenceChanged(
                check=seen.check,
                evidence_class=seen.evidence_class,
                status=seen.status,
                reason=seen.reason,
                detail=seen.detail,
            )
        ]

    def _conclude(self, now: float, tick: bool) -> list[Action]:
        actions: list[Action] = list(self._alarm_changes(now))
        before, causes = self._verdict, self._causes_against(now)
        serving = not causes
        verdict = VerdictReached(serving=serving, causes=causes or (Cause(reason=Reason.HEALTHY),), at=now)
        changed = before is None or _why(before) != _why(verdict)
        if changed or tick:
            self._verdict = verdict
            actions.append(verdict)
        if changed:
            actions.append(GatewayVerdictChanged(serving=serving, causes=verdict.causes))
        return actions

    def _causes_against(self, now: float) -> tuple[Cause, ...]:
        causes = []
        for check, evidence_class in self._checks.items():
            if evidence_class is not EvidenceClass.FACT:
                continue
            decisive = self._decisive.get(check)
            if decisive is None:
                if check in self._abstained:
                    continue
                causes.append(Cause(reason=self._void_reason, check=check))
            elif decisive.status is Status.FAILING:
                causes.append(Cause(reason=decisive.reason, check=check, detail=decisive.detail))
                self._recovered_at = now + self._recovery_s
        self._recovering = not causes and now < self._recovered_at
        if self._recovering:
            causes.append(Cause(reason=Reason.RECOVERING, detail=f"until the facts have stood for {self._recovery_s:g} s"))
        return tuple(causes)

    def _alarm_changes(self, now: float) -> list[AlarmRaised | AlarmCleared]:
        standing = {
            look.reason: f"{look.check}: {look.detail}" if look.detail else look.check
            for look in self._looks.values()
            if (look.status is Status.UNKNOWN and look.reason is not Reason.CHECK_UNAVAILABLE)
            or (look.status is Status.FAILING and look.evidence_class is not EvidenceClass.FACT)
        }
        raised = [AlarmRaised(reason=r, detail=d) for r, d in standing.items() if r not in self._alarms]
        self._stood.update(dict.fromkeys(standing, now))
        over = [r for r in self._alarms if now - self._stood[r] >= ALARM_KEPT_S]
        cleared = [AlarmCleared(reason=r) for r in over]
        self._alarms = {r: d for r, d in (self._alarms | standing).items() if r not in over}
        self._stood = {r: self._stood[r] for r in self._alarms}
        return [*raised, *cleared]


def _why(verdict: VerdictReached) -> tuple[bool, tuple[tuple[Reason, str], ...]]:
    """What makes two verdicts the same: details (ages, figures) may differ."""
    return verdict.serving, tuple((cause.reason, cause.check) for cause in verdict.causes)
