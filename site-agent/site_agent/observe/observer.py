"""The first half of an agent on somebody else's gateway: the same checks, the same verdict core, no route and no change.

    somebody's charon, kernel ──▶ checks ──▶ VerdictCore ──▶ Decisions ──▶ what the agent would have done

Checks that may not look are not made: a verdict must not rest on a privilege that is missing. The limits say which.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import functools
import signal
import socket
from collections.abc import Callable
from typing import Any

from anycast.events import ClockGapSeen, Event, EvidenceChanged, SiteVerdictChanged
from anycast.model import Cause, Evidence
from anycast.policy.hold import NOT_SEEN, Intent, apply
from anycast.policy.site import SiteCore
from anycast.policy.verdict import Action, VerdictCore, VerdictReached
from anycast.reasons import Reason
from anycast.runtime import boottime, drive
from site_agent import snapshot
from site_agent.checks.base import Check
from site_agent.checks.charon import CharonCheck
from site_agent.checks.charon_answers import CharonAnswersCheck
from site_agent.checks.child_sas import NAME as SA_STATE
from site_agent.checks.child_sas import ChildSaCheck
from site_agent.checks.ike_probe import IkeProbeCheck
from site_agent.checks.links import LinksCheck
from site_agent.checks.machine import load_checks
from site_agent.checks.runner import CheckRunner
from site_agent.checks.silence import NAME as CHARON_ANSWERS
from site_agent.checks.vici import ViciCheck
from site_agent.checks.vip import VipCheck, present_addresses
from site_agent.ike.prober import Prober
from site_agent.ike.tunnel_repair import Judgement
from site_agent.ike.vici_client import ViciClient
from site_agent.observe.decisions import Act, Decision, Decisions, Sight
from site_agent.observe.discovery import Found
from site_agent.observe.watched_charon import WatchedCharon
from site_agent.route_intent import describe_flap, describe_hold
from site_agent.standing import Standing

LEASE_S, STOP_LIMIT_S, RECOVERY_S = 1.0, 1.0, 0.75
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

    def __init__(
        self,
        found: Found,
        happened: Callable[[Change | Decision], None] = lambda news: None,
        standing: Standing | None = None,
    ) -> None:
        """`happened` is called with each change and each decision when it is seen; `standing` is what an agent left here."""
        self._standing = standing or Standing()
        self._found, self._tell = found, happened
        self._sight = Sight(limits=found.limits, strangers=found.strangers)
        self._decisions = Decisions(self._sight)
        self._changes: list[Change] = []
        self._evidence: asyncio.Queue[Evidence] = asyncio.Queue()
        self._complete = asyncio.Event()
        self._began = _now()
        self._charon = WatchedCharon(self._exited, self._look_at_all)
        self._charon_check = CharonCheck(self._charon, stop_limit_s=STOP_LIMIT_S)
        checks: list[Check] = [self._charon_check, *load_checks()]
        self._prober = Prober(found.vips, present_addresses)
        self._watched: list[VipCheck | LinksCheck | ChildSaCheck] = []
        if found.vips:
            self._watched.append(VipCheck(found.vips))
            checks.append(IkeProbeCheck(self._prober))
        if found.links:
            self._watched.append(LinksCheck(found.links))
        if found.vici is not None:
            vici = ViciClient(found.vici)
            checks.append(ViciCheck(vici))
            if found.vips:
                checks.append(CharonAnswersCheck(self._charon, found.vici, self._prober))
            if found.sees_kernel_sas and found.vips:
                self._watched.append(ChildSaCheck(vici, found.vips, rekeyer=self, happened=self._happened))
        checks += self._watched
        self._runner = CheckRunner(checks, self._evidence.put_nowait, self._happened)
        self._verdicts = VerdictCore(
            self._runner.classes,
            objectors=frozenset({SA_STATE, CHARON_ANSWERS}),
            lease_s=LEASE_S,
            recovery_s=RECOVERY_S,
            now=boottime(),
        )
        self._site = SiteCore(lease_s=LEASE_S, paired=False)

    async def run(self, *, once: bool, for_s: float | None) -> None:
        """Observe until every check has looked (`once`), for `for_s` seconds, or until SIGINT or SIGTERM."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._prober.close)
            for check in self._watched:
                stack.callback(check.watch(functools.partial(self._runner.look_now, check)).close)
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
        now, verdict, left = boottime(), self._verdicts.verdict, self._standing
        serving, causes = (verdict.serving, verdict.causes) if verdict is not None else (False, ())
        intent = apply(left.hold, serving=serving, causes=causes)
        return {
            "machine": socket.gethostname(),
            "from": self._began,
            "until": _now(),
            "found": dataclasses.asdict(self._found),
            "would": self._would(verdict, intent),
            "causes": [dataclasses.asdict(cause) for cause in intent.causes],
            "hold": None if left.hold is None else describe_hold(left.hold),
            "hold_unreadable": left.unreadable,
            "flap": None if left.flap is None else describe_flap(left.flap, now),
            "checks": [
                snapshot.check_row(name, self._runner, self._verdicts.looks.get(name), now) for name in self._runner.classes
            ],
            "alarms": [{"reason": reason, "detail": detail} for reason, detail in self._verdicts.alarms.items()],
            "decisions": [dataclasses.asdict(decision) for decision in self._decisions.made],
            "changes": [{"at": change.at, **dataclasses.asdict(change.seen)} for change in self._changes],
        }

    def _would(self, verdict: VerdictReached | None, intent: Intent) -> str:
        """What an agent would do now. A `hold withdraw` needs no sight; everything else rests on the verdict."""
        if not intent.announce and intent.causes and intent.causes[0].reason is Reason.OPERATOR:
            return Act.STAY_WITHDRAWN
        if verdict is None or any(cause.reason in NOT_SEEN for cause in verdict.causes):
            return Act.CANNOT_TELL
        if not self._sight.tells(verdict.serving, verdict.causes):
            return Act.CANNOT_TELL
        return Act.ANNOUNCE if intent.announce else Act.STAY_WITHDRAWN

    async def rekey(self, judged: Judgement) -> None:
        """What an agent would rekey is only told: nothing is changed here."""
        detail = f"{len(judged.rekey)} of {judged.listed} client CHILD_SAs, e.g. {judged.rekey[0].name}"
        self._tell(self._decisions.rekey(Cause(reason=judged.reason, check=SA_STATE, detail=detail), _now()))

    def _look_at_all(self) -> None:
        self._runner.look_now()

    def _exited(self, pid: int) -> None:
        self._runner.found(self._charon_check.exited(pid, None))

    def _perform(self, action: Action) -> None:
        if isinstance(action, ClockGapSeen):
            self._runner.look_now()
        elif isinstance(action, VerdictReached):
            for news in self._site.gateway(action):
                if isinstance(news, SiteVerdictChanged) and (decision := self._decisions.take(news, _now())) is not None:
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
