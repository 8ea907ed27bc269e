"""Codec of the BFD Control packet (RFC 5880 section 4.1), without authentication. Bounds-checked; pure.

     0                   1                   2                   3
    |Vers |  Diag   |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
    |                       My Discriminator                        |
    |                      Your Discriminator                       |
    |                    Desired Min TX Interval                    |
    |                   Required Min RX Interval                    |
    |                 Required Min Echo RX Interval                 |

Over a single hop a packet travels to UDP port 3784 with TTL 255 and is taken with nothing less (RFC 5881 section 5), which
is all the proof of its origin that there is.
"""

from __future__ import annotations

import dataclasses
import enum
import struct

from anycast.errors import DecodeError

PORT = 3784
"""UDP, single hop (RFC 5881 section 4); the source port is 49152 or higher."""
TTL = 255
VERSION = 1

_BODY = struct.Struct("!BBBBIIIII")
_POLL, _FINAL, _INDEPENDENT, _AUTHENTICATED, _DEMAND, _MULTIPOINT = 0x20, 0x10, 0x08, 0x04, 0x02, 0x01


class State(enum.IntEnum):
    """``Sta``."""

    ADMIN_DOWN = 0
    DOWN = 1
    INIT = 2
    UP = 3


class Diagnostic(enum.IntEnum):
    """Why the last session ended, as the sender saw it."""

    NONE = 0
    DETECTION_TIME_EXPIRED = 1
    ECHO_FAILED = 2
    NEIGHBOR_SIGNALED_DOWN = 3
    FORWARDING_PLANE_RESET = 4
    PATH_DOWN = 5
    CONCATENATED_PATH_DOWN = 6
    ADMINISTRATIVELY_DOWN = 7
    REVERSE_CONCATENATED_PATH_DOWN = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ControlPacket:
    """Intervals in microseconds."""

    state: State
    diagnostic: int = Diagnostic.NONE
    """0 to 31; a later standard may give more of them a name."""
    poll: bool = False
    final: bool = False
    demand: bool = False
    detect_mult: int
    my_discriminator: int
    your_discriminator: int
    desired_min_tx: int
    required_min_rx: int
    required_min_echo_rx: int = 0


def encode(packet: ControlPacket) -> bytes:
    """The UDP payload: 24 bytes."""
    flags = _POLL * packet.poll | _FINAL * packet.final | _DEMAND * packet.demand
    return _BODY.pack(
        VERSION << 5 | packet.diagnostic,
        packet.state << 6 | flags,
        packet.detect_mult,
        _BODY.size,
        packet.my_discriminator,
        packet.your_discriminator,
        packet.desired_min_tx,
        packet.required_min_rx,
        packet.required_min_echo_rx,
    )


def decode(data: bytes | memoryview) -> ControlPacket:
    """By the tests of section 6.8.6 that need no session. Raises DecodeError."""
    if len(data) < _BODY.size:
        raise DecodeError("length", len(data), "truncated")
    first, second, mult, length, mine, yours, tx, rx, echo = _BODY.unpack_from(data)
    if first >> 5 != VERSION:
        raise DecodeError("vers", 0, f"{first >> 5}, not {VERSION}")
    if not _BODY.size <= length <= len(data):
        raise DecodeError("length", 3, f"{length} in {len(data)} bytes")
    if second & _AUTHENTICATED:
        raise DecodeError("authentication present", 1, "is not in use here")
    if second & _MULTIPOINT:
        raise DecodeError("multipoint", 1, "must be zero")
    if not mult:
        raise DecodeError("detect mult", 2, "0")
    if not mine:
        raise DecodeError("my discriminator", 4, "0")
    if not yours and second >> 6 not in (State.DOWN, State.ADMIN_DOWN):
        raise DecodeError("your discriminator", 8, "0 in a session that is up")
    return ControlPacket(
        state=State(second >> 6),
        diagnostic=first & 0x1F,
        poll=bool(second & _POLL),
        final=bool(second & _FINAL),
        demand=bool(second & _DEMAND),
        detect_mult=mult,
        my_discriminator=mine,
        your_discriminator=yours,
        desired_min_tx=tx,
        required_min_rx=rx,
        required_min_echo_rx=echo,
    )
