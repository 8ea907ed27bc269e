"""Packets of clients over the lives of their SAs, and what a report says of a snapshot."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from anycast.errors import DecodeError
from site_agent.netlink.client_traffic import ClientTraffic, packets
from site_agent.netlink.xfrm_keys import SaKey, make_sa_key

IN, OUT, IN2, OUT2 = (make_sa_key(ip_address("203.0.113.1"), 50, spi) for spi in range(4))
STRANGER = SaKey(b"x" * 24)


def test_sums_only_grow_whatever_sas_come_and_go() -> None:
    traffic = ClientTraffic()
    traffic.listed([(IN, OUT)], {IN: 1000, OUT: 2000, STRANGER: 7})
    assert (traffic.decrypted, traffic.encrypted) == (0, 0), "carried before anybody counted"
    traffic.listed([(IN, OUT)], {IN: 1010, OUT: 2030, STRANGER: 9000})
    assert (traffic.decrypted, traffic.encrypted) == (10, 30)
    traffic.listed([(IN, OUT), (IN2, OUT2)], {IN: 1010, OUT: 2031, IN2: 5, OUT2: 6})
    assert (traffic.decrypted, traffic.encrypted) == (15, 37), "a new SA counts from its beginning"
    traffic.listed([(IN2, OUT2)], {IN2: 3, OUT2: 8})
    assert (traffic.decrypted, traffic.encrypted) == (15, 39), "nothing is taken back"
    traffic.listed([(IN2, OUT2)], {})
    traffic.listed([(IN2, OUT2)], {IN2: 4, OUT2: 8})
    assert (traffic.decrypted, traffic.encrypted) == (19, 47), "one that was away is another one"


def test_the_count_stands_where_the_kernel_puts_it() -> None:
    info = bytearray(224)
    struct.pack_into("=QQ", info, 160, 111, 222)  # curlft: bytes, packets
    assert packets(memoryview(bytes(info))) == 222
    with pytest.raises(DecodeError):
        packets(memoryview(bytes(223)))


def test_new_pairs_of_sas_are_counted_once_and_those_that_were_there_first_never() -> None:
    traffic = ClientTraffic()
    traffic.listed([(IN, OUT)], {IN: 1000, OUT: 2000})
    assert traffic.established == 0, "made before anybody counted"
    traffic.listed([(IN, OUT), (IN2, OUT2)], {IN: 1, OUT: 1, IN2: 0, OUT2: 0})
    traffic.listed([(IN, OUT), (IN2, OUT2)], {IN: 1, OUT: 1, IN2: 0, OUT2: 0})
    assert traffic.established == 1
    traffic.listed([(IN2, OUT2)], {})
    assert traffic.established == 1, "the kernel has none of it"
    traffic.listed([(IN, OUT)], {IN: 0, OUT: 0})
    assert traffic.established == 2, "rekeyed, or back"
