"""What a drill does to a site's two gateways and to what lies between them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

from anycast.errors import KernelError
from anycast.fleet.compile import compile_gateway
from anycast.fleet.schema import Fleet
from anycast_lab.drills import operator
from anycast_lab.drills import pair_steps as steps
from anycast_lab.drills.cables import far_end, near_end
from anycast_lab.embedded import links
from anycast_lab.machines.wiring import BRIDGE
from anycast_lab.runner import LabError, Runner
from anycast_lab.topology import Endpoint

SIDES: tuple[steps.Side, ...] = ("uplink", "inside", "management")


async def cause(step: steps.PairStep, runner: Runner, fleet: Fleet, victim: str, peer: str) -> None:
    """Do it. Raises LabError where it cannot be done."""
    match step:
        case steps.StopAll():
            stop_all(runner, victim)
        case steps.ContinueAll():
            _signal(runner.pids(victim), signal.SIGCONT)
        case steps.MuteLink(interface=side, at=where):
            await runner.link_mute(*near_end(fleet, victim if where == "victim" else peer, side))
        case steps.UnmuteLink(interface=side, at=where):
            await runner.link_unmute(*near_end(fleet, victim if where == "victim" else peer, side))
        case steps.Impair(interface=side, loss_percent=loss, at=where):
            await _impair(runner, fleet, victim if where == "victim" else peer, side, loss)
        case steps.EndImpair(interface=side, at=where):
            await _impair(runner, fleet, victim if where == "victim" else peer, side, None)
        case steps.FlapLink(interface=side, times=times, per_second=rate):
            await _flap(runner, far_end(runner, fleet, victim, side), times, rate)
        case steps.Part() | steps.Join():
            await _part(runner, fleet, (victim, peer), parted=isinstance(step, steps.Part))
        case steps.Forge(seal=seal, seconds=seconds, per_second=rate):
            await _forge(runner, fleet, victim, peer, seal, seconds, rate)
        case steps.HandOver():
            await operator.say(runner, victim, "site-agent", "handover")
        case steps.StartDaemons():
            await operator.say(runner, victim, "sh", "/etc/baseline/start")
        case steps.WaitRole():
            raise LabError("wait_role is the drill's own to wait for")


def stop_all(runner: Runner, node: str) -> None:
    """Every process but the node's init, which does nothing but start what a drill asks for."""
    stopped = set[int]()
    while fresh := set(runner.pids(node)) - stopped:  # until nobody forked meanwhile
        _signal(list(fresh), signal.SIGSTOP)
        stopped |= fresh


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


async def _flap(runner: Runner, end: tuple[str, str], times: int, rate: float) -> None:
    due = time.monotonic()
    for _ in range(times):
        for change in (runner.link_down, runner.link_up):
            await change(*end)
            due += 0.5 / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))


async def _impair(runner: Runner, fleet: Fleet, gateway: str, side: steps.Side, loss_percent: float | None) -> None:
    """At both ends of the cable: each loses what it sends. None: nothing is lost any more."""
    for node, interface in (near_end(fleet, gateway, side), far_end(runner, fleet, gateway, side)):
        verb, what = ("del", ()) if loss_percent is None else ("replace", ("netem", "loss", f"{loss_percent:g}%"))
        await operator.say(runner, node, "tc", "qdisc", verb, "dev", interface, "root", *what)


async def _part(runner: Runner, fleet: Fleet, pair: tuple[str, str], *, parted: bool) -> None:
    """Isolated ports of a bridge reach every port but each other; a cable between the two drops everything.

    By netlink, because nothing lies between the paths then but a system call: a process for each took a loaded User Mode
    Linux 19 s for the three of them, in which the pair was neither parted nor joined.
    """
    for side in SIDES:
        with contextlib.suppress(LabError):
            ends = [far_end(runner, fleet, gateway, side) for gateway in pair]
            if ends[0][0] == pair[1]:  # one cable, from the one to the other
                await (runner.link_mute if parted else runner.link_unmute)(*ends[0])
                continue
            for node, interface in ends:
                try:
                    await asyncio.to_thread(_isolate, runner.pid(node), Endpoint(node, interface), parted)
                except KernelError as error:
                    raise LabError(f"{node}: {interface} is no port of {BRIDGE}: {error}") from error


def _isolate(pid: int, endpoint: Endpoint, isolated: bool) -> None:
    with open(f"/proc/{pid}/ns/net") as namespace:
        links.isolate(endpoint, namespace.fileno(), isolated=isolated)


async def _forge(runner: Runner, fleet: Fleet, victim: str, peer: str, seal: str, seconds: float, rate: int) -> None:
    """From the upstream router, which stands on the same LAN, in each gateway's name to the other."""
    vrrp = compile_gateway(fleet, victim).vrrp
    router = next(iter(fleet.sites[fleet.site_of(victim)].upstreams), None)
    if vrrp is None or router is None:
        raise LabError(f"{victim} has no virtual router, or no neighbour to forge at")
    commands = []
    for receiver in (victim, peer):
        plan = compile_gateway(fleet, receiver).vrrp
        outside = next(path for path in plan.paths if path.path == "outside") if plan is not None else None
        voice = next((v for v in outside.voices if ":" not in v.destination), None) if outside is not None else None
        if voice is None:
            raise LabError(f"{receiver} has no IPv4 outside to forge to")
        argv = ("python", "-m", "anycast_lab.drills.forger", "--from", voice.destination, "--to", voice.source)
        rest = ("--vrid", str(vrrp.vrid), "--seconds", str(seconds), "--per-second", str(rate), "--seal", seal)
        commands.append(runner.exec(router, (*argv, *rest, "--address", *voice.announced)))
    for done in await asyncio.gather(*commands):
        if done.rc:
            raise LabError(f"the forger at {router}: {done.stderr.decode(errors='replace').strip()}")
