"""Is the uplink alive beyond its own carrier? A router on it is asked all the time, and says so. Pure core.

    TimerExpired ─▶ Ask(the witness that answered last; all of them where it did not) ─▶ Answered ─▶ Proven(True)
                    ASKED_IN_VAIN rounds without any answer                                       ─▶ Proven(False)

Never after: when a peer falls silent the answer must be there already (architecture.md, Promotion 1). What was not heard is
counted in rounds that were asked, not in seconds, so a machine that stood still disproves nothing by having asked nobody;
and a round whose answers drowned in a flood is not counted, so no stranger moves an address by one.

An answer proves nothing where it comes from ourselves. Where it comes from the MAC address that answers for the other
gateway, too, one of the two speaks for the other (a router that proxies a private VLAN, or a gateway that proxies its
router), and which one cannot be told: neither proven nor disproven.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from anycast.runtime import TimerExpired
from site_agent.vrrp.packet import Address
from site_agent.vrrp.solicitations import Answer

ROUNDS_PER_LEASE = 6
ASKED_IN_VAIN = ROUNDS_PER_LEASE - 1
"""Rounds without an answer that end the proof: the sixth ends within one lease of the last answer."""
ROUNDS_PER_PEER = 60
"""Every so many rounds the other gateway is asked for its MAC address, and at once where a witness has a new one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answered:
    answer: Answer


@dataclasses.dataclass(frozen=True, slots=True)
class LinkSeen:
    """Our interface has this MAC address."""

    mac: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Flooded:
    """More came in this round than is read, so an answer may have been lost."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ask:
    address: Address
    to: bytes | None
    """MAC address it had last; None asks the whole link."""


@dataclasses.dataclass(frozen=True, slots=True)
class Proven:
    """What holds from now on; said when it changes. None: cannot be told (yet)."""

    proven: bool | None


class UplinkProof:
    """Driven by its own timer, answers, and our interface's MAC address."""

    def __init__(
        self,
        *,
        witnesses: Sequence[Address],
        peers: Sequence[Address] = (),
        never: Collection[bytes] = (),
        lease_s: float,
        now: float,
    ) -> None:
        """`witnesses`: at least one. `peers`: the other gateway's own addresses on this link. `never`: MAC addresses that no
        witness has. `lease_s`: how long an answer proves anything."""
        self.witnesses, self._peers, self._never = tuple(witnesses), tuple(peers), frozenset(never)
        self._interval = lease_s / ROUNDS_PER_LEASE
        self._own = b""
        self._peer_macs: dict[Address, frozenset[bytes]] = {}
        self._favourite: Answer | None = None
        """The answer that proved it last, and would not be believed from another MAC address without asking the peer."""
        self._round = 0
        self._in_vain = 0
        self._answered = True
        """In this round. Nobody was asked in the one before the first."""
        self._flooded = False
        self._doubt = 0
        """Round of the last answer that could be either's."""
        self.deadline = now
        self.proven: bool | None = None

    def handle(self, event: TimerExpired | Answered | Flooded | LinkSeen, now: float) -> list[Ask | Proven]:
        """Take one input."""
        match event:
            case TimerExpired():
                return self._next_round(now) if now >= self.deadline else []
            case Flooded():
                self._flooded = True
                return []
            case LinkSeen(mac=mac):
                self._own = mac
                return []
            case Answered(answer=answer):
                return self._on_answer(answer)

    def _next_round(self, now: float) -> list[Ask | Proven]:
        self.deadline = now + self._interval
        self._in_vain = 0 if self._answered else self._in_vain + (not self._flooded)
        said = self._conclude(None if self._doubted else False) if self._in_vain >= ASKED_IN_VAIN else []
        if not self._answered and not self._flooded:
            self._favourite = None
        self._answered = self._flooded = False
        asks = [Ask(self._favourite.address, self._favourite.mac)] if self._favourite else self._everybody()
        if self._round % ROUNDS_PER_PEER == 0:
            asks = [*self._ask_peers(), *asks]
        self._round += 1
        return [*said, *asks]

    def _on_answer(self, answer: Answer) -> list[Ask | Proven]:
        macs = {answer.mac, answer.sender}
        if self._own in macs:
            return []
        if answer.address in self._peers:
            self._peer_macs[answer.address] = frozenset(macs)
            if self._favourite is not None and {self._favourite.mac, self._favourite.sender} & macs:
                return self._doubtful()
            return []
        if answer.address not in self.witnesses:
            return []
        if macs & self._never.union(*self._peer_macs.values()):
            return self._doubtful()
        asks = self._ask_peers() if self._favourite is None or self._favourite.mac != answer.mac else []
        self._answered, self._in_vain, self._favourite = True, 0, answer
        return [*self._conclude(True), *asks]

    def _doubtful(self) -> list[Ask | Proven]:
        """Where it was the only one that spoke for the uplink, nothing does any more; another witness may."""
        self._doubt = self._round
        if self._favourite is not None and {self._favourite.mac, self._favourite.sender} & self._never.union(
            *self._peer_macs.values()
        ):
            self._favourite, self._answered = None, False
            return self._conclude(None)
        return []

    @property
    def _doubted(self) -> bool:
        return self._doubt > 0 and self._round - self._doubt <= ASKED_IN_VAIN

    def _conclude(self, proven: bool | None) -> list[Ask | Proven]:
        if proven is self.proven:
            return []
        self.proven = proven
        return [Proven(proven)]

    def _everybody(self) -> list[Ask | Proven]:
        return [Ask(address, None) for address in self.witnesses]

    def _ask_peers(self) -> list[Ask | Proven]:
        return [Ask(address, None) for address in self._peers]
