"""What happens to a virtual router and what it wants done: the words between `router`'s core and its shell. Pure."""

from __future__ import annotations

import dataclasses
import enum
import functools

from anycast.timer import TimerExpired
from site_agent.vrrp.election import Role
from site_agent.vrrp.packet import MAX_INTERVAL, Address, Discard
from site_agent.vrrp.seal import FLAGS, Flag, Path


class Cause(enum.StrEnum):
    """Why the role changed: a word for `status`, event and metric."""

    STARTED = "started"
    RESUMED = "resumed"
    """A clean restart goes on where the process before it left off."""
    OWNER = "owner"
    PEER_SILENT = "peer_silent"
    """Active_Down_Timer fired."""
    PEER_RELEASED = "peer_released"
    """Priority 0 was heard."""
    PEER_PREFERRED = "peer_preferred"
    """Another Active that took over later; without a seal one with higher priority, or the same and the higher address."""
    HANDED_OVER = "handed_over"
    UNFIT = "unfit"
    """The gateway's verdict took the priority away."""
    PARENT_SILENT = "parent_silent"
    UPLINK_UNPROVEN = "uplink_unproven"
    ADDRESSES_REFUSED = "addresses_refused"
    """The kernel did not take them: nobody would be served."""
    CLOCK_GAP = "clock_gap"
    SHUTDOWN = "shutdown"


# What happens to it.


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdvertReceived:
    """An ADVERTISEMENT that has passed every test of section 7.1 (and the seal's, where there is one)."""

    path: Path
    source: Address
    priority: int
    max_advertise_interval: int
    """Centiseconds."""
    flags: Flag = Flag.ACTIVE
    """Without a seal only an Active speaks."""
    router_id: int | None = None
    """From the seal."""
    term: int = 0
    """From the seal: `VirtualRouter.term`. 0: without a seal, or of a version that has none."""
    local: Address | None = None
    """Own address where it was heard, which breaks ties: of the same family. `Parameters.primary` where not given."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdvertDiscarded:
    """One that has not. Counted, and nothing else."""

    path: Path
    cause: Discard


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PriorityGranted:
    """What the gateway's verdict is worth, and until when. 0: it could not serve."""

    priority: int
    until: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UplinkProven:
    """Whether the upstream router answers; None where nobody asks it."""

    proven: bool | None


@dataclasses.dataclass(frozen=True, slots=True)
class AddressesRefused:
    """What `AddAddresses` or `RenewAddresses` asked for was not done."""


@dataclasses.dataclass(frozen=True, slots=True)
class HandOver:
    """The operator wants the other one to serve."""


@dataclasses.dataclass(frozen=True, slots=True)
class Shutdown:
    """This process ends (section 6.4.2, 6.4.3)."""


Input = (
    AdvertReceived | AdvertDiscarded | PriorityGranted | UplinkProven | AddressesRefused | HandOver | Shutdown | TimerExpired
)

# What it wants done.


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SendAdvert:
    """On every path, in every family."""

    priority: int
    flags: Flag


@dataclasses.dataclass(frozen=True, slots=True)
class AddAddresses:
    """Put the virtual addresses in place, with a life that the kernel ends."""

    settled: bool = False
    """And go on when packets to them are taken: until then the other one takes them. `addresses.SETTLE_S` bounds it."""


@dataclasses.dataclass(frozen=True, slots=True)
class RenewAddresses:
    """Begin their life anew."""


@dataclasses.dataclass(frozen=True, slots=True)
class RemoveAddresses:
    """Take them away now."""


@dataclasses.dataclass(frozen=True, slots=True)
class AnnounceAddresses:
    """Gratuitous ARP and unsolicited NA for each (sections 8.1.2, 8.2.2)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoleChanged:
    role: Role
    cause: Cause
    silence_s: float = dataclasses.field(default=0.0, compare=False)
    """For how long the Active had not been heard when this one took over; 0 where it let go by itself. For people."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HandoverFailed:
    """Nobody took what was offered; this one stays Active."""

    detail: str


Action = SendAdvert | AddAddresses | RenewAddresses | RemoveAddresses | AnnounceAddresses | RoleChanged | HandoverFailed


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Of one virtual router (section 6.1). Times in centiseconds unless named otherwise."""

    advertisement_interval: int = 100
    preempt: bool = True
    """Preempt_Mode: a Backup with higher priority takes over from an Active that serves well."""
    preempt_delay_s: float = 0.0
    """How long it must have been there before it does."""
    primary: Address
    """Own address on the outside; breaks ties with routers that have no id."""
    router_id: int = 0
    """Breaks ties with routers of ours."""
    sealed: bool = False
    """The other router is of ours, too."""
    address_life_s: float = 1.0
    """For how long the kernel keeps an address that nobody renews."""

    def __post_init__(self) -> None:
        if not 1 <= self.advertisement_interval <= MAX_INTERVAL:
            raise ValueError(f"an advertisement interval of {self.advertisement_interval} cs")


@functools.cache
def send_advert(priority: int, flags: int) -> SendAdvert:
    """By its flags' number; made once each."""
    return SendAdvert(priority=priority, flags=FLAGS[flags])


def is_active(advert: AdvertReceived) -> bool:
    """Its sender holds the addresses."""
    return bool(advert.flags._value_ & Flag.ACTIVE._value_)
