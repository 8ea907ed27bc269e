"""What this gateway takes from a coordinator: each offer and activation judged by `policy/acceptance.py`, on disk before it
counts.

    link ──▶ Contents ──▶ acceptance ──▶ disk (a thread) ──▶ activated, report

One at a time and in order, because each is judged by the record that the one before it left. A disk that hangs leaves the
record as it is, and the route alone. What is refused is told in the next report and as an alarm where `acceptance` names a
Reason for one; nothing here ends an agent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from anycast.content.operators import Operators
from anycast.content.record import NOTHING, Record, Taken
from anycast.document import Document
from anycast.errors import AnycastError, ConfigError, DecodeError
from anycast.events import AlarmCleared, AlarmRaised, Event
from anycast.link_wire import ActivationSent, ContentsTold, OfferSent, VersionTold
from anycast.operators_file import OperatorsFile
from anycast.policy import acceptance
from anycast.policy.acceptance import Answer, Identity
from anycast.reasons import Reason
from site_agent import content_store
from site_agent.paths import Paths

WAITING = 8
"""Messages that may wait for the disk; a coordinator says everything again."""
REASONS = (Reason.CONTENT_REFUSED, Reason.GENERATION_SPLIT)


class Contents:
    """Use from the event loop's thread: `start`, then `run` until cancelled."""

    def __init__(
        self,
        document: Document,
        paths: Paths,
        *,
        staged: Callable[[Taken], None],
        activated: Callable[[Taken], None],
        happened: Callable[[Event], None],
    ) -> None:
        """`activated` is told of a content that is to be run by from now on, `staged` of one that waits."""
        self._me = Identity(fleet=document.fleet, site=document.site, gateway=document.gateway)
        self._path, self._operators = paths.contents, OperatorsFile(paths.operators)
        self._staged, self._activated, self._happened = staged, activated, happened
        self._record: Record | None = None
        self._inbox: asyncio.Queue[OfferSent | ActivationSent] = asyncio.Queue(WAITING)
        self._refused = ""
        self._leaving = False
        """This agent runs by what was active before, and ends: the next one will run by what is."""
        self._alarms: set[Reason] = set()

    def start(self) -> None:
        """Read what an earlier agent took. A file that cannot be believed is an alarm, and then nothing is taken."""
        try:
            self._record = content_store.load(self._path)
        except DecodeError as exc:
            self._refused = str(exc)
            self._tell(Reason.CONTENT_REFUSED, f"what was taken before cannot be read, so nothing more is taken: {exc}")

    @property
    def waiting(self) -> Taken | None:
        """What is staged."""
        return None if self._record is None else self._record.staged

    @property
    def active(self) -> Taken | None:
        """What this gateway is to run by; None: nothing that was signed."""
        return None if self._record is None else self._record.active

    def sent(self, message: OfferSent | ActivationSent) -> None:
        """The coordinator's word. What finds no room comes again."""
        if not self._inbox.full():
            self._inbox.put_nowait(message)

    def leaving(self) -> None:
        """What was activated has another document: an agent that is still to begin runs by it, and this one does not."""
        self._leaving = True

    def told(self) -> ContentsTold:
        """For the next report. What is activated and not run by yet is told as staged: a coordinator that took it for active
        would judge the site by a route that is the old agent's, and then by the moment in which the new one has none."""
        record = self._record or NOTHING
        staged, active = (record.active, record.previous) if self._leaving else (record.staged, record.active)
        return ContentsTold(
            staged=_version(staged),
            active=_version(active),
            frozen=None if record.frozen is None else record.frozen.generation,
            refused=self._refused[:512],
        )

    async def run(self) -> None:
        while True:
            message = await self._inbox.get()
            if self._record is not None:
                await self._take(message, self._record)

    async def _take(self, message: OfferSent | ActivationSent, before: Record) -> None:
        try:
            operators = await asyncio.to_thread(self._operators.read)
        except ConfigError as exc:
            refusal, reason = acceptance.Refusal.UNTRUSTED, Reason.CONTENT_REFUSED
            self._refuse(Answer(record=before, refusal=refusal, reason=reason, detail=str(exc)))
            return
        answer = await asyncio.to_thread(_judge, message, before, self._me, operators)
        if answer.record is not before:
            try:
                await asyncio.to_thread(content_store.store, self._path, answer.record)
            except AnycastError as exc:
                self._refused = f"not stored: {exc}"
                self._tell(Reason.CONTENT_REFUSED, self._refused)
                return
            self._record = answer.record
        self._refuse(answer)
        if answer.record.staged is not None and answer.record.staged != before.staged:
            self._staged(answer.record.staged)
        if answer.record.active is not None and answer.record.active != before.active:
            self._activated(answer.record.active)

    def _refuse(self, answer: Answer) -> None:
        word, detail = answer.refusal, answer.detail
        self._refused = "" if word is None else detail if detail.startswith(f"{word}:") else f"{word}: {detail}"
        for reason in REASONS:
            if reason is answer.reason:
                self._tell(reason, self._refused)
            elif reason in self._alarms and answer.refusal is None:
                self._alarms.discard(reason)
                self._happened(AlarmCleared(reason=reason))

    def _tell(self, reason: Reason, detail: str) -> None:
        self._alarms.add(reason)
        self._happened(AlarmRaised(reason=reason, detail=detail))


def _judge(message: OfferSent | ActivationSent, before: Record, me: Identity, operators: Operators) -> Answer:
    judge = acceptance.offer if isinstance(message, OfferSent) else acceptance.activate
    return judge(before, me, operators, message.data.encode())


def _version(taken: Taken | None) -> VersionTold | None:
    return None if taken is None else VersionTold(generation=taken.generation, hash=taken.hash)
