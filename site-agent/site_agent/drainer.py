"""A drain of this gateway, as a part of the running agent: looks, asks the core, writes down what it decided, and acts.

    list-sas, bridge, door ──▶ DrainCore ──▶ redirect, DELETE        (charon, by VICI)
                                   │
                                   └──▶ wants ──▶ RouteIntent, routes, door

What is decided is on the disk before it is acted on: an agent that is killed between two steps goes on where it was. A disk
that fails holds no step back; it is an alarm. The lease needs nothing of this part: when it raises, or charon hangs, the
route stays as the drain last wanted it, and facts act as ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

from anycast.errors import DecodeError, KernelError, PeerError
from anycast.events import AlarmCleared, AlarmRaised, DrainStepTaken, Event, TunnelsCut, TunnelsMoved
from anycast.policy.drain import (
    Abort,
    Action,
    Delete,
    Drain,
    DrainCore,
    Looked,
    Plan,
    Redirect,
    RouteWord,
    Seen,
    Step,
    Tell,
    Tunnel,
    Wants,
)
from anycast.reasons import Reason
from anycast.runtime import boottime
from anycast.timer import TimerExpired
from site_agent import drain_store
from site_agent.ike.door import Door
from site_agent.ike.prober import answers
from site_agent.ike.redirector import Redirector
from site_agent.paths import Paths

LOOK_S = 1.0
ANSWER_LIMIT_S = 2.0
ANSWER_GOOD_S = 10.0
"""For how long the other site's answer counts: charon keeps a half-open IKE_SA for each question."""
NOTHING = Wants()
BY_CONTENT = "content"
"""`Plan.id` of the drain that operators of the fleet want. It ends by their word only, and there is one at a time."""
NO_DRAIN = {"error": "no drain goes on"}


def _asked(plan: Plan) -> tuple[object, ...]:
    """What a content says of a drain."""
    return plan.to, plan.left, plan.move_limit_s


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What a drain sees and moves of its gateway."""

    redirector: Redirector
    door: Door
    route: Callable[[Plan], RouteWord]
    serving: Callable[[], bool]
    """Would the route be announced without the drain?"""
    active: Callable[[], bool]
    kept_closed: Callable[[], bool]
    """Somebody else keeps the door closed: the sync process at a Backup."""
    changed: Callable[[], None]
    """Ask `wants` again: it is something else now."""
    seen: Callable[[], Seen] = lambda: Seen.UNKNOWN
    """What observers outside say of the site's route."""


class Drainer:
    """Use from the event loop's thread only. `start` before anything is announced, then `run` as a task."""

    def __init__(self, paths: Paths, around: Around, happened: Callable[[Event], None]) -> None:
        self._paths, self._around, self._happened = paths, around, happened
        self._core: DrainCore | None = None
        self._wants = NOTHING
        self._wake = asyncio.Event()
        self._alarms: dict[Reason, str] = {}
        self._answered_at = float("-inf")
        self._lock = asyncio.Lock()
        self._maybe_closed = False
        """The door may be closed by this drain, maybe by an agent before this one."""

    @property
    def wants(self) -> Wants:
        return self._wants

    @property
    def drain(self) -> Drain | None:
        """The one that goes on."""
        return None if self._core is None else self._core.drain

    @property
    def says(self) -> str:
        """Names the drain that wants the route withdrawn; empty where none does."""
        drain = self.drain
        return f"drain by {drain.plan.by}: {drain.plan.why}" if drain is not None and self._wants.withdrawn else ""

    @property
    def worse(self) -> Plan | None:
        """The drain that wants the route worse."""
        return self.drain.plan if self.drain is not None and self._wants.worse else None

    def start(self) -> None:
        """Find the drain that an earlier agent was at. Waits for the disk: before that nothing may be announced."""
        try:
            found = drain_store.load(self._paths)
        except DecodeError as exc:
            self._alarm(Reason.DRAIN_UNREADABLE, str(exc))
            return
        if found is not None:
            self._take(found)

    async def begin(self) -> dict[str, Any]:
        """The command line has written the file."""
        if self._core is not None:
            return {"error": f"a drain goes on already: {self._core.drain.step}"}
        try:
            found = await asyncio.to_thread(drain_store.load, self._paths)
        except DecodeError as exc:
            self._alarm(Reason.DRAIN_UNREADABLE, str(exc))
            return {"error": str(exc)}
        self._alarm(Reason.DRAIN_UNREADABLE, "")
        if found is None:
            return {"error": "there is no drain's file"}
        self._take(found)
        return {"drain": self.describe()}

    async def follow(self, plan: Plan | None) -> None:
        """What the content in force wants drained; None: nothing. A drain that an operator began here is left alone."""
        ours = self.drain if self.drain is not None and self.drain.plan.id == BY_CONTENT else None
        if ours is not None and (plan is None or _asked(plan) != _asked(ours.plan)):
            await self._tell(Abort())
            self._wake.set()
        elif self._core is None and plan is not None:
            drain = Drain(plan=plan, since=boottime())
            await self._keep(drain)
            self._take(drain)
            self._around.changed()

    async def abort(self) -> dict[str, Any]:
        """Undo, from whatever step."""
        if self._core is None:
            return NO_DRAIN
        await self._tell(Abort())
        self._wake.set()
        return {"drain": self.describe()}

    async def foresee(self) -> dict[str, Any]:
        """How many tunnels there are, and how many certainly cannot follow to either family."""
        try:
            tunnels = await self._around.redirector.tunnels(("192.0.2.1", "2001:db8::1"))
        except (PeerError, TimeoutError) as exc:
            return {"error": f"charon does not list its tunnels: {exc}"}
        return {
            "tunnels": len(tunnels),
            "cannot": sum(not tunnel.can for tunnel in tunnels),
            "active": self._around.active(),
        }

    def describe(self) -> dict[str, Any] | None:
        """For `status`, `why` and metrics."""
        if self._core is None:
            return None
        drain, progress = self._core.drain, self._core.progress(boottime())
        return {
            **dataclasses.asdict(drain.plan), "policy": drain.plan.left.value, "step": drain.step.value,
            "for_s": boottime() - drain.since,
            "waits_for": drain.waits_for, "overdue": drain.told, **dataclasses.asdict(progress),
        }  # fmt: skip

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wake.clear()
            if self._core is None:
                await self._wake.wait()
                continue
            looked = await self._look(self._core.drain.plan)
            if self._core is not None:
                await self._tell(looked)
            await self._pause(boottime() + LOOK_S)

    async def _pause(self, until: float) -> None:
        """Until the next look, and act meanwhile where time alone has something done."""
        while (now := boottime()) < until and not self._wake.is_set() and self._core is not None:
            deadline = self._core.deadline
            limit = until if deadline is None else max(now, min(until, deadline))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit - now):
                    await self._wake.wait()
            if deadline is not None and boottime() >= deadline and self._core is not None:
                await self._tell(TimerExpired())

    async def _look(self, plan: Plan) -> Looked:
        tunnels: tuple[Tunnel, ...] | None = None
        with contextlib.suppress(PeerError, TimeoutError):
            tunnels = await self._around.redirector.tunnels(plan.to)
        route = self._around.route(plan)
        return Looked(
            tunnels=tunnels,
            route=route,
            serving=self._around.serving(),
            active=self._around.active(),
            closed=self._door(route),
            answers=await self._answers(plan),
            seen=self._around.seen(),
        )

    async def _answers(self, plan: Plan) -> bool:
        if boottime() - self._answered_at >= ANSWER_GOOD_S:
            asked = [answers(address, ANSWER_LIMIT_S) for address in plan.to]
            if not all(await asyncio.gather(*asked)):
                return False
            self._answered_at = boottime()
        return True

    def _door(self, route: RouteWord) -> bool:
        """Have it as it is wanted; whether it is closed. A charon that is new has it open, so this is said at each look."""
        assert self._core is not None
        step = self._core.drain.step
        # As `Wants.refuse`, of this look and not of the one before.
        refuse = step in (Step.REFUSING, Step.DONE) and route is RouteWord.NONE
        if self._around.kept_closed():
            return refuse
        alarm = ""
        try:
            if refuse:
                self._maybe_closed = True
                return self._around.door.close() > 0
            # Where nothing is known of the route yet, what an agent before this one has closed stays closed.
            if self._maybe_closed and (route in (RouteWord.NORMAL, RouteWord.WORSE) or step is Step.REOPENING):
                self._around.door.open()
                self._maybe_closed = False
        except PeerError as exc:
            alarm = str(exc)
            return not refuse
        finally:
            self._alarm(Reason.DOOR_OPEN if refuse else Reason.DOOR_CLOSED, alarm)
        return self._maybe_closed

    async def _tell(self, event: Looked | Abort | TimerExpired) -> None:
        async with self._lock:
            if (core := self._core) is None:
                return
            before = core.drain
            actions = core.handle(event, boottime())
            after = core.drain
            if (after.step, after.shown_at, after.told) != (before.step, before.shown_at, before.told):
                await self._keep(after)
            if after.step is not before.step:
                self._alarm(Reason.DRAIN_WAITS, "")
                self._said(after)
            self._wants = core.wants
            if after.step is Step.ENDED:
                self._end()
            if after.step is not before.step:
                self._around.changed()
        for action in actions:
            await self._perform(action, core)

    async def _perform(self, action: Action, core: DrainCore) -> None:
        def stop() -> bool:
            return core is not self._core or core.drain.step in (Step.REOPENING, Step.REANNOUNCING, Step.ENDED)

        plan = core.drain.plan
        with contextlib.suppress(TimeoutError):  # the next look says who is left
            match action:
                case Redirect(ids):
                    if count := await self._around.redirector.redirect(ids, plan.to, stop=stop):
                        self._happened(TunnelsMoved(count=count, to=plan.to))
                case Delete(ids):
                    if count := await self._around.redirector.delete(ids, stop=stop):
                        self._happened(TunnelsCut(count=count))
                case Tell(reason, detail):
                    self._alarm(reason, detail)

    def _take(self, drain: Drain) -> None:
        self._core = DrainCore(drain)
        self._wants = self._core.wants
        self._answered_at = float("-inf")
        self._maybe_closed = drain.step in (Step.REFUSING, Step.DONE, Step.REOPENING)
        self._said(drain)
        self._wake.set()

    def _said(self, drain: Drain) -> None:
        left = None if self._core is None else self._core.progress(boottime()).left
        plan = drain.plan
        self._happened(DrainStepTaken(drain=plan.id, step=drain.step.value, by=plan.by, detail=plan.why, left=left))

    def _end(self) -> None:
        for reason in tuple(self._alarms):
            self._alarm(reason, "")
        if self._maybe_closed and not self._around.kept_closed():
            with contextlib.suppress(PeerError):
                self._around.door.open()
        self._core, self._wants = None, NOTHING

    async def _keep(self, drain: Drain) -> None:
        try:
            if drain.step is Step.ENDED:
                await asyncio.to_thread(drain_store.remove, self._paths)
            else:
                await asyncio.to_thread(drain_store.store, self._paths, drain)
        except KernelError as exc:
            self._alarm(Reason.DRAIN_UNREADABLE, f"what is decided is not on the disk: {exc}")
        else:
            self._alarm(Reason.DRAIN_UNREADABLE, "")

    def _alarm(self, reason: Reason, detail: str) -> None:
        """Raise it, or clear it where there is no `detail`."""
        if detail and self._alarms.get(reason) != detail:
            self._alarms[reason] = detail
            self._happened(AlarmRaised(reason=reason, detail=detail))
        elif not detail and self._alarms.pop(reason, None) is not None:
            self._happened(AlarmCleared(reason=reason))
