"""Whether a drain's clients find a way to where they are sent: what the target's gateways announce now. Pure.

A client that is redirected to an address without a way tries until it gives up, keeps its old tunnel, and charon passes over
every later REDIRECT of it (docs/drain.md). So a target whose content has a unicast prefix around the address, and whose
gateways all say that no upstream has it, is refused, unless somebody says why it is worth it. What nobody tells (a gateway
that is not heard, or an agent of before this word) is said and refuses nothing; nor does a way that the fleet does not
announce, because that network's own routes lead there.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from anycast.content.content import Content, Moves, Site
from anycast.content.state import State

DESPITE = "--despite-unannounced"


class Way(NamedTuple):
    """What there is to say of the ways that drains send clients."""

    missing: tuple[str, ...] = ()
    """Each address that nobody announces the prefix of, as a sentence."""
    unsure: tuple[str, ...] = ()
    """What nobody knows, as sentences."""

    @property
    def said(self) -> tuple[str, ...]:
        """For history."""
        return (*self.missing, *(f"unknown: {each}" for each in self.unsure))


def way_of(running: Content | None, wanted: Content, state: State) -> Way:
    """Of all drains that `wanted` begins, or sends elsewhere than `running` (`content.state.in_force`)."""
    missing, unsure = list[str](), list[str]()
    for name, site in wanted.sites.items():
        before = None if running is None else running.sites.get(name)
        if site.moves is None or (before is not None and before.moves == site.moves):
            continue
        target = None if running is None else running.sites.get(site.moves.site)
        if target is None:
            unsure.append(f"{site.moves.site} runs by no content, so nobody knows whether clients of {name} find it")
            continue
        told = [state.gateways[each].own if each in state.gateways else None for each in target.gateways]
        for address in site.moves.to:
            _judge(name, site.moves, target, address, told, missing, unsure)
    return Way(tuple(missing), tuple(unsure))


def refusals(found: Way) -> tuple[str, ...]:
    """What is missing, with the way to do it all the same."""
    return tuple(f"{each} ({DESPITE} --reason TEXT does it all the same)" for each in found.missing)


def _judge(
    name: str,
    moves: Moves,
    target: Site,
    address: str,
    told: list[tuple[str, ...] | None],
    missing: list[str],
    unsure: list[str],
) -> None:
    around = sorted({each for prefixes in target.unicast.values() for each in prefixes if _holds(each, address)})
    if not around:
        unsure.append(
            f"{moves.site} has no unicast_prefix around {address}, so the way there is your network's, and is not seen here"
        )
    elif any(each in around for prefixes in told for each in prefixes or ()):
        return
    elif None in told:
        unsure.append(f"whether {moves.site} announces {around[0]}, the way to {address}: not all of its gateways tell")
    else:
        missing.append(
            f"no upstream has {around[0]} of {moves.site} now: clients of {name} would be sent to {address} without a way"
        )


def _holds(prefix: str, address: str) -> bool:
    network, inner = ipaddress.ip_network(prefix), ipaddress.ip_address(address)
    return network.version == inner.version and inner in network
