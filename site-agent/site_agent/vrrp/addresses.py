"""The virtual addresses in the kernel, and what their neighbours are told.

Every request is encoded when the process starts, because a takeover must cost system calls and nothing else. The addresses
have a life (rule 1): a process that is frozen or killed renews nothing, and the kernel takes them away by itself.

They are put in as host addresses, /32 and /128, whatever length the plan gives. An IPv4 address with its subnet's length
can become the subnet's primary one (the operator took the gateway's own away and put it back), and with a primary the
kernel removes its secondaries, the gateway's own among them. A renewed IPv6 address lends its life to its prefix's route,
also where a permanent address has the same one: after a release the gateway would lose its way to its own link.

The kernel takes packets to an IPv6 address a moment after it has answered that the address is there (`local_route`). Who
takes over from an Active that waits for it must not say so before (`settle`).

Adding and removing is done at once. Renewing is a thread's work: an address request waits for the kernel's one lock of all
network configuration (rtnl), which somebody who removes a namespace holds for 10 ms (measured), and no tick may wait for it.
"""

from __future__ import annotations

import errno
import os
import queue
import socket
import threading
import time
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_interface

from anycast.errors import DecodeError, KernelError
from site_agent.netlink.addresses import put_address, remove_address
from site_agent.netlink.local_route import RTM_NEWROUTE, ask_route, is_local
from site_agent.netlink.messages import NLMSG_ERROR, answer_code, split_messages
from site_agent.vrrp.interfaces import Facts
from site_agent.vrrp.neighbours import gratuitous_arp, unsolicited_na
from site_agent.vrrp.plan import Plan

_ANSWER_LIMIT_S = 0.2
_ANSWER_BYTES = 8192
SETTLE_S = 0.2
"""How long a takeover waits at most until IPv6's packets are taken: mostly 0.5 ms, 10 ms beside ten busy processes, 55 ms
where others hold the kernel's lock of all network configuration as well (measured)."""
SETTLE_INTERVALS = 1.5
"""And no longer than this, because who gives way waits for three and Skew_Time."""
_SETTLE_STEP_S = 0.0003
_STACK_BYTES = 256 * 1024
"""Of the thread; glibc's 8 MiB would all be locked into memory."""


class Addresses:
    """Of all links together. `encode` before anything else, and again when an interface is another one."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._put: list[bytes] = []
        self._remove: list[bytes] = []
        self._frames: list[tuple[str, bytes]] = []
        self._routes: list[bytes] = []
        self._absent: list[str] = []
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._netlink.settimeout(_ANSWER_LIMIT_S)
        self._packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
        self._news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._kernel = threading.Lock()
        """Held over each exchange: a renewal must not end after the removal that it began before."""
        self._held = False
        self._renewals: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._refused: list[str] = []

    def fileno(self) -> int:
        """Readable when a renewal was refused: then `refused` says what."""
        return self._news

    def encode(self, interfaces: Mapping[str, Facts | None]) -> None:
        """Requests and frames for the interfaces as they are now."""
        with self._kernel:
            self._put, self._remove, self._frames, self._routes, self._absent = [], [], [], [], []
            for link in self._plan.links:
                wanted = [address for voice in link.voices for address in voice.addresses]
                if (facts := interfaces[link.interface]) is None:
                    self._absent += [f"{link.interface} is not there"] if wanted else []
                    continue
                for address in wanted:
                    host, number = ip_interface(address.ip), len(self._put) + 1
                    self._put.append(put_address(host, facts.index, life_s=self._plan.address_life_s, sequence=number))
                    self._remove.append(remove_address(host, facts.index, sequence=number))
                    self._frames.append((link.interface, _frame(address.ip, facts.mac)))
                    if isinstance(address.ip, IPv6Address):
                        self._routes.append(ask_route(address.ip, facts.index, sequence=number))

    def start(self) -> None:
        """Begin to renew when asked; with the caller's scheduling."""
        threading.stack_size(_STACK_BYTES)
        threading.Thread(target=self._renew_when_asked, name="renew", daemon=True).start()

    def put(self) -> list[str]:
        """Add them. Returns what the kernel refused, in words."""
        with self._kernel:
            self._held = True
            return [*self._absent, *self._ask(self._put)]

    def settle(self) -> bool:
        """Wait until packets to the addresses are taken. False where they are not in time."""
        end = time.monotonic() + min(SETTLE_S, SETTLE_INTERVALS * self._plan.advertisement_interval / 100)
        with self._kernel:
            waiting = list(self._routes)
            while waiting := [route for route in waiting if not self._is_local(route)]:
                if time.monotonic() >= end:
                    return False
                time.sleep(_SETTLE_STEP_S)
        return True

    def renew(self) -> None:
        """Begin their life anew, soon."""
        self._renewals.put(True)

    def refused(self) -> list[str]:
        """What the kernel refused of a renewal."""
        os.eventfd_read(self._news)
        faults, self._refused = self._refused, []
        return faults

    def remove(self) -> list[str]:
        """Take them away. One that is gone already is no fault."""
        with self._kernel:
            self._held = False
            return self._ask(self._remove, absent_is_fine=True)

    def announce(self) -> None:
        """Gratuitous ARP and unsolicited NA for each. What cannot be sent now is sent again soon."""
        for interface, frame in self._frames:
            try:
                self._packet.sendto(frame, (interface, 0))
            except OSError:
                continue

    def close(self) -> None:
        """Of one that was not started."""
        self._netlink.close()
        self._packet.close()
        os.close(self._news)

    def _renew_when_asked(self) -> None:
        while self._renewals.get():
            with self._kernel:
                faults = [*self._absent, *self._ask(self._put)] if self._held else []
            if faults:
                self._refused = faults
                os.eventfd_write(self._news, 1)

    def _is_local(self, route: bytes) -> bool:
        try:
            self._netlink.send(route)
            for message in split_messages(self._netlink.recv(_ANSWER_BYTES)):
                if message.kind == RTM_NEWROUTE:
                    return is_local(message.payload)
        except (OSError, DecodeError):
            pass
        return False  # no such route, yet

    def _ask(self, requests: list[bytes], *, absent_is_fine: bool = False) -> list[str]:
        if not requests:
            return []
        faults: list[str] = []
        try:
            self._netlink.send(b"".join(requests))  # one system call; the kernel answers each message in it
            waiting = len(requests)
            while waiting:
                for message in split_messages(self._netlink.recv(_ANSWER_BYTES)):
                    if message.kind != NLMSG_ERROR:
                        continue
                    waiting -= 1
                    code = -answer_code(message.payload)
                    if code and not (absent_is_fine and code in (errno.EADDRNOTAVAIL, errno.ENODEV)):
                        faults.append(str(KernelError(code, "a virtual address")))
        except (OSError, DecodeError) as exc:
            faults.append(str(exc))
        return faults


def _frame(address: IPv4Address | IPv6Address, mac: bytes) -> bytes:
    return gratuitous_arp(address, mac) if isinstance(address, IPv4Address) else unsolicited_na(address, mac)
