"""The messages with which a red drill takes an SA's number away: another number, and everything else as it was."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

import pytest

from anycast_lab.drills import forget_numbers

VIP, CLIENT = "203.0.113.1", "198.51.100.66"
OURS = frozenset({ip_address(VIP), ip_address("2001:db8:a::1")})


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def sa(source: str, destination: str, *attributes: bytes) -> bytes:
    """A payload of XFRM_MSG_NEWSA: struct xfrm_usersa_info, then attributes."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    info = bytearray(224)
    info[56 : 56 + 16] = socket.inet_pton(family, destination).ljust(16, b"\0")
    info[72:77] = struct.pack("!IB", 0xC0000001, 50)
    info[80:96] = socket.inet_pton(family, source).ljust(16, b"\0")
    struct.pack_into("=I", info, 208, 7)
    struct.pack_into("=H", info, 212, family)
    return bytes(info) + b"".join(attributes)


@pytest.mark.parametrize(("source", "to"), [(VIP, CLIENT), ("2001:db8:a::1", "2001:db8:d::2")])
def test_only_the_outbound_number_goes(source: str, to: str) -> None:
    window = struct.pack("=6I", 2, 4711, 12, 1, 3, 64) + b"\xaa" * 8
    found = forget_numbers.forgotten(sa(source, to, attribute(1, b"key"), attribute(23, window)), OURS)
    assert found is not None
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    address = socket.inet_pton(family, to).ljust(16, b"\0")
    assert found[:24] == address + struct.pack("!I", 0xC0000001) + struct.pack("=HBx", family, 50)
    assert found[24:40] == socket.inet_pton(family, source).ljust(16, b"\0")
    assert found[40:48] == struct.pack("=II", 0, 7)
    assert found[48:] == attribute(23, struct.pack("=6I", 2, 0, 12, 0, 3, 64) + b"\xaa" * 8)


def test_an_sa_with_a_small_window_has_another_state() -> None:
    found = forget_numbers.forgotten(sa(VIP, CLIENT, attribute(10, struct.pack("=3I", 4711, 12, 5))), OURS)
    assert found is not None and found[48:] == attribute(10, struct.pack("=3I", 0, 12, 5))


def test_what_clients_send_under_keeps_its_number() -> None:
    assert forget_numbers.forgotten(sa(CLIENT, VIP, attribute(10, bytes(12))), OURS) is None


def test_messages_are_cut_at_their_length() -> None:
    data = b"".join(struct.pack("=IHHII", 16 + len(b), kind, 0, 1, 0) + b for kind, b in ((16, b"12345678"), (3, b"1234")))
    assert list(forget_numbers.messages(data)) == [(16, b"12345678"), (3, b"1234")]
    with pytest.raises(OSError, match="a netlink message of 400 bytes"):
        list(forget_numbers.messages(struct.pack("=IHHII", 400, 16, 0, 1, 0)))
