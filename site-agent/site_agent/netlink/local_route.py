"""Codec of rtnetlink's question whether a machine takes packets to an IPv6 address as its own (linux/rtnetlink.h). Pure.

The kernel answers a request for an address when the address is there. The route that lets packets in follows: a worker
thread of the kernel puts it in, at normal priority, 0.5 ms later and 10 ms on a busy machine (measured). IPv4 does it in the
request.
"""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

from anycast.errors import DecodeError
from site_agent.netlink.messages import HEADER, NLM_F_REQUEST

RTM_NEWROUTE = 24
RTM_GETROUTE = 26
_AF_INET6 = 10
_RTMSG = struct.Struct("=BBBBBBBBI")
_TYPE_AT = 7
_RTN_LOCAL = 2
_RTA_DST, _RTA_OIF = 1, 4


def ask_route(address: IPv6Address, index: int, *, sequence: int) -> bytes:
    """RTM_GETROUTE: where a packet to `address` by the interface with `index` goes. Answered by RTM_NEWROUTE or an error."""
    body = _RTMSG.pack(_AF_INET6, 128, 0, 0, 0, 0, 0, 0, 0)
    body += struct.pack("=HH16s", 20, _RTA_DST, address.packed) + struct.pack("=HHI", 8, _RTA_OIF, index)
    return HEADER.pack(HEADER.size + len(body), RTM_GETROUTE, NLM_F_REQUEST, sequence, 0) + body


def is_local(payload: memoryview) -> bool:
    """Of RTM_NEWROUTE: it is the machine's own. Raises DecodeError."""
    if len(payload) < _RTMSG.size:
        raise DecodeError("rtmsg", 0, "truncated")
    return payload[_TYPE_AT] == _RTN_LOCAL
