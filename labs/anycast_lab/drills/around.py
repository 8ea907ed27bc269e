"""What a drill does to what is around its victim: name servers, upstream routers, and who watches it."""

from __future__ import annotations

import asyncio
import json
import time

from anycast.fleet.schema import Fleet
from anycast.reasons import Reason
from anycast_lab.drills.mirror_watch import MirrorWatch
from anycast_lab.drills.moments import VICI
from anycast_lab.drills.path_watch import PathWatch
from anycast_lab.drills.site_watch import SiteWatch
from anycast_lab.drills.witnesses import Probes
from anycast_lab.machines import name_server
from anycast_lab.machines.wiring import session_name
from anycast_lab.runner import LabError, Runner


async def serve_zone(runner: Runner, fleet: Fleet, node: str, *, wrong: bool) -> None:
    """Have the name server on `node` answer rightly or wrongly. Raises LabError."""
    asked = fleet.service.checks.dns
    server = fleet.lab.servers.get(node) if fleet.lab is not None else None
    own = [server.of(family) for family in server.families] if server is not None else []
    address = next((str(a) for a in own if asked is not None and a in asked.servers), None)
    if address is None:
        raise LabError(f"{node} runs no name server: service.checks.dns names no address of it")
    zone = name_server.zone(fleet, address, serial=int(time.time()), wrong=wrong)
    await runner.put(node, name_server.ZONE_FILE, zone.encode())
    await _run(runner, node, (*name_server.RELOAD, fleet.service.identity))


async def set_sessions(runner: Runner, fleet: Fleet, router: str, gateway: str, *, up: bool) -> None:
    """Enable or disable `router`'s BGP sessions with `gateway`. Raises LabError."""
    if router not in fleet.sites[fleet.site_of(gateway)].upstreams:
        raise LabError(f"{router} is no upstream of {gateway}")
    # A pattern, so that both families go with one process: what a drill starts is part of what it measures.
    sessions = f'"{session_name(gateway, "*")}"'
    node = router if fleet.lab is None else fleet.lab.machine_of(router)
    await _run(runner, node, ("birdc", "-s", "/run/bird.ctl", "enable" if up else "disable", sessions))


async def alarm_in_status(runner: Runner, gateway: str, reason: Reason) -> bool:
    """Whether `site-agent status` shows the alarm. Raises LabError where no agent answers."""
    text = await _run(runner, gateway, ("site-agent", "status", "--json"))
    try:
        return any(alarm["reason"] == reason for alarm in json.loads(text)["alarms"])
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(f"{gateway}: `site-agent status --json` cannot be understood: {error!r}") from error


async def _run(runner: Runner, node: str, command: tuple[str, ...]) -> str:
    done = await runner.exec(node, command)
    if done.rc:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise LabError(f"`{' '.join(command)}` at {node}: {said}")
    return done.text


async def count_child_sas(runner: Runner, gateway: str) -> int | None:
    """None where charon does not answer."""
    done = await runner.exec(gateway, ("swanctl", "--list-sas", "--uri", f"unix://{VICI}"))
    return done.text.count("INSTALLED") if done.rc == 0 else None


async def hush(
    site: SiteWatch | None, mirror: MirrorWatch | None, paths: PathWatch | None, probes: Probes, fault_ns: int
) -> None:
    """End probes, captures and downloads: beside them each look of those that follow takes User Mode Linux seconds."""
    ending = [one.hush() for one in (site, paths) if one is not None]
    if mirror is not None:
        ending.append(mirror.hush(fault_ns))
    await asyncio.gather(*ending)
    await probes.stop()
