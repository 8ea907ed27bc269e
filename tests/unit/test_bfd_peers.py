"""Which routers a gateway's document wants BFD with."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from anycast.document import Bfd
from anycast.fleet import loading
from anycast.fleet.compile import compile_gateway
from site_agent.bfd.peers import bfd_peers
from site_agent.vrrp.plan import BfdPeer

FLEET = Path(__file__).resolve().parents[2] / "labs/topologies/two-site.fleet.yaml"


def test_one_session_for_each_pair_of_addresses_that_asks_for_it() -> None:
    document = compile_gateway(loading.load(FLEET), "fra-gw1")
    plain = document.bgp.neighbors[0].model_copy(update={"bfd": None})
    asking = plain.model_copy(update={"bfd": Bfd(interval_ms=50, multiplier=4), "name": "outside"})
    twice = asking.model_copy(update={"name": "again"})
    inside = asking.model_copy(update={"name": "inside", "side": "inside", "address": "192.0.2.77"})

    def peers(*neighbors: object) -> tuple[BfdPeer, ...]:
        return bfd_peers(document.model_copy(update={"bgp": document.bgp.model_copy(update={"neighbors": neighbors})}))

    assert peers(plain) == ()
    one, other = peers(plain, asking, twice, inside)
    assert one == BfdPeer(
        name="outside",
        local=ip_address(plain.local_address),
        remote=ip_address(plain.address),
        interface=document.uplink.name,
        desired_min_tx_us=50_000,
        required_min_rx_us=50_000,
        detect_mult=4,
    )
    assert (other.name, other.interface) == ("inside", document.inside.name) != ("inside", document.uplink.name)
