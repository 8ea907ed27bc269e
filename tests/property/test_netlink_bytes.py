"""Any bytes decode or raise DecodeError: whatever the kernel of tomorrow, or a damaged buffer, hands to the codecs."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from anycast.errors import DecodeError
from site_agent.checks import vip
from site_agent.netlink import link, messages, xfrm, xfrm_keys
from tests.unit.test_netlink import CLIENT, GATEWAY, packed, userpolicy, usersa

SHORT_TEMPLATE = userpolicy(template=False) + struct.pack("=HH", 12, xfrm.XFRMA_TMPL) + bytes(8)
VALID = [
    usersa(),
    userpolicy(),
    SHORT_TEMPLATE,
    userpolicy(template=False),
    struct.pack("=IHHII", 20, 16, 2, 1, 0) + bytes(4),
    struct.pack("=BxHiII", 0, 1, 7, 0x11043, 0) + struct.pack("=HH5s3x", 9, 3, b"eth1") + struct.pack("=HHB3x", 5, 16, 6),
    struct.pack("=BxHiII", 0, 1, 7, 0x11043, 0) + struct.pack("=HH", 4, 16),
]
ENDS = frozenset({packed(GATEWAY)})


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Something valid, cut off and with some bytes changed; or anything."""
    data = bytearray(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))])


BYTES = st.one_of(damaged(), st.binary(max_size=300))


def decodes_or_refuses(data: bytes) -> None:
    """The property itself, which the mutants below must break."""
    view = memoryview(data)
    for decode in (
        xfrm.decode_sa,
        xfrm.decode_policy,
        vip.decode_address,
        link.decode_link,
        xfrm_keys.sa_key,
        lambda v: xfrm_keys.is_settled_sa(v, ENDS),
        lambda v: xfrm_keys.policy_key(v, ENDS),
        messages.answer_code,
        lambda v: list(messages.split_messages(v)),
        lambda v: list(messages.split_attributes(v, 0)),
    ):
        try:
            decode(view)
        except DecodeError as error:
            assert 0 <= error.offset <= max(len(data), xfrm.USERPOLICY_INFO_BYTES, 212)


@given(BYTES)
def test_any_bytes_decode_or_raise_decode_error(data: bytes) -> None:
    decodes_or_refuses(data)


@given(st.binary(min_size=xfrm.USERSA_INFO_BYTES, max_size=400), st.sampled_from([2, 10]))
def test_what_was_decoded_names_the_same_sa_when_it_is_deleted(data: bytes, family: int) -> None:
    whole = bytearray(data)
    whole[212:214] = struct.pack("=H", family)
    sa = xfrm.decode_sa(memoryview(whole))
    named = xfrm.encode_sa_id(sa)
    length = 4 if family == 2 else 16
    assert named[:length] == whole[56 : 56 + length]
    assert named[16:20] == whole[72:76], "the SPI stays in network order"
    assert named[22] == whole[76]


@given(st.lists(st.tuples(st.integers(0, 2**16 - 1), st.binary(max_size=40)), max_size=8))
def test_messages_come_out_as_they_went_in(sent: list[tuple[int, bytes]]) -> None:
    data = b""
    for kind, payload in sent:
        data += messages.HEADER.pack(messages.HEADER.size + len(payload), kind, 0, 1, 0) + payload
        data += bytes(-len(data) % 4)
    assert [(m.kind, bytes(m.payload)) for m in messages.split_messages(data)] == sent


@given(st.ip_addresses(), st.sampled_from([50, 51]), st.integers(1, 2**32 - 1))
def test_an_sa_as_charon_names_it_has_the_kernels_key(daddr: Any, protocol: int, spi: int) -> None:
    whole = bytearray(usersa(str(daddr), spi=spi, family=2 if daddr.version == 4 else 10))
    whole[76] = protocol
    assert xfrm_keys.sa_key(memoryview(whole)) == xfrm_keys.make_sa_key(daddr, protocol, spi)


@st.composite
def policies(draw: st.DrawFn) -> tuple[int, int, Any, Any]:
    version = draw(st.sampled_from([4, 6]))
    ends = [ip_network((draw(st.ip_addresses(v=version)), draw(st.integers(0, 32))), strict=False) for _ in range(2)]
    return draw(st.sampled_from([0, 1, 2])), draw(st.integers(1, 2**32 - 1)), *ends


@given(policies())
def test_a_policy_as_charon_means_it_has_the_kernels_key(policy: tuple[int, int, Any, Any]) -> None:
    direction, reqid, source, destination = policy
    family = 2 if source.version == 4 else 10
    whole = bytearray(userpolicy(direction=direction))
    ports = struct.pack("=HHHHHBB", 0, 0, 0, 0, family, destination.prefixlen, source.prefixlen)
    addresses = packed(str(destination.network_address)) + packed(str(source.network_address))
    whole[: len(addresses) + len(ports)] = addresses + ports
    whole[168 + 4 + 44 : 168 + 4 + 48] = struct.pack("=I", reqid)
    sides = (xfrm_keys.pack_network(side.network_address, side.prefixlen) for side in (source, destination))
    expected = xfrm_keys.make_policy_key(direction, struct.pack("=I", reqid), *sides)
    assert xfrm_keys.policy_key(memoryview(whole), ENDS) == expected
    whole[160] = 3
    assert xfrm_keys.policy_key(memoryview(whole), ENDS) is None, "a socket's own policy"


def test_what_has_no_end_here_or_no_keys_is_nobodys_orphan() -> None:
    with_keys = usersa() + struct.pack("=HHI", 8, xfrm_keys.XFRMA_ALG_AEAD, 0)
    assert xfrm_keys.is_settled_sa(memoryview(with_keys), ENDS)
    assert not xfrm_keys.is_settled_sa(memoryview(with_keys), frozenset({packed("203.0.113.2")}))
    assert not xfrm_keys.is_settled_sa(memoryview(usersa()), ENDS), "an SPI that is only reserved"
    assert xfrm_keys.policy_key(memoryview(userpolicy()), frozenset({packed(CLIENT)})) is not None, "either end"
    assert xfrm_keys.policy_key(memoryview(userpolicy()), frozenset({packed("203.0.113.2")})) is None


@given(st.binary(max_size=20), st.integers(0, 2**32 - 1), st.integers(0, 255))
def test_a_link_that_is_read_is_told_by_all_three(name: bytes, flags: int, state: int) -> None:
    data = struct.pack("=BxHiII", 0, 1, 7, flags, 0) + struct.pack("=HH", 5 + len(name), link.IFLA_IFNAME) + name + b"\0"
    data += bytes(-len(data) % 4) + struct.pack("=HHB3x", 5, link.IFLA_OPERSTATE, state)
    read = link.decode_link(memoryview(data))
    carries = bool(flags & 1) and bool(flags & 0x10000) and state in (0, 6)
    assert (read.trouble == "") is carries


@given(st.text(max_size=20))
def test_a_name_is_asked_for_as_it_is_or_refused(name: str) -> None:
    try:
        payload = link.encode_get_link(name)
    except ValueError:
        return
    asked = link.decode_link(memoryview(payload))
    assert asked.name == name
    assert 0 < len(name) <= 15


def without_length_check_of_sa_keys(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(xfrm_keys, "USERSA_INFO_BYTES", 0)
    patch.setattr(xfrm_keys, "sa_key", lambda v: struct.unpack_from("21s", v, 56))


def without_length_check_of_policy_keys(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(xfrm_keys, "USERPOLICY_INFO_BYTES", 0)


def without_length_check_of_links(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(link, "decode_link", lambda v: link.Link("", v[8], "" if v[16] else "up"))


def without_length_check_of_sas(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(xfrm, "USERSA_INFO_BYTES", 0)


def without_length_check_of_templates(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(xfrm, "USER_TMPL_BYTES", 0)


def without_length_check_of_addresses(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(vip, "IFADDRMSG_BYTES", 0)


@pytest.mark.parametrize(
    "mutate",
    [
        without_length_check_of_sas,
        without_length_check_of_templates,
        without_length_check_of_addresses,
        without_length_check_of_sa_keys,
        without_length_check_of_policy_keys,
        without_length_check_of_links,
    ],
)
def test_each_missing_bound_is_noticed(mutate: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    only_try = settings(max_examples=2000, phases=[Phase.generate], database=None, derandomize=True)
    with pytest.raises(Exception):  # noqa: B017 - whatever escapes that is not a DecodeError
        only_try(given(BYTES)(decodes_or_refuses))()
