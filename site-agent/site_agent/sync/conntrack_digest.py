"""Sums over what must be equal on both gateways (`conntrack_forms.records`), by bucket.

A flow's bucket is a hash of its key, so both gateways find the same one without a word. A bucket's sum is that of its
records' digests modulo 2^64: the order in which a kernel dumps does not matter, and two records that swap a field, which
would leave a sum of checksums as it was, change it.
"""

from __future__ import annotations

import array
import hashlib
import zlib
from collections.abc import Iterator

from site_agent.netlink.conntrack_columns import Block
from site_agent.netlink.conntrack_forms import records

BUCKETS = 8192
"""64 kB of sums; 200,000 flows are 25 a bucket, which is what one difference costs."""
_MASK = (1 << 64) - 1


def digests(block: Block) -> Iterator[tuple[int, bytes, int]]:
    """Of each flow: bucket, key, digest."""
    made, size, key = records(block)
    whole, hashed, crc = bytes(made), hashlib.blake2b, zlib.crc32
    for at in range(0, len(whole), size):
        record = whole[at : at + size]
        name = record[:key]
        digest = int.from_bytes(hashed(record, digest_size=8).digest(), "little")
        yield crc(name) & (BUCKETS - 1), name, digest


class Sums:
    def __init__(self) -> None:
        self.values = array.array("Q", bytes(8 * BUCKETS))
        self.flows = 0

    def add(self, block: Block) -> None:
        values = self.values
        for bucket, _, digest in digests(block):
            values[bucket] = (values[bucket] + digest) & _MASK
        self.flows += len(block.messages)

    def differing(self, other: array.array[int]) -> set[int]:
        """Buckets whose sums differ."""
        return {bucket for bucket, (one, two) in enumerate(zip(self.values, other, strict=True)) if one != two}
