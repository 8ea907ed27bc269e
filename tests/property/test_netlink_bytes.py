"""Any bytes decode or raise DecodeError: whatever the kernel of tomorrow, or a damaged buffer, hands to the codecs."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from anycast.errors import DecodeError
from site_agent.checks import vip
from site_agent.netlink import messages, xfrm
from tests.unit.test_netlink import userpolicy, usersa

SHORT_TEMPLATE = userpolicy(template=False) + struct.pack("=HH", 12, xfrm.XFRMA_TMPL) + bytes(8)
VALID = [
    usersa(),
    userpolicy(),
    SHORT_TEMPLATE,
    userpolicy(template=False),
    struct.pack("=IHHII", 20, 16, 2, 1, 0) + bytes(4),
]


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
    named = xfrm.encode_delete_sa(sa)
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


def without_length_check_of_sas(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(xfrm, "USERSA_INFO_BYTES", 0)


def without_length_check_of_templates(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(xfrm, "USER_TMPL_BYTES", 0)


def without_length_check_of_addresses(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(vip, "IFADDRMSG_BYTES", 0)


@pytest.mark.parametrize(
    "mutate", [without_length_check_of_sas, without_length_check_of_templates, without_length_check_of_addresses]
)
def test_each_missing_bound_is_noticed(mutate: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    only_try = settings(max_examples=2000, phases=[Phase.generate], database=None, derandomize=True)
    with pytest.raises(Exception):  # noqa: B017 - whatever escapes that is not a DecodeError
        only_try(given(BYTES)(decodes_or_refuses))()
