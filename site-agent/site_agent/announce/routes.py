"""What a gateway announces, by its document and its role. Pure.

Where the site shares one subnet with its upstreams, both gateways announce the same: the next hop is the address that moves
between them, and BGP sees no failover (rule 5). Where each has a link of its own (`uplink: routed`), each announces its own
address, and the Backup announces worse, twice over:

* MED 100 instead of 0: enough for upstreams of one AS, wherever both links end (RFC 4271, the decision process). The Active
  writes its 0, because some routers take a missing MED for the worst.
* its AS number once more in the path, for upstreams of two ASes, whose MEDs are not compared, and for those who ignore them.
  Not to a router of its own AS, which drops as a loop what carries its AS number (RFC 4271 section 9.1.2; seen with BIRD).

A change of role replaces one announcement by the other under the same prefix, which BGP takes as an implicit withdrawal of
the first (RFC 4271 section 3.1): there is no moment without a route. What is announced inside points to the VRRP address
inside in either case.

A site's own routes stand apart (`own_routes_of`): they outlast what darkens only the service.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Literal, Protocol

from anycast.document import AnnouncementPolicy, Document, Neighbor
from anycast.lease_wire import MAX_PREPEND
from anycast.model import Route
from anycast.policy.drain import Plan, RouteWord

ACTIVE_MED, BACKUP_MED = 0, 100
BACKUP_PREPEND = 1
GRACEFUL_SHUTDOWN = "65535:0"
"""RFC 8326: receivers give the path the lowest LOCAL_PREF, where their operators have set that up."""


class Looks(Protocol):
    """How a route is made to look worse outside; a drain's `Plan` says it, too."""

    @property
    def prepend(self) -> int: ...
    @property
    def community(self) -> bool: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Worse:
    """What a degraded site's routes look like."""

    prepend: int = 0
    """More copies of the own AS number."""
    community: bool = True
    """GRACEFUL_SHUTDOWN."""


def routes_of(document: Document, *, active: bool = True, worse: Looks | None = None) -> tuple[Route, ...]:
    """Every route of the service that the document's gateway announces while its site serves: what each neighbor outside
    shall hear.

    `active`: the gateway has the site's VRRP addresses; it matters with `uplink: routed` only. `worse`: how a
    drain, or the fleet's operators, have the service's routes look worse.
    """
    return tuple(
        route
        for neighbor in document.bgp.neighbors
        if neighbor.side == "outside"
        for route in _routes(document, neighbor, _told(document, neighbor), active=active, worse=worse)
    )


def own_routes_of(document: Document, *, active: bool = True) -> tuple[Route, ...]:
    """The site's own routes, which no other site has: its unicast prefixes outside, the client pools inside. They are
    announced while the gateway could serve, whatever drain, token or content make of the service's: whoever has a tunnel to
    the unicast address would lose the way, and nobody else could take them."""
    return tuple(
        route
        for neighbor in document.bgp.neighbors
        for told in (neighbor.unicast if neighbor.side == "outside" else _told(document, neighbor),)
        for route in _routes(document, neighbor, told, active=active, worse=None)
    )


def _told(document: Document, neighbor: Neighbor) -> tuple[str, ...]:
    return neighbor.announces or document.service.prefixes


def _routes(
    document: Document, neighbor: Neighbor, told: Iterable[str], *, active: bool, worse: Looks | None
) -> Iterator[Route]:
    policy = neighbor.policy or AnnouncementPolicy()
    differ = roles_differ(document) and neighbor.side == "outside"
    prepend = policy.prepend + (BACKUP_PREPEND if differ and not active else 0) + (0 if worse is None else worse.prepend)
    for prefix in told:
        if (family := _family(prefix)) in neighbor.families:
            yield Route(
                neighbor=neighbor.address,
                prefix=prefix,
                next_hop=neighbor.next_hop[family],
                med=_med(policy.med, active) if differ else policy.med,
                prepend=0 if neighbor.asn == document.bgp.asn else min(prepend, MAX_PREPEND),
                communities=policy.communities + ((GRACEFUL_SHUTDOWN,) if worse is not None and worse.community else ()),
                large_communities=policy.large_communities,
                local_pref=policy.local_pref,
            )


def _med(own: int | None, active: bool) -> int:
    """The Backup's is worse than the Active's by as much, whatever the policy's is."""
    return min((own or 0) + (ACTIVE_MED if active else BACKUP_MED), 0xFFFF_FFFF)


def word_of(announced: Iterable[Route], document: Document, plan: Plan, *, knows: bool) -> RouteWord:
    """What the bridge's word on the service's routes means to a drain. `knows`: it has said something since it was started
    or met."""
    if not knows:
        return RouteWord.UNKNOWN
    heard = set(announced)
    if not heard:
        return RouteWord.NONE
    worse = {route for active in (True, False) for route in routes_of(document, active=active, worse=plan)}
    return RouteWord.WORSE if plan.degrades and heard <= worse else RouteWord.NORMAL


def roles_differ(document: Document) -> bool:
    """Active and Backup announce different paths."""
    return document.vrrp is not None and document.vrrp.uplink == "routed"


def _family(prefix: str) -> Literal["ipv4", "ipv6"]:
    return "ipv6" if ":" in prefix else "ipv4"
