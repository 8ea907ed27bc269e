"""What the agent and its sync process say to each other over their socketpair: one JSON object a packet. Pure.

Each message names its version; unknown fields are ignored. The agent says what the vrrp process decided and what became of
charon; the process reports. It decides nothing that attracts traffic, so nothing here is a lease.
"""

from __future__ import annotations

import dataclasses

from site_agent.packet_messages import Messages

VERSION = 1
LONGEST = 32768


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoleIs:
    """Agent: this gateway holds the site's addresses or not, and which charon runs. At every change, and every second."""

    active: bool
    charon: str
    """As `Charon.identity`; empty while none runs. Another one than before knows of no SA and is PASSIVE."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepTaken:
    """Process: one step of a promotion or demotion is done."""

    step: str
    took_us: int
    detail: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """Process: everything that the role asks for is done."""

    active: bool
    took_us: int
    """Since the role changed, or charon started."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """Process: this tunnel differs at the Backup, and rekeys do not help."""

    name: str
    cause: str
    refused: bool
    """Its client takes no rekey from a gateway."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Process: how it stands. At every change that somebody could wait for, and with each second."""

    role: str
    """``backup``, ``promoting`` or ``active``: what it acts as."""
    settled: bool
    connected: bool
    mismatches: list[str]
    """Why a planned handover is refused (`versions.Mismatch`), in words; of a connected peer."""
    alarms: dict[str, str]
    """Details by reason."""
    waiting: int
    """`ha` messages that the peer has not acknowledged."""
    gaps: int
    """`ha` messages that never reached, or never will reach, the Backup's charon."""
    messages: dict[str, int]
    """`ha` messages since the start, by ``what was done:type``."""
    outbound: int
    """Client SAs that this kernel sends on."""
    unconfirmed: int
    """Of an Active: SAs taken over of which the Backup is not known to stand above. A takeover would lose them."""
    taken_over: int
    """Of an Active: SAs that await their rekey."""
    retired: int
    """SAs deleted because no number was safe on them."""
    conflicts: int
    """Marks that a peer asked for while both were Active."""
    tunnels: int
    """Of an Active: SAs of clients, both directions, as it looked last."""
    unprotected: int
    """Of these: which the Backup is not known to hold, in kernel and charon."""
    repairs: int
    """Tunnels that wait for a rekey by which the Backup is told anew."""
    repairs_left_s: int
    """How long these take at the budget of rekeys; one that its client does not answer takes longer."""
    given_up: int
    causes: dict[str, int]
    """What the last comparison has found, by cause (`digest_compare.Cause`)."""
    removed: int
    """Of a Backup: what it held and the Active did not, since the start."""


Message = RoleIs | StepTaken | Settled | GivenUp | Status
_MESSAGES = Messages(
    VERSION,
    {"role": RoleIs, "step": StepTaken, "settled": Settled, "given_up": GivenUp, "status": Status},
)


def encode(message: Message) -> bytes:
    """One packet."""
    return _MESSAGES.encode(message)


def decode(data: bytes) -> Message:
    """Raises DecodeError."""
    message: Message = _MESSAGES.decode(data)
    return message
