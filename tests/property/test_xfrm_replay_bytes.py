"""Replay state in the kernel's messages: any bytes decode or raise, and what is written back is read as what was meant."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.errors import DecodeError
from site_agent.netlink import xfrm_replay
from site_agent.netlink.xfrm_replay import AEVENT_ID_BYTES, XFRMA_REPLAY_ESN_VAL, XFRMA_REPLAY_VAL, Replay


@given(st.binary(max_size=600))
def test_any_bytes_decode_or_raise(data: bytes) -> None:
    for decode in (xfrm_replay.decode_sa_state, xfrm_replay.decode_advance, xfrm_replay.decode_expiry):
        try:
            decode(memoryview(data))
        except DecodeError:
            continue


def replay(*, esn: bool, oseq: int, seq: int, words: int) -> Replay:
    if not words:
        return Replay(oseq, seq, 32, XFRMA_REPLAY_VAL, memoryview(struct.pack("=III", oseq, seq, 0)))
    low = 0xFFFF_FFFF
    fields = words, oseq & low, seq & low, oseq >> 32, seq >> 32, 32 * words
    value = struct.pack("=IIIIII", *fields) + bytes(4 * words)
    return Replay(oseq, seq, 32 * words, XFRMA_REPLAY_ESN_VAL, memoryview(value))


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 64]), st.booleans())
def test_what_is_written_is_what_is_read(number: int, other: int, words: int, esn: bool) -> None:
    if esn and words:
        number, other = number << 20, other << 20
    head = bytes(AEVENT_ID_BYTES)
    state = replay(esn=esn, oseq=3, seq=other, words=words)
    sent = xfrm_replay.decode_advance(memoryview(xfrm_replay.encode_oseq(head, state, number)), esn=esn).replay
    assert sent is not None and (sent.oseq, sent.seq, sent.window) == (number, other, state.window)
    written = xfrm_replay.encode_seen_up_to(head, state, number)
    seen = xfrm_replay.decode_advance(memoryview(written), esn=esn).replay
    assert seen is not None and (seen.oseq, seen.seq) == (3, number), "what goes out is untouched"
    bitmap = bytes(seen.raw[24:] if words else seen.raw[8:])
    assert set(bitmap) == {0xFF}, "nothing in the window is accepted again"


@pytest.mark.parametrize("words", [0, 2])
def test_a_number_that_has_no_place_is_refused(words: int) -> None:
    state = replay(esn=True, oseq=0, seq=0, words=words)
    for write in (xfrm_replay.encode_oseq, xfrm_replay.encode_seen_up_to):
        with pytest.raises(OverflowError):
            write(bytes(AEVENT_ID_BYTES), state, 1 << (64 if words else 32))
