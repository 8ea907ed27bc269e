"""Who said when, on a site's LAN, that the virtual addresses are its own. Pure.

A *claim* is an advertisement of a router that serves: priority above 0 and, where it is sealed, the Active flag. A claim
is good until Active_Down_Interval without another one. Two routers are Active at once as long as the claims of both go on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from anycast_lab.capture.frames import Address, Advertisement, Arp, NeighbourAdvertisement, Seen

CENTISECOND_NS = 10_000_000
ACTIVE_DOWN = 3 + 156 / 256
"""Intervals of silence that end a claim: Active_Down_Interval at priority 100 (RFC 9568 section 6.1)."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reign:
    """One router's claims without a break."""

    router: str
    from_ns: int
    to_ns: int
    """The last claim."""


def reigns(seen: Iterable[Seen], routers: Mapping[bytes, str]) -> tuple[Reign, ...]:
    """All of a capture, by beginning. `routers`: names by MAC address, because a forger writes any source address."""
    found: list[Reign] = []
    current: dict[str, int] = {}
    for advert in (one for one in seen if isinstance(one, Advertisement)):
        if (router := routers.get(advert.mac)) is None:
            continue
        if not advert.claims:
            current.pop(router, None)
            continue
        silence = round(ACTIVE_DOWN * advert.interval_cs * CENTISECOND_NS)
        at = current.get(router)
        if at is not None and advert.at_ns - found[at].to_ns <= silence:
            found[at] = dataclasses.replace(found[at], to_ns=advert.at_ns)
        else:
            current[router] = len(found)
            found.append(Reign(router=router, from_ns=advert.at_ns, to_ns=advert.at_ns))
    return tuple(found)


def together_ns(all_reigns: Sequence[Reign], from_ns: int | None = None, to_ns: int | None = None) -> int:
    """For how long in all two routers claimed at once, in the whole capture or between two times."""
    total = 0
    for i, one in enumerate(all_reigns):
        for other in all_reigns[i + 1 :]:
            if one.router != other.router:
                begin, end = max(one.from_ns, other.from_ns), min(one.to_ns, other.to_ns)
                begin = begin if from_ns is None else max(begin, from_ns)
                end = end if to_ns is None else min(end, to_ns)
                total += max(0, end - begin)
    return total


def announced(seen: Iterable[Seen], address: Address, since_ns: int) -> tuple[tuple[int, bytes], ...]:
    """When, and by which MAC address, neighbours were told where `address` is now (gratuitous ARP, unsolicited NA)."""
    found = []
    for one in seen:
        if one.at_ns < since_ns:
            continue
        match one:
            case Arp(gratuitous=True, sender=sender) if sender == address:
                found.append((one.at_ns, one.mac))
            case NeighbourAdvertisement(unsolicited=True, override=True, target=target) if target == address:
                found.append((one.at_ns, one.mac))
    return tuple(found)
