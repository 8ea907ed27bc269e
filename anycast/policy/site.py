"""May this gateway attract traffic for its site? Its own verdict, and what it hears of the other gateway. Pure (rule 5).

    VerdictCore ──▶ SiteCore ──▶ RoutePolicy ──▶ RouteLease
                       ▲
    vrrp process ──────┘ VrrpHeard

Theory of operation
-------------------
Both gateways of a site announce the same route with the same attributes, and what moves between them is the address that it
points to. So a gateway announces while it can serve itself *or* hears a fresh Active that says it serves, and a failure that
the pair survives is invisible in BGP. It withdraws when neither holds:

    own verdict   role      the other one, heard within a lease    the site
    serves        any       anything                               serves   (the own causes)
    does not      Backup    is Active and serves                   serves   PEER_SERVES
    does not      Active    could serve                            serves   PEER_TAKES_OVER, for a lease at most
    does not      any       says that it could not                 does not (the own causes, then PEER_UNFIT)
    does not      any       anything else, or silent for a lease   does not (the own causes, then PEER_SILENT)
    does not      any       not listened for since a start         not decided, for a lease: what a predecessor left goes on

    any       nobody has held the addresses for `unheld_s`          does not (ADDRESS_UNHELD)

The last row stands above all others: both announce the address as next hop, so a site where neither has it (no vrrp process
can run, no uplink is proven) is a black hole, however well both could serve. It waits for much longer than any takeover.

The third row is what makes a failing Active invisible: it gives way, and keeps its addresses until the other one has them.
It ends at once where the other one says meanwhile that it cannot serve either.

*Heard* is dated by the vrrp process, not by its arrival: what waited in a buffer while this process was stopped is old. It
lasts a lease, three times as long as the process takes to repeat it: an Active's silence, which is shorter than that, is the
process's to notice, and it says so at once.
Nothing of class `load` or `shared` gets here, because it does not move the gateway verdict. Where there is no other gateway
the site verdict is the gateway verdict, passed on in the same call.
"""

from __future__ import annotations

import dataclasses

from anycast.events import SiteVerdictChanged
from anycast.model import Cause
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason

ACTIVE = "active"
FIT = "fit"
UNFIT = "unfit"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VrrpHeard:
    """What the gateway's vrrp process says of itself and of the other gateway."""

    at: float
    role: str
    """``active`` or ``backup``."""
    peer: str
    """What the other one says that it could do: ``fit``, ``unfit``, ``silent``."""
    peer_active: bool
    """An Active that serves is heard."""
    listening: bool = False
    """Nobody was heard, but the process has not listened for long enough to know that nobody is there."""


Action = VerdictReached | SiteVerdictChanged


class SiteCore:
    """Driven by the gateway verdict, which comes at each tick, and by what the vrrp process says."""

    def __init__(self, *, lease_s: float, paired: bool, unheld_s: float = float("inf")) -> None:
        """`paired`: another gateway may serve this site. `unheld_s`: how long nobody may hold its addresses."""
        self._lease_s, self._paired, self._unheld_s = lease_s, paired, unheld_s
        self._held_at: float | None = None
        """When somebody was last known to hold the addresses; a start counts as such a moment."""
        self._gateway: VerdictReached | None = None
        self._heard: VrrpHeard | None = None
        self._began_at: float | None = None
        self._handing_over_until = float("-inf")
        self._verdict: VerdictReached | None = None

    @property
    def verdict(self) -> VerdictReached | None:
        """The last site verdict; None before the first."""
        return self._verdict

    def gateway(self, verdict: VerdictReached) -> list[Action]:
        """The gateway verdict, repeated at each tick and told at once when it changes."""
        before, self._gateway = self._gateway, verdict
        heard = self._fresh(verdict.at)
        if before is not None and before.serving and not verdict.serving and heard is not None and heard.role == ACTIVE:
            self._handing_over_until = verdict.at + self._lease_s
        return self._conclude(verdict, repeat=True)

    def heard(self, heard: VrrpHeard) -> list[Action]:
        """Something new of the vrrp process. One that has just begun does not know better than the one before it."""
        before = self._heard
        if before is not None and (heard.listening or heard.at < before.at):
            heard = dataclasses.replace(before, role=heard.role)
        self._heard = heard
        return [] if self._gateway is None else self._conclude(self._gateway, repeat=False)

    def _fresh(self, now: float) -> VrrpHeard | None:
        heard = self._heard
        return heard if self._paired and heard is not None and now - heard.at < self._lease_s else None

    def _conclude(self, gateway: VerdictReached, *, repeat: bool) -> list[Action]:
        """`gateway.at` stays the verdict's age: the route is renewed from a fresh look at this gateway only."""
        now = gateway.at if self._heard is None or repeat else max(gateway.at, self._heard.at)
        heard = self._fresh(now)
        if self._began_at is None:
            self._began_at = now
        if self._held_at is None or (heard is not None and (heard.role == ACTIVE or heard.peer_active)):
            self._held_at = now
        verdict = self._judge(gateway, heard, now)
        before, self._verdict = self._verdict, verdict
        changed = before is None or _why(before) != _why(verdict)
        actions: list[Action] = [verdict] if changed or repeat else []
        if changed:
            actions.append(SiteVerdictChanged(serving=verdict.serving, causes=verdict.causes))
        return actions

    def _judge(self, gateway: VerdictReached, heard: VrrpHeard | None, now: float) -> VerdictReached:
        if not self._paired:
            return gateway
        if self._held_at is not None and now - self._held_at >= self._unheld_s:
            unheld = Cause(reason=Reason.ADDRESS_UNHELD, detail=f"for {self._unheld_s:g} s neither gateway was Active")
            against = () if gateway.serving else gateway.causes
            return dataclasses.replace(gateway, serving=False, causes=(*against, unheld))
        if gateway.serving:
            return gateway
        own = ", ".join(str(cause.reason) for cause in gateway.causes)
        if heard is not None and heard.peer_active:
            cause = Cause(reason=Reason.PEER_SERVES, detail=f"this gateway: {own}")
        elif heard is not None and heard.peer == FIT and now < self._handing_over_until:
            cause = Cause(reason=Reason.PEER_TAKES_OVER, detail=f"this gateway: {own}")
        else:
            self._handing_over_until = float("-inf")
            if any(cause.reason is Reason.NO_EVIDENCE_YET for cause in gateway.causes):
                return gateway  # not decided yet: what a predecessor left goes on
            unheard = self._heard is None or self._heard.listening
            if unheard and self._began_at is not None and now - self._began_at < self._lease_s:
                detail = f"this gateway: {own}; whether the other one serves is listened for"
                return dataclasses.replace(
                    gateway, causes=(Cause(reason=Reason.NO_EVIDENCE_YET, check="vrrp", detail=detail),)
                )
            silent = Reason.PEER_UNFIT if heard is not None and heard.peer == UNFIT else Reason.PEER_SILENT
            return dataclasses.replace(gateway, causes=(*gateway.causes, Cause(reason=silent)))
        return dataclasses.replace(gateway, serving=True, causes=(cause,))


def _why(verdict: VerdictReached) -> tuple[bool, tuple[tuple[Reason, str], ...]]:
    return verdict.serving, tuple((cause.reason, cause.check) for cause in verdict.causes)
