"""Virtual addresses in the kernel: when packets to them are taken, which is later than it says that they are there."""

from __future__ import annotations

import os
import socket
import time

from site_agent.netlink.local_route import RTM_NEWROUTE, ask_route, is_local
from site_agent.netlink.messages import split_messages
from site_agent.vrrp.addresses import Addresses
from site_agent.vrrp.interfaces import Facts
from tests.support.namespace import in_namespace
from tests.support.vrrp_pair import KEYS, VIRTUAL_6, VIRTUAL_LINK_LOCAL, Lan, inside, make_plan, wait

ROUNDS = 60
"""Without `settle` half of them were not taken yet (measured, 30 of 60 and 54 of 60)."""


@in_namespace
def test_after_they_have_settled_ipv6_packets_to_them_are_taken() -> None:
    with Lan(), inside("gw1"):
        index = socket.if_nametoindex("eth1")
        kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        addresses = Addresses(make_plan(1, keys=KEYS))
        addresses.encode({"eth1": Facts(index, bytes(6))})
        assert not addresses.settle(), "they are not there at all"
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(20))  # as the process has it
        settled = 0
        for sequence in range(ROUNDS):
            assert addresses.put() == []
            if addresses.settle():  # on a busy machine it may not be, in time
                settled += 1
                for address in (VIRTUAL_6, VIRTUAL_LINK_LOCAL):
                    kernel.send(ask_route(address, index, sequence=sequence))  # type: ignore[arg-type]
                    (answer,) = split_messages(kernel.recv(8192))
                    assert answer.kind == RTM_NEWROUTE and is_local(answer.payload), f"{address} in round {sequence}"
            addresses.remove()
        assert settled > ROUNDS // 2
        kernel.close()
        addresses.close()


class Slow:
    """A kernel whose lock of all network configuration somebody else holds for 50 ms at each request."""

    def __init__(self, kernel: socket.socket) -> None:
        self.kernel, self.asked = kernel, 0

    def send(self, data: bytes) -> int:
        time.sleep(0.05)
        self.asked += 1
        return self.kernel.send(data)

    def recv(self, most: int) -> bytes:
        return self.kernel.recv(most)

    def close(self) -> None:
        self.kernel.close()


@in_namespace
def test_a_renewal_waits_for_the_kernels_lock_and_no_tick_waits_for_the_renewal() -> None:
    with Lan(), inside("gw1"):
        addresses = Addresses(make_plan(1, keys=KEYS))
        addresses.encode({"eth1": Facts(socket.if_nametoindex("eth1"), bytes(6))})
        assert addresses.put() == []
        addresses.start()
        slow = addresses._netlink = Slow(addresses._netlink)  # type: ignore[assignment]
        for _ in range(3):
            began = time.monotonic()
            addresses.renew()
            assert time.monotonic() - began < 0.04
        wait(lambda: slow.asked == 3, "each is done all the same")  # type: ignore[attr-defined]
        assert addresses.remove() == []
