"""The first half of an agent on somebody else's gateway: the same checks, the same verdict core, no route and no change.

    somebody's charon, kernel ──▶ checks ──▶ VerdictCore ──▶ Decisions ──▶ what the agent would have done

Checks that may not look are not made: a verdict must not rest on a privilege that is missing. The limits say which.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import signal
import socket
from collections.abc import Callable
from typing import Any

from anycast.events import ClockGapSeen, Event, EvidenceChanged, SiteVerdictChanged
from anycast.model import Evidence
from anycast.policy.verdict import Action, VerdictCore
from anycast.runtime import boottime, drive
from site_agent import snapshot
from site_agent.checks.base import Check
from site_agent.checks.charon import CharonCheck
from site_agent.checks.child_sas import ChildSaCheck
from site_agent.checks.machine import load_checks
from site_agent.checks.runner import CheckRunner
from site_agent.checks.vici import ViciCheck
from site_agent.checks.vip import VipCheck
from site_agent.ike.vici_client import ViciClient
from site_agent.observe.decisions import Decision, Decisions
from site_agent.observe.discovery import Found
from site_agent.observe.watched_charon import WatchedCharon

LEASE_S, STOP_LIMIT_S, RECOVERY_S = 1.0, 1.0, 10.0
"""What an agent has by default."""
FIRST_LOOK_LIMIT_S = 10.0
"""How long `--once` waits for the slowest check."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A check saw something else than before."""

    at: datetime.datetime
    seen: EvidenceChanged


class Observer:
    """Make it in the event loop that runs it; `run` once, then ask for its `account`."""

    def __init__(self, found: Found, happened: Callable[[Change | Decision], None] = lambda news: None) -> None:
        """`happened` is called with each change and each decision when it is seen."""
        self._found, self._tell = found, happened
        self._decisions = Decisions()
        self._changes: list[Change] = []
        self._evidence: asyncio.Queue[Evidence] = asyncio.Queue()
        self._complete = asyncio.Event()
        self._began = _now()
        self._charon = WatchedCharon(self._exited, self._look_at_all)
        self._charon_check = CharonCheck(self._charon, stop_limit_s=STOP_LIMIT_S)
        self._vip_check = VipCheck(found.vips) if found.vips else None
        checks: list[Check] = [self._charon_check, *load_checks()]
        if self._vip_check is not None:
            checks.append(self._vip_check)
        if found.vici is not None:
            vici = ViciClient(found.vici)
            checks.append(ViciCheck(vici))
            if found.sees_kernel_sas and found.vips:
                checks.append(ChildSaCheck(vici, found.vips))
        self._runner = CheckRunner(checks, self._evidence.put_nowait, self._happened)
        self._verdicts = VerdictCore(self._runner.classes, lease_s=LEASE_S, recovery_s=RECOVERY_S, now=boottime())

    async def run(self, *, once: bool, for_s: float | None) -> None:
        """Observe until every check has looked (`once`), for `for_s` seconds, or until SIGINT or SIGTERM."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        async with contextlib.AsyncExitStack() as stack:
            if (check := self._vip_check) is not None:
                stack.callback(check.watch(lambda: self._runner.look_now(check)).close)
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._charon.run()),
                    group.create_task(self._runner.run()),
                    group.create_task(drive(self._verdicts, self._evidence, self._perform)),
                    group.create_task(self._end_when_complete(stop)) if once else group.create_task(asyncio.sleep(0)),
                ]
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(FIRST_LOOK_LIMIT_S if once else for_s):
                        await stop.wait()
                for task in tasks:
                    task.cancel()

    def account(self) -> dict[str, Any]:
        """What was seen, as plain data with datetimes: the answer of `--json`."""
        now, verdict = boottime(), self._verdicts.verdict
        serving = verdict is not None and verdict.serving
        return {
            "machine": socket.gethostname(),
            "from": self._began,
            "until": _now(),
            "found": dataclasses.asdict(self._found),
            "would": "announce" if serving else "stay_withdrawn",
            "causes": [dataclasses.asdict(cause) for cause in verdict.causes] if verdict is not None else [],
            "checks": [
                snapshot.check_row(name, evidence_class, self._verdicts.looks.get(name), now)
                for name, evidence_class in self._runner.classes.items()
            ],
            "alarms": [{"reason": reason, "detail": detail} for reason, detail in self._verdicts.alarms.items()],
            "decisions": [dataclasses.asdict(decision) for decision in self._decisions.made],
            "changes": [{"at": change.at, **dataclasses.asdict(change.seen)} for change in self._changes],
        }

    def _look_at_all(self) -> None:
        self._runner.look_now()

    def _exited(self, pid: int) -> None:
        self._runner.found(self._charon_check.exited(pid, None))

    def _perform(self, action: Action) -> None:
        if isinstance(action, ClockGapSeen):
            self._runner.look_now()
        elif isinstance(action, SiteVerdictChanged):
            if (decision := self._decisions.take(action, _now())) is not None:
                self._tell(decision)
        elif isinstance(action, EvidenceChanged):
            change = Change(at=_now(), seen=action)
            self._changes.append(change)
            self._tell(change)
        if self._verdicts.looks.keys() == self._runner.classes.keys():
            self._complete.set()

    async def _end_when_complete(self, stop: asyncio.Event) -> None:
        await self._complete.wait()
        stop.set()

    def _happened(self, event: Event) -> None:
        """A check of ours crashed: its evidence says so already."""


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
