"""Reads what `judge/routes.py` judges: links, default routes, and the kernel's own answer where a pool's packets go."""

from __future__ import annotations

import dataclasses
import errno
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from site_agent.doctor.judge.routes import PoolReading, RoutesReading
from site_agent.doctor.read.patient import Patient, Pool
from site_agent.doctor.read.sight import Sight

AF_INET, AF_INET6 = 2, 10
_NOWHERE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.EACCES})
"""No route, `unreachable`, `blackhole`, `prohibit`."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Which interface is which. Names are empty where nothing tells."""

    uplink: str
    uplink_mtu: int
    inside: str
    missing: tuple[str, ...]
    """Names of the document that no interface has."""
    default_routes: frozenset[int]


def read_links(patient: Patient) -> Links:
    """The document's interfaces; without one the uplink is where the default route leaves."""
    with IPRoute() as ipr:
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in ipr.get_links()}
        mtus = {link.get_attr("IFLA_IFNAME"): int(link.get_attr("IFLA_MTU")) for link in ipr.get_links()}
        defaults: dict[int, str] = {}
        for version, family in ((4, AF_INET), (6, AF_INET6)):
            for route in ipr.get_default_routes(family=family):
                if (index := route.get_attr("RTA_OIF")) is not None:
                    defaults.setdefault(version, names.get(index, ""))
                else:
                    defaults.setdefault(version, "")  # several ways out
    document = patient.document
    uplink = document.uplink.name if document is not None else next((name for name in defaults.values() if name), "")
    inside = document.inside.name if document is not None else ""
    management = document.management.name if document is not None and document.management is not None else ""
    wanted = dict.fromkeys((uplink, inside, management)) if document is not None else ()
    missing = tuple(name for name in wanted if name and name not in mtus)
    return Links(
        uplink=uplink, uplink_mtu=mtus.get(uplink, 0), inside=inside, missing=missing, default_routes=frozenset(defaults)
    )  # fmt: skip


def read_routes(sight: Sight, patient: Patient, links: Links) -> RoutesReading:
    """Nothing is sent: the kernel is asked as `ip route get` asks it."""
    return RoutesReading(
        pools=tuple(_pool(sight, name, prefix) for name, prefix in pools_of(patient)),
        charon_installs=patient.settings.enabled("charon.install_routes", True),
        uplink=links.uplink,
        uplink_mtu=links.uplink_mtu,
        inside=links.inside,
        missing=links.missing,
        families=families_of(patient),
        default_routes=links.default_routes,
    )


def families_of(patient: Patient) -> tuple[int, ...]:
    """Of the service addresses; both where none is known."""
    return tuple(sorted({ip_address(vip).version for vip in patient.vips})) or (4, 6)


def pools_of(patient: Patient) -> list[tuple[str, str]]:
    """Names and prefixes of the client pools."""
    if patient.document is not None:
        return [(pool.name, pool.prefix) for pool in patient.document.service.pools]
    return [(pool.name, prefix) for pool in (patient.answers.pools if patient.answers else ()) if (prefix := _prefix(pool))]


def clients_of(patient: Patient) -> int:
    """How many clients the IPv4 pools have room for, or how many tunnels there are, whichever is more."""
    networks = [ip_network(prefix, strict=False) for _, prefix in pools_of(patient)]
    room = sum(network.num_addresses for network in networks if network.version == 4)
    return max(room, patient.answers.ike_sas if patient.answers else 0)


def _prefix(pool: Pool) -> str:
    """The smallest network around a pool; charon says where it begins and how many addresses it has."""
    try:
        first = ip_address(pool.base)
        last = first + max(0, min(pool.size, 1 << 31) - 1)
    except ValueError:
        return ""
    bits = (int(first) ^ int(last)).bit_length()
    network = IPv4Network if first.version == 4 else IPv6Network
    return str(network((int(first), first.max_prefixlen - bits), strict=False))


def _pool(sight: Sight, name: str, prefix: str) -> PoolReading:
    network = ip_network(prefix, strict=False)
    # The last address: clients are given the first ones, and who is connected has a route of charon's.
    target = str(network[-1])
    interface = None
    try:
        with IPRoute() as ipr:
            family = AF_INET if network.version == 4 else AF_INET6
            (route, *_) = ipr.route("get", dst=target, family=family)
            index = route.get_attr("RTA_OIF")
            if index is not None:
                (link, *_) = ipr.get_links(index)
                interface = str(link.get_attr("IFLA_IFNAME"))
    except NetlinkError as exc:
        if exc.code not in _NOWHERE:
            sight.miss(f"where {prefix} goes: {exc}")
    return PoolReading(pool=name, prefix=prefix, interface=interface)
