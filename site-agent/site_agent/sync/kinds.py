"""What travels between two gateways: one line a kind. The channel carries it unread.

A kind's number and lane are for ever. A new kind says in `since` which protocol first has it (`versions.NEWEST`, raised
with it); it is never sent to a peer that speaks an older one. Order is kept within a lane, not between the two.
"""

from __future__ import annotations

import enum

LARGEST = 256 * 1024
"""Bytes of one message. Bulk is cut into pieces of about 100 kB: more gains nothing, and what is urgent waits for one."""


class Lane(enum.IntEnum):
    URGENT = 0
    """Small and needed now: goes before whatever is bulk and not on its way yet."""
    BULK = 1
    """Tables."""


class Kind(enum.Enum):
    """Number on the wire, lane, first protocol that has it."""

    HA = 1, Lane.URGENT, 1
    """A datagram of charon's `ha` plugin."""
    NUMBERS = 2, Lane.URGENT, 1
    """Marks of outbound sequence numbers, and their acknowledgements."""
    WINDOWS = 3, Lane.URGENT, 1
    """Inbound replay windows."""
    STATE = 4, Lane.URGENT, 1
    """Small facts that both must have: addresses in use, ages, role."""
    DIGEST = 5, Lane.BULK, 1
    """Sums over buckets, and what is asked for where they differ."""
    CONNTRACK = 6, Lane.BULK, 1
    """ctnetlink messages, as the kernel wrote them."""

    def __init__(self, number: int, lane: Lane, since: int) -> None:
        self.number, self.lane, self.since = number, lane, since


BY_NUMBER = {kind.number: kind for kind in Kind}
