"""Where a packet goes, machine by machine: the kernels' answers to `ip route get`, followed along the cables. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from anycast_lab.machines.wiring import BRIDGE
from anycast_lab.topology import Endpoint, Link


@dataclasses.dataclass(frozen=True, slots=True)
class Hop:
    """What one machine's kernel says of one destination."""

    interface: str
    """Where the packet leaves."""
    towards: str
    """The next hop's address; the destination's own where that is on the cable."""
    here: bool = False
    """The destination is one of the machine's own addresses."""


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """A packet's way from one machine, as far as it goes."""

    cables: tuple[Link, ...]
    last: str
    """The machine where it ends."""
    arrived: bool
    """Whether the destination is there; otherwise the packet is dropped at `last`, or goes round in a circle."""


def follow(
    start: str,
    hops: Mapping[str, Hop],
    addresses: Mapping[str, frozenset[str]],
    cables: Iterable[Link],
    switches: frozenset[str],
) -> Way:
    """The way of a packet from `start`.

    Args:
        hops: By machine; one that is not there has no route.
        addresses: By machine: what it answers for on its cables.
        cables: Those that carry.
        switches: Machines that forward frames: beyond one stands whoever has the next hop's address.
    """
    live, taken, here = list(cables), list[Link](), start
    for _ in range(len(addresses) + 1):
        hop = hops.get(here)
        if hop is None:
            break
        if hop.here:
            return Way(tuple(taken), here, True)
        found = _across(Endpoint(here, hop.interface), hop.towards, addresses, live, switches)
        if found is None:
            break
        passed, here = found
        taken += passed
    return Way(tuple(taken), here, False)


def _across(
    out: Endpoint, towards: str, addresses: Mapping[str, frozenset[str]], live: list[Link], switches: frozenset[str]
) -> tuple[list[Link], str] | None:
    """The cables from `out` to whoever answers for `towards`, through at most one switch; None where nobody does.

    A router that stands on a site's subnet without a switch bridges it, and the interface that it routes by is that bridge.
    """
    if out.interface == BRIDGE:  # whichever of its cables leads there
        for cable in live:
            for near in cable.ends():
                if near.node == out.node and towards in addresses.get(_other(cable, near).node, ()):
                    return [cable], _other(cable, near).node
    for cable in live:
        if out not in cable.ends():
            continue
        peer = _other(cable, out)
        if peer.node not in switches:
            return ([cable], peer.node) if towards in addresses.get(peer.node, ()) else None
        for beyond in live:
            for near in beyond.ends():
                far = _other(beyond, near).node
                if near.node == peer.node and towards in addresses.get(far, ()):
                    return [cable, beyond], far
    return None


def _other(cable: Link, end: Endpoint) -> Endpoint:
    a, b = cable.ends()
    return b if end == a else a
