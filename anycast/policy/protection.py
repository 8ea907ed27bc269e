"""Is charon protecting itself by demanding cookies? Pure: evidence in, a beginning and an end out.

Theory of operation
-------------------
Load is answered by protection, not by withdrawal. What protects is always configured, because charon reads it once, when its
receiver is made (strongSwan 5.9.8, receiver.c; `reload-settings` does not reach it), and because a threshold costs nothing
below it: from `COOKIE_THRESHOLD` half-open IKE_SAs on every IKE_SA_INIT must bring a cookie (RFC 7296, section 2.6), which a
spoofed source never receives, so a flood leaves no state and no work for a worker; from `COOKIE_THRESHOLD_IP` of one address
on, that address must. A cookie costs an honest client one round trip. Being blocked would cost it the service, so an address
is blocked only with `BLOCK_THRESHOLD` half-open IKE_SAs, more than the clients behind one carrier's NAT open at once, and
everybody only at `INIT_LIMIT`.

What is left to do here is to see it and to say it. Two checks do: `half_open` counts, `ike_probe` is itself asked for a
cookie. charon goes on demanding them until 10 s without any IKE_SA_INIT, while what it kept from before the threshold is
forgotten after `half_open_timeout`: in a long flood the count falls (measured) and the second sign stays. What cannot be
seen (a VICI that a flood keeps silent) ends nothing.
"""

from __future__ import annotations

from anycast.events import EvidenceChanged, ProtectionEnded, ProtectionStarted
from anycast.model import Status
from anycast.reasons import Reason

COOKIE_THRESHOLD = 30
"""strongSwan's own default since 5.9.9."""
COOKIE_THRESHOLD_IP = 3
BLOCK_THRESHOLD = 1024
INIT_LIMIT = 4096
COOKIES = "cookies"
SIGNS = frozenset({Reason.HALF_OPEN_HIGH, Reason.IKE_COOKIE})


class Protection:
    """Told of each change of evidence."""

    def __init__(self) -> None:
        self._signs: dict[str, Reason] = {}

    @property
    def signs(self) -> dict[str, Reason]:
        """The checks that see cookies demanded now, oldest first, each with what it says; empty without."""
        return dict(self._signs)

    def take(self, seen: EvidenceChanged) -> ProtectionStarted | ProtectionEnded | None:
        """What follows from one change."""
        before = next(iter(self._signs.values()), None)
        if seen.reason in SIGNS:
            self._signs[seen.check] = seen.reason
        elif seen.status is not Status.UNKNOWN and seen.reason is not Reason.IKE_UNANSWERED:
            self._signs.pop(seen.check, None)
        if self._signs and before is None:
            return ProtectionStarted(kind=COOKIES, reason=seen.reason, detail=seen.detail)
        if before is not None and not self._signs:
            return ProtectionEnded(kind=COOKIES, reason=before)
        return None
