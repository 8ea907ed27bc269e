"""What the agent and its sync process say to each other over their socketpair: one JSON object a packet. Pure.

Each message names its version; unknown fields are ignored. The agent says what the vrrp process decided and what became of
charon; the process reports. It decides nothing that attracts traffic, so nothing here is a lease.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from site_agent.ike.rekey_queue import SaId, Wish
from site_agent.packet_messages import Messages

VERSION = 1
LONGEST = 32768


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoleIs:
    """Agent: this gateway holds the site's addresses or not, and which charon runs. At every change, and every second."""

    active: bool
    charon: str
    """As `Charon.identity`; empty while none runs. Another one than before knows of no SA and is PASSIVE."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finish:
    """Agent: the other gateway is to take over in a moment. Begin nothing more with clients; answered by Finished."""


@dataclasses.dataclass(frozen=True, slots=True)
class HandoverOver:
    """Agent: it has come to its end, or was refused."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Process: what was begun with clients has ended, or has had its time."""

    open: int
    """IKE_SAs with an exchange that has not ended; -1: charon could not be asked."""
    took_us: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LostTunnels:
    """Agent: these CHILD_SAs lack kernel state; have them rekeyed, within the gateway's budget."""

    tunnels: list[list[str]]
    """Unique id, that of the IKE_SA, name, client."""

    @classmethod
    def of(cls, wishes: Iterable[Wish]) -> LostTunnels:
        return cls(tunnels=[[wish.sa.unique, wish.ike, wish.name, wish.client] for wish in wishes])

    @property
    def wishes(self) -> tuple[Wish, ...]:
        return tuple(
            Wish(sa=SaId("child", each[0]), ike=each[1], name=each[2], client=each[3])
            for each in self.tunnels
            if len(each) == 4 and all(isinstance(word, str) for word in each)
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """Agent: charon was asked to rekey everything; ask for nothing yourself for a moment."""


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
class Ended:
    """Process: this IKE_SA was ended, so that its client connects anew."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RekeyRefused:
    """Process: this SA's client refuses rekeys."""

    name: str
    reason: str


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
    spent: int
    """Of these: which the next takeover but one would lose, for want of sequence numbers. Their rekey is the first."""
    at_their_end: int
    """Of these: which the next takeover would lose."""
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
    given_up: int
    causes: dict[str, int]
    """What the last comparison has found, by cause (`digest_compare.Cause`)."""
    removed: int
    """Of a Backup: what it held and the Active did not, since the start."""
    rekeys_waiting: dict[str, int]
    """Of an Active: SAs that wait for their rekey, by the reason (`rekey_queue.ORDER`)."""
    rekeys_unanswered: int
    """Asked for a moment ago, and not answered."""
    rekeys_done: int
    """Of this run: since the last pause of half a minute."""
    rekeys_total: int
    """Since the start."""
    rekeys_left_s: int
    """Until all that wait were asked for, at the budget."""
    rekeys_refused: int
    """SAs whose clients refuse."""
    pools: dict[str, int] = dataclasses.field(default_factory=dict)
    """Inner addresses in use, by prefix, as it looked last; empty: it has not looked at this charon."""


FromAgent = RoleIs | Finish | HandoverOver | LostTunnels | Swept
Message = FromAgent | Finished | StepTaken | Settled | GivenUp | RekeyRefused | Ended | Status
_MESSAGES = Messages(
    VERSION,
    {
        "role": RoleIs,
        "finish": Finish,
        "handover_over": HandoverOver,
        "finished": Finished,
        "lost": LostTunnels,
        "swept": Swept,
        "step": StepTaken,
        "settled": Settled,
        "given_up": GivenUp,
        "refused": RekeyRefused,
        "ended": Ended,
        "status": Status,
    },
)


def encode(message: Message) -> bytes:
    """One packet."""
    return _MESSAGES.encode(message)


def decode(data: bytes) -> Message:
    """Raises DecodeError."""
    message: Message = _MESSAGES.decode(data)
    return message
