"""Which cable a gateway's link is, by its side, and a client's."""

from __future__ import annotations

from anycast.fleet.schema import Fleet
from anycast_lab.drills.pair_steps import Side
from anycast_lab.runner import LabError, Runner


def near_end(fleet: Fleet, gateway: str, side: Side) -> tuple[str, str]:
    """A gateway and its interface on one side. Raises LabError where it has none."""
    part = fleet.sites[fleet.site_of(gateway)].gateways[gateway]
    attachment = {"uplink": part.uplink, "inside": part.inside, "management": part.management}[side]
    if attachment is None:
        raise LabError(f"{gateway} has no {side} interface")
    return gateway, attachment.interface


def far_end(runner: Runner, fleet: Fleet, gateway: str, side: Side) -> tuple[str, str]:
    """The other end of that cable: to pull it there takes the carrier away and leaves the gateway's own settings alone."""
    own = near_end(fleet, gateway, side)
    for link in runner.topology.links_of(gateway):
        for here, there in (link.ends(), link.ends()[::-1]):
            if (here.node, here.interface) == own:
                return there.node, there.interface
    raise LabError(f"{gateway}'s {own[1]} is no link of this topology")


def only_interface(runner: Runner, node: str) -> str:
    """Of a machine with one cable, as clients are."""
    return next(end.interface for link in runner.topology.links_of(node) for end in link.ends() if end.node == node)
