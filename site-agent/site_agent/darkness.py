"""Whether this gateway's site is to be dark although it could serve: what the content in force says, and a token.

    SiteVerdict ──▶ Darkness.passed ──▶ RouteIntent
                        ▲
    content, tokens ────┘

The shell around `policy/token_holder.py`. A fact passes as it is; a token or a content never makes a gateway serve, and a
fault in here takes no route away: what is asked here is asked in the verdict's own call, and everything else is the link's.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
from collections.abc import Callable
from typing import Any

from anycast import token_wire
from anycast.content.content import Intent
from anycast.document import Document
from anycast.errors import DecodeError
from anycast.events import AlarmCleared, AlarmRaised, Event
from anycast.link_wire import DarknessTold
from anycast.model import Cause, Evidence
from anycast.policy.floors import Budget
from anycast.policy.ledger import Kind
from anycast.policy.token_holder import Action, Input, TokenHolder, darkened
from anycast.policy.token_words import (
    Answered,
    CoordinatorConnected,
    CoordinatorGone,
    EndWanted,
    RouteStands,
    SendReport,
    SlotEnded,
    TokenBegan,
    TokenEnded,
)
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason
from anycast.runtime import boottime
from anycast.timer import TimerExpired
from anycast.token_wire import Held
from site_agent.announce.routes import Worse
from site_agent.content_brief import Brief

REPEAT_S = 1.0
"""How often the core hears again how the route stands."""


class Darkness:
    """Use from the event loop's thread; `run` until cancelled."""

    def __init__(
        self,
        document: Document,
        spans: dict[str, float],
        *,
        say: Callable[[DarknessTold], None],
        announced: Callable[[], bool],
        hold: Callable[[], dict[str, Any] | None],
        withdrawn_by: Callable[[], Reason | None],
        ordered: Callable[[], bool],
        ordered_before: Callable[[], bool],
        happened: Callable[[Event], None],
    ) -> None:
        """`spans` as `TokenHolder` wants them; `announced`: every route is out, whole; `hold`: the operator's, as status has
        it; `withdrawn_by`: why the route is not out where the site could serve; `ordered`, `ordered_before`: a content may
        be activated any moment, by this coordinator's word or an earlier one's."""
        self._document, self._spans = document, spans
        self._say, self._announced, self._hold, self._happened = say, announced, hold, happened
        self._withdrawn_by, self._ordered, self._ordered_before = withdrawn_by, ordered, ordered_before
        self._core: TokenHolder | None = None
        self._content: Brief | None = None
        self._drained: Cause | None = None
        self._degraded: Cause | None = None
        self.worse: Worse | None = None
        """How the content in force has the route look; the agent asks at each verdict."""
        self._session: int | None = None
        self._stands: RouteStands | None = None
        self._stood_at = 0.0
        self._news = asyncio.Event()

    def staged(self, taken: Brief | None) -> None:
        """What waits, while nothing is in force yet: enough to tell the ledger how the route stands, and to ask nothing."""
        if taken is not None and self._core is None:
            self._begin(taken.budget)

    def content(self, taken: Brief | None) -> None:
        """What is in force, from now on."""
        if taken is None:
            return
        if self._core is None:
            self._begin(taken.budget)
        assert self._core is not None
        self._core.budget = taken.budget
        self._content = taken
        cause = Cause(reason=Reason.DRAINED, detail=_words(taken))
        # Where tunnels move first the drain withdraws the route, and where that cannot be nothing is withdrawn.
        self._drained = cause if taken.intent is Intent.DRAINED and taken.moves is None else None
        self._degraded = dataclasses.replace(cause, reason=Reason.DEGRADED) if taken.intent is Intent.DEGRADED else None
        self.worse = None if self._degraded is None else Worse(prepend=taken.prepend)
        self._news.set()

    def connected(self, session: int | None) -> None:
        """A connection to the coordinator stands, or (None) does not any more."""
        before, self._session = self._session, session
        if before is not None and session is None:
            self._feed(CoordinatorGone(before))
        elif session is not None:
            self._feed(CoordinatorConnected(session))

    def told(self, message: DarknessTold) -> None:
        """The coordinator's answer. What means nothing is nothing."""
        if self._session is None:
            return
        try:
            answer = token_wire.decode_answer(message.data.encode())
        except DecodeError:
            return
        if self._ordered():
            # "Ended" would give back the slot of what may darken this gateway yet. A recall comes with every answer.
            answer = answer.model_copy(update={"recalls": tuple(r for r in answer.recalls if r.id == self._token_id)})
        self._feed(Answered(self._session, answer))

    def evidence(self, seen: Evidence) -> None:
        self._feed(seen)

    def passed(self, verdict: VerdictReached) -> VerdictReached:
        """The site verdict as operators and tokens leave it: for the route, in the verdict's own call."""
        now = boottime()
        drained = darkened(verdict, self._drained)
        token = None if self._core is None else self._core.dark(now)
        self._stand(verdict, now)
        return darkened(drained, token)

    @property
    def token(self) -> Cause | None:
        """By which this site is dark now."""
        return None if self._core is None else self._core.dark(boottime())

    @property
    def _token_id(self) -> str | None:
        return None if self._core is None else self._core.token

    def describe(self) -> dict[str, Any]:
        """For `status`."""
        content, core = self._content, self._core
        refused = None if core is None else core.refused
        return {
            "content": None if content is None else {"generation": content.generation, "hash": content.hash},
            "drained": None if self._drained is None else str(self._drained),
            "degraded": None if self._degraded is None else str(self._degraded),
            "token": None if self.token is None else str(self.token),
            "token_refused": None if refused is None else str(refused),
        }

    async def run(self) -> None:
        """The core's timer."""
        while True:
            core = self._core
            delay = None if core is None else max(0.0, core.deadline - boottime())
            try:
                async with asyncio.timeout(delay):
                    await self._news.wait()
                self._news.clear()
            except TimeoutError:
                self._feed(TimerExpired())

    def _begin(self, budget: Budget) -> None:
        self._core = TokenHolder(budget, self._document.site, self._spans, now=boottime())
        if self._session is not None:
            self._feed(CoordinatorConnected(self._session))
        self._news.set()

    def _stand(self, verdict: VerdictReached, now: float) -> None:
        if self._core is None:
            return
        hold, held = self._hold(), list[Held]()
        if hold is not None and hold["kind"] == "withdraw":
            held.append(Held(id=f"hold-{self._document.gateway}", kind=Kind.HOLD, by="operator", why=hold["reason"][:200]))
        dark = self._drained or self._degraded or (Cause(reason=Reason.OPERATOR) if held else None)
        by = self._withdrawn_by() if verdict.serving else None  # flap control, a drain by hand: "healthy" explains nothing
        stands = RouteStands(
            serving=verdict.serving,
            announcing=self._announced() and not self._ordered_before(),
            reason=dark.reason if dark is not None else by or verdict.causes[0].reason,
            held=tuple(held),
            may_ask=self._content is not None and (hold is None or hold["kind"] != "announce"),
        )
        if stands != self._stands or now - self._stood_at >= REPEAT_S:
            self._stands, self._stood_at = stands, now
            self._feed(stands)

    def _feed(self, event: Input) -> None:
        if self._core is not None:
            for action in self._core.handle(event, boottime()):
                self._perform(action)
            self._news.set()

    def _perform(self, action: Action) -> None:
        match action:
            case SendReport(session=session, report=report) if session == self._session:
                self._say(DarknessTold(data=token_wire.encode(report).decode()))
            case TokenBegan(cause=cause):
                self._happened(AlarmRaised(reason=Reason.TOKEN, detail=str(cause)))
            case TokenEnded(used=True):
                self._happened(AlarmCleared(reason=Reason.TOKEN))
            case EndWanted(entry_id=entry_id):
                self._feed(SlotEnded(entry_id))
            case _:
                pass


def _words(taken: Brief) -> str:
    """Which content has the site dark, and what its operators say of it."""
    signed = f"generation {taken.generation}, signed by key {taken.key[:16]}"
    if (because := taken.because) is None:
        return signed
    end = None if because.until is None else datetime.datetime.fromtimestamp(because.until, datetime.UTC)
    until = "" if end is None else f" until {end:%Y-%m-%dT%H:%MZ}"
    return f"{because.kind}{until}{': ' * bool(because.why)}{because.why}; {signed}"
