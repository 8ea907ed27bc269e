"""Rules about the `lab` section: that its machines fit each other and the sites they stand around."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from anycast.fleet.address_checks import Network, in_subnet, overlaps
from anycast.fleet.finding import Finding
from anycast.fleet.lab import Client, Lab, Link
from anycast.fleet.schema import Fleet
from anycast.fleet.section import Prefixes
from anycast.fleet.yaml_text import Path, where


def lab_only_in_a_lab(fleet: Fleet) -> Iterator[Finding]:
    """A production file that describes machines to be simulated is a file somebody copied."""
    if fleet.lab is not None and fleet.environment != "lab":
        yield Finding(("lab",), f"is only read where environment is lab, not {fleet.environment}", at_key=True)


def _links(lab: Lab) -> Iterator[tuple[Path, Link | Client]]:
    for name, link in lab.transit.links.items():
        yield ("lab", "transit", "links", name), link
    for name, nat in lab.nat.items():
        yield ("lab", "nat", name, "outside"), nat.outside
    for name, client in lab.clients.items():
        yield ("lab", "clients", name), client


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
    for name in lab.transit.links:
        if name not in upstreams:
            path: Path = ("lab", "transit", "links", name)
            yield Finding(path, "is no upstream of any site", at_key=True, judged=sites)
    for name in sorted(upstreams - lab.transit.links.keys()):
        yield Finding(("lab", "transit", "links"), f"has no link to the upstream {name}", judged=sites)
    if lab.transit.prefer not in lab.transit.links:
        judged: tuple[Path, ...] = (("lab", "transit", "links"),)
        yield Finding(("lab", "transit", "prefer"), f"{lab.transit.prefer} is none of transit.links", judged=judged)
    for name, server in lab.servers.items():
        if server.site not in fleet.sites:
            yield Finding(("lab", "servers", name, "site"), f"{server.site} is no site", judged=sites)
    for name, client in lab.clients.items():
        if client.behind != lab.transit.node and client.behind not in lab.nat:
            path = ("lab", "clients", name, "behind")
            judged = (("lab", "nat"), ("lab", "transit", "node"))
            yield Finding(path, f"{client.behind} is neither the transit nor a NAT router", judged=judged)
    yield from _machines_once(fleet, lab)


def _machines_once(fleet: Fleet, lab: Lab) -> Iterator[Finding]:
    seen: dict[str, Path] = {}
    for site_name, site in fleet.sites.items():
        seen |= {name: ("sites", site_name, "upstreams", name) for name in site.upstreams}
        seen |= {name: ("sites", site_name, "gateways", name) for name in site.gateways}
    machines: list[tuple[str, Path]] = [(lab.transit.node, ("lab", "transit", "node"))]
    for kind, names in (("servers", lab.servers), ("nat", lab.nat), ("clients", lab.clients)):
        machines += [(name, ("lab", kind, name)) for name in names]
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
    for name, client in fleet.lab.clients.items() if fleet.lab else ():
        nat = fleet.lab.nat.get(client.behind) if fleet.lab else None
        for family in client.families if nat else ():
            far, inside = client.of(family)[0], nat.inside.of(family) if nat else None
            if far != inside:
                yield Finding(
                    ("lab", "clients", name, family, 0),
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


LAB_RULES: tuple[Callable[[Fleet], Iterator[Finding]], ...] = (
    lab_only_in_a_lab,
    link_ends_fit,
    lab_names_fit,
    servers_are_inside,
    clients_meet_their_nat,
    lab_prefixes_do_not_overlap,
)
