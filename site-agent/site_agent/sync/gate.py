"""Nothing is sent to a client before the mirror is ready: a policy in the kernel that blocks the pools while Backup.

VRRP moves the addresses without asking anybody, because a failover must not wait for a process that may hang. So it is the
kernel that keeps a packet from being sent on an SA whose number is not at its mark yet: an outbound block policy over each
client pool, before all of charon's, stands while this gateway is Backup and is lifted in one message when every number is
where it belongs. A sync process that died or hangs leaves it as it was: a Backup that is not ready sends nothing, an Active
goes on.

It blocks what is forwarded or sent to a client's inner address. What clients send is let in, on a Backup too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from site_agent.netlink.xfrm import AF_INET, AF_INET6, XFRM_MSG_DELPOLICY, XFRM_MSG_UPDPOLICY
from site_agent.netlink.xfrm_keys import OUT
from site_agent.sync.requests import Requests

PRIORITY = 1
"""The lowest number wins; charon's policies have six digits."""
BLOCK = 1
"""XFRM_POLICY_BLOCK."""
_FOREVER = 2**64 - 1
_SELECTOR = struct.Struct("=16s16sHHHHHBBB3xiI")
_LIMITS = struct.Struct("=8Q")
_POLICY_TAIL = struct.Struct("=IIBBBB4x")

Network = IPv4Network | IPv6Network


def selector(pool: Network) -> bytes:
    """struct xfrm_selector: from anywhere to `pool`."""
    family = AF_INET if pool.version == 4 else AF_INET6
    destination = pool.network_address.packed.ljust(16, b"\0")
    return _SELECTOR.pack(destination, bytes(16), 0, 0, 0, 0, family, pool.prefixlen, 0, 0, 0, 0)


def encode_block(pool: Network) -> bytes:
    """The payload of XFRM_MSG_UPDPOLICY: struct xfrm_userpolicy_info, without a template."""
    limits = _LIMITS.pack(_FOREVER, _FOREVER, _FOREVER, _FOREVER, 0, 0, 0, 0)
    return selector(pool) + limits + bytes(32) + _POLICY_TAIL.pack(PRIORITY, 0, OUT, BLOCK, 0, 0)


def encode_lift(pool: Network) -> bytes:
    """The payload of XFRM_MSG_DELPOLICY: struct xfrm_userpolicy_id."""
    return selector(pool) + struct.pack("=IB3x", 0, OUT)


class Gate:
    """Over all pools. Closing or opening twice changes nothing. The kernel's answer is had when a method returns."""

    def __init__(self, pools: Iterable[Network], requests: Requests) -> None:
        self._pools, self._requests = tuple(pools), requests

    def close(self) -> None:
        """Raises KernelError."""
        self._requests.all([(XFRM_MSG_UPDPOLICY, 0, encode_block(pool)) for pool in self._pools])

    def open(self) -> None:
        """Raises KernelError."""
        self._requests.all([(XFRM_MSG_DELPOLICY, 0, encode_lift(pool)) for pool in self._pools], missing=True)
