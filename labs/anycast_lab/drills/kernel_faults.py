"""What a drill takes away under daemons that live on: SAs, policies, the carrier of a link, the way to the clients."""

from __future__ import annotations

import re
from collections.abc import Iterable

from anycast.fleet.lab import Client, Link
from anycast.fleet.schema import Fleet
from anycast_lab.drills import kernel_steps as steps
from anycast_lab.drills.cables import far_end
from anycast_lab.runner import LabError, Runner

_SA = re.compile(r"^src \S+ dst (\S+)\n\s+proto esp spi \S+ reqid ([1-9][0-9]*)\b", re.MULTILINE)


async def cause(
    step: steps.KernelStep, runner: Runner, fleet: Fleet, victim: str, peer: str, clients: Iterable[str]
) -> None:
    """Do it. Raises LabError where it cannot be done."""
    match step:
        case steps.FlushStates(at=where):
            await _ip(runner, victim if where == "victim" else peer, "xfrm", "state", "flush")
        case steps.FlushPolicies():
            await _ip(runner, victim, "xfrm", "policy", "flush")
        case steps.DeleteState():
            sas, theirs = _SA.findall(await _ip(runner, victim, "xfrm", "state", "list")), _outer_addresses(fleet)
            reqid = next((reqid for destination, reqid in sas if destination in theirs), None)
            if reqid is None:
                raise LabError(f"{victim} has no client's SA to delete")
            await _ip(runner, victim, "xfrm", "state", "deleteall", "reqid", reqid)
        case steps.LinkDown(interface=role):
            await runner.link_down(*far_end(runner, fleet, victim, role))
        case steps.LinkUp(interface=role):
            await runner.link_up(*far_end(runner, fleet, victim, role))
        case steps.MuteClients():
            for node, interface in _links_of(runner, clients):
                await runner.link_mute(node, interface)
        case steps.UnmuteClients():
            for node, interface in _links_of(runner, clients):
                await runner.link_unmute(node, interface)


async def _ip(runner: Runner, node: str, *words: str) -> str:
    done = await runner.exec(node, ("ip", *words))
    if done.rc:
        raise LabError(f"ip {' '.join(words)} at {node}: {done.stderr.decode(errors='replace').strip()}")
    return done.text


def _outer_addresses(fleet: Fleet) -> frozenset[str]:
    """Where clients' tunnels can end: at themselves, or at the NAT before them. The gateway's own canary is no client."""
    if fleet.lab is None:
        return frozenset()
    links: list[Client | Link] = [*fleet.lab.clients.values(), *(nat.outside for nat in fleet.lab.nat.values())]
    ends = [link.ipv4 for link in links if link.ipv4] + [link.ipv6 for link in links if link.ipv6]
    return frozenset(str(own.ip) for _router, own in ends)


def _links_of(runner: Runner, nodes: Iterable[str]) -> list[tuple[str, str]]:
    return [
        (end.node, end.interface)
        for node in nodes
        for link in runner.topology.links_of(node)
        for end in link.ends()
        if end.node == node
    ]
