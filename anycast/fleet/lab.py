"""The `lab` section of fleet.yaml: the routers, NATs, servers and clients around the gateways.

The lab's topology file says which machine is cabled to which; this section says which addresses are on those cables, so
that every address of a lab stands in one file. A point-to-point link is a pair of addresses: the *other* side first, the
named machine's own side second (for `transit.links` the transit's side first, the named router's second).
"""

from __future__ import annotations

import pydantic

from anycast.fleet.section import DualStack, Section
from anycast.fleet.values import Address4, Address6, Asn, EspCipher, Flag, Interface4, Interface6, Name, Side


class Link(DualStack):
    """Both ends of a cable, a family at a time."""

    ipv4: tuple[Interface4, Interface4] | None = None
    ipv6: tuple[Interface6, Interface6] | None = None


class OwnAddresses(DualStack):
    """One machine's addresses on a subnet of its own, with their lengths."""

    ipv4: Interface4 | None = None
    ipv6: Interface6 | None = None


class Carrier(Section):
    """A network that carries clients' packets to sites."""

    asn: Asn
    links: dict[Name, Link] = pydantic.Field(default_factory=dict)
    """By upstream router: the carrier's side first."""
    prefer: Name | None = None
    """The upstream router whose path wins while it announces: a fixed preference makes every drill start alike. Required
    with `links` and without `ecmp`; without any the lowest `router_id` wins, as BGP has it (RFC 4271, section 9.1.2)."""
    ecmp: Flag | None = None
    """Paths by all `links` are of equal cost: each flow takes one of them, by addresses, protocol and ports."""


class Transit(Carrier):
    """The router that hears the service from every site."""

    node: Name
    upstreams: tuple[Name, ...] = ()
    """Upstream routers that are no machines of their own: the transit is on their sites' uplinks itself."""


class Peer(Carrier):
    """Another carrier, with customers of its own. It and the transit tell each other what their customers announce."""

    peering: Link
    """The transit's side first."""


class Router(DualStack):
    """A plain router on the uplink of a site that speaks no BGP: the gateways' way out, and a neighbour of the clients.

    It has its own addresses and no other route: it finds the service as any neighbour does, by ARP and Neighbor Discovery.
    """

    site: Name
    ipv4: Address4 | None = None
    """Without length: in the site's uplink subnet, which says it."""
    ipv6: Address6 | None = None


class Switch(Section):
    """A machine of its own that carries a site's subnet: a bridge without an address.

    What stands in that subnet is then cabled to it, and a cable of it can die while everybody's own keep carrier.
    """

    site: Name
    side: Side
    """Which of the site's subnets: ``uplink``, ``inside`` or ``management``."""


class CoordinatorMachine(Section):
    """The machine that runs `anycast serve`, by the `coordinator` section; it carries the management LAN of all gateways."""

    node: Name


class Server(DualStack):
    """A machine inside, behind a site."""

    site: Name
    ipv4: Address4 | None = None
    ipv6: Address6 | None = None


class Nat(Section):
    """A router that hides clients behind one address."""

    outside: Link
    """The transit's side first."""
    inside: OwnAddresses


class Client(DualStack):
    """A VPN client machine."""

    behind: Name
    """The transit's node, a peer, a NAT router, or a plain router."""
    ipv4: tuple[Interface4, Interface4] | None = None
    """The router's side first."""
    ipv6: tuple[Interface6, Interface6] | None = None
    esp: EspCipher
    """The one ESP cipher it proposes."""
    follows_redirects: Flag | None = None
    """Whether it goes where a REDIRECT sends it (RFC 5685). ``yes``: it begins at UDP port 500, as strongSwan has it by
    itself; ``no``: it says that it knows none. Default: docs/clients.md's profile as it is, which tries and cannot."""


class Crowd(Client):
    """One machine with many VPN clients in one charon, each with an identity, a certificate and inner addresses of its own.

    None of them connects by itself: a drill says which and when.
    """

    members: int = pydantic.Field(ge=1, le=5000)
    dual: int = pydantic.Field(ge=0)
    """So many ask for inner addresses of every family that the pools have, the others for IPv6 alone: documentation space
    has no IPv4 pool for hundreds."""


class Lab(Section):
    """What only a lab has."""

    transit: Transit | None = None
    """Required where a site has upstreams."""
    peers: dict[Name, Peer] = pydantic.Field(default_factory=dict)
    routers: dict[Name, Router] = pydantic.Field(default_factory=dict)
    """One for each site without upstreams."""
    switches: dict[Name, Switch] = pydantic.Field(default_factory=dict)
    """At most one a subnet. Without one the upstream router, the server or the other gateway is at a cable's other end."""
    coordinator: CoordinatorMachine | None = None
    """Required where the fleet has a `coordinator`."""
    servers: dict[Name, Server] = pydantic.Field(default_factory=dict)
    nat: dict[Name, Nat] = pydantic.Field(default_factory=dict)
    clients: dict[Name, Client] = pydantic.Field(default_factory=dict)
    crowds: dict[Name, Crowd] = pydantic.Field(default_factory=dict)
    guests: dict[Name, Client] = pydantic.Field(default_factory=dict)
    """As clients, but none of them connects by itself, and no lab waits for one: a drill says when."""

    @property
    def carriers(self) -> dict[str, Carrier]:
        """The transit, and its peers, by node."""
        return {**({} if self.transit is None else {self.transit.node: self.transit}), **self.peers}

    def carriers_of(self, upstream: str) -> tuple[str, ...]:
        """The nodes of those that an upstream router is linked to; the first one is its way out."""
        return tuple(node for node, carrier in self.carriers.items() if upstream in carrier.links)

    @property
    def connected(self) -> dict[str, Client]:
        """Every machine that VPN clients are on, by name."""
        return {**self.clients, **self.crowds, **self.guests}

    def machine_of(self, upstream: str) -> str:
        """The node that is the upstream router of that name."""
        return self.transit.node if self.transit is not None and upstream in self.transit.upstreams else upstream
