"""Why the other gateway is not heard although it speaks: everything of it has been discarded for a while. Pure.

Two gateways that discard each other are both Active, and a counter that grows tells nobody. So the cause becomes a fault in
words that say what to do, as long as it lasts.
"""

from __future__ import annotations

from site_agent.vrrp.packet import Discard

LEAST = 3
"""Discarded in a row. One or two may be a record that somebody plays back while the other gateway is down."""
REMEDIES = {
    Discard.SEAL: "the keys differ: compare `site-agent keys show` on both, copy the key file, then `site-agent apply`",
    Discard.REPLAY: "its clock was set back since it spoke last: set the clock there, then `site-agent restart-vrrp` there",
    Discard.ADDRESSES: "it has other virtual addresses: `site-agent apply` the same fleet file on both gateways",
    Discard.TTL: "a router is between the two gateways: connect them to the same link",
}
"""Of the causes that somebody at the two gateways can end. The rest is damage, or another router's."""


class Deafness:
    """Takes what becomes of each advertisement. `window_s`: for so long none must have been good."""

    def __init__(self, window_s: float, *, now: float) -> None:
        self._window_s = window_s
        self._good_at = now
        self._bad: dict[Discard, float] = {}
        """When each was discarded last, since the last good one."""
        self._count = 0

    def accepted(self, now: float) -> None:
        """A good one."""
        self._good_at = now
        if self._count:
            self._bad.clear()
            self._count = 0

    def discarded(self, cause: Discard, now: float) -> None:
        """Not a good one."""
        if cause in REMEDIES:
            self._bad[cause] = now
            self._count += 1

    def faults(self, now: float) -> list[str]:
        """One sentence a cause; none while the other gateway is heard on any path, or says nothing at all."""
        if now - self._good_at < self._window_s or self._count < LEAST:
            return []
        lately = [cause for cause, at in self._bad.items() if now - at < self._window_s]
        return [
            f"the other gateway is not heard, its advertisements are discarded ({cause}): {REMEDIES[cause]}"
            for cause in lately
        ]
