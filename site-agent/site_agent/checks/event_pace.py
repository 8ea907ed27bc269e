"""How often kernel events may cause a look that costs something. Pure.

A deleted SA may be an accident or one of five a second that 20,000 rekeying clients cause, and a look at 20,000 tunnels
takes a second or two. So the first deletion causes a look at once, and the next one only when the looks' share of the
time would stay as small as the runner keeps it. A flush is nobody's daily work: it waits only for the shortest pause.
"""

from __future__ import annotations

SHORTEST_PAUSE_S = 0.2


class EventPace:
    """Asked at each event, told after each look. Times are CLOCK_BOOTTIME seconds."""

    def __init__(self, *, rest_per_look: float) -> None:
        """`rest_per_look`: a look that took this share of a second rests that many times as long."""
        self._rest_per_look = rest_per_look
        self.pause_s = SHORTEST_PAUSE_S
        """How long to wait between two looks, so that they keep their share."""
        self._last_granted = -SHORTEST_PAUSE_S
        self._ever = False

    def looked(self, took_s: float) -> None:
        self.pause_s = max(SHORTEST_PAUSE_S, self._rest_per_look * took_s)

    def wants_look(self, now: float, *, flush: bool) -> bool:
        """Whether the event that came `now` causes a look. Everything else waits for the check's interval."""
        pause = SHORTEST_PAUSE_S if flush else self.pause_s
        if self._ever and now - self._last_granted < pause:
            return False
        self._ever, self._last_granted = True, now
        return True
