"""Runs `inner_addresses` beside one charon: looks at it, applies what is offered, carries the word to the other gateway.

    promotion ──role──▶ ┌ InnerAddresses ┐ ──Offer──▶ PoolKeeper ──VICI──▶ charon
    sync session ─word─▶│                │ ──word───▶ sync session
    every second ─seen─▶└────────────────┘

One task does everything that asks charon, so nothing overlaps; what is told while it waits is taken when it is. `role`
returns when charon hands out what the new role allows: the promotion's step before `+1`. An offer that charon does not take
is tried again, and whoever waits goes on waiting: without addresses new clients would come in vain, but those who have one
must not wait for that, so the promotion bounds it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from anycast.errors import AnycastError
from anycast.events import AlarmCleared, AlarmRaised, Event
from anycast.reasons import Reason
from anycast.timer import TimerExpired
from site_agent.ike.address_ranges import Range
from site_agent.ike.client_watch import ClientWatch
from site_agent.ike.clients import Client, client_of
from site_agent.ike.inner_address_words import (
    Applied,
    CharonStarted,
    Input,
    Offer,
    PeerConnected,
    PeerLost,
    PeerSaid,
    PoolExhausted,
    PoolRecovered,
    RoleIs,
    TellPeer,
    decode_word,
    encode_word,
)
from site_agent.ike.inner_addresses import InnerAddresses
from site_agent.ike.pool_keeper import PoolKeeper
from site_agent.ike.vici_client import Section

SEEN_PERIOD_S = 1.0
"""`get-pools`: how much is left. Less than it takes new clients to use up the reserve."""
LOOK_PERIOD_S = 5.0
"""`list-sas`: a look at 20,000 IKE_SAs is 2 s of a core, so at most ..."""
LOOK_SHARE = 0.1
"""... this share of the time is spent on it."""
RETRY_S = 0.1
STUCK_AFTER = 10
"""Failures in a row; then it is told."""


class AddressKeeper:
    """Use from the event loop's thread. `run` it as a task; the other methods only say what has happened."""

    def __init__(
        self,
        core: InnerAddresses,
        pools: PoolKeeper,
        *,
        clock: Callable[[], float],
        tell_peer: Callable[[bytes], None],
        happened: Callable[[Event], None],
        client_event: Callable[[Event], None],
    ) -> None:
        """`clock` goes on in sleep, as the core's. `tell_peer` may lose what it is given when the channel is down.

        `happened` takes alarms, `client_event` what belongs into the clients' log.
        """
        self._core, self._pools, self._clock = core, pools, clock
        self._tell_peer, self._happened, self._client_event = tell_peer, happened, client_event
        self._watch = ClientWatch()
        self._wanted: tuple[Range, ...] | None = None
        self._look_at = self._seen_at = clock()
        self._look_due = True
        self._active = False
        self._wake, self._settled = asyncio.Event(), asyncio.Event()
        self._settled.set()
        self._handing_out = asyncio.Event()
        self._exhausted: set[str] = set()
        self._failures = 0
        self.in_use: dict[str, int] = {}
        """By prefix, at the last look: counting 20,000 is not for each second. Empty: nobody has looked at this charon."""

    async def role(self, active: bool) -> None:
        """The role is this; returns when charon hands out accordingly. Cancelling gives up waiting, nothing else."""
        self._active = active
        self._tell(RoleIs(active))
        await self._settled.wait()

    async def hands_out(self) -> None:
        """Returns when this gateway is Active and a new client is given an address, or must be told that none is left."""
        await self._handing_out.wait()

    def charon_started(self) -> None:
        """A new charon answers; it has nothing loaded by us."""
        self._wanted = None
        self.in_use = {}
        self._tell(CharonStarted())
        self._look_due = True
        self._wake.set()

    def peer_connected(self) -> None:
        self._tell(PeerConnected())

    def peer_lost(self) -> None:
        self._tell(PeerLost())

    def peer_said(self, data: bytes) -> None:
        """A word of the other gateway's. Raises DecodeError; nothing has changed then."""
        self._tell(PeerSaid(decode_word(data)))

    async def run(self) -> None:
        """Until cancelled. What charon refuses, or does not answer, is tried again."""
        while True:
            self._wake.clear()
            try:
                await self._work()
                self._succeeded()
                delay = max(0.0, self._next() - self._clock())
            except (AnycastError, TimeoutError, OSError) as exc:
                self._failed(exc)
                self._look_due = True  # what it has now may not be what it was asked for
                delay = RETRY_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()

    async def _work(self) -> None:
        if (wanted := self._wanted) is not None:
            await self._pools.apply(wanted)
            if wanted is self._wanted:
                self._wanted = None
            self._tell(Applied(wanted))
        now = self._clock()
        if self._look_due or now >= self._look_at:
            await self._look(now)
        if now >= self._seen_at:
            self._seen_at = now + SEEN_PERIOD_S
            self._tell(await self._pools.seen())
        if (deadline := self._core.deadline) is not None and deadline <= self._clock():
            self._tell(TimerExpired())

    async def _look(self, began: float) -> None:
        clients: list[Client] = []

        def take(_: str, ike_sa: Section) -> None:
            if (client := client_of(ike_sa)) is not None:
                clients.append(client)

        looked = await self._pools.look(began, also=take)
        took = self._clock() - began
        self._look_due, self._look_at = False, self._clock() + max(LOOK_PERIOD_S, took / LOOK_SHARE)
        self._tell(looked)
        self.in_use = self._core.in_use or {}
        for event in self._watch.looked(clients, serving=self._active, now=began):
            self._client_event(event)

    def _next(self) -> float:
        if self._wanted is not None or self._look_due:
            return self._clock()
        deadline = self._core.deadline
        times = [self._look_at, self._seen_at, *([] if deadline is None else [deadline])]
        return min(times)

    def _tell(self, event: Input) -> None:
        for action in self._core.handle(event, self._clock()):
            match action:
                case Offer(ranges=ranges):
                    self._wanted = ranges
                    self._wake.set()
                case TellPeer(word=word):
                    self._tell_peer(encode_word(word))
                case PoolExhausted(prefix=prefix):
                    self._exhausted.add(prefix)
                    self._happened(AlarmRaised(reason=Reason.POOL_EXHAUSTED, detail=", ".join(sorted(self._exhausted))))
                case PoolRecovered(prefix=prefix):
                    self._exhausted.discard(prefix)
                    if not self._exhausted:
                        self._happened(AlarmCleared(reason=Reason.POOL_EXHAUSTED))
        if self._wanted is None:
            self._settled.set()
        else:
            self._settled.clear()
        if self._wanted is None and self._core.hands_out:
            self._handing_out.set()
        else:
            self._handing_out.clear()

    def _failed(self, why: Exception) -> None:
        self._failures += 1
        if self._failures == STUCK_AFTER:
            self._happened(AlarmRaised(reason=Reason.POOLS_STUCK, detail=str(why) or "charon: timed out"))

    def _succeeded(self) -> None:
        if self._failures >= STUCK_AFTER:
            self._happened(AlarmCleared(reason=Reason.POOLS_STUCK))
        self._failures = 0
