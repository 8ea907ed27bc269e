"""What this gateway takes from a coordinator: each offer and activation judged by `policy/acceptance.py`, on disk before it
counts.

    link ──▶ Contents ──▶ content_judge (a thread or a child: acceptance, disk) ──▶ activated, report

One at a time and in order, because each is judged by the record that the one before it left. A disk that hangs leaves the
record as it is, and the route alone. An activation that waits for it can still darken this gateway, so `Darkness` asks for
`ordered` before it says that something has ended; one that only waits is forgotten with the connection that it came over
(docs/ledger.md). What is refused is told in the next report and as an alarm where `acceptance` names a
Reason for one; nothing here ends an agent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from anycast.content.envelope import Envelope, Offer
from anycast.document import Document
from anycast.errors import AnycastError, DecodeError
from anycast.events import AlarmCleared, AlarmRaised, Event
from anycast.link_offer import data_of
from anycast.link_wire import (
    ActivationSent,
    ContentHad,
    ContentsTold,
    ContentWanted,
    OfferPacked,
    OfferSent,
    OfferUnread,
    VersionTold,
)
from anycast.policy.acceptance import Identity, Refusal
from anycast.reasons import Reason
from site_agent import content_store
from site_agent.content_brief import Brief, Known, known
from site_agent.content_judge import Judge, Kind, Outcome, Work
from site_agent.paths import Paths

WAITING = 8
"""Messages that may wait for the disk; a coordinator says everything again."""
REASONS = (Reason.CONTENT_REFUSED, Reason.GENERATION_SPLIT)

Sent = OfferSent | OfferPacked | OfferUnread | ActivationSent


class Contents:
    """Use from the event loop's thread: `start`, then `run` until cancelled."""

    def __init__(
        self,
        document: Document,
        paths: Paths,
        *,
        staged: Callable[[Brief], None],
        activated: Callable[[Brief], None],
        happened: Callable[[Event], None],
    ) -> None:
        """`activated` is told of a content that is to be run by from now on, `staged` of one that waits."""
        self._me = Identity(fleet=document.fleet, site=document.site, gateway=document.gateway)
        self._paths = paths
        self._staged, self._activated, self._happened = staged, activated, happened
        self._known: Known | None = None
        self._inbox: asyncio.Queue[Sent] = asyncio.Queue(WAITING)
        self._refused = ""
        self._before: Brief | None = None
        """What was active before what is."""
        self._leaving = False
        """This agent runs by what was active before, and ends: the next one will run by what is."""
        self._judging = Judge()
        self._waiting_orders = 0
        """Activations in the inbox."""
        self._judged: Sent | None = None
        """What is being judged now."""
        self._late = False
        """It is an activation of a connection that has ended."""
        self._alarms: set[Reason] = set()

    def start(self) -> None:
        """Read what an earlier agent took. A file that cannot be believed is an alarm, and then nothing is taken."""
        try:
            self._known = known(content_store.load(self._paths.contents), self._me.site)
        except DecodeError as exc:
            self._refused = str(exc)
            self._tell(Reason.CONTENT_REFUSED, f"what was taken before cannot be read, so nothing more is taken: {exc}")

    @property
    def waiting(self) -> Brief | None:
        """What is staged."""
        return None if self._known is None else self._known.staged

    @property
    def active(self) -> Brief | None:
        """What this gateway is to run by; None: nothing that was signed."""
        return None if self._known is None else self._known.active

    def sent(self, message: Sent) -> None:
        """The coordinator's word. What finds no room comes again."""
        if not self._inbox.full():
            self._waiting_orders += isinstance(message, ActivationSent)
            self._inbox.put_nowait(message)

    @property
    def ordered(self) -> bool:
        """An activation waits, or is being judged: what it makes of the route is not known yet."""
        return self._waiting_orders > 0 or isinstance(self._judged, ActivationSent)

    @property
    def ordered_before(self) -> bool:
        """One of an earlier connection is being judged still: whoever is connected now does not know of it."""
        return self._late

    def connected(self) -> None:
        """A new connection stands. What came over another one activates nothing any more; it may be staged."""
        self._late = isinstance(self._judged, ActivationSent)
        waiting = [self._inbox.get_nowait() for _ in range(self._inbox.qsize())]
        for each in waiting:
            if not isinstance(each, ActivationSent):
                self._inbox.put_nowait(each)
        self._waiting_orders = 0

    def leaving(self) -> None:
        """What was activated has another document: an agent that is still to begin runs by it, and this one does not."""
        self._leaving = True

    def told(self) -> ContentsTold:
        """For the next report. What is activated and not run by yet is told as staged: a coordinator that took it for active
        would judge the site by a route that is the old agent's, and then by the moment in which the new one has none."""
        known_ = self._known or Known()
        staged, active = (known_.active, self._before) if self._leaving else (known_.staged, known_.active)
        return ContentsTold(
            staged=_version(staged),
            active=_version(active),
            frozen=known_.frozen,
            refused=self._refused[:512],
        )

    async def had(self, wanted: ContentWanted) -> ContentHad:
        """A content as it was taken, for a coordinator that has lost it: it counts by its operator's signature."""
        return await asyncio.to_thread(_had, self._paths.contents, wanted)

    async def run(self) -> None:
        while True:
            self._judged = await self._inbox.get()
            self._waiting_orders -= isinstance(self._judged, ActivationSent)
            try:
                if self._known is not None:
                    await self._take(self._judged, self._known)
            finally:
                self._judged, self._late = None, False

    async def _take(self, message: Sent, before: Known) -> None:
        try:
            outcome = await self._judge(message, before)
        except AnycastError as exc:
            outcome = Outcome(known=before, refused=f"not judged: {exc}", reason=Reason.CONTENT_REFUSED)
        if outcome.known.active != before.active:
            self._before = before.active
        self._known = outcome.known
        self._refuse(outcome)
        if outcome.known.staged is not None and outcome.known.staged != before.staged:
            self._staged(outcome.known.staged)
        if outcome.known.active is not None and outcome.known.active != before.active:
            self._activated(outcome.known.active)

    async def _judge(self, message: Sent, before: Known) -> Outcome:
        try:
            if isinstance(message, OfferUnread):
                kind, data = Kind.FRAME, message.frame
            else:
                kind = Kind.ACTIVATION if isinstance(message, ActivationSent) else Kind.OFFER
                # First whole: what a message unpacks to says how much work it is.
                data = await asyncio.to_thread(data_of, message)
        except DecodeError as exc:
            return Outcome(known=before, refused=f"{Refusal.MALFORMED}: {exc}", reason=Reason.CONTENT_REFUSED)
        return await self._judging.judged(
            Work(me=self._me, record=self._paths.contents, operators=self._paths.operators, kind=kind, data=data)
        )

    def _refuse(self, outcome: Outcome) -> None:
        self._refused = outcome.refused
        for reason in REASONS:
            if reason is outcome.reason:
                self._tell(reason, self._refused)
            elif reason in self._alarms and not outcome.refused:
                self._alarms.discard(reason)
                self._happened(AlarmCleared(reason=reason))

    def _tell(self, reason: Reason, detail: str) -> None:
        self._alarms.add(reason)
        self._happened(AlarmRaised(reason=reason, detail=detail))


def _had(path: Path, wanted: ContentWanted) -> ContentHad:
    with contextlib.suppress(DecodeError):
        record = content_store.load(path)
        for taken in (record.staged, record.active, record.previous):
            if taken is not None and taken.hash == wanted.hash:
                envelope = Envelope(
                    version=1, generation=taken.generation, content=taken.content, signature=taken.signature
                )
                offer = Offer(version=1, envelope=envelope, document=taken.document)
                return ContentHad(hash=wanted.hash, data=offer.data.decode())
    return ContentHad(hash=wanted.hash)


def _version(taken: Brief | None) -> VersionTold | None:
    return None if taken is None else VersionTold(generation=taken.generation, hash=taken.hash)
