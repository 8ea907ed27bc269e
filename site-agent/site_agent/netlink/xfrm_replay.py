"""Codec of what numbers an SA's packets carry: replay state read from the kernel and written back (linux/xfrm.h).

The kernel tells an SA's state in three messages: XFRM_MSG_NEWSA (a dump's answer, or the event of a new SA),
XFRM_MSG_NEWAE (the answer to XFRM_MSG_GETAE, or the event that an SA has advanced) and XFRM_MSG_EXPIRE. It takes a new
state in a fourth, XFRM_MSG_NEWAE towards it, which must name the SA and carry the replay attribute that this SA has: the
plain one for a window of at most 32 packets without ESN, else the one with a bitmap of exactly the SA's size. So the way
to write a state is to take the kernel's own bytes, overwrite the numbers at their offsets and send them back; nothing is
built anew, and what a later kernel adds to the attribute stays.

A number here is what ESP calls the sequence number: 32 bits, or 64 where the SA has ESN (RFC 4303 section 2.2.1). `oseq` is
the last one that was sent (the next packet gets oseq + 1), `seq` the highest one received.

What is never written: XFRMA_LTIME_VAL. `add_time` and `use_time` are another machine's clock, and the packet counter is
what `life_packets` is compared with, so the bound on a block (`sync.numbers`) rests on nobody ever turning it back.

Keys stay in the message: nothing here reads them. Any bytes decode or raise DecodeError.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from anycast.errors import DecodeError
from site_agent.netlink.messages import split_attributes
from site_agent.netlink.xfrm import USERSA_INFO_BYTES
from site_agent.netlink.xfrm_keys import PackedAddress, SaKey, sa_key

XFRM_MSG_UPDSA = 0x1A
XFRM_MSG_NEWAE = 0x1E
XFRM_MSG_GETAE = 0x1F
NLM_F_REPLACE = 0x100
"""XFRM_MSG_NEWAE without it is refused (EINVAL)."""

XFRMGRP_AEVENTS = 0x10
"""XFRMNLGRP_AEVENTS (5) as a bit of nl_groups."""

XFRMA_REPLAY_VAL, XFRMA_REPLAY_ESN_VAL = 10, 23

XFRM_AE_RVAL = 0x02
XFRM_AE_CU = 0x40
"""Some user wrote this state; the kernel tells it to everybody, the writer included."""

XFRM_STATE_ESN = 128

AEVENT_ID_BYTES = 48
"""sizeof(struct xfrm_aevent_id): usersa_id (daddr, spi, family, proto) in 0..24, saddr at 24, flags at 40, reqid at 44."""
EXPIRE_BYTES = 232
"""sizeof(struct xfrm_user_expire) on 64-bit machines: struct xfrm_usersa_info, then `hard` at 224."""
MAX_BITMAP_WORDS = 128
"""XFRMA_REPLAY_ESN_MAX is 4,096 bits of window."""

_USERSA_TAIL = struct.Struct("=4sHBBB")  # reqid, family, mode, replay_window, flags, at 208
_PACKETS = struct.Struct("=Q")  # xfrm_lifetime_cur.packets, at 160 + 8
_HARD_PACKETS = struct.Struct("=Q")  # xfrm_lifetime_cfg.hard_packet_limit, at 96 + 24
_AEVENT_ID = struct.Struct("=16s4sHBx16sI4s")
_PLAIN = struct.Struct("=III")  # struct xfrm_replay_state: oseq, seq, bitmap
_ESN = struct.Struct("=IIIIII")  # struct xfrm_replay_state_esn: bmp_len, oseq, seq, oseq_hi, seq_hi, replay_window
_ATTRIBUTE = struct.Struct("=HH")
_LOW = 0xFFFF_FFFF


class Replay(NamedTuple):
    """An SA's replay state, and the attribute it came in."""

    oseq: int
    seq: int
    window: int
    """Packets; 0 where the kernel checks nothing (an outbound SA)."""
    attribute: int
    """XFRMA_REPLAY_VAL or XFRMA_REPLAY_ESN_VAL."""
    raw: memoryview
    """The attribute's value, a view into the message."""


class SaState(NamedTuple):
    """One SA as XFRM_MSG_NEWSA, XFRM_MSG_UPDSA or XFRM_MSG_EXPIRE tells it."""

    key: SaKey
    source: PackedAddress
    packets: int
    """How many it has sent or received on this machine."""
    hard_packets: int
    """After so many the kernel ends the SA; 2^64 - 1: never."""
    esn: bool
    head: bytes
    """struct xfrm_aevent_id of this SA, which names it in XFRM_MSG_NEWAE."""
    replay: Replay | None
    """None in XFRM_MSG_EXPIRE, and for an SPI that is only reserved."""


class Advance(NamedTuple):
    """XFRM_MSG_NEWAE from the kernel: an SA has come so far."""

    key: SaKey
    source: PackedAddress
    by_user: bool
    """The echo of somebody's XFRM_MSG_NEWAE, perhaps our own: news to nobody."""
    head: bytes
    replay: Replay | None


class Expiry(NamedTuple):
    key: SaKey
    source: PackedAddress
    hard: bool
    """Hard: the SA is gone. Soft: charon shall rekey it."""


def decode_sa_state(payload: memoryview) -> SaState:
    """Of XFRM_MSG_NEWSA and XFRM_MSG_UPDSA. Raises DecodeError."""
    if len(payload) < USERSA_INFO_BYTES:
        raise DecodeError("xfrm_usersa_info", len(payload), f"shorter than {USERSA_INFO_BYTES} bytes")
    reqid, family, _mode, _window, flags = _USERSA_TAIL.unpack_from(payload, 208)
    esn = bool(flags & XFRM_STATE_ESN)
    destination, source = bytes(payload[56:72]), bytes(payload[80:96])
    return SaState(
        key=sa_key(payload),
        source=source,
        packets=_PACKETS.unpack_from(payload, 168)[0],
        hard_packets=_HARD_PACKETS.unpack_from(payload, 120)[0],
        esn=esn,
        head=_AEVENT_ID.pack(destination, bytes(payload[72:76]), family, payload[76], source, 0, reqid),
        replay=_replay(payload, USERSA_INFO_BYTES, esn),
    )


def decode_advance(payload: memoryview, *, esn: bool = True) -> Advance:
    """Of XFRM_MSG_NEWAE, which does not say whether the SA has ESN; else the upper halves are 0. Raises DecodeError."""
    if len(payload) < AEVENT_ID_BYTES:
        raise DecodeError("xfrm_aevent_id", len(payload), f"shorter than {AEVENT_ID_BYTES} bytes")
    destination, spi, family, protocol, source, flags, reqid = _AEVENT_ID.unpack_from(payload)
    return Advance(
        key=SaKey(destination + spi + bytes([protocol])),
        source=source,
        by_user=bool(flags & XFRM_AE_CU),
        head=_AEVENT_ID.pack(destination, spi, family, protocol, source, 0, reqid),
        replay=_replay(payload, AEVENT_ID_BYTES, esn),
    )


def decode_expiry(payload: memoryview) -> Expiry:
    """Of XFRM_MSG_EXPIRE. Raises DecodeError."""
    if len(payload) < EXPIRE_BYTES:
        raise DecodeError("xfrm_user_expire", len(payload), f"shorter than {EXPIRE_BYTES} bytes")
    return Expiry(key=sa_key(payload), source=bytes(payload[80:96]), hard=payload[USERSA_INFO_BYTES] != 0)


def encode_get_advance(head: bytes) -> bytes:
    """The payload of XFRM_MSG_GETAE, which the kernel answers with XFRM_MSG_NEWAE."""
    return head[:40] + struct.pack("=I", XFRM_AE_RVAL) + head[44:]


def encode_oseq(head: bytes, replay: Replay, oseq: int) -> bytes:
    """The payload of XFRM_MSG_NEWAE (with NLM_F_REPLACE) that makes `oseq` the last number sent.

    Raises OverflowError where the SA's attribute has no room for it.
    """
    value = bytearray(replay.raw)
    if replay.attribute == XFRMA_REPLAY_VAL:
        struct.pack_into("=I", value, 0, _fits(oseq, 32))
    else:
        struct.pack_into("=I", value, 4, _fits(oseq, 64) & _LOW)
        struct.pack_into("=I", value, 12, oseq >> 32)
    return head + _attribute(replay.attribute, value)


def encode_seen_up_to(head: bytes, replay: Replay, seq: int) -> bytes:
    """The payload of XFRM_MSG_NEWAE after which every number up to `seq` is one that was received already.

    All bits of the window are set: of what the other gateway accepted nothing is accepted again, and what it had not
    received when it died is lost with it. Raises OverflowError where the SA's attribute has no room for `seq`.
    """
    value = bytearray(replay.raw)
    if replay.attribute == XFRMA_REPLAY_VAL:
        struct.pack_into("=II", value, 4, _fits(seq, 32), _LOW)
    else:
        struct.pack_into("=I", value, 8, _fits(seq, 64) & _LOW)
        struct.pack_into("=I", value, 16, seq >> 32)
        value[_ESN.size :] = b"\xff" * (len(value) - _ESN.size)
    return head + _attribute(replay.attribute, value)


def _replay(payload: memoryview, start: int, esn: bool) -> Replay | None:
    found = None
    for kind, value in split_attributes(payload, start):
        if kind == XFRMA_REPLAY_ESN_VAL:
            return _with_bitmap(value, esn)
        if kind == XFRMA_REPLAY_VAL:
            if len(value) < _PLAIN.size:
                raise DecodeError("xfrm_replay_state", start, f"shorter than {_PLAIN.size} bytes")
            oseq, seq, _bitmap = _PLAIN.unpack_from(value)
            found = Replay(oseq, seq, 32, kind, value)
    return found


def _with_bitmap(value: memoryview, esn: bool) -> Replay:
    if len(value) < _ESN.size:
        raise DecodeError("xfrm_replay_state_esn", len(value), f"shorter than {_ESN.size} bytes")
    words, oseq, seq, oseq_high, seq_high, window = _ESN.unpack_from(value)
    if words > MAX_BITMAP_WORDS or len(value) != _ESN.size + 4 * words:
        raise DecodeError("bmp_len", 0, f"{words} words in {len(value)} bytes")
    if window > 32 * words:
        raise DecodeError("replay_window", 20, f"{window} packets in {words} words")
    if esn:
        oseq, seq = oseq_high << 32 | oseq, seq_high << 32 | seq
    return Replay(oseq, seq, window, XFRMA_REPLAY_ESN_VAL, value)


def _fits(number: int, bits: int) -> int:
    if not 0 <= number < 1 << bits:
        raise OverflowError(f"{number} has no place in {bits} bits")
    return number


def _attribute(kind: int, value: bytes | bytearray) -> bytes:
    """Padded as all of the kernel's are; these values are multiples of four bytes anyway."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + bytes(value) + bytes(-len(value) % 4)
