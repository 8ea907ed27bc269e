"""Does the machine carry the service's addresses? The kernel says so, and no outsider can cause it: a fact.

Removal is an event (RTM_DELADDR); an event about one of the service's addresses only causes a look at the whole list, so a
lost event costs one interval. Looks that events cause keep a pause (`EventPace`), and the last event of a row
is looked at when it is over. Other addresses of the machine come and go by the thousand on some gateways: they cause none.

A list that changed while the kernel wrote it may lack what was there all the time. Two such lists in a row that lack an
address of ours prove nothing: that is UNKNOWN, not a fact.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_DELADDR, RTM_GETADDR, RTM_NEWADDR, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR

from anycast.errors import DecodeError, KernelError
from anycast.model import EvidenceClass
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.checks.base import REST_PER_LOOK, Finding, Timing, failing, passing
from site_agent.checks.event_pace import EventPace
from site_agent.netlink.messages import Message, split_attributes
from site_agent.netlink.transport import EventSocket, dump

NAME = "vip_present"
INTERFACE = "lo"
"""VIPs are reached by route, so they belong to an interface that is never down."""

IFADDRMSG_BYTES = 8
"""struct ifaddrmsg: family, prefix length, flags, scope, index."""
ANY_ADDRESS = bytes(IFADDRMSG_BYTES)
"""The request's own header, of all families. Without it rtnetlink ignores the request and answers nothing (measured)."""
IFA_ADDRESS = 1
IFA_LOCAL = 2

Address = IPv4Address | IPv6Address


class VipCheck:
    """Reports `vip_present`."""

    reports: Mapping[str, EvidenceClass] = {NAME: EvidenceClass.FACT}
    timing = Timing(interval_s=1.0, timeout_s=1.0, rise=1, fall=1)

    def __init__(self, vips: Iterable[str]) -> None:
        self._vips = frozenset(ip_address(vip) for vip in vips)
        self._pace = EventPace(rest_per_look=REST_PER_LOOK)
        self._late: asyncio.TimerHandle | None = None

    async def look(self) -> Sequence[Finding]:
        began = boottime()
        try:
            missing = self._vips - await present_addresses(self._vips)
        finally:
            self._pace.looked(boottime() - began)
        if missing:
            return [failing(NAME, Reason.VIP_MISSING, ", ".join(sorted(map(str, missing))))]
        return [passing(NAME, ", ".join(sorted(map(str, self._vips))))]

    def watch(self, look_now: Callable[[], None]) -> EventSocket:
        """Call `look_now` whenever one of the addresses was added or removed, at a pace. Close what it returns."""
        loop = asyncio.get_running_loop()

        def happened() -> None:
            if self._pace.wants_look(boottime(), flush=False):
                look_now()
            elif self._late is None:
                self._late = loop.call_later(self._pace.pause_s, late)

        def late() -> None:
            self._late = None
            happened()

        def on_message(message: Message) -> None:
            if message.kind in (RTM_NEWADDR, RTM_DELADDR) and decode_address(message.payload) in self._vips:
                happened()

        return EventSocket(socket.NETLINK_ROUTE, RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR, on_message, happened)


async def present_addresses(wanted: frozenset[Address] = frozenset()) -> frozenset[Address]:
    """Every address that the machine has on any interface. Raises KernelError, with EAGAIN where the list would not stand
    still and one of `wanted` was not in it: nobody can say then that it is missing.
    """
    either = frozenset[Address]()
    for _ in range(2):
        seen: set[Address] = set()
        if await dump(socket.NETLINK_ROUTE, RTM_GETADDR, functools.partial(_collect, seen=seen), ANY_ADDRESS):
            return frozenset(seen)
        either |= seen  # the list changed while the kernel wrote it: what it has, is there; what it lacks may be, too
    if not wanted <= either:
        raise KernelError(errno.EAGAIN, "list the machine's addresses, which changed meanwhile, twice")
    return either


def place_vips(vips: Iterable[str]) -> None:
    """Put the addresses on `lo`; one that is there already is left alone. Blocks: call it before the loop runs.

    Raises KernelError.
    """
    try:
        with IPRoute() as ipr:
            index = ipr.link_lookup(ifname=INTERFACE)[0]
            ipr.link("set", index=index, state="up")
            for vip in vips:
                ipr.addr("replace", index=index, address=vip, prefixlen=ip_address(vip).max_prefixlen)
    except NetlinkError as exc:
        raise KernelError(exc.code, f"place the service's addresses on {INTERFACE}") from exc


def decode_address(payload: memoryview) -> Address | None:
    """The local address of RTM_NEWADDR; None for a family that is neither IPv4 nor IPv6. Raises DecodeError."""
    if len(payload) < IFADDRMSG_BYTES:
        raise DecodeError("ifaddrmsg", len(payload), f"shorter than {IFADDRMSG_BYTES} bytes")
    family = payload[0]
    address: Address | None = None
    for kind, value in split_attributes(payload, IFADDRMSG_BYTES):
        # IPv4 has both, and IFA_ADDRESS is the far end of a point-to-point link; IPv6 usually has IFA_ADDRESS alone.
        if kind == IFA_LOCAL or (kind == IFA_ADDRESS and address is None):
            if family == socket.AF_INET and len(value) == 4:
                address = IPv4Address(bytes(value))
            elif family == socket.AF_INET6 and len(value) == 16:
                address = IPv6Address(bytes(value))
            elif family in (socket.AF_INET, socket.AF_INET6):
                raise DecodeError("IFA_ADDRESS", IFADDRMSG_BYTES, f"{len(value)} bytes in family {family}")
    return address


def _collect(message: Message, seen: set[Address]) -> None:
    if message.kind == RTM_NEWADDR and (address := decode_address(message.payload)) is not None:
        seen.add(address)
