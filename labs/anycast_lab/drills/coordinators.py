"""The lab's coordinator as its own socket has it, asked from outside its machine: no process is started for a look."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

from anycast.fleet.schema import Fleet
from anycast.policy.rollout import ENDED
from anycast_lab.drills import coordinator_checks as seen
from anycast_lab.drills.coordinator_steps import WaitLedger, WaitRollout, WaitStatus, WaitStep
from anycast_lab.drills.report import Checked
from anycast_lab.drills.timeline import Moment
from anycast_lab.drills.witnesses import Witnesses
from anycast_lab.runner import LabError, Progress, Runner

SOCKET = "/run/anycast/coordinator.sock"
PID_FILE = "/run/anycast/coordinator.pid"
LOOK_EVERY_S = 0.25
ANSWER_S = 2.0
"""It answers from memory, in milliseconds."""
NOBODY_DARK = "dark 0 of "
"""How the ledger's line begins when nothing is dark on purpose or unheard."""
_REQUEST = b"GET /v1/status HTTP/1.0\r\nHost: localhost\r\n\r\n"


def node_of(fleet: Fleet) -> str | None:
    return fleet.lab.coordinator.node if fleet.lab is not None and fleet.lab.coordinator is not None else None


async def status(runner: Runner, node: str) -> dict[str, Any] | None:
    """What `anycast status --json` prints; None where the coordinator does not answer."""
    try:
        path = f"/proc/{runner.pid(node)}/root{SOCKET}"
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(_REQUEST)
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            finally:
                writer.close()
        found = json.loads(body) if b" 200 " in head.partition(b"\r\n")[0] else None
        return found if isinstance(found, dict) else None
    except (LabError, OSError, TimeoutError, ValueError):
        return None


def lacking(found: dict[str, Any] | None, fleet: Fleet, node: str) -> list[str]:
    """What keeps the coordinator from knowing a healthy fleet, in sentences; empty where nothing does. Pure."""
    if found is None:
        return [f"the coordinator at {node} does not answer"]
    heard = {gateway["gateway"] for site in found["sites"] for gateway in site["gateways"] if gateway["fresh"]}
    unheard = [name for site in fleet.sites.values() for name in site.gateways if name not in heard]
    if unheard:
        return [f"the coordinator has not heard {', '.join(unheard)}"]
    dark = [
        f"the coordinator shows {site['site']} {site['state']}{': ' * bool(site['why'])}{site['why']}"
        for site in found["sites"]
        if site["state"] != "announcing"
    ]
    if (rollout := found["rollout"]) is not None and rollout["step"] not in ENDED:
        dark.append(f"rollout {rollout['id']} is {rollout['step']} {rollout['site']}")
    return dark or ([] if found["ledger"].startswith(NOBODY_DARK) else [f"the ledger says: {found['ledger']}"])


async def known(runner: Runner, fleet: Fleet, end: float, progress: Progress) -> None:
    """Return when the coordinator, where there is one, shows every gateway and every site announcing. Raises LabError.

    `end` is on the monotonic clock. `progress` is told what is waited for.
    """
    if (node := node_of(fleet)) is None:
        return
    told: list[str] = []
    while missing := lacking(await status(runner, node), fleet, node):
        if time.monotonic() >= end:
            raise LabError(f"the lab is not healthy: {'; '.join(missing)}")
        if missing != told:
            progress(f"waiting: {'; '.join(missing)}")
            told = missing
        await asyncio.sleep(LOOK_EVERY_S)
    progress(f"the coordinator hears {sum(len(site.gateways) for site in fleet.sites.values())} gateways")


def summary(found: dict[str, Any] | None, fleet: Fleet, node: str) -> dict[str, Any]:
    """For `anycast lab status`: the machine, whether it answers, and every site's state."""
    return {
        "node": node,
        "answers": found is not None,
        "sites": {} if found is None else seen.states(found, fleet.sites),
    }


class FleetWatch:
    """Looks on while a drill runs, and writes into `moments` what `coordinator_checks` reads."""

    def __init__(self, runner: Runner, fleet: Fleet, moments: list[Moment]) -> None:
        self._runner, self._fleet, self._moments, self._node = runner, fleet, moments, node_of(fleet)
        self._shown: dict[str, str] | None = {}
        self._ledger = self._rollout = ""
        self._instance: str | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._node is not None:
            await self._look(self._node)
            self._task = asyncio.create_task(self._look_on(self._node))

    def shows(self, step: WaitStep) -> bool:
        """Whether the last look had what the step waits for."""
        if self._shown is None:
            return False
        match step:
            case WaitStatus(sites=sites, state=state):
                return all(self._shown.get(site) == state for site in sites or self._fleet.sites)
            case WaitRollout(step=word):
                return self._rollout == word
            case WaitLedger(text=text):
                return text in self._ledger

    async def wait(self, step: WaitStep, witnesses: Witnesses, bound: float, progress: Progress) -> list[Checked]:
        """What has failed: nothing, or that it was not shown within twice the bound."""
        what = _words(step)
        progress(f"waiting for {what} (at most {bound:g} s)")
        if self._node is not None:
            await self._look(self._node)  # what was seen last may be older than the step before this one
        if await witnesses.until(lambda: self.shows(step), 2 * bound):
            return []
        seen = f"not seen; {self._rollout or 'no rollout'}, {self._ledger}" if self._shown is not None else "no answer"
        return [Checked(f"the coordinator shows {what} at all", seen, f"{2 * bound:g} s after the last step", False)]

    async def _look(self, node: str) -> None:
        found = await status(self._runner, node)
        at = time.time_ns()
        if found is None:
            if self._shown is not None:
                self._moments.append(Moment(at, seen.SOURCE, seen.SILENT))
            self._shown = None
            return
        if self._instance not in (None, found["coordinator"]):  # started anew between two looks
            self._moments.append(Moment(at, seen.SOURCE, seen.SILENT))
            self._shown = None
        self._instance = found["coordinator"]
        before, self._shown = self._shown or {}, seen.states(found, self._fleet.sites)
        self._moments.append(Moment(at, seen.SOURCE, seen.LOOKED))
        for site, state in self._shown.items():
            if before.get(site) != state:
                self._moments.append(Moment(at, seen.SOURCE, seen.STATE, site, state))
        if found["ledger"] != self._ledger:
            self._ledger = found["ledger"]
            self._moments.append(Moment(at, seen.SOURCE, seen.LEDGER, "", self._ledger))
        rollout = found["rollout"] or {"step": "", "site": "", "reason": ""}
        if rollout["step"] != self._rollout:
            self._rollout = rollout["step"]
            self._moments.append(Moment(at, seen.SOURCE, seen.ROLLOUT, rollout["site"], self._rollout))

    async def _look_on(self, node: str) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self._look(node)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None


def _words(step: WaitStep) -> str:
    match step:
        case WaitStatus(sites=sites, state=state):
            return f"{', '.join(sites) or 'all sites'} {state}"
        case WaitRollout(step=word):
            return f"its rollout {word}"
        case WaitLedger(text=text):
            return f"{text!r} in its ledger"
