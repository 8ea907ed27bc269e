"""This gateway under a coordinator: the link, what is taken over it, and what that makes of the route.

    events ──▶ EventTeller ──▶ link
    link ──▶ Contents ──▶ Darkness ──▶ ColdStart ──▶ the site verdict, as fleet, tokens and a cold start leave it
                    └───▶ the drain, where tunnels are to move first
                    └───▶ another document: begin anew

Everything in here stands behind a bulkhead: without it a gateway serves as well as before, by what it took last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from anycast.document import Document
from anycast.events import Event
from anycast.link_wire import ContentsTold, ContentWanted, DarknessTold, EventsKept, EventsTold, Report
from anycast.model import Evidence
from anycast.pki.machine_folder import MachineFolder
from anycast.policy.drain import MOVE_LIMIT_S, Left, Plan, Seen
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.announce.routes import Worse
from site_agent.bulkhead import Bulkhead
from site_agent.cold_start import ColdStart
from site_agent.content_brief import Brief
from site_agent.contents import WAITING, Contents
from site_agent.coordinator_link import CoordinatorLink, Sent
from site_agent.darkness import Darkness
from site_agent.drainer import BY_CONTENT
from site_agent.event_spool import EventSpool
from site_agent.event_teller import EventTeller
from site_agent.paths import Paths

KNOWN_LIMIT_S = 3.0
"""For the bridge's first word, which comes in milliseconds where there is one. Then the coordinator is called anyhow."""
KNOWN_LOOK_S = 0.05


class Coordination:
    """Use from the event loop's thread: `start` before anything is announced, then `run` until cancelled."""

    def __init__(
        self,
        document: Document,
        paths: Paths,
        spans: dict[str, float],
        *,
        instance: str,
        events: EventSpool,
        report: Callable[[int, ContentsTold], Report],
        announced: Callable[[], bool],
        knows: Callable[[], bool],
        hold: Callable[[], dict[str, Any] | None],
        withdrawn_by: Callable[[], Reason | None],
        peer_agrees: Callable[[], bool],
        follow: Callable[[Plan | None], Awaitable[None]],
        begin_anew: Callable[[], None],
        happened: Callable[[Event], None],
    ) -> None:
        """`document.coordinator` is there. `spans`, `announced`, `hold`, `withdrawn_by` as `Darkness` wants them,
        `peer_agrees` as `ColdStart`. `knows`: the bridge has said what is announced. `follow` has this gateway drained by a
        plan, or by none; `begin_anew` is called when another document is to be run by."""
        self._document, self._follow, self._begin_anew, self._knows = document, follow, begin_anew, knows
        self._around = Bulkhead("coordinator", happened)
        contents = Contents(document, paths, staged=self._staged, activated=self._activated, happened=happened)
        self._contents = contents
        self._darkness = Darkness(
            document, spans, say=self._say, announced=announced, hold=hold, happened=happened,
            withdrawn_by=withdrawn_by, ordered=lambda: contents.ordered, ordered_before=lambda: contents.ordered_before,
        )  # fmt: skip
        self._link = CoordinatorLink(
            document,
            instance=instance,
            report=lambda number: report(number, self._contents.told()),
            sent=self._sent,
            session=self._connected,
            happened=happened,
            folder=MachineFolder(paths.pki_dir),
        )
        self._cold = ColdStart(
            document,
            paths,
            heard=lambda: self._link.describe()["connected"] and self._link.describe()["heard_age_s"] is not None,
            peer_agrees=peer_agrees,
            happened=happened,
        )
        self._events = EventTeller(events, self._say)
        self._plans: asyncio.Queue[Plan | None] = asyncio.Queue()
        self._wanted: asyncio.Queue[ContentWanted] = asyncio.Queue(WAITING)

    def start(self) -> None:
        """Go by what was taken before; a disk is waited for."""
        self._contents.start()
        self._cold.start()
        self._darkness.content(self._contents.active)
        self._darkness.staged(self._contents.waiting)
        if self._contents.active is not None:
            self._plans.put_nowait(drain_plan(self._contents.active))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            parts = (self._report, self._contents.run, self._darkness.run, self._cold.run, self._events.run)
            for part in (*parts, self._follow_plans, self._hand_over):
                group.create_task(self._around.keep(part))

    def passed(self, verdict: VerdictReached) -> VerdictReached:
        """The site verdict as the fleet's operators, a token, and a cold start leave it."""
        by_fleet = self._around.call(self._darkness.passed, verdict) or verdict
        return self._around.call(self._cold.passed, by_fleet) or by_fleet

    def passed_own(self, verdict: VerdictReached) -> VerdictReached:
        """The same for the site's own routes, which only a cold start keeps back: by a document that is too old they may
        have become another site's."""
        return self._around.call(self._cold.passed, verdict) or verdict

    def looked(self, seen: Evidence) -> None:
        self._around.call(self._darkness.evidence, seen)

    def changed(self) -> None:
        """Something that a report tells is new."""
        self._link.changed()

    @property
    def worse(self) -> Worse | None:
        """How the content in force has the route look; None: as good as it is."""
        return self._darkness.worse

    @property
    def seen(self) -> Seen:
        """What observers outside say of the site's route."""
        return self._link.seen

    def describe(self) -> dict[str, Any]:
        """For `status` and metrics."""
        return self._link.describe() | self._darkness.describe() | {"events": self._events.describe()}

    def news(self) -> None:
        """There are new events in the spool."""
        self._around.call(self._events.news)

    async def _report(self) -> None:
        """An agent that has just begun beside routes that stand does not tell that there are none."""
        until = boottime() + KNOWN_LIMIT_S
        while not self._knows() and boottime() < until:
            await asyncio.sleep(KNOWN_LOOK_S)
        await self._link.run()

    def _say(self, message: DarknessTold | EventsTold) -> None:
        self._link.say(message)

    def _connected(self, session: int | None) -> None:
        self._events.connected(session)
        if session is not None:
            self._contents.connected()
        self._darkness.connected(session)

    def _sent(self, message: Sent) -> None:
        if isinstance(message, DarknessTold):
            self._darkness.told(message)
        elif isinstance(message, ContentWanted):
            if not self._wanted.full():  # a coordinator asks again
                self._wanted.put_nowait(message)
        elif isinstance(message, EventsKept):
            self._events.kept(message)
        else:
            self._contents.sent(message)

    def _staged(self, taken: Brief) -> None:
        self._darkness.staged(taken)
        self._link.changed()

    def _activated(self, taken: Brief) -> None:
        self._darkness.content(taken)
        if taken.runs != self._document.model_copy(update={"generation": taken.generation}):
            self._contents.leaving()
            self._begin_anew()
            return
        self._plans.put_nowait(drain_plan(taken))
        self._link.changed()

    async def _hand_over(self) -> None:
        while True:
            self._link.say(await self._contents.had(await self._wanted.get()))

    async def _follow_plans(self) -> None:
        while True:
            await self._follow(await self._plans.get())


def drain_plan(taken: Brief) -> Plan | None:
    """How the content has the site's tunnels moved before its route goes; None where it does not."""
    moves = taken.moves
    if moves is None:
        return None
    said = "" if taken.because is None else f": {taken.because.why}" * bool(taken.because.why)
    why = f"to {moves.site}{said}"
    limit = MOVE_LIMIT_S if moves.limit_s is None else float(moves.limit_s)
    by = f"key {taken.key[:16]}"
    return Plan(id=BY_CONTENT, by=by, why=why, to=moves.to, left=Left(moves.left), move_limit_s=limit)
