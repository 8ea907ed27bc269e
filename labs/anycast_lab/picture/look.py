"""Asks a running lab for what its picture shows: kernels for addresses, carriers and routes, agents for their verdicts."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping
from typing import Any

from anycast.fleet.schema import Fleet
from anycast.fleet.values import Family
from anycast_lab.control.client import Client
from anycast_lab.picture.facts import Live, Seen
from anycast_lab.picture.ways import Hop, Way, follow
from anycast_lab.topology import Link, Topology

_FAMILY: dict[Family, str] = {"ipv4": "-4", "ipv6": "-6"}


def look(client: Client, topology: Topology, fleet: Fleet, now: datetime.datetime) -> Live:
    """The lab as it is now. A machine that is off or frozen is not asked.

    Raises:
        LabError: the lab has ended.
    """
    nodes = client.ask("status")["nodes"]
    states = {name: node["state"] for name, node in nodes.items()}
    on = [name for name, state in states.items() if state == "on"]
    links = {name: _json(client, name, "ip", "-j", "addr") or [] for name in on}
    dead = frozenset(cable for cable in topology.links if _dead(cable, links))
    ways = dict[str, Way]()
    addresses = {name: frozenset(_addresses(found)) for name, found in links.items()}
    hops = dict[Family, dict[str, Hop]]()
    for name, machine in fleet.lab.connected.items() if fleet.lab is not None else ():
        family = next((f for f in machine.families if f in fleet.service.vips.families), None)
        if family is None or name not in addresses:
            continue
        if family not in hops:
            asked = {node: _route(client, node, family, str(fleet.service.vips.of(family))) for node in on}
            hops[family] = {node: hop for node, hop in asked.items() if hop is not None}
        switches = frozenset(fleet.lab.switches) if fleet.lab is not None else frozenset()
        ways[name] = follow(name, hops[family], addresses, [c for c in topology.links if c not in dead], switches)
    gateways = {
        name: _gateway(client, name, nodes[name]) for site in fleet.sites.values() for name in site.gateways if name in nodes
    }
    return Live(now.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC"), states, gateways, dead, ways)


def _json(client: Client, node: str, *argv: str) -> Any:
    """What a command in `node` says; None where it fails."""
    said = bytearray()

    def output(fd: int, data: bytes) -> None:
        if fd == 1:
            said.extend(data)

    if client.ask("exec", node=node, argv=argv, output=output)["rc"] != 0:
        return None
    return json.loads(said)


def _dead(cable: Link, links: Mapping[str, list[dict[str, Any]]]) -> bool:
    """No carrier, or silent: sch_blackhole is what mutes (embedded/links.py). Who is off says nothing; its peer does."""
    return any(
        link["ifname"] == end.interface and ("LOWER_UP" not in link["flags"] or link.get("qdisc") == "blackhole")
        for end in cable.ends()
        for link in links.get(end.node, ())
    )


def _addresses(links: Iterable[dict[str, Any]]) -> Iterable[str]:
    return (address["local"] for link in links for address in link.get("addr_info", ()))


def _route(client: Client, node: str, family: Family, vip: str) -> Hop | None:
    match _json(client, node, "ip", _FAMILY[family], "-j", "route", "get", vip):
        case [{"type": "local"}]:
            return Hop("lo", vip, here=True)
        case [{"dev": dev, "gateway": gateway}]:
            return Hop(dev, gateway)
        case [{"dev": dev}]:
            return Hop(dev, vip)
    return None


def _gateway(client: Client, name: str, node: Mapping[str, Any]) -> Seen:
    if node["state"] != "on":
        return Seen(node["role"], node["state"])
    answer = _json(client, name, "site-agent", "status", "--json")
    if answer is None:
        return Seen(node["role"], "no agent answers")
    verdict, routes = answer["verdict"], answer["routes"]
    announced = sum(route["announced"] for route in routes)
    causes = verdict["causes"] if not verdict["serving"] else answer["route"]["causes"]
    says = "serving" if verdict["serving"] else "not serving"
    if answer["hold"] is not None:
        says += f", hold {answer['hold']['kind']}"
    return Seen(
        node["role"],
        says,
        causes[0]["reason"] if causes else "",
        f"{announced}/{len(routes)} routes" if routes else "no BGP",
    )
