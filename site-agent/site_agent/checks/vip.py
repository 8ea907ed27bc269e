"""Does the machine carry the service's addresses? The kernel says so, and no outsider can cause it: a fact.

Removal is an event (RTM_DELADDR); each event only causes a look at the whole list, so a lost event costs one interval.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_DELADDR, RTM_GETADDR, RTM_NEWADDR, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR

from anycast.errors import DecodeError, KernelError
from anycast.model import EvidenceClass
from anycast.reasons import Reason
from site_agent.checks.base import Finding, failing, passing
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
    interval_s = 1.0
    timeout_s = 1.0

    def __init__(self, vips: Iterable[str]) -> None:
        self._vips = frozenset(ip_address(vip) for vip in vips)

    async def look(self) -> Sequence[Finding]:
        seen: set[Address] = set()
        consistent = await dump(socket.NETLINK_ROUTE, RTM_GETADDR, lambda message: _collect(message, seen), ANY_ADDRESS)
        missing = self._vips - seen
        if missing and not consistent:  # the list changed while the kernel wrote it
            await dump(socket.NETLINK_ROUTE, RTM_GETADDR, lambda message: _collect(message, seen), ANY_ADDRESS)
            missing = self._vips - seen
        if missing:
            return [failing(NAME, Reason.VIP_MISSING, ", ".join(sorted(map(str, missing))))]
        return [passing(NAME, ", ".join(sorted(map(str, self._vips))))]

    def watch(self, look_now: Callable[[], None]) -> EventSocket:
        """Call `look_now` whenever an address was added or removed. Close what it returns."""

        def on_message(message: Message) -> None:
            if message.kind in (RTM_NEWADDR, RTM_DELADDR):
                look_now()

        return EventSocket(socket.NETLINK_ROUTE, RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR, on_message, look_now)


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
