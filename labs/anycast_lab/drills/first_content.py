"""The first content of a lab that takes any: planned, signed and rolled out as an operator does it, before the lab is up.

What gateways run by is then what `anycast drain` changes and a ledger counts. Most of the time is the coordinator's own: a
leader grants nothing in its first 38 s (docs/ledger.md).
"""

from __future__ import annotations

import asyncio
import time

from anycast.fleet.schema import Fleet
from anycast.policy.rollout import Step
from anycast_lab.drills import coordinators
from anycast_lab.machines import operators
from anycast_lab.runner import LabError, Progress, Runner

PLAN = "/tmp/first-content"  # in the machine's own memory
_PLAN = ("anycast", "plan", operators.FLEET_FILE, "-o", PLAN)
_SIGN = ("--operator", operators.NAME, "--dir", operators.KEYS, "--bake", "1", "--without-evidence")
_CHANGES = 3
LOOK_EVERY_S = 0.5


async def take(runner: Runner, fleet: Fleet, limit_s: float, progress: Progress) -> None:
    """Return when every gateway runs by it, at once where they do already. Raises LabError with where it has stopped."""
    if (node := operators.signs(fleet)) is None:
        return
    planned = await runner.exec(node, _PLAN)
    if planned.rc == 0:
        return
    if planned.rc != _CHANGES:
        raise LabError(f"the first content is refused: {planned.stderr.decode(errors='replace').strip()}")
    applied = await runner.exec(node, ("anycast", "apply", PLAN, *_SIGN))
    if applied.rc:
        raise LabError(f"the first content is not taken: {applied.stderr.decode(errors='replace').strip()}")
    end, told = time.monotonic() + limit_s, ""
    while True:
        found = await coordinators.status(runner, node)
        rollout = None if found is None else found["rollout"]
        where = "nobody answers" if rollout is None else f"{rollout['step']} {rollout['site']}"
        if rollout is not None and rollout["step"] == Step.DONE:
            progress(f"{len(fleet.sites)} sites run by what {operators.NAME} signed")
            return
        if time.monotonic() >= end or (rollout is not None and rollout["step"] == Step.STOPPED):
            why = "" if rollout is None else rollout["reason"] or rollout["waits_for"]
            raise LabError(f"the first content is not in force: {where}{f', {why}' if why else ''}")
        if where != told:
            progress(f"first content: {where}")
            told = where
        await asyncio.sleep(LOOK_EVERY_S)
