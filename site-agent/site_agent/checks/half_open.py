"""Are handshakes begun and not finished?

Load, not a fact: anybody can send an IKE_SA_INIT with a forged source address. charon then asks for cookies (RFC 7296,
section 2.6) and goes on; a withdrawal would hand the flood to the next site. The number comes with the answer that the
`vici` check gets anyway, so a busy charon is not asked a second question; that check reports it.
"""

from __future__ import annotations

from anycast.errors import PeerError
from anycast.policy.protection import COOKIE_THRESHOLD
from anycast.reasons import Reason
from site_agent.checks.base import Finding, failing, passing
from site_agent.ike.vici_client import Section

NAME = "half_open"
LIMIT = COOKIE_THRESHOLD
"""From here on charon demands cookies."""


def half_open_of(stats: Section) -> tuple[int, int]:
    """All IKE_SAs and the half-open ones, of VICI's `stats`. Raises PeerError."""
    try:
        counts = stats["ikesas"]
        total, half_open = (int(counts[key].decode("ascii")) for key in ("total", "half-open"))
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise PeerError("charon", f"stats: cannot be understood: {exc!r}") from exc
    return total, half_open


def judge(half_open: int) -> Finding:
    """`half_open` IKE_SAs exist as responder and initiator together."""
    detail = f"{half_open} half-open IKE_SAs"
    return failing(NAME, Reason.HALF_OPEN_HIGH, detail) if half_open >= LIMIT else passing(NAME, detail)
