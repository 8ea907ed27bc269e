"""Who has which address and speaks BGP with whom: fleet.yaml and the cables of the topology, joined. Pure.

The topology says which machine is cabled to which; the fleet says the addresses. A `NodePlan` is what one machine needs to
know to come up; `prepare` writes it down as that machine's `boot` files. Roles follow from where the fleet names a node.

What shares one of a site's subnets is cabled to the subnet's switch where the fleet names one. Otherwise the upstream router
(uplink) or the server (inside) carries a bridge that the gateways are cabled to, like any L3 switch.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import zlib
from collections.abc import Iterable, Iterator, Mapping

from anycast.errors import ConfigError, Problem
from anycast.fleet.lab import Carrier, Client, Crowd, Link, Nat, Peer, Router, Server, Switch, Transit
from anycast.fleet.pair import Attachment, Bfd
from anycast.fleet.schema import Fleet, Gateway, Site, Upstream
from anycast.fleet.section import Prefixes
from anycast.fleet.values import FAMILIES, Family

Cables = Mapping[str, Mapping[str, str]]
"""node -> interface -> the node at its other end."""

BRIDGE = "br0"
_PREFERRED, _CUSTOMER, _PEER = 200, 100, 50
"""A carrier's routes: of the customer that is preferred, of any other, of another carrier."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BirdSession:
    """One BGP session of a lab router."""

    name: str
    local: str
    local_asn: int
    peer: str
    peer_asn: int
    families: tuple[Family, ...]
    passive: bool = False
    """Gateways dial; a router that dials them too only meets a closed port."""
    md5_key: str = ""
    """Path on the fleet's gateways; the lab makes the key and puts it at both ends."""
    gtsm: bool = False
    service_only: bool = False
    """Take the service's covering prefixes and `own`, and nothing else, announce nothing (a customer session)."""
    own: tuple[str, ...] = ()
    """The unicast prefixes of the site behind it, of its families."""
    preference: int = 100
    peering: bool = False
    """With another carrier: only what customers announce is told."""
    bfd: Bfd | None = None
    """As the gateway's end is told: BFD beside the session, which ends with it."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """What one machine needs to come up."""

    node: str
    role: str
    """gateway, router, switch, nat, server, client, guest, crowd or coordinator."""
    bridge: tuple[str, ...] = ()
    """Interfaces that are ports of the bridge `br0`."""
    addresses: tuple[tuple[str, str], ...] = ()
    """(interface, address with length)."""
    routes: tuple[tuple[str, str], ...] = ()
    """(prefix, via)."""
    router_id: str = ""
    asn: int = 0
    sessions: tuple[BirdSession, ...] = ()
    ecmp: bool = False
    """The kernel gets all paths of equal cost, and sends each flow by one."""
    masquerade: tuple[str, str, str] | None = None
    """(inside prefix, outside interface, outside address)."""
    name_server: str = ""
    """Own address under which it answers for the service's name; empty where it does not."""
    site: str = ""


def plan(fleet: Fleet, cables: Cables) -> dict[str, NodePlan]:
    """Every node's plan. Raises ConfigError where fleet and topology do not fit, with all problems."""
    return _Planner(fleet, cables).run()


class _Planner:
    def __init__(self, fleet: Fleet, cables: Cables) -> None:
        if fleet.lab is None:
            raise ConfigError([Problem("lab", "the fleet has no lab section: nothing says what stands around the gateways")])
        self._fleet, self._lab, self._cables = fleet, fleet.lab, cables
        self._problems: list[Problem] = []

    def run(self) -> dict[str, NodePlan]:
        plans: dict[str, NodePlan] = {}
        for name, site in self._fleet.sites.items():
            for gateway_name, gateway in site.gateways.items():
                plans[gateway_name] = self._gateway(gateway_name, gateway, name, site)
            for router in site.upstreams:
                if self._lab.machine_of(router) == router:
                    plans[router] = self._router(router, name, site)
        if (transit := self._lab.transit) is not None:
            plans[transit.node] = self._transit(transit)
        for name, peer in self._lab.peers.items():
            plans[name] = self._peer(name, peer)
        for name, plain in self._lab.routers.items():
            plans[name] = self._plain_router(name, plain)
        for name, switch in self._lab.switches.items():
            plans[name] = self._switch(name, switch)
        if self._lab.coordinator is not None:
            plans[self._lab.coordinator.node] = self._coordinator(self._lab.coordinator.node)
        for name, nat in self._lab.nat.items():
            plans[name] = self._nat(name, nat)
        for name, server in self._lab.servers.items():
            plans[name] = self._server(name, server)
        for name, client in self._lab.connected.items():
            plans[name] = self._client(name, client)
        for node in self._cables:
            if node not in plans:
                self._problems.append(Problem(f"nodes.{node}", "stands in the topology but nowhere in the fleet file"))
        for node in plans:
            if node not in self._cables:
                self._problems.append(Problem(node, "stands in the fleet file but has no link in the topology"))
        if self._problems:
            raise ConfigError(self._problems)
        return plans

    def _port(self, node: str, to: str) -> str:
        """The interface of `node` that is cabled to `to`."""
        for interface, other in self._cables.get(node, {}).items():
            if other == to:
                return interface
        self._problems.append(Problem(f"links.{node}", f"has no link to {to}, which the fleet file asks for"))
        return "none"

    def _ports(self, node: str, others: Iterable[str]) -> tuple[str, ...]:
        return tuple(self._port(node, other) for other in others if other in self._cables)

    def _lan(self, node: str, site: str, side: str, machines: Iterable[str]) -> tuple[str, tuple[str, ...]]:
        """The interface of `node` in one of a site's subnets, and what it bridges: nothing where a switch does."""
        if switch := self._switch_of(site, side):
            return self._port(node, switch), ()
        return BRIDGE, self._ports(node, machines)

    def _switch_of(self, site: str, side: str) -> str:
        if side == "management" and self._lab.coordinator is not None:
            return self._lab.coordinator.node
        found = (name for name, switch in self._lab.switches.items() if (switch.site, switch.side) == (site, side))
        return next(found, "")

    def _switch(self, name: str, switch: Switch) -> NodePlan:
        return NodePlan(node=name, role="switch", site=switch.site, bridge=tuple(self._cables.get(name, {})))

    def _coordinator(self, name: str) -> NodePlan:
        """All gateways' management interfaces are cabled to it: it is their switch, and an address on it."""
        section, subnets = self._fleet.coordinator, next(iter(self._fleet.sites.values())).management
        assert section is not None, "the fleet file was checked"
        own = section.addresses
        addresses = tuple((BRIDGE, f"{own.of(family)}/{subnets.of(family).prefixlen}") for family in own.families)
        return NodePlan(node=name, role="coordinator", bridge=tuple(self._cables.get(name, {})), addresses=addresses)

    def _gateway(self, name: str, gateway: Gateway, site_name: str, site: Site) -> NodePlan:
        addresses: list[tuple[str, str]] = []
        attachments: list[tuple[str, Attachment | None, Prefixes]] = [
            ("uplink", gateway.uplink, site.uplink),
            ("inside", gateway.inside, site.inside),
            ("management", gateway.management, site.management),
        ]
        for side, part, subnets in attachments:
            if part is None:
                continue
            self._cabled(name, part.interface, self._switch_of(site_name, side))
            for family in part.families:
                length = (part.subnet.of(family) or subnets.of(family)).prefixlen
                addresses.append((part.interface, f"{part.of(family)}/{length}"))
        return NodePlan(
            node=name,
            role="gateway",
            site=site_name,
            addresses=tuple(addresses),
            routes=tuple(self._ways_out(gateway, site_name, site)),
        )

    def _cabled(self, node: str, interface: str, switch: str) -> None:
        """Say so where an interface that the fleet file gives `node` is none of its cables, or not the switch's."""
        if node not in self._cables:
            return  # said once, for the whole machine
        where, other = f"links.{node}:{interface}", self._cables[node].get(interface, "")
        if not other:
            self._problems.append(Problem(where, "is no link, but the fleet file gives it addresses"))
        elif switch and other != switch:
            self._problems.append(Problem(where, f"leads to {other}, not to {switch}, which carries its subnet"))

    def _ways_out(self, gateway: Gateway, site_name: str, site: Site) -> Iterator[tuple[str, str]]:
        plain = [router for router in self._lab.routers.values() if router.site == site_name]
        for family in FAMILIES:
            ways = [one.address.of(family) for one in site.upstreams.values() if on_link(one, gateway, family)]
            ways += [router.of(family) for router in plain if family in router.families]
            if ways:
                yield _default(family), str(ways[0])

    def _plain_router(self, name: str, router: Router) -> NodePlan:
        site = self._fleet.sites[router.site]
        port, bridge = self._lan(name, router.site, "uplink", site.gateways)
        addresses = [(port, f"{router.of(f)}/{site.uplink.of(f).prefixlen}") for f in router.families]
        return NodePlan(
            node=name,
            role="router",
            site=router.site,
            bridge=bridge,
            addresses=(*addresses, *self._towards_clients(name)),
            routes=tuple(_to_service_address(site)),
        )

    def _towards_clients(self, node: str) -> Iterator[tuple[str, str]]:
        """The addresses of a router on the cables of the clients that it is the way out for."""
        for name, client in self._lab.connected.items():
            if client.behind == node:
                port = self._port(node, name)
                yield from ((port, str(client.of(family)[0])) for family in client.families)

    def _router(self, name: str, site_name: str, site: Site) -> NodePlan:
        upstream = site.upstreams[name]
        port, bridge = self._lan(name, site_name, "uplink", site.gateways)
        addresses = [(port, f"{upstream.address.of(f)}/{site.uplink.of(f).prefixlen}") for f in upstream.address.families]
        routes = list(_to_service_address(site))
        sessions = list(_with_gateways(site, upstream))
        ways_out = set[str]()
        if not (carriers := self._lab.carriers_of(name)):
            self._problems.append(Problem(f"lab.transit.links.{name}", "is missing: the router has no way to the transit"))
        for node in carriers:
            carrier = self._lab.carriers[node]
            uplink, link = self._port(name, node), carrier.links[name]
            for family in link.families:
                theirs, ours = link.of(family)
                addresses.append((uplink, str(ours)))
                if _default(family) not in ways_out:
                    routes.append((_default(family), str(theirs.ip)))
                ways_out.add(_default(family))
                sessions.append(
                    BirdSession(
                        name=session_name(node, family),
                        local=str(ours.ip),
                        local_asn=upstream.asn,
                        peer=str(theirs.ip),
                        peer_asn=carrier.asn,
                        families=(family,),
                    )
                )
        return NodePlan(
            node=name,
            role="router",
            site=site_name,
            bridge=bridge,
            addresses=tuple(addresses),
            routes=tuple(routes),
            router_id=_router_id(name, [str(upstream.address.ipv4)] if upstream.address.ipv4 is not None else []),
            asn=upstream.asn,
            sessions=tuple(sessions),
        )

    def _customers(self, node: str, carrier: Carrier) -> Iterator[tuple[tuple[str, str], BirdSession]]:
        """A carrier's addresses and sessions on its cables to upstream routers."""
        asns = {name: upstream.asn for site in self._fleet.sites.values() for name, upstream in site.upstreams.items()}
        for router, link in carrier.links.items():
            port = self._port(node, router)
            for family in link.families:
                ours, theirs = link.of(family)
                yield (
                    (port, str(ours)),
                    BirdSession(
                        name=session_name(router, family),
                        local=str(ours.ip),
                        local_asn=carrier.asn,
                        peer=str(theirs.ip),
                        peer_asn=asns.get(router, 0),
                        families=(family,),
                        preference=_PREFERRED if router == carrier.prefer else _CUSTOMER,
                    ),
                )

    def _peering(self, node: str, carrier: Carrier, to: str, other: Carrier, link: Link, own: int) -> Iterator[BirdSession]:
        """`own`: which end of the link is the node's."""
        for family in link.families:
            ends = link.of(family)
            yield BirdSession(
                name=session_name(to, family),
                local=str(ends[own].ip),
                local_asn=carrier.asn,
                peer=str(ends[1 - own].ip),
                peer_asn=other.asn,
                families=(family,),
                preference=_PEER,
                peering=True,
            )

    def _peer(self, name: str, peer: Peer) -> NodePlan:
        """Its way out is the transit, but for what its customers announce."""
        transit = self._lab.transit
        assert transit is not None, "the fleet file was checked"
        customers, port = list(self._customers(name, peer)), self._port(name, transit.node)
        addresses = [address for address, _ in customers]
        addresses += [(port, str(peer.peering.of(f)[1])) for f in peer.peering.families]
        addresses += self._towards_clients(name)
        sessions = [session for _, session in customers]
        sessions += self._peering(name, peer, transit.node, transit, peer.peering, 1)
        return NodePlan(
            node=name,
            role="router",
            addresses=tuple(addresses),
            routes=tuple((_default(f), str(peer.peering.of(f)[0].ip)) for f in peer.peering.families),
            router_id=_router_id(name, _locals(sessions)),
            asn=peer.asn,
            sessions=tuple(sessions),
            ecmp=bool(peer.ecmp),
        )

    def _transit(self, transit: Transit) -> NodePlan:
        customers, routes = list(self._customers(transit.node, transit)), list[tuple[str, str]]()
        addresses, sessions = [address for address, _ in customers], [session for _, session in customers]
        for name, peer in self._lab.peers.items():
            port = self._port(transit.node, name)
            addresses += [(port, str(peer.peering.of(f)[0])) for f in peer.peering.families]
            sessions += self._peering(transit.node, transit, name, peer, peer.peering, 0)
            routes += self._behind(name, peer)
        for name, nat in self._lab.nat.items():
            addresses += [(self._port(transit.node, name), str(nat.outside.of(f)[0])) for f in nat.outside.families]
        addresses += self._towards_clients(transit.node)
        for site_name, site in self._fleet.sites.items():
            routes += self._to_site(transit, site)
            for name in filter(transit.upstreams.__contains__, site.upstreams):
                upstream = site.upstreams[name]
                port = self._port(transit.node, self._switch_of(site_name, "uplink") or next(iter(site.gateways)))
                addresses += [(port, f"{upstream.address.of(f)}/{site.uplink.of(f).prefixlen}")
                              for f in upstream.address.families]  # fmt: skip
                sessions += _with_gateways(site, upstream)
        return NodePlan(
            node=transit.node,
            role="router",
            addresses=tuple(addresses),
            routes=tuple(routes),
            router_id=_router_id(transit.node, _locals(sessions)),
            asn=transit.asn,
            sessions=tuple(sessions),
            ecmp=bool(transit.ecmp),
        )

    def _behind(self, name: str, peer: Peer) -> Iterator[tuple[str, str]]:
        """The transit's ways to the clients of a peer."""
        for client in self._lab.connected.values():
            for family in client.families if client.behind == name else ():
                if family in peer.peering.families:
                    yield str(client.of(family)[1].network), str(peer.peering.of(family)[1].ip)

    def _to_site(self, transit: Transit, site: Site) -> Iterator[tuple[str, str]]:
        """The transit's way to a site's unicast service address: itself, or by the site's first router."""
        if any(name in transit.upstreams for name in site.upstreams):
            yield from _to_service_address(site)
        elif router := next((name for name in site.upstreams if name in transit.links), ""):
            link = transit.links[router]
            for prefix, family in _service_addresses(site):
                if family in link.families:
                    yield prefix, str(link.of(family)[1].ip)

    def _nat(self, name: str, nat: Nat) -> NodePlan:
        clients = [client for client, one in self._lab.connected.items() if one.behind == name]
        outside = self._port(name, self._lab.transit.node) if self._lab.transit else "none"
        addresses = [(outside, str(nat.outside.of(f)[1])) for f in nat.outside.families]
        addresses += [(BRIDGE, str(nat.inside.of(f))) for f in nat.inside.families]
        routes = [(_default(f), str(nat.outside.of(f)[0].ip)) for f in nat.outside.families]
        masquerade = None
        if nat.inside.ipv4 is not None and nat.outside.ipv4 is not None:
            masquerade = (str(nat.inside.ipv4.network), outside, str(nat.outside.ipv4[1].ip))
        return NodePlan(
            node=name,
            role="nat",
            bridge=self._ports(name, clients),
            addresses=tuple(addresses),
            routes=tuple(routes),
            masquerade=masquerade,
        )

    def _server(self, name: str, server: Server) -> NodePlan:
        site = self._fleet.sites[server.site]
        port, bridge = self._lan(name, server.site, "inside", site.gateways)
        addresses = [(port, f"{server.of(f)}/{site.inside.of(f).prefixlen}") for f in server.families]
        way_back = next(iter(site.gateways.values())).inside if site.vrrp is None else site.vrrp.inside
        routes = [
            (str(site.pools.of(f)), str(way_back.of(f)))
            for f in site.pools.families
            if f in way_back.families and f in server.families
        ]
        asked = self._fleet.service.checks.dns
        own = [server.of(family) for family in server.families]
        return NodePlan(
            node=name,
            role="server",
            site=server.site,
            name_server=next((str(address) for address in own if asked is not None and address in asked.servers), ""),
            bridge=bridge,
            addresses=tuple(addresses),
            routes=tuple(routes),
        )

    def _client(self, name: str, client: Client) -> NodePlan:
        port = self._port(name, client.behind)
        return NodePlan(
            node=name,
            role="crowd" if isinstance(client, Crowd) else "guest" if name in self._lab.guests else "client",
            addresses=tuple((port, str(client.of(f)[1])) for f in client.families),
            routes=tuple((_default(f), str(client.of(f)[0].ip)) for f in client.families),
        )


def _locals(sessions: Iterable[BirdSession]) -> list[str]:
    return [session.local for session in sessions]


def _router_id(node: str, addresses: Iterable[str]) -> str:
    """The first IPv4 address; where there is none, a number of its own (RFC 6286), the same at every start."""
    number = zlib.crc32(node.encode()) or 1
    return next((address for address in addresses if "." in address), str(ipaddress.IPv4Address(number)))


def _with_gateways(site: Site, upstream: Upstream) -> Iterator[BirdSession]:
    """The upstream router's end of its sessions with a site's gateways."""
    for gateway_name, gateway in site.gateways.items():
        for family in upstream.address.families:
            if on_link(upstream, gateway, family):
                yield BirdSession(
                    name=session_name(gateway_name, family),
                    local=str(upstream.address.of(family)),
                    local_asn=upstream.asn,
                    peer=str(gateway.uplink.of(family)),
                    peer_asn=site.asn or 0,
                    families=(family,),
                    passive=True,
                    md5_key=str(upstream.md5_key_file or ""),
                    gtsm=upstream.gtsm,
                    service_only=True,
                    own=tuple(str(site.unicast_prefix.of(f)) for f in (family,) if f in site.unicast_prefix.families),
                    bfd=upstream.bfd,
                )


def _to_service_address(site: Site) -> Iterator[tuple[str, str]]:
    """From a site's uplink to its unicast service address: what its network has to carry (docs/drain.md), where no gateway
    announces a prefix around it."""
    moving = None if site.vrrp is None else site.vrrp.outside
    ends = moving or next(iter(site.gateways.values())).uplink
    for prefix, family in _service_addresses(site):
        if family in ends.families:
            yield prefix, str(ends.of(family))


def _service_addresses(site: Site) -> Iterator[tuple[str, Family]]:
    if (own := site.service_address) is not None:
        for family in own.families:
            if family in site.unicast_prefix.families:
                continue
            address = own.of(family)
            yield f"{address}/{address.max_prefixlen}", family


def on_link(router: Upstream, gateway: Gateway, family: Family) -> bool:
    """Whether a gateway has the upstream `router` on its uplink in this family: with a link of its own, only its end."""
    subnet, address = gateway.uplink.subnet.of(family), router.address.of(family)
    return address is not None and (subnet is None or address in subnet)


def session_name(node: str, family: Family | str) -> str:
    """The name of a BIRD protocol: the peer and the family, e.g. ``fra_gw1_ipv4``."""
    return f"{node.replace('-', '_')}_{family}"


def _default(family: Family) -> str:
    return "0.0.0.0/0" if family == "ipv4" else "::/0"
