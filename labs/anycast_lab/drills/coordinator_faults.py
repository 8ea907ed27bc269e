"""What a drill does to the lab's coordinator and to the way there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

from anycast.fleet.schema import Fleet
from anycast_lab.drills import coordinator_steps as steps
from anycast_lab.drills import coordinators, processes
from anycast_lab.drills.coordinator_checks import Answer
from anycast_lab.runner import LabError, Runner

RUN_S = 60.0
KILL_LOOK_S = 0.02
"""A rollout stays at each step for one look of its coordinator, half a second; at the first one for the rest of one."""
KILL_IN_RUN_S = 20.0


async def cause(
    step: steps.CoordinatorStep, runner: Runner, fleet: Fleet, answers: dict[str, Answer], limit_s: float = 0.0
) -> None:
    """Take one step; a command's answer goes into `answers`. Raises LabError where it cannot be taken; one that waits for a
    moment waits twice `limit_s`."""
    if (node := coordinators.node_of(fleet)) is None:
        raise LabError("this lab has no coordinator")
    match step:
        case steps.CoordinatorSignal(signal=name):
            pid = processes.by_pid_file(runner, node, coordinators.PID_FILE)
            os.kill(pid, getattr(signal, f"SIG{name}"))
            if name in ("KILL", "TERM"):
                await _gone(runner, node)
        case steps.CoordinatorStart():
            await _must(runner, node, start_command(runner, node))
        case steps.CoordinatorKillAt(step=word):
            await _kill_at(runner, node, word, limit_s)
        case steps.CutOff(sites=sites) | steps.Rejoin(sites=sites):
            act = runner.link_mute if isinstance(step, steps.CutOff) else runner.link_unmute
            for gateway, interface in _management(fleet, sites):
                await act(gateway, interface)
        case steps.Run(name=name, command=command, at=at, kill_at=word):
            killing = asyncio.ensure_future(_kill_at(runner, node, word, KILL_IN_RUN_S)) if word is not None else None
            try:
                done = await runner.exec(at or node, command, timeout=RUN_S)
                if killing is not None:
                    await killing
            finally:
                if killing is not None:
                    killing.cancel()
            answers[name] = Answer(done.rc, done.text + done.stderr.decode(errors="replace"))
        case steps.WaitStatus() | steps.WaitRollout() | steps.WaitLedger():
            raise LabError(f"{step.do} is waited for by the drill itself")


def words(step: steps.CoordinatorStep) -> str:
    """For the timeline."""
    match step:
        case steps.CoordinatorSignal(signal=name):
            return f"SIG{name} → coordinator"
        case steps.CoordinatorKillAt(step=word):
            return f"SIGKILL → coordinator as soon as its rollout is {word}"
        case steps.Run(command=command, kill_at=word):
            killed = "" if word is None else f", and SIGKILL → coordinator as soon as its rollout is {word}"
            return f"`{' '.join(command)}`{killed}"
        case steps.CutOff(sites=sites) | steps.Rejoin(sites=sites):
            return f"{step.do.replace('_', ' ')} {', '.join(sites)}"
        case _:
            return step.do.replace("_", " ")


def start_command(runner: Runner, node: str) -> tuple[str, ...]:
    """The topology's own. Raises LabError where it starts no coordinator there."""
    for command in runner.topology.nodes[node].exec:
        if command[:2] == ("anycast", "serve"):
            return command
    raise LabError(f"the topology's exec list of {node} has no `anycast serve`")


def _management(fleet: Fleet, sites: tuple[str, ...]) -> list[tuple[str, str]]:
    """(gateway, interface). Raises LabError where a site is none."""
    if unknown := [site for site in sites if site not in fleet.sites]:
        raise LabError(f"there is no site {', '.join(unknown)}")
    gateways = [item for site in sites for item in fleet.sites[site].gateways.items()]
    return [(name, gateway.management.interface) for name, gateway in gateways if gateway.management is not None]


def _runs(runner: Runner, node: str) -> bool:
    with contextlib.suppress(LabError):
        processes.by_pid_file(runner, node, coordinators.PID_FILE)
        return True
    return False


async def _kill_at(runner: Runner, node: str, step: str, limit_s: float) -> None:
    await _rollout_at(runner, node, step, limit_s)
    os.kill(processes.by_pid_file(runner, node, coordinators.PID_FILE), signal.SIGKILL)
    await _gone(runner, node)


async def _rollout_at(runner: Runner, node: str, step: str, limit_s: float) -> None:
    """Raises LabError where it is not seen there."""
    end, seen = time.monotonic() + 2 * limit_s, ""
    while seen != step:
        if time.monotonic() > end:
            raise LabError(f"the rollout was not seen {step} within {2 * limit_s:g} s; it is {seen or 'none'}")
        await asyncio.sleep(KILL_LOOK_S)
        found = await coordinators.status(runner, node)
        seen = "" if found is None or found["rollout"] is None else str(found["rollout"]["step"])


async def _gone(runner: Runner, node: str) -> None:
    end = time.monotonic() + processes.CLEAN_END_S
    while _runs(runner, node):
        if time.monotonic() > end:
            raise LabError(f"{node}: the coordinator runs still, {processes.CLEAN_END_S:g} s after it was told to end")
        await asyncio.sleep(0.05)


async def _must(runner: Runner, node: str, command: tuple[str, ...]) -> None:
    done = await runner.exec(node, command, timeout=RUN_S)
    if done.rc:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise LabError(f"`{' '.join(command)}` at {node}: {said}")
