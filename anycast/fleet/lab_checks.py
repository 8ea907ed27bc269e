"""Rules about the `lab` section: that its machines fit each other and the sites they stand around."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from anycast.fleet.address_checks import Network, in_subnet, overlaps
from anycast.fleet.finding import Finding
from anycast.fleet.lab import Carrier, Client, Lab, Link
from anycast.fleet.schema import Fleet
from anycast.fleet.section import Prefixes
from anycast.fleet.yaml_text import Path, where


def lab_only_in_a_lab(fleet: Fleet) -> Iterator[Finding]:
    """A production file that describes machines to be simulated is a file somebody copied."""
    if fleet.lab is not None and fleet.environment != "lab":
        yield Finding(("lab",), f"is only read where environment is lab, not {fleet.environment}", at_key=True)


def _carriers(lab: Lab) -> Iterator[tuple[Path, Carrier]]:
    if lab.transit is not None:
        yield ("lab", "transit"), lab.transit
    for name, peer in lab.peers.items():
        yield ("lab", "peers", name), peer


def _clients(lab: Lab) -> Iterator[tuple[Path, Client]]:
    for name, client in lab.clients.items():
        yield ("lab", "clients", name), client
    for name, crowd in lab.crowds.items():
        yield ("lab", "crowds", name), crowd
    for name, guest in lab.guests.items():
        yield ("lab", "guests", name), guest


def _links(lab: Lab) -> Iterator[tuple[Path, Link | Client]]:
    for path, carrier in _carriers(lab):
        for name, link in carrier.links.items():
            yield (*path, "links", name), link
    for name, peer in lab.peers.items():
        yield ("lab", "peers", name, "peering"), peer.peering
    for name, nat in lab.nat.items():
        yield ("lab", "nat", name, "outside"), nat.outside
    yield from _clients(lab)


def link_ends_fit(fleet: Fleet) -> Iterator[Finding]:
    """Both ends of a cable are different addresses of one subnet."""
    for path, link in _links(fleet.lab) if fleet.lab else ():
        for family in link.families:
            far, own = link.of(family)
            if far.network != own.network:
                yield Finding((*path, family), f"{far} and {own} are in different subnets")
            elif far == own:
                yield Finding((*path, family), f"both ends are {own}")


def lab_names_fit(fleet: Fleet) -> Iterator[Finding]:
    """A name used here is a machine's that exists, and a machine's own name is nobody else's."""
    if fleet.lab is None:
        return
    lab, sites = fleet.lab, (("sites",),)
    upstreams = {name for site in fleet.sites.values() for name in site.upstreams}
    yield from _transit_fits(lab, upstreams)
    for kind, machines in (("servers", lab.servers), ("routers", lab.routers), ("switches", lab.switches)):
        for name, machine in machines.items():
            if machine.site not in fleet.sites:
                yield Finding(("lab", kind, name, "site"), f"{machine.site} is no site", judged=sites)
    transit = () if lab.transit is None else (lab.transit.node,)
    for place, client in _clients(lab):
        if client.behind not in (*transit, *lab.peers, *lab.nat, *lab.routers):
            path: Path = (*place, "behind")
            judged: tuple[Path, ...] = (("lab", "nat"), ("lab", "routers"), ("lab", "transit"), ("lab", "peers"))
            what = f"{client.behind} is neither the transit nor a peer nor a NAT router nor a plain router"
            yield Finding(path, what, judged=judged)
    yield from _machines_once(fleet, lab)


def _transit_fits(lab: Lab, upstreams: set[str]) -> Iterator[Finding]:
    sites, unread = (("sites",),), (("lab", "transit"),)
    if lab.transit is None:
        for name in sorted(upstreams):
            what = f"has no transit that the upstream {name} would be linked to"
            yield Finding(("lab",), what, at_key=True, judged=(*sites, *unread))
        for kind, names in (("nat", lab.nat), ("peers", lab.peers)):
            for name in names:
                yield Finding(("lab", kind, name), "has no transit to be linked to", at_key=True, judged=unread)
        return
    itself, linked = lab.transit.upstreams, {name for carrier in lab.carriers.values() for name in carrier.links}
    for i, name in enumerate(itself):
        path: Path = ("lab", "transit", "upstreams", i)
        if name not in upstreams:
            yield Finding(path, f"{name} is no upstream of any site", judged=sites)
        elif name in linked:
            yield Finding(path, f"{name} has a link in transit.links, so it is a machine of its own")
    links: Path = ("lab", "transit", "links")
    for name in sorted(upstreams - linked - set(itself)):
        where_to = links if lab.transit.links else ("lab", "transit")
        judged = (*sites, ("lab", "peers"))
        yield Finding(where_to, f"has no link to the upstream {name}", at_key=not lab.transit.links, judged=judged)
    for path, carrier in _carriers(lab):
        yield from _carrier_fits(path, carrier, upstreams)


def _carrier_fits(path: Path, carrier: Carrier, upstreams: set[str]) -> Iterator[Finding]:
    links: Path = (*path, "links")
    for name in carrier.links:
        if name not in upstreams:
            yield Finding((*links, name), "is no upstream of any site", at_key=True, judged=(("sites",),))
    if carrier.ecmp:
        if carrier.prefer is not None:
            yield Finding((*path, "prefer"), "names one path, and with ecmp all are equal", judged=((*path, "ecmp"),))
        if len(carrier.links) < 2:
            yield Finding((*path, "ecmp"), "needs two links that could be equal", judged=(links,))
    elif carrier.prefer is not None and carrier.prefer not in carrier.links:
        yield Finding((*path, "prefer"), f"{carrier.prefer} is none of {path[-1]}.links", judged=(links,))
    elif carrier.prefer is None and carrier.links:
        yield Finding(path, "has links and no prefer, which says whose path wins", at_key=True, judged=(links,))


def the_transit_is_of_one_as(fleet: Fleet) -> Iterator[Finding]:
    """A router that stands for a site's upstream is the same speaker there, and has a cable to what is on that uplink."""
    transit = fleet.lab.transit if fleet.lab else None
    for name, site in fleet.sites.items() if transit else ():
        for router, upstream in site.upstreams.items():
            if transit is None or router not in transit.upstreams:
                continue
            path: Path = ("sites", name, "upstreams", router)
            judged: tuple[Path, ...] = (("lab", "transit"),)
            if upstream.asn != transit.asn:
                yield Finding((*path, "asn"), f"{upstream.asn} is not lab.transit.asn {transit.asn}", judged=judged)
            switched = any((s.site, s.side) == (name, "uplink") for s in fleet.lab.switches.values()) if fleet.lab else False
            if len(site.gateways) > 1 and not switched:
                what = f"is the transit, which has one cable here, and there are {len(site.gateways)} gateways: add a switch"
                yield Finding(path, what, at_key=True, judged=(*judged, ("lab", "switches")))


def the_coordinator_is_within_reach(fleet: Fleet) -> Iterator[Finding]:
    """A lab whose coordinator no gateway can reach is never up; here it is one LAN for all of them."""
    if fleet.lab is None:
        return
    if fleet.coordinator is None or fleet.lab.coordinator is None:
        if fleet.coordinator is not None:
            yield Finding(("coordinator",), "has no machine in this lab: lab.coordinator is not there", at_key=True)
        elif fleet.lab.coordinator is not None:
            what = "has no coordinator section to run by, which says name and addresses"
            yield Finding(("lab", "coordinator"), what, at_key=True, judged=(("coordinator",),))
        return
    here: Path = ("coordinator", "addresses")
    own = fleet.coordinator.addresses
    taken: dict[str, Path] = {str(own.of(family)): (*here, family) for family in own.families}
    for name, site in fleet.sites.items():
        subnets: Path = ("sites", name, "management")
        for gateway_name, gateway in site.gateways.items():
            path: Path = ("sites", name, "gateways", gateway_name)
            if gateway.management is None:
                yield Finding(path, "has no management, by which it would reach the coordinator", at_key=True)
                continue
            for family in gateway.management.families:
                place: Path = (*path, "management", family)
                other = taken.setdefault(str(gateway.management.of(family)), place)
                if other != place:
                    what = f"{gateway.management.of(family)} is also the address of {where(other[:-1])} on the same LAN"
                    yield Finding(place, what, judged=(other,))
        if site.management.families:
            yield from in_subnet(here, own, site.management, subnets)
    for name, switch in fleet.lab.switches.items():
        if switch.side == "management":
            what = f"{fleet.lab.coordinator.node} carries the management of all sites already"
            yield Finding(("lab", "switches", name), what, at_key=True, judged=(("lab", "coordinator"),))


def sites_without_upstreams_have_a_router(fleet: Fleet) -> Iterator[Finding]:
    """Something must stand on a site's uplink, and two of it would be two ways out."""
    routers: dict[str, str] = {}
    for name, router in fleet.lab.routers.items() if fleet.lab else ():
        path: Path = ("lab", "routers", name)
        if (site := fleet.sites.get(router.site)) is None:
            continue
        judged: tuple[Path, ...] = (("sites", router.site),)
        if site.upstreams:
            yield Finding(path, f"stands at {router.site}, whose upstreams are its routers", at_key=True, judged=judged)
        elif other := routers.get(router.site):
            yield Finding(path, f"stands at {router.site}, and so does {other}; one is enough", at_key=True)
        routers.setdefault(router.site, name)
        yield from in_subnet(path, router, site.uplink, ("sites", router.site, "uplink"))
        for gateway_name, gateway in site.gateways.items():
            for family in router.families:
                if router.of(family) == gateway.uplink.of(family):
                    there: Path = ("sites", router.site, "gateways", gateway_name, "uplink")
                    what = f"{router.of(family)} is also the address of {where(there)}"
                    yield Finding((*path, family), what, judged=((*there, family),))
    for name, site in fleet.sites.items() if fleet.lab else ():
        if not site.upstreams and name not in routers:
            judged = (("sites", name), ("lab", "routers"))
            yield Finding(("lab",), f"has no router at {name}, which has no upstreams", at_key=True, judged=judged)


def switches_carry_one_subnet_each(fleet: Fleet) -> Iterator[Finding]:
    """Two switches of one subnet would be two subnets, and the topology file decides who is where."""
    taken: dict[tuple[str, str], str] = {}
    for name, switch in fleet.lab.switches.items() if fleet.lab else ():
        other = taken.setdefault((switch.site, switch.side), name)
        if other != name:
            what = f"{other} carries the {switch.side} of {switch.site} already"
            yield Finding(("lab", "switches", name), what, at_key=True)


def _machines_once(fleet: Fleet, lab: Lab) -> Iterator[Finding]:
    seen: dict[str, Path] = {}
    for site_name, site in fleet.sites.items():
        seen |= {name: ("sites", site_name, "upstreams", name) for name in site.upstreams}
        seen |= {name: ("sites", site_name, "gateways", name) for name in site.gateways}
    machines: list[tuple[str, Path]] = []
    if lab.transit is not None:
        machines.append((lab.transit.node, ("lab", "transit", "node")))
    if lab.coordinator is not None:
        machines.append((lab.coordinator.node, ("lab", "coordinator", "node")))
    for kind in ("peers", "routers", "switches", "servers", "nat", "clients", "crowds", "guests"):
        machines += [(name, ("lab", kind, name)) for name in getattr(lab, kind)]
    for name, path in machines:
        if name in seen:
            yield Finding(path, f"{name} is also the name of {where(seen[name])}", at_key=True, judged=(seen[name],))
        seen.setdefault(name, path)


def servers_are_inside(fleet: Fleet) -> Iterator[Finding]:
    """A server has an address of its site's inside subnet that no gateway and no other server has."""
    taken: dict[tuple[str, str], Path] = {}
    for site_name, site in fleet.sites.items():
        for name, gateway in site.gateways.items():
            path: Path = ("sites", site_name, "gateways", name, "inside")
            taken |= {(site_name, str(gateway.inside.of(f))): (*path, f) for f in gateway.inside.families}
        if site.vrrp is not None:
            path = ("sites", site_name, "vrrp", "inside")
            taken |= {(site_name, str(site.vrrp.inside.of(f))): (*path, f) for f in site.vrrp.inside.families}
    for name, server in fleet.lab.servers.items() if fleet.lab else ():
        if server.site not in fleet.sites:
            continue
        path = ("lab", "servers", name)
        yield from in_subnet(path, server, fleet.sites[server.site].inside, ("sites", server.site, "inside"))
        for family in server.families:
            address, here = str(server.of(family)), (*path, family)
            other = taken.setdefault((server.site, address), here)
            if other != here:
                yield Finding(here, f"{address} is also the address of {where(other[:-1])}", judged=(other,))


def clients_meet_their_nat(fleet: Fleet) -> Iterator[Finding]:
    """A client behind a NAT router has that router's inside address at the other end of its cable."""
    for place, client in _clients(fleet.lab) if fleet.lab else ():
        nat = fleet.lab.nat.get(client.behind) if fleet.lab else None
        for family in client.families if nat else ():
            far, inside = client.of(family)[0], nat.inside.of(family) if nat else None
            if far != inside:
                yield Finding(
                    (*place, family, 0),
                    f"{far} is not the inside address of {client.behind} ({inside or 'which has none'})",
                    judged=(("lab", "nat", client.behind, "inside"),),
                )


def lab_prefixes_do_not_overlap(fleet: Fleet) -> Iterator[Finding]:
    """The cables' subnets are apart from each other and from everything the sites use."""
    if fleet.lab is None:
        return
    exclusive: list[tuple[Network, Path]] = []
    for path, link in _links(fleet.lab):
        # A client behind a NAT router shares that router's inside subnet.
        if not (isinstance(link, Client) and link.behind in fleet.lab.nat):
            exclusive += [(link.of(family)[1].network, (*path, family)) for family in link.families]
    for name, nat in fleet.lab.nat.items():
        exclusive += [(nat.inside.of(f).network, ("lab", "nat", name, "inside", f)) for f in nat.inside.families]
    fixed: list[tuple[Network, Path]] = []
    for path, section in _site_sections(fleet):
        fixed += [(section.of(family), (*path, family)) for family in section.families]
    fixed += [(network, ("service", "inside", i)) for i, network in enumerate(fleet.service.inside)]
    yield from overlaps(exclusive, fixed)


def _site_sections(fleet: Fleet) -> Iterator[tuple[Path, Prefixes]]:
    yield ("service", "prefixes"), fleet.service.prefixes
    for name, site in fleet.sites.items():
        yield ("sites", name, "uplink"), site.uplink
        yield ("sites", name, "inside"), site.inside
        yield ("sites", name, "pools"), site.pools
        yield ("sites", name, "management"), site.management


LAB_RULES: tuple[Callable[[Fleet], Iterator[Finding]], ...] = (
    lab_only_in_a_lab,
    link_ends_fit,
    lab_names_fit,
    the_transit_is_of_one_as,
    the_coordinator_is_within_reach,
    sites_without_upstreams_have_a_router,
    switches_carry_one_subnet_each,
    servers_are_inside,
    clients_meet_their_nat,
    lab_prefixes_do_not_overlap,
)
