"""Packets on clients' SAs, counted over the SAs' lives: what gates of a rollout ask (`anycast/policy/gates.py`). Pure.

The kernel counts per SA and forgets with it, so what is summed is how far each SA's count has come between two listings.
What an SA carried between its last listing and its end is lost: a second's worth of one rekeyed SA.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from anycast.errors import DecodeError
from site_agent.netlink.xfrm import USERSA_INFO_BYTES
from site_agent.netlink.xfrm_keys import SaKey

_PACKETS = struct.Struct("=Q")
_PACKETS_AT = 168
"""curlft.packets in struct xfrm_usersa_info: behind selector, id, source and the limits (linux/xfrm.h)."""


def packets(payload: memoryview) -> int:
    """How many an SA has carried: of XFRM_MSG_NEWSA. Raises DecodeError."""
    if len(payload) < USERSA_INFO_BYTES:
        raise DecodeError("xfrm_usersa_info", len(payload), f"shorter than {USERSA_INFO_BYTES} bytes")
    return int(_PACKETS.unpack_from(payload, _PACKETS_AT)[0])


class ClientTraffic:
    """`listed` after each listing of the SAD; the sums only grow."""

    def __init__(self) -> None:
        self.decrypted = 0
        self.encrypted = 0
        self.established = 0
        """Pairs of SAs that were not there at the listing before: of clients that connect, and of rekeys."""
        self._before: dict[SaKey, int] | None = None

    def listed(self, pairs: Iterable[tuple[SaKey, ...]], found: Mapping[SaKey, int]) -> None:
        """`pairs`: inbound and outbound SA of each client's CHILD_SA; `found`: the count of every SA that is there.

        What the first listing finds was carried before anybody counted.
        """
        before, now = self._before, dict[SaKey, int]()
        for pair in pairs:
            if before is not None and pair and pair[0] in found and pair[0] not in before:
                self.established += 1
            for direction, key in enumerate(pair):
                if (count := found.get(key)) is None:
                    continue
                now[key] = count
                # A count that went back is another SA of the same name, or one whose counters a mirror has set.
                grown = 0 if before is None else max(0, count - before.get(key, 0))
                if direction == 0:
                    self.decrypted += grown
                else:
                    self.encrypted += grown
        self._before = now
