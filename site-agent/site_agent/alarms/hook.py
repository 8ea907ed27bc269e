"""Where alarms go: from the agent's events to the operator's command and webhook. The shell around `Delivery`.

    agent's events ──▶ Notices ──▶ Delivery (one a target) ──▶ thread ──▶ command, webhook
                                       ▲                          │
                                       └──────── result ──────────┘

`take` costs the agent's loop an append, whatever the hook does: texts are made and everything slow happens in the
delivery's own thread, one at a time for each target. A thread that does not come back (a resolver, a disk) keeps only its
target waiting.

A hook that fails is an alarm itself, ALARM_HOOK_FAILED: in the log, in metrics, on the screens, and to the other target if
there is one; never through the target that fails, and its end only to those who heard of its beginning, so it cannot feed
itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from anycast.document import Document
from anycast.errors import PeerError
from anycast.events import AlarmCleared, AlarmRaised, Event
from anycast.reasons import Reason
from anycast.runtime import boottime, boottime_ns, drive
from site_agent.alarms.delivery import Action, Deliver, Delivered, Delivery, Failed, Failing, Queued, Recovered
from site_agent.alarms.notices import Notices, to_notice
from site_agent.alarms.targets import Command, Target, Webhook

LEAVE_LIMIT_S = 1.0
"""How long a clean stop waits for notices that are on their way."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Stamped:
    event: Event
    wall: float
    boot_ns: int


class _Lane:
    """One target with its queue."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.core: Delivery[_Stamped] = Delivery()
        self.inbox: asyncio.Queue[Delivered | Failed] = asyncio.Queue()
        self.failing = ""
        """What it failed with; empty while it works."""
        self.knows = False
        """It was told that another one fails."""


class AlarmHook:
    """Use from the event loop's thread only."""

    def __init__(
        self,
        targets: list[Target],
        make: Callable[[Event, float, int, int], dict[str, Any]],
        happened: Callable[[Event], None],
    ) -> None:
        """`make` gives the JSON object of an event, its two times, and how many were lost before it."""
        self._lanes = [_Lane(target) for target in targets]
        self._make, self._happened = make, happened
        self._notices = Notices()
        self._loop = asyncio.get_running_loop()

    def take(self, event: Event) -> None:
        """Every event of the agent, in order. Never waits."""
        if not self._lanes or not self._notices.is_news(event):
            return
        stamped = _Stamped(event, time.time(), boottime_ns())
        about = event.reason if isinstance(event, AlarmRaised | AlarmCleared) else None
        for lane in self._lanes:
            if self._concerns(lane, event):
                # Not by the inbox, which would be a second queue, without a bound. `drive` need not know: no deadline moves.
                self._perform_all(lane, lane.core.handle(Queued(stamped, about), boottime()))

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with asyncio.TaskGroup() as group:
            for lane in self._lanes:
                group.create_task(drive(lane.core, lane.inbox, functools.partial(self._perform, lane)))

    async def leave(self) -> None:
        """Let what is on its way arrive, for `LEAVE_LIMIT_S` at most, and end it then."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_LIMIT_S):
                while any(lane.core.on_its_way and not lane.failing for lane in self._lanes):
                    await asyncio.sleep(0.02)
        for lane in self._lanes:
            lane.target.abort()

    def describe(self) -> list[dict[str, Any]]:
        """For `status` and metrics."""
        return [
            {
                "target": lane.target.name,
                "queued": lane.core.queued,
                "delivered": lane.core.delivered,
                "lost": lane.core.lost,
                "failing": lane.failing,
            }
            for lane in self._lanes
        ]

    def _concerns(self, lane: _Lane, event: Event) -> bool:
        if not isinstance(event, AlarmRaised | AlarmCleared) or event.reason is not Reason.ALARM_HOOK_FAILED:
            return True
        concerned = not lane.failing if isinstance(event, AlarmRaised) else lane.knows
        lane.knows = isinstance(event, AlarmRaised) and concerned
        return concerned

    def _perform_all(self, lane: _Lane, actions: list[Action[_Stamped]]) -> None:
        for action in actions:
            self._perform(lane, action)

    def _perform(self, lane: _Lane, action: Action[_Stamped]) -> None:
        match action:
            case Deliver(notice, lost):
                name = f"alarm-{lane.target.name}"
                try:
                    threading.Thread(target=self._deliver, args=(lane, notice, lost), name=name, daemon=True).start()
                except RuntimeError as exc:  # the unit's limit of tasks, or no memory
                    lane.inbox.put_nowait(Failed(f"{lane.target.name}: {exc}"))
            case Failing(detail):
                lane.failing = detail
                self._happened(AlarmRaised(reason=Reason.ALARM_HOOK_FAILED, detail=detail))
            case Recovered():
                lane.failing = ""
                if not any(other.failing for other in self._lanes):
                    self._happened(AlarmCleared(reason=Reason.ALARM_HOOK_FAILED))

    def _deliver(self, lane: _Lane, notice: _Stamped, lost: int) -> None:
        """In a thread of its own."""
        result: Delivered | Failed = Failed(f"{lane.target.name}: a mistake of ours; the agent's standard error has it")
        try:
            made = self._make(notice.event, notice.wall, notice.boot_ns, lost)
            lane.target.send(json.dumps(made, ensure_ascii=False).encode() + b"\n")
            result = Delivered()
        except PeerError as exc:
            result = Failed(str(exc))
        finally:  # whatever happens: without an answer the lane would wait for ever
            with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                self._loop.call_soon_threadsafe(lane.inbox.put_nowait, result)


def alarm_hook(document: Document, instance: str, happened: Callable[[Event], None]) -> AlarmHook:
    """The hook that `document` names; without one it does nothing."""
    wanted = document.agent.alarm_hook
    targets: list[Target] = []
    if wanted.command:
        targets.append(Command(wanted.command))
    if wanted.webhook is not None:
        targets.append(Webhook(wanted.webhook.url, wanted.webhook.token_file))

    def make(event: Event, wall: float, boot_ns: int, lost: int) -> dict[str, Any]:
        return to_notice(
            event, wall=wall, boot_ns=boot_ns, gateway=document.gateway, site=document.site, fleet=document.fleet,
            instance=instance, lost=lost,
        )  # fmt: skip

    return AlarmHook(targets, make, happened)
