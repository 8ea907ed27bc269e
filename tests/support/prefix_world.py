"""Fleets to plan for, as the text of their files, and what must hold of any plan: judged with `ipaddress`, not by the
planner's own arithmetic."""

from __future__ import annotations

import ipaddress
import itertools
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from anycast.fleet.addressing import Addressing
from anycast.prefixes.allocation import ADDRESSES, PREFIXES, Allocation, Kind, Lock, Resting
from anycast.prefixes.wants import Declared, declared

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
USES = ("anycast", "unicast", "pools", "management", "tunnels", "uplink", "inside", "subnets")


def block(region: int, length: int) -> str:
    """An IPv4 block in a region of its own: 16 of them, a /12 each, in space that no file of ours may name."""
    return f"{ipaddress.IPv4Address(10 << 24 | region << 20)}/{length}"


def block6(region: int, length: int = 44) -> str:
    return f"{ipaddress.IPv6Address(0x20010DB8 << 96 | region << 84)}/{length}"


def site(
    *, clients: int | None = None, gateways: int = 1, routers: int = 1, mirrored: bool = False, **written: Any
) -> dict[str, Any]:
    """A site's text with every address left out."""
    side = {"interface": "eth1"}
    made: dict[str, Any] = {
        "upstreams": {f"rtr{n}": {"asn": "64511"} for n in range(routers)},
        "gateways": {
            f"gw{n}": {"uplink": dict(side), "inside": dict(side), "management": dict(side)} for n in range(gateways)
        },
    }
    if gateways == 2:
        made["vrrp"] = {}
    if mirrored and gateways == 2:
        made["sync"] = {}
    if clients is not None:
        made["clients"] = str(clients)
    return {**made, **written}


def tree(blocks: dict[str, tuple[str, Iterable[str]]], sites: dict[str, Any], **addressing: Any) -> dict[str, Any]:
    """A fleet file's text. `blocks`: prefix and uses, by name."""
    return {
        "version": "1",
        "fleet": "world",
        "environment": "lab",
        "service": {"name": "vpn", "identity": "vpn.example.org", "inside": ["192.0.2.0/24", "2001:db8:ffff::/48"]},
        "addressing": {
            "blocks": {name: {"prefix": prefix, "use": list(uses)} for name, (prefix, uses) in blocks.items()},
            **addressing,
        },
        "sites": sites,
    }


def asked(text: dict[str, Any]) -> Declared:
    return declared(text, Addressing.model_validate(text["addressing"]))


def network(each: Allocation | Resting) -> Network:
    return ipaddress.ip_network(each.value)


def spaces(lock: Lock) -> dict[str, Network]:
    """What each key has for itself: prefixes and single addresses from blocks, but not what lies in such a prefix."""
    return {
        key: network(each)
        for key, each in lock.held.items()
        if each.kind in PREFIXES or (each.kind is Kind.TUNNEL and each.source not in lock.held)
    }


def judge(wanted: Declared, lock: Lock) -> None:
    """Nothing is two's; everything lies where it should."""
    own = spaces(lock)
    in_order = sorted(own.items(), key=lambda row: (row[1].version, int(row[1].network_address), row[1].prefixlen))
    for (key, one), (other_key, other) in itertools.pairwise(in_order):
        assert one.version != other.version or not one.overlaps(other), f"{key} {one} and {other_key} {other}"
    foreign = [each for many in wanted.addressing.foreign.values() for each in many]
    blocks = wanted.addressing.blocks
    for key, one in own.items():
        assert not any(one.version == each.version and one.overlaps(each) for each in foreign), f"{key} {one} is others'"
        if not lock.held[key].pinned:
            around = blocks[lock.held[key].source].prefix
            assert one.version == around.version and one.subnet_of(around), f"{key} {one}"  # type: ignore[arg-type]
    for rest in lock.resting:
        if rest.kind in PREFIXES:
            lying = network(rest)
            for key, one in own.items():
                if key == rest.key and lock.held[key].pinned:
                    continue  # the file makes it wider or narrower
                assert one.version != lying.version or not one.overlaps(lying), f"{key} {one} while {rest} rests"
    inside: dict[str, dict[str, str]] = defaultdict(dict)
    labels: dict[str, str] = {}
    for key, each in lock.held.items():
        if each.kind is Kind.SPI_LABEL:
            assert labels.setdefault(each.value, key) == key
        elif each.kind in ADDRESSES and each.source in lock.held:
            assert inside[each.source].setdefault(each.value, key) == key, f"{each.value} in {each.source}"
            around = network(lock.held[each.source])
            assert ipaddress.ip_address(each.value) in around
            if around.version == 4 and around.prefixlen < 31 and not each.pinned:
                assert each.value not in (str(around.network_address), str(around.broadcast_address))
