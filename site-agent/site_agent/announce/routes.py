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

from typing import Literal

from anycast.document import Document
from anycast.model import Route

ACTIVE_MED, BACKUP_MED = 0, 100
BACKUP_PREPEND = 1


def routes_of(document: Document, *, active: bool = True) -> tuple[Route, ...]:
    """Every route that the document's gateway announces while its site serves: what each neighbor shall hear.

    `active`: the gateway has the site's VRRP addresses; it matters with `uplink: routed` only.
    """
    return tuple(
        Route(
            neighbor=neighbor.address,
            prefix=prefix,
            next_hop=neighbor.next_hop[family],
            med=(ACTIVE_MED if active else BACKUP_MED) if differ and neighbor.side == "outside" else None,
            prepend=BACKUP_PREPEND if differ and neighbor.side == "outside" and not active else 0,
        )
        for differ in (roles_differ(document),)
        for neighbor in document.bgp.neighbors
        for prefix in neighbor.announces or document.service.prefixes
        if (family := _family(prefix)) in neighbor.families
    )


def roles_differ(document: Document) -> bool:
    """Active and Backup announce different paths."""
    return document.vrrp is not None and document.vrrp.uplink == "routed"


def _family(prefix: str) -> Literal["ipv4", "ipv6"]:
    return "ipv6" if ":" in prefix else "ipv4"
