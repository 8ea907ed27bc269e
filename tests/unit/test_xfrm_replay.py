"""Replay state at its offsets: structures built field by field as linux/xfrm.h has them, each with a value of its own."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from anycast.errors import DecodeError
from site_agent.netlink import xfrm_replay
from site_agent.netlink.xfrm_keys import SaKey
from site_agent.netlink.xfrm_replay import (
    XFRMA_REPLAY_ESN_VAL,
    XFRMA_REPLAY_VAL,
    Expiry,
    Replay,
    decode_advance,
    decode_sa_state,
)

DESTINATION, SOURCE = (ip_address(text).packed.ljust(16, b"\0") for text in ("203.0.113.1", "198.51.100.66"))
INNER = [ip_address(text).packed.ljust(16, b"\0") for text in ("192.0.2.1", "192.0.2.2")]
SPI = bytes.fromhex("c1234567")
KEY = DESTINATION + SPI + bytes([50])
REQID, AF_INET = 9, 2
ESN_FLAG, OTHER_FLAGS = 128, 0x41
HARD_PACKETS, PACKETS = 11 << 33, 5 << 33
RVAL, BY_USER = 0x02, 0x40


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value


def plain(oseq: int = 3, seq: int = 4, bitmap: int = 5) -> bytes:
    """struct xfrm_replay_state."""
    return attribute(XFRMA_REPLAY_VAL, struct.pack("=III", oseq, seq, bitmap))


def with_bitmap(oseq: int = 6, seq: int = 7, high: tuple[int, int] = (1, 2), window: int = 64, words: int = 2) -> bytes:
    """struct xfrm_replay_state_esn; `high` of oseq and seq."""
    return attribute(XFRMA_REPLAY_ESN_VAL, struct.pack("=6I", words, oseq, seq, *high, window) + bytes(4 * words))


def usersa(attributes: bytes = b"", flags: int = 0) -> bytes:
    """struct xfrm_usersa_info."""
    selector = INNER[0] + INNER[1] + struct.pack("=HHHHHBBBxxxiI", 1, 2, 3, 4, AF_INET, 32, 32, 6, 7, 8)
    identity = DESTINATION + SPI + struct.pack("=Bxxx", 50)
    limits = struct.pack("=8Q", 21, 22, 23, HARD_PACKETS, 25, 26, 27, 28)
    current = struct.pack("=4Q", 31, PACKETS, 33, 34)
    tail = struct.pack("=IIIIIHBBB7x", 41, 42, 43, 44, REQID, AF_INET, 1, 32, flags)
    return selector + identity + SOURCE + limits + current + tail + attributes


def advance(attributes: bytes = b"", flags: int = 0) -> bytes:
    """struct xfrm_aevent_id."""
    return DESTINATION + SPI + struct.pack("=HBx", AF_INET, 50) + SOURCE + struct.pack("=II", flags, REQID) + attributes


def expire(hard: int, behind: int = 0) -> bytes:
    return usersa() + struct.pack("=BB6x", hard, behind)


@pytest.mark.parametrize("esn", [False, True])
def test_an_sa_is_read_at_its_offsets(esn: bool) -> None:
    state = decode_sa_state(memoryview(usersa(with_bitmap(), OTHER_FLAGS | esn * ESN_FLAG)))
    assert (state.key, state.source, state.esn) == (KEY, SOURCE, esn)
    assert (state.packets, state.hard_packets) == (PACKETS, HARD_PACKETS)
    assert state.head == advance(), "what names it in XFRM_MSG_NEWAE"
    assert state.replay is not None
    assert state.replay[:4] == ((1 << 32) + 6 if esn else 6, (2 << 32) + 7 if esn else 7, 64, XFRMA_REPLAY_ESN_VAL)
    assert bytes(state.replay.raw) == with_bitmap()[4:]
    bare = decode_sa_state(memoryview(usersa()))
    assert bare.replay is None, "an SPI that is only reserved"


@pytest.mark.parametrize("by_user", [False, True])
def test_an_advance_is_read_at_its_offsets(by_user: bool) -> None:
    told = decode_advance(memoryview(advance(plain(), flags=RVAL | by_user * BY_USER)))
    assert (told.key, told.source, told.by_user) == (KEY, SOURCE, by_user)
    assert told.head == advance(), "without flags: it is sent back"
    assert told.replay is not None and told.replay[:4] == (3, 4, 32, XFRMA_REPLAY_VAL)
    assert bytes(told.replay.raw) == plain()[4:]
    assert decode_advance(memoryview(advance())).replay is None


def test_upper_halves_count_unless_the_sa_has_no_esn() -> None:
    told = memoryview(advance(with_bitmap()))
    long, short = decode_advance(told).replay, decode_advance(told, esn=False).replay
    assert long is not None and (long.oseq, long.seq) == ((1 << 32) + 6, (2 << 32) + 7)
    assert short is not None and (short.oseq, short.seq) == (6, 7)


def test_the_attribute_with_a_bitmap_is_the_one_that_counts() -> None:
    for both in (plain() + with_bitmap(), with_bitmap() + plain()):
        replay = decode_advance(memoryview(advance(both))).replay
        assert replay is not None and replay.attribute == XFRMA_REPLAY_ESN_VAL


@pytest.mark.parametrize("hard", [0, 1])
def test_an_expiry_is_read_at_its_offsets(hard: int) -> None:
    assert xfrm_replay.decode_expiry(memoryview(expire(hard, 1 - hard))) == Expiry(SaKey(KEY), SOURCE, bool(hard))


def test_a_state_is_asked_for_by_name() -> None:
    assert xfrm_replay.encode_get_advance(advance()) == advance(flags=RVAL)


@pytest.mark.parametrize(
    ("decode", "whole"),
    [(decode_sa_state, usersa()), (decode_advance, advance()), (xfrm_replay.decode_expiry, expire(1))],
    ids=["sa", "advance", "expiry"],
)
def test_a_message_that_is_cut_off_is_refused(decode: Callable[[memoryview], object], whole: bytes) -> None:
    decode(memoryview(whole))
    for length in range(len(whole)):
        with pytest.raises(DecodeError):
            decode(memoryview(whole[:length]))


@pytest.mark.parametrize(
    "value",
    [
        attribute(XFRMA_REPLAY_VAL, bytes(8)),
        attribute(XFRMA_REPLAY_ESN_VAL, bytes(20)),
        with_bitmap()[:-4].replace(b"\x24", b"\x20", 1),
        attribute(XFRMA_REPLAY_ESN_VAL, with_bitmap()[4:] + bytes(4)),
        with_bitmap(window=65),
        with_bitmap(window=0, words=129),
    ],
    ids=["short plain", "short", "bitmap too short", "bitmap too long", "window over bitmap", "bitmap beyond the kernel's"],
)
def test_a_state_that_contradicts_itself_is_refused(value: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_advance(memoryview(advance(value)))


def test_the_largest_window_is_read() -> None:
    replay = decode_advance(memoryview(advance(with_bitmap(window=4096, words=128)))).replay
    assert replay is not None and replay.window == 4096, "XFRMA_REPLAY_ESN_MAX"


@pytest.mark.parametrize(("esn", "most"), [(False, 2**32 - 1), (True, 2**64 - 1)])
def test_the_largest_number_has_a_place(esn: bool, most: int) -> None:
    replay: Replay | None = decode_advance(memoryview(advance(with_bitmap() if esn else plain()))).replay
    assert replay is not None
    ahead = decode_advance(memoryview(xfrm_replay.encode_oseq(advance(), replay, most))).replay
    seen = decode_advance(memoryview(xfrm_replay.encode_seen_up_to(advance(), replay, most))).replay
    assert ahead is not None and seen is not None and (ahead.oseq, seen.seq) == (most, most)


def test_what_is_written_is_the_kernels_own_bytes_but_for_the_numbers() -> None:
    replay = decode_advance(memoryview(advance(plain()))).replay
    assert replay is not None
    assert xfrm_replay.encode_oseq(advance(), replay, 77) == advance(plain(oseq=77))
    assert xfrm_replay.encode_seen_up_to(advance(), replay, 77) == advance(plain(seq=77, bitmap=2**32 - 1))
    replay = decode_advance(memoryview(advance(with_bitmap()))).replay
    assert replay is not None
    assert xfrm_replay.encode_oseq(advance(), replay, (8 << 32) + 77) == advance(with_bitmap(oseq=77, high=(8, 2)))
    written = xfrm_replay.encode_seen_up_to(advance(), replay, (8 << 32) + 77)
    assert written == advance(with_bitmap(seq=77, high=(1, 8)))[:-8] + b"\xff" * 8
