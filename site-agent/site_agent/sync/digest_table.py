"""The four tables that digests compare, cut into buckets with a sum each. Pure.

    SAS        kernel SAs of clients
    POLICIES   kernel policies of clients
    IKE_SAS    charon's IKE_SAs
    CHILD_SAS  charon's CHILD_SAs

A sum is a hash over the bucket's records in their order. (A sum that is updated record by record, by XOR or addition, would
be cheaper for one change, and a change is looked up by a dump anyway; it would also let one record hide another.)

What tunnels are on their way in or out is left to the caller; a table holds what it is given, once.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Iterable
from hashlib import blake2b

from site_agent.ike.mirror_view import CHILD_NAME_BYTES, CHILD_RECORD_BYTES, IKE_NAME_BYTES, IKE_RECORD_BYTES
from site_agent.netlink.xfrm_digest import (
    POLICY_NAME_BYTES,
    POLICY_RECORD_BYTES,
    SA_NAME_BYTES,
    SA_RECORD_BYTES,
)

BUCKETS = 1024
"""20 tunnels' SAs a bucket at 10,000 tunnels: one that differs costs 2 kB to find, and all sums of a table 16 kB."""
SUM_BYTES = 8
"""Two gateways of one pair compare 1,000 buckets every few seconds: by chance a difference hides once in 10^10 years."""


class Of(enum.IntEnum):
    """Which table. The number is on the wire."""

    SAS = 0
    POLICIES = 1
    IKE_SAS = 2
    CHILD_SAS = 3


RECORD_BYTES = {
    Of.SAS: SA_RECORD_BYTES, Of.POLICIES: POLICY_RECORD_BYTES,
    Of.IKE_SAS: IKE_RECORD_BYTES, Of.CHILD_SAS: CHILD_RECORD_BYTES,
}  # fmt: skip
NAME_BYTES = {
    Of.SAS: SA_NAME_BYTES, Of.POLICIES: POLICY_NAME_BYTES,
    Of.IKE_SAS: IKE_NAME_BYTES, Of.CHILD_SAS: CHILD_NAME_BYTES,
}  # fmt: skip
"""A record's beginning by which the entry is found; no two of one gateway have the same."""

Record = bytes


class Table:
    """Records of one kind."""

    def __init__(self, of: Of, records: Iterable[Record] = ()) -> None:
        """Each of RECORD_BYTES."""
        self.of = of
        self._buckets: list[list[Record]] = [[] for _ in range(BUCKETS)]
        buckets, count = self._buckets, 0
        if of is Of.POLICIES:
            for record in records:
                buckets[zlib.crc32(record[:POLICY_NAME_BYTES]) % BUCKETS].append(record)
                count += 1
        else:
            high, low = (14, 15) if of is Of.IKE_SAS else (2, 3)  # the end of the SPI, there of the responder's
            for record in records:
                buckets[(record[high] << 8 | record[low]) % BUCKETS].append(record)
                count += 1
        self.count = count
        for bucket in buckets:
            bucket.sort()

    def __len__(self) -> int:
        return self.count

    def bucket(self, number: int) -> list[Record]:
        """In their order."""
        return self._buckets[number]

    def sums(self) -> bytes:
        """SUM_BYTES of each bucket, over whole records."""
        return b"".join([_sum(bucket) if bucket else _OF_NOTHING for bucket in self._buckets])


def _sum(records: list[Record]) -> bytes:
    return blake2b(b"".join(records), digest_size=SUM_BYTES).digest()


_OF_NOTHING = _sum([])
