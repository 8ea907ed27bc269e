"""Netlink and XFRM codecs: (bytes, value) pairs as the kernel's structures have them, and nothing out of bounds."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from anycast.errors import DecodeError
from site_agent.checks.vip import decode_address
from site_agent.netlink import xfrm
from site_agent.netlink.local_route import ask_route, is_local
from site_agent.netlink.messages import split_attributes, split_messages

GATEWAY, CLIENT = "203.0.113.1", "198.51.100.66"


def packed(address: str) -> bytes:
    """struct xfrm_address_t: 16 bytes, an IPv4 address first."""
    return ip_address(address).packed.ljust(16, b"\0")


def usersa(daddr: str = CLIENT, saddr: str = GATEWAY, spi: int = 0xC1234567, family: int = 2) -> bytes:
    """struct xfrm_usersa_info, field by field as linux/xfrm.h has them, and an attribute behind it."""
    selector = packed(daddr) + packed(saddr) + struct.pack("=HHHHHBBBxxxiI", 0, 0, 0, 0, family, 32, 32, 0, 0, 0)
    identity = packed(daddr) + struct.pack(">IBxxx", spi, 50)
    lifetimes = struct.pack("=8Q", *[2**64 - 1] * 8) + struct.pack("=4Q", 1, 2, 3, 4) + struct.pack("=3I", 0, 0, 0)
    tail = struct.pack("=IIHBBB7x", 77, 9, family, 1, 32, 0)
    whole = selector + identity + packed(saddr) + lifetimes + tail
    assert len(whole) == xfrm.USERSA_INFO_BYTES
    return whole + struct.pack("=HHI", 8, 8, 0)


def userpolicy(saddr: str = GATEWAY, daddr: str = CLIENT, direction: int = 1, template: bool = True) -> bytes:
    """struct xfrm_userpolicy_info with XFRMA_TMPL."""
    selector = packed("203.0.113.65") + packed("192.0.2.0") + struct.pack("=HHHHHBBBxxxiI", 0, 0, 0, 0, 2, 32, 28, 0, 0, 0)
    whole = selector + bytes(64 + 32) + struct.pack("=IIBBBB4x", 5, 4711, direction, 0, 0, 0)
    assert len(whole) == xfrm.USERPOLICY_INFO_BYTES
    if not template:
        return whole
    tmpl = packed(daddr) + struct.pack(">IBxxx", 0, 50) + struct.pack("=Hxx", 2) + packed(saddr)
    tmpl += struct.pack("=IBBBxIII", 9, 1, 0, 0, 2**32 - 1, 2**32 - 1, 2**32 - 1)
    assert len(tmpl) == xfrm.USER_TMPL_BYTES
    return whole + struct.pack("=HH", 4 + len(tmpl), xfrm.XFRMA_TMPL) + tmpl


def test_an_sa_is_read_at_its_fixed_offsets() -> None:
    sa = xfrm.decode_sa(memoryview(usersa()))
    assert sa == xfrm.SaId(IPv4Address(CLIENT), IPv4Address(GATEWAY), 0xC1234567, 50, 9, 1)
    six = xfrm.decode_sa(memoryview(usersa("2001:db8:d::2", "2001:db8:a::1", family=10)))
    assert (six.daddr, six.saddr) == (IPv6Address("2001:db8:d::2"), IPv6Address("2001:db8:a::1"))


def test_deleting_an_sa_names_it_as_the_kernel_does() -> None:
    payload = xfrm.encode_sa_id(xfrm.decode_sa(memoryview(usersa())))
    assert payload == packed(CLIENT) + bytes.fromhex("c1234567") + struct.pack("=HBx", 2, 50), "struct xfrm_usersa_id"


def test_a_policy_is_known_by_its_tunnel_ends_and_deleted_by_its_number() -> None:
    policy = xfrm.decode_policy(memoryview(userpolicy()))
    assert policy.ends == (IPv4Address(GATEWAY), IPv4Address(CLIENT))
    assert (policy.number, policy.direction) == (4711, 1)
    assert xfrm.encode_delete_policy(policy) == userpolicy()[:56] + struct.pack("=IB3x", 4711, 1)
    assert xfrm.decode_policy(memoryview(userpolicy(template=False))).ends is None, "a policy without a tunnel is nobody's"


@pytest.mark.parametrize("length", [0, 1, 56, xfrm.USERSA_INFO_BYTES - 1])
def test_a_short_sa_is_refused(length: int) -> None:
    with pytest.raises(DecodeError):
        xfrm.decode_sa(memoryview(usersa()[:length]))


def test_a_family_of_neither_kind_is_refused() -> None:
    with pytest.raises(DecodeError) as error:
        xfrm.decode_sa(memoryview(usersa(family=7)))
    assert error.value.offset == 212


def test_messages_are_split_at_aligned_lengths() -> None:
    first = struct.pack("=IHHII", 17, 16, 2, 1, 0) + b"x" + bytes(3)
    second = struct.pack("=IHHII", 16, 3, 0, 2, 0)
    kinds = [(m.kind, m.flags, m.sequence, bytes(m.payload)) for m in split_messages(first + second)]
    assert kinds == [(16, 2, 1, b"x"), (3, 0, 2, b"")]


@pytest.mark.parametrize("length", [0, 15, 21, 2**32 - 1])
def test_a_message_length_that_does_not_fit_is_refused(length: int) -> None:
    with pytest.raises(DecodeError):
        list(split_messages(struct.pack("=IHHII", length, 16, 0, 0, 0) + bytes(4)))


def test_attributes_are_split_and_their_flags_taken_off() -> None:
    data = memoryview(b"head" + struct.pack("=HHB3x", 5, 0x8001, 9) + struct.pack("=HH", 4, 2))
    assert [(kind, bytes(value)) for kind, value in split_attributes(data, 4)] == [(1, b"\x09"), (2, b"")]


def test_an_address_is_the_local_one() -> None:
    local, far = ip_address("192.0.2.1").packed, ip_address("192.0.2.2").packed
    header = struct.pack("=BBBBI", 2, 32, 0, 0, 1)
    point_to_point = header + struct.pack("=HH", 8, 1) + far + struct.pack("=HH", 8, 2) + local
    assert decode_address(memoryview(point_to_point)) == IPv4Address("192.0.2.1"), "IFA_ADDRESS is the far end there"
    six = struct.pack("=BBBBI", 10, 128, 0, 0, 1) + struct.pack("=HH", 20, 1) + ip_address("2001:db8::1").packed
    assert decode_address(memoryview(six)) == IPv6Address("2001:db8::1")
    assert decode_address(memoryview(struct.pack("=BBBBI", 28, 0, 0, 0, 1))) is None, "a family of somebody else's"


def test_the_question_where_packets_go_and_its_answer() -> None:
    data = ask_route(IPv6Address("2001:db8::10"), 7, sequence=9)
    (request,) = split_messages(data)
    assert (request.kind, request.flags, request.sequence) == (26, 1, 9)
    assert bytes(request.payload[:2]) == bytes([10, 128])
    attributes = {kind: bytes(value) for kind, value in split_attributes(request.payload, 12)}
    assert attributes == {1: IPv6Address("2001:db8::10").packed, 4: struct.pack("=I", 7)}
    for kind in (1, 2, 3, 7):  # unicast, local, broadcast, unreachable
        assert is_local(memoryview(bytes([10, 128, 0, 0, 255, 2, 0, kind]) + bytes(4))) == (kind == 2)
    with pytest.raises(DecodeError):
        is_local(memoryview(bytes(11)))
