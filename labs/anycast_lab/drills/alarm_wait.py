"""Waits until an alarm stands, or no longer does, in gateways' events and in their status."""

from __future__ import annotations

import time
from collections.abc import Sequence

from anycast_lab.drills import alarms, around
from anycast_lab.drills.drill import WaitAlarm
from anycast_lab.drills.report import Checked
from anycast_lab.drills.witnesses import Witnesses
from anycast_lab.runner import Progress, Runner

_POLL_S = 0.5


async def wait(
    step: WaitAlarm, gateways: Sequence[str], bound: float, runner: Runner, witnesses: Witnesses, progress: Progress
) -> list[Checked]:
    """What has failed: nothing, or that it was not so within twice the bound."""
    stands = step.until == "raised"
    progress(f"waiting for alarm {step.reason} {step.until} (at most {bound:g} s)")

    def so() -> bool:
        return all(alarms.stands(witnesses.moments, g, step.reason) is stands for g in gateways)

    ends = time.monotonic() + 2 * bound
    while True:
        told = await witnesses.until(so, max(0.0, ends - time.monotonic()))
        shown = [await around.alarm_in_status(runner, gateway, step.reason) for gateway in gateways]
        if (told and all(one is stands for one in shown)) or time.monotonic() >= ends:
            break
        # The stream may still tell of the agent before this one, whose end has not been read yet.
        await witnesses.until(lambda: False, _POLL_S)
    if told and all(one is stands for one in shown):
        return []
    text = f"alarm {step.reason} is {step.until} in events and status"
    status = ", ".join(f"{g} {'shows' if one else 'does not show'} it" for g, one in zip(gateways, shown, strict=True))
    return [Checked(text, f"events: {'yes' if told else 'no'}; {status}", step.until, False)]
