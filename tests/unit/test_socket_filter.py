"""The filter before our sockets, run by the kernel: who is read, and of what was routed how much."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from site_agent.vrrp.socket_filter import MOST_ROUTED, SocketFilter, program

FAMILIES = [(socket.AF_INET, "127.0.0.1", "127.0.0.2"), (socket.AF_INET6, "::1", "2001:db8::1")]


def ends(family: int, hops: int) -> tuple[socket.socket, socket.socket]:
    """What hears, and what speaks to it with this TTL or hop limit, from the loopback's own address."""
    hears, speaks = (socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) for _ in range(2))
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    hears.bind((host, 0))
    speaks.bind((host, 0))
    if family == socket.AF_INET:
        speaks.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
    else:
        speaks.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)
    speaks.connect(hears.getsockname())
    return hears, speaks


def reads(hears: socket.socket, speaks: socket.socket, times: int = 1) -> int:
    """Of so many packets."""
    for _ in range(times):
        speaks.send(b"x")
    found = 0
    while True:
        try:
            hears.recv(16)
        except BlockingIOError:
            return found
        found += 1


@pytest.mark.parametrize(("family", "own", "other"), FAMILIES)
def test_strangers_are_not_read(family: int, own: str, other: str) -> None:
    hears, speaks = ends(family, 255)
    with hears, speaks:
        for sources, read in (([own], 1), ([other], 0), ([other, own], 1), ([own, other], 1), ([], 0), (None, 1)):
            SocketFilter(hears, None if sources is None else [ip_address(source) for source in sources])
            assert reads(hears, speaks) == read, sources


@pytest.mark.parametrize(("family", "own", "other"), FAMILIES)
def test_a_flood_of_routed_packets_is_dropped_until_the_next_look(family: int, own: str, other: str) -> None:
    hears, speaks = ends(family, 254)
    near, direct = ends(family, 255)
    near.close()
    with hears, speaks, direct:
        direct.connect(hears.getsockname())
        filter_ = SocketFilter(hears, [ip_address(own)])
        for _ in range(2):
            for _ in range(MOST_ROUTED):
                assert reads(hears, speaks) == 1
                filter_.routed()
            assert reads(hears, speaks, 50) == 0, "there was enough of it"
            assert reads(hears, direct, 3) == 3, "what came from this link is heard all the same"
            filter_.look()


def test_where_anybody_may_speak_the_ttl_alone_decides() -> None:
    assert len(program(4, None, routed=False)) == 8 * 4
    assert len(program(4, None, routed=True)) == 8
