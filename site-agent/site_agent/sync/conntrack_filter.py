"""Which flows are mirrored: those of the clients' pools and of the servers inside, and never a gateway's own.

A flow's two *ends* are its original source and the source of its reply; what lies between is translation, and translated
addresses are nobody's. A flow is mirrored where one end is in the given prefixes and neither is an address of this gateway
or of its peer: IKE, BGP, VRRP and this channel end at those. ESP, AH and VRRP are never mirrored, whoever they are of.
"""

from __future__ import annotations

import ipaddress
import struct
from collections import Counter
from collections.abc import Iterable

from site_agent.netlink.conntrack import UNTOLD_PROTOCOLS
from site_agent.netlink.conntrack_columns import Block, Word
from site_agent.netlink.conntrack_forms import behind_proxy, expected, other_end, refused_name

_NOBODY, _OURS, _GATEWAY = 0, 1, 2
MOST_REMEMBERED = 1 << 16
"""Addresses whose answer is kept. Strangers can invent more; then all are forgotten."""

EXPECTATION, SYN_PROXY = "expectation", "synproxy"


class MirroredFlows:
    """`prefixes`: client pools and inside networks. `gateways`: addresses of both gateways, virtual ones included."""

    def __init__(self, prefixes: Iterable[str], gateways: Iterable[str]) -> None:
        networks = [ipaddress.ip_network(each) for each in prefixes]
        self._networks = {
            size: [(int(each.network_address), int(each.netmask)) for each in networks if each.max_prefixlen == size * 8]
            for size in (4, 16)
        }
        self._gateways = {ipaddress.ip_address(each).packed for each in gateways}
        self._known: dict[Word, int] = {}

    def mirrored(self, block: Block) -> list[bool] | None:
        """Which ones are; None where all are."""
        shape = block.shape
        if shape.orig.protocol in UNTOLD_PROTOCOLS:
            return [False] * len(block.messages)
        one_end, other = block.addresses(shape.orig.source, shape.orig.width), block.addresses(*other_end(shape))
        known = self._known
        for column in (one_end, other):
            for word in set(column) - known.keys():
                if len(known) >= MOST_REMEMBERED:
                    known.clear()
                known[word] = self._whose(word)
        try:
            whose = [known[one] | known[two] for one, two in zip(one_end, other, strict=True)]
        except KeyError:  # forgotten meanwhile
            whose = [self._whose(one) | self._whose(two) for one, two in zip(one_end, other, strict=True)]
        if whose.count(_OURS) == len(whose):
            return None
        return [each == _OURS for each in whose]

    def admitted(self, block: Block, refused: Counter[str]) -> Block | None:
        """The part that is mirrored. What would be, but cannot be, is counted by its name."""
        if (wanted := self.mirrored(block)) is not None:
            if not any(wanted):
                return None
            block = block.select(wanted)
        if name := refused_name(block.shape):
            refused[name] += len(block.messages)
            return None
        for name, found in ((EXPECTATION, expected(block)), (SYN_PROXY, behind_proxy(block))):
            if found is not None:
                refused[name] += sum(found)
                block = block.select([not each for each in found])
                if not block.messages:
                    return None
        return block

    def _whose(self, word: Word) -> int:
        words = (word,) if isinstance(word, int) else word
        packed = struct.pack(f"={len(words)}I", *words)
        if packed in self._gateways:
            return _GATEWAY
        number = int.from_bytes(packed, "big")
        within = any(number & mask == network for network, mask in self._networks[len(packed)])
        return _OURS if within else _NOBODY
