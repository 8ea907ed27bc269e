"""The canary's cable: the gateway's end of the veth pair, by netlink. It ends with the namespace at its other end.

Its far end's two addresses must be nobody's: they are asked for before it is laid, and where a route or an address of the
machine's own covers one, there is no canary. A cloud's VPN gives its BGP sessions addresses of 169.254.0.0/16, too.

Blocking, and pyroute2 brings an event loop of its own: call it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import time
from ipaddress import ip_interface, ip_network
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from anycast.errors import KernelError, PeerError
from site_agent.canary import plan

NUD_PERMANENT = 0x80
OLD_ONE_GOES_S = 2.0
"""The kernel takes down a dead process's namespace, and the cable with it, in its own time: some 10 ms."""
RETRY_S = 0.05
RTM_F_FIB_MATCH = 0x2000
"""linux/rtnetlink.h: answer with the route itself, not with what it makes of this destination."""


def lay(outer: tuple[plan.Outer, ...], pid: int) -> None:
    """Lay it to the network namespace of `pid`. Raises KernelError, and PeerError where an address is somebody else's.

    An interface of that name that is not ours stays.
    """
    try:
        with IPRoute() as ipr:
            _take_away_the_old_one(ipr)
            for way in outer:
                _refuse_a_taken_address(ipr, way.own)
            peer = {"ifname": plan.INNER_INTERFACE, "net_ns_pid": pid, "address": plan.CANARY_MAC}
            ipr.link("add", ifname=plan.INTERFACE, kind="veth", address=plan.GATEWAY_MAC, peer=peer)
            index = ipr.link_lookup(ifname=plan.INTERFACE)[0]
            ipr.link("set", index=index, ifalias=plan.ALIAS)
            _set_up_for_forwarding()
            ipr.link("set", index=index, state="up")
            for way in outer:
                host = f"{way.own}/{way.own.max_prefixlen}"
                ipr.neigh("add", dst=str(way.own), lladdr=plan.CANARY_MAC, ifindex=index, state=NUD_PERMANENT)
                ipr.route("add", dst=host, oif=index, scope=253 if way.own.version == 4 else 0)  # RT_SCOPE_LINK
    except NetlinkError as exc:
        raise KernelError(exc.code, f"lay the canary's cable {plan.INTERFACE}") from exc


def _take_away_the_old_one(ipr: IPRoute) -> None:
    """That of a canary that has just been killed, or whose agent crashed."""
    deadline = time.monotonic() + OLD_ONE_GOES_S
    while found := ipr.link_lookup(ifname=plan.INTERFACE):
        if ipr.link("get", index=found[0])[0].get("ifalias") != plan.ALIAS:
            raise KernelError(errno.EEXIST, f"an interface {plan.INTERFACE} that is not the canary's")
        with contextlib.suppress(NetlinkError):  # gone meanwhile
            ipr.link("del", index=found[0])
        if time.monotonic() > deadline:
            raise KernelError(errno.EBUSY, f"take away the old {plan.INTERFACE}")
        time.sleep(RETRY_S)


def _refuse_a_taken_address(ipr: IPRoute, own: plan.Address) -> None:
    """Our host route would win over whatever covers it, but for a default route: over a peer's, too."""
    found = []
    with contextlib.suppress(NetlinkError):  # no route at all
        for route in ipr.route("get", dst=str(own), flags=RTM_F_FIB_MATCH):
            if route["dst_len"] > 0:
                network = ip_network(f"{route.get('dst')}/{route['dst_len']}", strict=False)
                found.append(f"the route to {network}{_name(ipr, route.get('oif'))}")
    for address in ipr.get_addr(family=2 if own.version == 4 else 10):  # AF_INET, AF_INET6
        has = ip_interface(f"{address.get('address')}/{address['prefixlen']}")  # a link that is down has no route
        if own in has.network and has.network.prefixlen > 0:
            found.append(f"the address {has}{_name(ipr, address['index'])}")
    if found:
        raise PeerError("canary", f"would take {own} away from {' and '.join(found)}: there is none on this machine")


def _name(ipr: IPRoute, index: int | None) -> str:
    with contextlib.suppress(NetlinkError):
        if index is not None:
            return f" on {ipr.link('get', index=index)[0].get('ifname')}"
    return ""


def _set_up_for_forwarding() -> None:
    """Of this interface only: its decrypted packets are forwarded like the uplink's, and it needs no address of its own."""
    for setting, value in (
        ("ipv4/conf/{}/forwarding", "1"),
        ("ipv6/conf/{}/forwarding", "1"),
        ("ipv6/conf/{}/addr_gen_mode", "1"),
    ):
        with contextlib.suppress(FileNotFoundError):  # a machine without IPv6
            Path("/proc/sys/net", setting.format(plan.INTERFACE)).write_text(value)
