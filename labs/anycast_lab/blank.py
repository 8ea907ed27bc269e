"""A fleet and its topology of a given shape, as two texts: where an operator's own lab begins (`anycast lab new`). Pure.

The plan is that of the lab's own topologies: per site an uplink /28, one inside /28 that all sites share (its servers have
the same addresses everywhere), a client pool, and for a pair a management /29. Documentation space, as in every lab, has
room for eight sites with three upstreams each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

SITES = ("fra", "sin", "ams", "lon", "nyc", "tyo", "syd", "gru")
MOST_UPSTREAMS = 3
_FIRST_SITE_ASN, _TRANSIT_ASN, _FIRST_UPSTREAM_ASN = 64501, 64500, 64511
_MTU = 1500


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    name: str
    sites: int
    pairs: bool
    upstreams: int
    """Of each site."""

    @property
    def site_names(self) -> tuple[str, ...]:
        return SITES[: self.sites]

    @property
    def switched(self) -> bool:
        """Whether more than two machines share a site's uplink."""
        return self.pairs or self.upstreams > 1

    def gateways(self, site: str) -> list[str]:
        return [f"{site}-gw{number}" for number in range(1, 3 if self.pairs else 2)]

    def routers(self, site: str) -> list[str]:
        return [f"{site}-rtr{number}" for number in range(1, self.upstreams + 1)]

    def all_routers(self) -> list[str]:
        return [router for site in self.site_names for router in self.routers(site)]


def fleet(shape: Shape) -> str:
    """The text of ``NAME.fleet.yaml``."""
    return "\n".join([*_service(shape), "sites:", *_sites(shape), "", *_lab(shape)]) + "\n"


def topology(shape: Shape) -> str:
    """The text of ``NAME.clab.yml``."""
    groups = {"gateway": "gateway", "router": "router", "switch": "router", "client": "client"}
    nodes, cables = dict[str, str](), _Cables()
    for site in shape.site_names:
        nodes |= dict.fromkeys(shape.gateways(site), "gateway") | dict.fromkeys(shape.routers(site), "router")
        lan, inside = (f"{site}-lan" if shape.switched else ""), (f"{site}-inside" if shape.pairs else "")
        nodes |= {switch: "switch" for switch in (lan, inside) if switch} | {f"{site}-srv": "client"}
        for gateway in shape.gateways(site):
            cables.join(gateway, lan or shape.routers(site)[0])
            cables.join(gateway, inside or f"{site}-srv")
        if shape.switched:
            for router in shape.routers(site):
                cables.join(router, lan)
        if shape.pairs:
            cables.join(f"{site}-srv", inside)
            cables.join(*shape.gateways(site))
    nodes |= {"transit": "router", "natter": "router", "direct": "client", "roamer": "client"}
    for router in shape.all_routers():
        cables.join(router, "transit")
    cables.join("direct", "transit")
    cables.join("natter", "transit")
    cables.join("roamer", "natter")
    return "\n".join(
        [
            f"# {_said(shape)}. Addresses stand in {shape.name}.fleet.yaml; every node's folder, made of it by",
            "# `anycast lab up`, holds its `boot` script and files, bound to /etc/anycast.",
            f"name: {shape.name}",
            "topology:",
            "  defaults:",
            "    kind: linux",
            "    network-mode: none",
            "    binds: [__clabNodeDir__/etc:/etc/anycast]",
            "    exec: [sh /etc/anycast/boot]",
            "  groups:",
            "    gateway:",
            "      image: anycast/gateway:lab",
            "      exec: [site-agent run --detach --fleet /etc/anycast/fleet.yaml]   # after the defaults' line",
            *(f"    {group}: {{image: anycast/{image}:lab}}" for group, image in groups.items() if group != "gateway"),
            "  nodes:",
            *(f"    {name}: {{group: {group}}}" for name, group in nodes.items()),
            "  links:",
            *cables.lines,
        ]
    ) + "\n"  # fmt: skip


class _Cables:
    """Each machine's interfaces are numbered as its cables come."""

    def __init__(self) -> None:
        self.lines = list[str]()
        self._count = dict[str, int]()

    def join(self, a: str, b: str) -> None:
        self.lines.append(f'    - {{endpoints: ["{self._end(a)}", "{self._end(b)}"], mtu: {_MTU}}}')

    def _end(self, node: str) -> str:
        self._count[node] = self._count.get(node, 0) + 1
        return f"{node}:eth{self._count[node]}"


def _said(shape: Shape) -> str:
    sites = "One site" if shape.sites == 1 else f"{shape.sites} sites"
    upstreams = "one upstream" if shape.upstreams == 1 else f"{shape.upstreams} upstreams"
    return f"{sites}, {'two gateways' if shape.pairs else 'one gateway'} and {upstreams} each"


def _service(shape: Shape) -> list[str]:
    return [
        f"# {_said(shape)}: the one place where this lab's addresses stand. Documentation space only (RFC 5737, RFC 3849,",
        "# RFC 5398). Write your own service, sites, names and numbers over it; in production there is no `lab` section.",
        "version: 1",
        f"fleet: {shape.name}",
        "environment: lab",
        "",
        "service:",
        "  name: vpn",
        "  identity: vpn.example.org",
        '  vips: {ipv4: 203.0.113.1, ipv6: "2001:db8:a::1"}',
        '  prefixes: {ipv4: 203.0.113.0/28, ipv6: "2001:db8:a::/56"}',
        '  inside: [192.0.2.0/28, "2001:db8:b::/64"]',
        "  checks:           # the server behind each site answers for the service's name, and to echoes",
        "    dns: {servers: [192.0.2.10]}",
        '    reachability: [192.0.2.10, "2001:db8:b::10"]',
        "",
        "defaults:",
        "  bgp:",
        "    run_as: 64179           # a lab makes no account",
        "    hold_time: 9 s",
        "  lease: {duration: 1 s, grace: 15 s}",
        "  agent:",
        "    recovery: 10 s",
        "    timings: {dns: {interval: 2 s}}",
        "",
    ]


def _sites(shape: Shape) -> Iterator[str]:
    for index, site in enumerate(shape.site_names):
        base, v6 = 16 * index, f"2001:db8:{index + 1:x}"
        yield f"  {site}:"
        yield f"    asn: {_FIRST_SITE_ASN + index}"
        yield f'    uplink: {{ipv4: 198.51.100.{base}/28, ipv6: "{v6}::/64"}}'
        yield '    inside: {ipv4: 192.0.2.0/28, ipv6: "2001:db8:b::/64"}'
        if shape.pairs:
            yield f"    management: {{ipv4: 192.0.2.{64 + 8 * index}/29}}"
        yield f'    pools: {{ipv4: 203.0.113.{64 + base}/28, ipv6: "2001:db8:c:{index + 1:x}::/64"}}'
        if shape.pairs:
            yield "    vrrp:"
            yield f'      outside: {{ipv4: 198.51.100.{base + 8}, ipv6: "{v6}::8"}}'
            yield '      inside: {ipv4: 192.0.2.1, ipv6: "2001:db8:b::1"}'
        yield "    upstreams:"
        for number, router in enumerate(shape.routers(site)):
            address = f'{{ipv4: 198.51.100.{base + 1 + number}, ipv6: "{v6}::{1 + number}"}}'
            yield f"      {router}: {{asn: {_FIRST_UPSTREAM_ASN - number}, address: {address}}}"
        yield "    gateways:"
        for number, gateway in enumerate(shape.gateways(site)):
            own = base + 5 + number
            yield f"      {gateway}:"
            yield f"        router_id: 198.51.100.{own}"
            yield f'        uplink: {{interface: eth1, ipv4: 198.51.100.{own}, ipv6: "{v6}::{5 + number}"}}'
            yield f'        inside: {{interface: eth2, ipv4: 192.0.2.{2 + number}, ipv6: "2001:db8:b::{2 + number}"}}'
            if shape.pairs:
                yield f"        management: {{interface: eth3, ipv4: 192.0.2.{65 + 8 * index + number}}}"


def _lab(shape: Shape) -> Iterator[str]:
    yield "# What only a lab has: the machines around the gateways. Refused where `environment` is production."
    yield "lab:"
    yield "  transit:"
    yield "    node: transit"
    yield f"    asn: {_TRANSIT_ASN}"
    yield "    links:            # transit's side first"
    for number, router in enumerate(shape.all_routers()):
        first, v6 = 129 + 4 * number, f"2001:db8:f:{number + 1:x}"
        ends = f"[198.51.100.{first}/30, 198.51.100.{first + 1}/30]"
        yield f'      {router}: {{ipv4: {ends}, ipv6: ["{v6}::1/64", "{v6}::2/64"]}}'
    yield f"    prefer: {shape.all_routers()[0]}"
    if shape.switched:
        yield "  switches:           # what shares a site's subnet is cabled to these"
        for site in shape.site_names:
            yield f"    {site}-lan: {{site: {site}, side: uplink}}"
            if shape.pairs:
                yield f"    {site}-inside: {{site: {site}, side: inside}}"
    yield "  servers:"
    for site in shape.site_names:
        yield f'    {site}-srv: {{site: {site}, ipv4: 192.0.2.10, ipv6: "2001:db8:b::10"}}'
    yield "  nat:"
    yield "    natter:"
    yield "      outside: {ipv4: [198.51.100.241/28, 198.51.100.242/28]}   # transit's side first"
    yield "      inside: {ipv4: 192.0.2.129/28}"
    direct = 'ipv4: [198.51.100.225/28, 198.51.100.226/28], ipv6: ["2001:db8:d::1/64", "2001:db8:d::2/64"]'
    yield "  clients:"
    yield f"    direct: {{behind: transit, {direct}, esp: aes256gcm16}}"
    yield "    roamer: {behind: natter, ipv4: [192.0.2.129/28, 192.0.2.130/28], esp: chacha20poly1305}"
