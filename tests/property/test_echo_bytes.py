"""Whatever a socket for echoes hands on: a reply, something else, or DecodeError; and ours comes back as it was sent."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from anycast.errors import DecodeError
from site_agent.checks import icmp_echo
from site_agent.checks.icmp_echo import EchoReply, checksum, decode_reply, encode_request

VERSION, NUMBER = st.sampled_from([4, 6]), st.integers(0, 0xFFFF)
BYTES = st.one_of(
    st.binary(max_size=80),
    st.builds(lambda head, rest: bytes([head]) + rest, NUMBER.map(lambda n: n & 255), st.binary(max_size=80)),
)
ANYTHING = st.tuples(VERSION, BYTES, st.booleans())


def decodes_or_refuses(some: tuple[int, bytes, bool]) -> None:
    version, data, ip_header = some
    try:
        reply = decode_reply(version, data, ip_header=ip_header)
    except DecodeError as error:
        assert 0 <= error.offset <= len(data)
    else:
        assert reply is None or data.endswith(reply.payload)


@given(ANYTHING)
def test_any_bytes_decode_or_raise_decode_error(some: tuple[int, bytes, bool]) -> None:
    decodes_or_refuses(some)


@given(VERSION, NUMBER, NUMBER, st.binary(max_size=64), st.integers(5, 15))
def test_what_is_sent_comes_back(version: int, identifier: int, sequence: int, payload: bytes, words: int) -> None:
    request = encode_request(version, identifier, sequence, payload)
    if version == 4:
        assert checksum(request) == 0, "RFC 1071: the sum over a right message is zero"
    reply = bytes([icmp_echo.REPLY[version]]) + request[1:]
    assert decode_reply(version, reply, ip_header=False) == EchoReply(sequence, payload)
    header = bytes([0x40 | words]) + bytes(words * 4 - 1)
    assert decode_reply(version, header + reply, ip_header=True) == EchoReply(sequence, payload)
    assert decode_reply(version, request, ip_header=False) is None, "our own request, heard on loopback"


# Broken on purpose: each rule has to be noticed.


def the_ip_header_may_be_short(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(icmp_echo, "IP_HEADER_BYTES", 0)


def the_icmp_header_may_be_short(patch: pytest.MonkeyPatch) -> None:
    class Shorter:
        size = 4
        unpack_from = icmp_echo.HEADER.unpack_from

    patch.setattr(icmp_echo, "HEADER", Shorter)


@pytest.mark.parametrize("mutate", [the_ip_header_may_be_short, the_icmp_header_may_be_short])
def test_each_broken_rule_is_noticed(mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    only_try = settings(max_examples=500, phases=[Phase.generate], database=None, derandomize=True)
    with pytest.raises(Exception) as caught:
        only_try(given(ANYTHING)(decodes_or_refuses))()
    assert not isinstance(caught.value, DecodeError)
