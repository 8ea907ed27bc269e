"""What a gateway announces, by its document and its role. Pure.

Where the site shares one subnet with its upstreams, both gateways announce the same: the next hop is the address that moves
between them, and BGP sees no failover (rule 5). Where each has a link of its own (`uplink: routed`), each announces its own
address, and the Backup announces worse, twice over:

* MED 100 instead of 0: enough for upstreams of one AS, wherever both links end (RFC 4271, the decision process). The Active
  writes its 0, because some routers take a missing MED for the worst.
* its AS number once more in the path, for upstreams of two ASes, whose MEDs are not compared, and for those who ignore them.

A change of role replaces one announcement by the other under the same prefix, which BGP takes as an implicit withdrawal of
the first (RFC 4271 section 3.1): there is no moment without a route. What is announced inside points to the VRRP address
inside in either case.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal, Protocol

from anycast.document import AnnouncementPolicy, Document
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
    """Every route that the document's gateway announces while its site serves: what each neighbor shall hear.

    `active`: the gateway has the site's VRRP addresses; it matters with `uplink: routed` only. `worse`: how a
    drain, or the fleet's operators, have the service's routes look worse outside.
    """
    return tuple(
        Route(
            neighbor=neighbor.address,
            prefix=prefix,
            next_hop=neighbor.next_hop[family],
            med=_med(policy.med, active) if differ and neighbor.side == "outside" else policy.med,
            prepend=min(
                policy.prepend
                + (BACKUP_PREPEND if differ and neighbor.side == "outside" and not active else 0)
                + (0 if worse is None or neighbor.side != "outside" else worse.prepend),
                MAX_PREPEND,
            ),
            communities=policy.communities
            + ((GRACEFUL_SHUTDOWN,) if worse is not None and worse.community and neighbor.side == "outside" else ()),
            large_communities=policy.large_communities,
            local_pref=policy.local_pref,
        )
        for differ in (roles_differ(document),)
        for neighbor in document.bgp.neighbors
        for policy in (neighbor.policy or AnnouncementPolicy(),)
        for prefix in neighbor.announces or document.service.prefixes
        if (family := _family(prefix)) in neighbor.families
    )


def _med(own: int | None, active: bool) -> int:
    """The Backup's is worse than the Active's by as much, whatever the policy's is."""
    return min((own or 0) + (ACTIVE_MED if active else BACKUP_MED), 0xFFFF_FFFF)


def word_of(announced: Iterable[Route], document: Document, plan: Plan, *, knows: bool) -> RouteWord:
    """What the bridge's word means to a drain. `knows`: it has said something since it was started or met."""
    if not knows:
        return RouteWord.UNKNOWN
    outside = {neighbor.address for neighbor in document.bgp.neighbors if neighbor.side == "outside"}
    heard = {route for route in announced if route.neighbor in outside}
    if not heard:
        return RouteWord.NONE
    worse = {route for active in (True, False) for route in routes_of(document, active=active, worse=plan)}
    return RouteWord.WORSE if plan.degrades and heard <= worse else RouteWord.NORMAL


def roles_differ(document: Document) -> bool:
    """Active and Backup announce different paths."""
    return document.vrrp is not None and document.vrrp.uplink == "routed"


def _family(prefix: str) -> Literal["ipv4", "ipv6"]:
    return "ipv6" if ":" in prefix else "ipv4"
