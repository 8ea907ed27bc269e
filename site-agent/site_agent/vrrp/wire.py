"""What the agent and its vrrp process say to each other over their socketpair: one JSON object a packet. Pure.

The agent grants, the process reports. Each message names its version; unknown fields are ignored, and what is not understood
is no reason to let go of anything: the lease decides.
"""

from __future__ import annotations

import dataclasses
import signal
from typing import Any

from anycast.errors import DecodeError
from site_agent.packet_messages import Messages
from site_agent.vrrp.seal import check_keys

VERSION = 1
LONGEST = 32768
LEAVE = signal.SIGUSR1
"""A successor's word to a process that has no agent: let go of the addresses, and say nothing to BFD's peers."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Agent: serve with this priority until then. Every third of a lease."""

    priority: int
    until_ns: int
    """CLOCK_BOOTTIME: one that was buffered extends nothing."""
    uplink: bool | None
    """Whether the upstream router answers; None where nobody asks."""
    attract_until_ns: int = 0
    """CLOCK_BOOTTIME until which the route may attract, for BFD; 0: it says Down now, and so it does when the time is over.

    The router then ends the BGP session and, by its own settings, waits before it takes another one (BIRD: a minute). So
    this is the lease of the route's agent, renewed while that decides, and no second way to withdraw: BGP's is as fast.
    """


@dataclasses.dataclass(frozen=True, slots=True)
class HandOver:
    """Agent: let the other gateway serve."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grace:
    """Agent: I end now and shall be back by then. Serve and attract as granted last; my successor says `LEAVE`, or kills.

    Never longer than `process.LONGEST_GRACE_S`, and nothing where the last grant has ended. When it ends without a
    successor, the process releases and ends.
    """

    until_ns: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Agent: let go of the addresses, and end."""

    keep_bfd: bool = False
    """Say nothing to BFD's peers, who wait for their detection time: a successor goes on with the sessions."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Agent: from now on seal with `in_use` and accept these. `Status` tells when it is so.

    A process that was started without keys goes on without: whether a pair seals at all is decided at a start.
    """

    keys: dict[int, bytes] = dataclasses.field(repr=False)
    """By id, as `Plan.keys`."""
    in_use: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Process: how it stands. At every change, and every second."""

    role: str
    """``backup``, ``active``; ``none`` where the plan has no virtual router."""
    cause: str
    since_ns: int
    heard: int
    """Paths, as `seal.Path` bits."""
    peer: str
    peer_active: bool
    """An Active that serves is heard: the site has somebody (rule 5)."""
    discarded: dict[str, int]
    """By ``path:cause``."""
    late: dict[str, float]
    """Ticks: ``count``, ``worst_ms``, ``p999_ms`` since the start."""
    faults: list[str]
    """What the kernel refused last, for people."""
    boot: int
    """For `Plan.boot_after` of the next one."""
    taken: dict[str, list[int]]
    """For `Plan.taken` of the next one: boot and sequence by ``path:family:router id``."""
    installed_us: int
    """From the last decision to take over until the kernel had the addresses; 0 before the first."""
    self_test: str = ""
    """``passed`` or ``failed`` (it offers nothing, and `faults` say why); empty at 50 ms and more, where none is needed."""
    handover: str = ""
    """Why the last one that was asked for did not come about; empty where it did."""
    silent_us: int = 0
    """For how long no Active had been heard at the last takeover; 0 where the Active let go by itself."""
    keys: list[int] = dataclasses.field(default_factory=list)
    """Ids of those that are accepted."""
    key_in_use: int = 0
    peer_keys: list[int] = dataclasses.field(default_factory=list)
    """Ids of those that the other gateway sealed with last, on the paths where it is heard. Two: it is just switching."""
    peer_newest: list[int] = dataclasses.field(default_factory=list)
    """What the other gateway says on those paths of its newest key (`seal.newest`). 0: it does not say."""
    bfd: dict[str, dict[str, int | str]] = dataclasses.field(default_factory=dict)
    """By `BfdPeer.name`: ``state``, ``diagnostic``, ``remote_state``, ``remote_diagnostic`` in lower case, ``since_ns``
    (CLOCK_BOOTTIME of the last change), ``granted_since_ns`` (0: it may not attract). The whole dict is what
    `Plan.bfd_before` of the next process needs."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Process: to each Grant when it has acted on it, and at once when what the route may depend on changes: the other
    gateway says that it could serve, or no longer, or an unfit Backup has heard no Active for Active_Down_Interval.

    What the agent's site verdict and its patience need three times a lease; `Status` has the rest.
    """

    at_ns: int
    """CLOCK_BOOTTIME: one that lay in a buffer proves nothing."""
    until_ns: int
    """Of the last Grant."""
    role: str
    peer: str
    peer_active: bool
    listening: bool = False
    """As `VrrpHeard.listening`: four intervals have not passed since its sockets were open, and nobody was heard."""


Message = Grant | HandOver | Grace | Stop | Keys | Status | Answer
_MESSAGES = Messages(
    VERSION,
    {
        "grant": Grant, "hand_over": HandOver, "grace": Grace, "stop": Stop, "keys": Keys, "status": Status,
        "answer": Answer,
    },
)  # fmt: skip


def encode(message: Message) -> bytes:
    """One packet."""
    return _MESSAGES.encode(message)


def decode(data: bytes) -> Message:
    """Raises DecodeError."""
    message: Message = _MESSAGES.decode(data, _prepare)
    if isinstance(message, Status) and not all(isinstance(standing, dict) for standing in message.bfd.values()):
        raise DecodeError("bfd", 0, f"{message.bfd!r:.60}")
    if isinstance(message, Keys):
        check_keys(message.keys, message.in_use)
    return message


def _prepare(kind: type[Any], fields: dict[str, Any]) -> None:
    if kind is Keys:
        fields["keys"] = {int(key_id): bytes.fromhex(key) for key_id, key in fields["keys"].items()}
