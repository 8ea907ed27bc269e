"""When a lab is *up*: the routes of every site at the transit, one Active a pair, and each client's first good packet.

Where the kernel has no ESP a client can only come as far as its IKE_SA; the lab says so and is up with that.
"""

from __future__ import annotations

import asyncio
import time

from anycast.fleet.schema import Fleet
from anycast_lab.drills import coordinators, mirrors, pairs
from anycast_lab.drills.drill import Limit
from anycast_lab.drills.witnesses import Probes, Witnesses
from anycast_lab.runner import LabError, Progress, Runner

PROBE_MS = 50.0
"""One packet is all that is waited for."""
MIRROR_LOOK_S = 1.0
"""A look is a command in each gateway; a comparison of the mirror takes seconds anyway."""


async def wait(runner: Runner, fleet: Fleet, limits: dict[str, Limit], progress: Progress) -> None:
    """Return when the lab is up. Raises LabError with what is missing when it is not within `lab_ready`."""
    assert fleet.lab is not None
    witnesses, timeout_s = Witnesses(runner, fleet), limits["lab_ready"].on(runner.kernel) / 1e3
    end = time.monotonic() + timeout_s
    probes = Probes(runner, witnesses, fleet, PROBE_MS) if runner.esp else None
    try:
        await ready(runner, fleet, witnesses, probes, timeout_s, progress)
    finally:
        if probes is not None:
            await probes.stop()
    if fleet.lab.transit is not None:
        progress(f"routes from {len(fleet.sites)} sites at {fleet.lab.transit.node}")
    for name, site in fleet.sites.items():
        if site.vrrp is not None:
            progress(f"{', '.join(pairs.actives(runner, fleet, name))} is Active at {name}")
    for client in fleet.lab.clients:
        if runner.esp:
            progress(f"{client}: packets through the tunnel, to {await witnesses.site_of_client(client) or 'nowhere'}")
            continue
        while not await _has_ike_sa(runner, client):
            if time.monotonic() >= end:
                raise LabError(f"{client} has no IKE_SA within {timeout_s:.0f} s")
            await asyncio.sleep(0.5)
        progress(f"{client}: IKE_SA established (no ESP in this kernel, so no packets)")


async def ready(
    runner: Runner,
    fleet: Fleet,
    witnesses: Witnesses,
    probes: Probes | None,
    timeout_s: float,
    progress: Progress = lambda _: None,
) -> None:
    """Health as a drill wants it: all routes at the transit, the coordinator knows it, mirrors are whole, and where there
    are `probes`, every client's good packet. They start last: beside them all else takes User Mode Linux seconds."""
    assert fleet.lab is not None
    end = time.monotonic() + timeout_s
    routes = [route for site in fleet.sites.values() for gateway in site.gateways for route in witnesses.routes_of(gateway)]

    def missing() -> list[str]:
        return [str(route) for route in routes if not route.present(witnesses.moments)]

    if not await witnesses.until(lambda: not missing(), timeout_s):
        raise LabError(f"the lab is not healthy: no route {', '.join(missing())} within {timeout_s:.0f} s")
    if not await witnesses.until(lambda: not unsettled(runner, fleet), end - time.monotonic()):
        raise LabError(f"the lab is not healthy: {'; '.join(unsettled(runner, fleet))} after {timeout_s:.0f} s")
    await coordinators.known(runner, fleet, end, progress)
    while missing_mirrors := await mirrors.unmirrored(runner, fleet):
        if time.monotonic() >= end:
            raise LabError(f"the lab is not healthy: {'; '.join(missing_mirrors)} after {timeout_s:.0f} s")
        await asyncio.sleep(MIRROR_LOOK_S)
    if probes is not None:
        await probes.start()
        await first_packets(fleet, witnesses, probes, end, timeout_s)


async def first_packets(fleet: Fleet, witnesses: Witnesses, probes: Probes, end: float, timeout_s: float) -> None:
    """Return when every client has had a good packet from now on. Raises LabError at `end`, on the monotonic clock."""
    assert fleet.lab is not None
    since = time.time_ns()
    if not await witnesses.until(lambda: probes.all_good_since(since), end - time.monotonic()):
        silent = [client for client in fleet.lab.clients if probes.last_good_ns(client) <= since]
        raise LabError(f"the lab is not healthy: no good packet at {', '.join(silent)} within {timeout_s:.0f} s")


def unsettled(runner: Runner, fleet: Fleet) -> list[str]:
    """Each site whose virtual router has not exactly one Active with a Backup beside it, with what its gateways hold."""
    words = pairs.roles(runner, fleet)
    sites = {name: {gw: words.get(gw, "off") for gw in site.gateways} for name, site in fleet.sites.items() if site.vrrp}
    return [
        f"{site}: {', '.join(f'{gateway} is {word}' for gateway, word in found.items())}"
        for site, found in sites.items()
        if sorted(found.values()) != sorted([pairs.ACTIVE, *[pairs.BACKUP] * (len(found) - 1)])
    ]


async def _has_ike_sa(runner: Runner, client: str) -> bool:
    done = await runner.exec(client, ("swanctl", "--list-sas"))
    return "ESTABLISHED" in done.text
