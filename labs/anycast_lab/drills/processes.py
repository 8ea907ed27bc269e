"""Finds the processes of a node that a drill signals, as pids that the lab's server can signal."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

from anycast_lab.drills.drill import ProcessName
from anycast_lab.runner import LabError, Runner

CLEAN_END_S = 10.0
"""A third of what systemd gives the agent."""
PID_FILES = {
    ProcessName.CHARON: "/run/charon.pid",
    ProcessName.AGENT: "/run/site-agent/agent.pid",
    ProcessName.EXABGP: "/run/site-agent/exabgp.pid",
    ProcessName.KEEPALIVED: "/run/keepalived.pid",
}


def find(runner: Runner, process: ProcessName, node: str) -> int | None:
    """The process with that role; None where the node runs none."""
    with contextlib.suppress(LabError):
        if process is ProcessName.BRIDGE:
            return _child_of(runner, node, by_pid_file(runner, node, PID_FILES[ProcessName.EXABGP]))
        if process is ProcessName.VRRP:
            return _by_module(runner, node, "site_agent.vrrp")
        if process is ProcessName.SYNC:
            return _by_module(runner, node, "site_agent.sync")
        return by_pid_file(runner, node, PID_FILES[process])
    return None


async def ended(runner: Runner, process: ProcessName, node: str) -> None:
    """Wait for what an earlier step has ended, as an init system does before it starts anything anew. Raises LabError."""
    deadline = time.monotonic() + CLEAN_END_S
    while find(runner, process, node) is not None:
        if time.monotonic() > deadline:
            raise LabError(f"{node}: {process} runs still, {CLEAN_END_S:g} s after it was told to end")
        await asyncio.sleep(0.05)


def by_pid_file(runner: Runner, node: str, pid_file: str) -> int:
    """The live process that a node's pid file names. Raises LabError where there is none."""
    try:
        inner = int(Path(f"/proc/{runner.pid(node)}/root{pid_file}").read_text().split()[0])
    except (OSError, ValueError, IndexError) as error:
        raise LabError(f"{node} has no {pid_file}") from error
    for pid in runner.pids(node):
        with contextlib.suppress(OSError):
            if _status(pid, "NSpid")[-1] == str(inner):
                return pid
    raise LabError(f"{node} runs no process {inner} ({pid_file})")


def _child_of(runner: Runner, node: str, parent: int) -> int:
    for pid in runner.pids(node):
        with contextlib.suppress(OSError):
            if _status(pid, "PPid") == [str(parent)]:
                return pid
    raise LabError(f"{node}: process {parent} has no child")


def _by_module(runner: Runner, node: str, module: str) -> int:
    """A process that was started as ``python -m MODULE``."""
    for pid in runner.pids(node):
        with contextlib.suppress(OSError):
            if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return pid
    raise LabError(f"{node} runs no {module}")


def _status(pid: int, key: str) -> list[str]:
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name == key:
                return value.split()
    return []
