"""Where the inside speaks BGP: its router hears the client pools while the site serves, and loses them with the service."""

from __future__ import annotations

import os
import re
import signal

import pytest

from anycast.document import Neighbor
from tests.support.documents import document
from tests.support.gateway import Gateway
from tests.support.namespace import in_namespace
from tests.support.upstream import until

pytestmark = pytest.mark.root

INSIDE = {"ipv4": ("192.0.2.9", "192.0.2.2"), "ipv6": ("2001:db8:b::9", "2001:db8:b::2")}
"""The router inside, and the gateway's own address there."""


def _routers_inside() -> tuple[Neighbor, ...]:
    pools = {"ipv6" if ":" in pool.prefix else "ipv4": pool.prefix for pool in document().service.pools}
    return tuple(
        Neighbor.model_validate(
            {
                "name": f"core-{family}",
                "address": router,
                "local_address": own,
                "asn": 64505,
                "families": [family],
                "next_hop": {family: own},
                "side": "inside",
                "announces": [pools[family]],
            }
        )
        for family, (router, own) in INSIDE.items()
    )


@in_namespace
def test_the_router_inside_hears_the_pools_and_nothing_else() -> None:
    gateway = Gateway(inside=_routers_inside())
    pools = {pool.prefix for pool in gateway.document.service.pools}
    gateway.start()
    until(lambda: gateway.upstream.prefixes() >= gateway.all_prefixes | pools, "both sides hear theirs", within_s=20)
    for family, (_, own) in INSIDE.items():
        said = gateway.upstream.ask(f"show route protocol core_{family}")
        assert set(re.findall(r"(?:1007-| )([0-9a-f.:]+/\d+) ", said)) == {p for p in pools if (":" in p) == (":" in own)}
        assert f"via {own} on in" in said, "by the inside's own next hop"
    heard_outside = "".join(gateway.upstream.ask(f"show route protocol fra_rtr_{family}") for family in INSIDE)
    assert not any(pool in heard_outside for pool in pools), "inner addresses are nobody's outside"
    os.kill(gateway.pid("charon"), signal.SIGKILL)
    until(lambda: not gateway.upstream.prefixes() & (gateway.all_prefixes | pools), "all withdrawn", within_s=2)
