"""Any fleet of pairs that passes the check makes two documents that fit each other, and the network around them."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_interface
from pathlib import PurePath
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.document import Document
from anycast.errors import ConfigError
from anycast.fleet import yaml_text
from anycast.fleet.compile import compile_fleet
from anycast.fleet.loading import loads
from site_agent.announce.routes import routes_of
from site_agent.render.exabgp import render_exabgp
from site_agent.render.nftables import render_nftables
from site_agent.render.strongswan import render_strongswan
from site_agent.render.sysctl import render_sysctl
from tests.support.documents import TREE

NAMES = ("pair", "pair-routed", "pair-without-bgp", "beside-keepalived", "pair-mirrored")
SOURCES = [(TREE / "tests" / "data" / f"{name}.fleet.yaml").read_text() for name in NAMES]
VALUES = st.sampled_from(
    [
        *("198.51.100.1", "198.51.100.3", "198.51.100.7", "198.51.100.15", "192.0.2.1", "192.0.2.7", "192.0.2.66"),
        *("203.0.113.1", "198.51.100.10", "2001:db8:1::7", "2001:db8:b::7", "2001:db8:a::1"),
        *("198.51.100.0/27", "198.51.100.0/31", "198.51.100.2/31", "192.0.2.0/27", "2001:db8:1::/48"),
        *("eth1", "eth3", "yes", "no", "10 ms", "30 ms", "2 s", "1", "110", "255", "64511", "routed", "shared"),
        *("multicast", "unicast", "keepalived", "none"),
    ]
)


def _places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    steps = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    return [here, *(place for step, inner in steps for place in _places(inner, (*here, step)))]


KEYS = ("outside", "peer", "peer_inside", "witnesses", "transport", "interop", "uplink", "interval", "vrid", "preempt")


def changed(data: st.DataObject, tree: Any) -> None:
    """One value replaced, removed, or one key more."""
    *around, last = data.draw(st.sampled_from(_places(tree)[1:]))
    place = tree
    for step in around:
        place = place[step]
    match data.draw(st.integers(0, 4)):
        case 0:
            del place[last]
        case 4:
            sites = tree.get("sites")
            for site in sites.values() if isinstance(sites, dict) else ():
                if isinstance(site, dict):
                    site["sync"] = data.draw(st.sampled_from(({}, {"port": "4517"}, {"port": "70000"})))
        case 1:
            sites = tree.get("sites")
            site = next(iter(sites.values()), None) if isinstance(sites, dict) else None
            if isinstance(site, dict) and isinstance(site.get("vrrp"), dict):
                key, word = data.draw(st.sampled_from(KEYS)), data.draw(VALUES)
                site["vrrp"][key] = {"ipv6" if ":" in word else "ipv4": word} if word[0].isdigit() and "." in word else word
        case _:
            place[last] = data.draw(VALUES)


@given(st.data())
@settings(max_examples=200)
def test_what_passes_the_check_fits_together(data: st.DataObject) -> None:
    tree = yaml_text.parse(data.draw(st.sampled_from(SOURCES))).value
    for _ in range(data.draw(st.integers(0, 3))):
        changed(data, tree)
    try:
        fleet = loads(json.dumps(tree))
    except ConfigError:
        return
    made = compile_fleet(fleet)
    for document in made.values():
        assert Document.model_validate_json(document.canonical()) == document
        fits_its_network(document)
        renders(document)
    for site in fleet.sites.values():
        if len(site.gateways) == 2:
            mirror_each_other(*(made[name] for name in site.gateways))


def fits_its_network(document: Document) -> None:
    interfaces = {each.name: each for each in (document.uplink, document.inside, document.management) if each is not None}
    own = {ip_interface(address) for each in interfaces.values() for address in each.addresses}
    if (vrrp := document.vrrp) is not None:
        assert vrrp.paths and (vrrp.keys_file is None) == (vrrp.interop != "none")
        placed: dict[str, str] = {}
        for path in vrrp.paths:
            links = [ip_interface(address).network for address in interfaces[path.interface].addresses]
            for voice in path.voices:
                for address in map(ip_address, voice.addresses):
                    if not address.is_link_local:
                        assert any(address.version == link.version and address in link for link in links), "in its subnet"
                        assert str(address) not in placed, "on one interface"
                        placed[str(address)] = path.path
                if voice.source:
                    assert any(str(mine.ip) == voice.source for mine in own)
        moving = {address for address in vrrp.virtual_addresses if not ip_address(address).is_link_local}
        assert moving == set(placed) and "inside" in placed.values()
        assert not moving & {str(mine.ip) for mine in own}, "nobody's own"
        heard = {voice.destination for path in vrrp.paths for voice in path.voices}
        assert not heard & (moving | {str(mine.ip) for mine in own}), "the other router has an address of its own"
        assert document.vip_moves == (not any(n.side == "outside" for n in document.bgp.neighbors))
        if document.vip_moves:
            assert set(document.service.vips) <= moving
    if (sync := document.sync) is not None:
        assert document.management is not None and vrrp is not None and sync.peer == vrrp.peer
        links = [ip_interface(address) for address in document.management.addresses]
        assert sync.own_address in {str(link.ip) for link in links}
        assert any(ip_address(sync.peer_address) in link.network for link in links if str(link.ip) == sync.own_address)
    for neighbor in document.bgp.neighbors:
        link = document.uplink if neighbor.side == "outside" else document.inside
        for family, hop in neighbor.next_hop.items():
            assert ("ipv6" if ":" in hop else "ipv4") == family
            networks = [ip_interface(address).network for address in link.addresses]
            assert any(
                ip_address(hop) in network and ip_address(neighbor.address) in network
                for network in networks
                if network.version == ip_address(hop).version
            ), "the router reaches it in the subnet that it shares with the gateway"
    for active in (True, False):
        assert {route.prefix for route in routes_of(document, active=active)} >= set(document.service.prefixes)


def mirror_each_other(one: Document, other: Document) -> None:
    assert one.vrrp is not None and other.vrrp is not None
    assert (one.vrrp.peer, other.vrrp.peer) == (other.gateway, one.gateway)
    assert one.vrrp.router_id != other.vrrp.router_id
    for same in ("vrid", "interval_cs", "preempt", "uplink", "interop", "keys_file"):
        assert getattr(one.vrrp, same) == getattr(other.vrrp, same)
    assert [path.path for path in one.vrrp.paths] == [path.path for path in other.vrrp.paths], "both have all paths"
    for mine, theirs in zip(one.vrrp.paths, other.vrrp.paths, strict=True):
        assert [(v.source, v.destination, v.addresses, v.announced) for v in mine.voices] == [
            (v.destination, v.source, v.addresses, v.announced) for v in theirs.voices
        ]
    assert (one.sync is None) == (other.sync is None)
    if one.sync is not None and other.sync is not None:
        assert (one.sync.peer, one.sync.own_address, one.sync.peer_address, one.sync.port) == (
            other.gateway, other.sync.peer_address, other.sync.own_address, other.sync.port,
        )  # fmt: skip
        assert {one.sync.rank, other.sync.rank} == {0, 1}
    if one.vrrp.uplink == "shared":
        assert routes_of(one) == routes_of(other) == routes_of(other, active=False), "BGP sees one site"


def renders(document: Document) -> None:
    render_strongswan(document, run_dir=PurePath("/run"))
    render_exabgp(document, python="/usr/bin/python3", socket_path="/run/lease.sock", md5_keys={})
    render_sysctl(document)
    render_nftables(document)
