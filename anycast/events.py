"""What the rest of the world may know: the closed union of things that happened, in the past tense.

Log, metrics, `why`, the coordinator and the drills all read this one stream. An event is plain data; `to_record` adds
when and where it happened and makes the JSON object that is written as one line. Readers ignore fields they do not know.
"""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from anycast.model import Cause, EvidenceClass, SessionState, Status
from anycast.reasons import Reason

RECORD_VERSION = 1
ALIVE_PERIOD_S = 60.0
"""Between two `AgentAlive`: bounds what a log without a farewell leaves open, at 0.2 MB a day."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AgentStarted:
    instance: str
    version: str
    document: str
    """Hash of the document it runs by."""
    pid: int
    lease_s: float
    """For how long at most the route stays after the agent's last sign of life."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AgentAlive:
    """Nothing happened, and somebody was there to say so. Every `ALIVE_PERIOD_S`."""

    serving: bool
    """The site's verdict."""
    lease_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AgentStopping:
    reason: Reason
    grace_s: float
    """How long the route stays without us; 0 where no grace was left."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceChanged:
    """A check's status or reason differs from its last look."""

    check: str
    evidence_class: EvidenceClass
    status: Status
    reason: Reason
    detail: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GatewayVerdictChanged:
    """Can this machine serve?"""

    serving: bool
    causes: tuple[Cause, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SiteVerdictChanged:
    """Can anybody behind this site's address serve? Moves the route."""

    serving: bool
    causes: tuple[Cause, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RouteIntentChanged:
    """What the site verdict, an operator's hold and flap control together make of the route."""

    announce: bool
    causes: tuple[Cause, ...]
    penalty: int
    """As a receiver that damps would have it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HoldStarted:
    """An operator's hold came into force, or was found in force."""

    kind: str
    reason: Reason
    detail: str
    """The operator's words."""
    despite: tuple[Reason, ...]
    left_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HoldEnded:
    kind: str
    reason: Reason
    detail: str
    """Why: `expired`, `ended`, or `replaced`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FlapCleared:
    """An operator forgave what a receiver may still count."""

    reason: Reason
    penalty: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AlarmRaised:
    """Something an operator must see that moves nothing by itself."""

    reason: Reason
    detail: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AlarmCleared:
    reason: Reason


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProtectionStarted:
    """The gateway began to protect itself against load; it goes on serving."""

    kind: str
    """`cookies`: charon demands one of whoever begins a handshake."""
    reason: Reason
    detail: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProtectionEnded:
    kind: str
    reason: Reason
    """What had begun it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _OfOneRoute:
    neighbor: str
    prefix: str
    reason: Reason


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PrefixAnnounced(_OfOneRoute):
    """ExaBGP acknowledged an announcement on a session that is up."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PrefixWithdrawn(_OfOneRoute):
    """ExaBGP acknowledged a withdrawal, or the session that carried the route ended."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OwnRouteAnnounced(_OfOneRoute):
    """As `PrefixAnnounced`, of a route that only this site has: its unicast prefix, or inside its client pools."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OwnRouteWithdrawn(_OfOneRoute):
    """As `PrefixWithdrawn`, of a route that only this site has."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SessionChanged:
    neighbor: str
    state: SessionState
    detail: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VrrpStateChanged:
    """This gateway became Active or Backup in its site's virtual router."""

    role: str
    cause: str
    """As `router_words.Cause` has it."""
    peer: str
    """What the other gateway said of itself then: `fit`, `unfit`, `silent`."""
    priority: int
    """As granted then; 0: it could not serve."""
    installed_us: int
    """What it cost: from the decision to take over until the kernel had the addresses; 0 where none were added."""
    silent_us: int = 0
    """What it cost before that: for how long nobody had been heard as Active; 0 where the other one let go by itself."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HolderStarted:
    """A process that holds a lease or serves clients began to be watched."""

    name: str
    pid: int
    adopted: bool
    """It ran before this agent did."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PromotionStepTaken:
    """One step by which the mirror and charon follow the gateway's role (`sync.promotion.Step`), retries included."""

    step: str
    took_us: int
    detail: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PromotionSettled:
    """charon, the numbers and the gate are what the role asks for."""

    role: str
    took_us: int
    """Since the sync process heard of the role, or charon started."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TunnelNotMirrored:
    """The Backup does not hold this tunnel as it is, and rekeys have not mended it: a failover will end it."""

    tunnel: str
    """With its client's identity."""
    cause: str
    client_refuses: bool
    """The client takes no rekey from a gateway."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TunnelEnded:
    """We ended a client's tunnel, so that it connects anew."""

    tunnel: str
    """With its client's identity."""
    reason: Reason


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RekeyRefused:
    """A client has refused this gateway's rekeys of one SA, several times; it is asked ever more seldom from now on."""

    tunnel: str
    """With its client's identity."""
    reason: Reason
    """Why it was to be rekeyed."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RekeysProgressed:
    """How far the rekeys that this gateway asks for have come: at the beginning, every minute, and at the end."""

    waiting: dict[str, int]
    """SAs, by the reason of their rekey."""
    done: int
    left_s: int
    """At the budget."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HolderKilled:
    """We ended a holder because it did not answer."""

    name: str
    pid: int
    reason: Reason


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HolderExited:
    name: str
    pid: int
    status: int | None
    """Exit status, negative for a signal; None where the process was not our child."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClockGapSeen:
    """More than a lease passed between two of our own ticks; every verdict before it is void."""

    gap_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckFaulted:
    """A check of ours raised. Our bug; reported, never counted against the gateway."""

    check: str
    error: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PartFaulted:
    """A part of the agent that the lease does not need raised. Our bug; the gateway serves on, the part is begun again."""

    part: str
    error: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TunnelsRekeyed:
    """CHILD_SAs whose kernel state was lost were made anew with their clients."""

    count: int
    reason: Reason
    detail: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TunnelsForgotten:
    """IKE_SAs whose kernel state was lost, and whose clients have gone elsewhere, were ended at this end."""

    count: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClientConnected:
    """A client has a tunnel and its inner addresses. Both gateways of a pair say so, whoever made it."""

    session: str
    """The initiator's and the responder's IKE SPI when it was first seen, in hex; names the session in what follows."""
    identity: str
    eap_identity: str
    """Empty where it proved itself by certificate alone."""
    inner: tuple[str, ...]
    outer: str
    """Its address and port, as the gateway sees them."""
    since_s: float
    """For how long its IKE_SA has been up."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClientStands:
    """Said again of a tunnel that stands, once a day and by each new watcher: what a log that was cut knows of it."""

    session: str
    identity: str
    eap_identity: str
    inner: tuple[str, ...]
    outer: str
    since_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClientWatchStarted:
    """A new process watches charon's clients. Those it finds follow as `ClientStands`; who is not among them has gone."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClientMoved:
    """Its outer address changed: MOBIKE, or another NAT binding."""

    session: str
    identity: str
    inner: tuple[str, ...]
    outer: str
    outer_before: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClientRefusedRekey:
    """It refuses this gateway's rekeys of one of its SAs."""

    identity: str
    sa: str
    reason: Reason
    """Why it was to be rekeyed."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClientGone:
    """Its tunnel has ended; its inner addresses will be others'."""

    session: str
    identity: str
    inner: tuple[str, ...]
    outer: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClientsServed:
    """From now on this gateway's charon serves them, or only has a copy of their tunnels."""

    serving: bool
    clients: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DrainStepTaken:
    """A drain of this gateway began a step (`policy.drain.Step`)."""

    drain: str
    step: str
    by: str
    detail: str
    """Why it is drained, in the words of who asked."""
    left: int | None
    """Tunnels at this gateway; None where charon did not say."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TunnelsMoved:
    """Clients were sent a REDIRECT to another site."""

    count: int
    to: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TunnelsCut:
    """Clients that cannot follow a REDIRECT were sent a DELETE."""

    count: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RecordsDropped:
    """The disk could not follow: this many records before this one are missing."""

    count: int


Event = (
    AgentStarted
    | AgentAlive
    | AgentStopping
    | EvidenceChanged
    | GatewayVerdictChanged
    | SiteVerdictChanged
    | RouteIntentChanged
    | HoldStarted
    | HoldEnded
    | FlapCleared
    | AlarmRaised
    | AlarmCleared
    | ProtectionStarted
    | ProtectionEnded
    | PrefixAnnounced
    | PrefixWithdrawn
    | OwnRouteAnnounced
    | OwnRouteWithdrawn
    | SessionChanged
    | VrrpStateChanged
    | PromotionStepTaken
    | PromotionSettled
    | TunnelNotMirrored
    | TunnelEnded
    | RekeyRefused
    | RekeysProgressed
    | HolderStarted
    | HolderKilled
    | HolderExited
    | ClockGapSeen
    | CheckFaulted
    | PartFaulted
    | TunnelsRekeyed
    | TunnelsForgotten
    | ClientConnected
    | ClientStands
    | ClientWatchStarted
    | ClientMoved
    | ClientRefusedRekey
    | ClientGone
    | ClientsServed
    | DrainStepTaken
    | TunnelsMoved
    | TunnelsCut
    | RecordsDropped
)


def utc_text(when: datetime.datetime) -> str:
    """How a program is told a moment, in log and answers: UTC, RFC 3339, always six digits, so that texts sort as times."""
    return when.astimezone(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def to_record(
    event: Event, *, wall: float, boot_ns: int, gateway: str, stream: str = "", seq: int = 0
) -> dict[str, Any]:
    """The JSON object of one line of the event stream. `wall` is Unix time in seconds, `boot_ns` CLOCK_BOOTTIME; `stream`
    and `seq` where the records are numbered (`event_wire.py`)."""
    when = utc_text(datetime.datetime.fromtimestamp(wall, datetime.UTC))
    numbered = {"seq": seq, "stream": stream} if stream else {}
    return {
        "v": RECORD_VERSION,
        **numbered,
        "at": when,
        "boot_ns": boot_ns,
        "gateway": gateway,
        "event": type(event).__name__,
        **dataclasses.asdict(event),
    }
