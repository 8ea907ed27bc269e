"""A capture holds what anybody sent: any bytes are read or refused with DecodeError, and nothing else happens."""

from __future__ import annotations

import contextlib
import struct

from hypothesis import given
from hypothesis import strategies as st

from anycast.errors import DecodeError
from anycast_lab.capture import bgp, frames, pcap
from anycast_lab.capture.pcap import Frame

_HEAD = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 2048, 1)
_KINDS = st.sampled_from([b"\x08\x06", b"\x08\x00\x45", b"\x08\x00\x4f", b"\x86\xdd\x60"])


@given(st.binary(max_size=400), st.booleans())
def test_files(data: bytes, headed: bool) -> None:
    with contextlib.suppress(DecodeError):
        for frame in pcap.read(_HEAD + data if headed else data):
            assert len(frame.data) <= len(data)


@given(_KINDS, st.binary(max_size=200), st.sampled_from([6, 58, 112]), st.booleans())
def test_frames(kind: bytes, rest: bytes, protocol: int, cut: bool) -> None:
    data = bytearray(b"\x02" * 12 + kind + rest)
    for place in (20, 23):  # where IPv6 and IPv4 say what follows: otherwise hardly any example would come so far
        if len(data) > place:
            data[place] = protocol
    with contextlib.suppress(DecodeError):
        frames.decode(Frame(0, bytes(data), cut))


@given(st.binary(max_size=200))
def test_updates(body: bytes) -> None:
    with contextlib.suppress(DecodeError):
        bgp.decode_update(body)


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_updates_with_attributes(attributes: bytes, nlri: bytes) -> None:
    body = b"\0\0" + struct.pack("!H", len(attributes)) + attributes + nlri
    with contextlib.suppress(DecodeError):
        bgp.decode_update(body)
