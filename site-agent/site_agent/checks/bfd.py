"""Are the BFD sessions beside BGP up?

Shared, not a fact about this gateway: a router's restart or its missing `bfd on` ends sessions at many sites at once, and a
session that is down says nothing of whether this gateway serves. The router has drawn its conclusion already: it ended the
BGP session, which `upstreams` shows, or it does not look at BFD. What is lost is protection: until BFD is up, a gateway
that loses power attracts traffic for BGP's hold time. So: an alarm that names the sessions and what the router said.

A session has `FIRST_LIMIT_S` to come up from when the agent lets it (`wire.Grant.attract_until_ns`): a start is no loss, nor
is what we ended ourselves. One that was up and fell is lost at the next look. The value is the number of sessions lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from anycast.model import EvidenceClass
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.checks.base import Finding, Timing, failing, passing, unknown
from site_agent.vrrp.plan import BfdPeer

NAME = "bfd"
FIRST_LIMIT_S = 30.0
"""A session that is down speaks once a second (RFC 5880 section 6.8.3), and a router may be starting."""

Standings = Mapping[str, Mapping[str, int | str]]


class BfdCheck:
    """Reports `bfd`."""

    reports: Mapping[str, EvidenceClass] = {NAME: EvidenceClass.SHARED}
    timing = Timing(interval_s=5.0, timeout_s=1.0, rise=1, fall=1)

    def __init__(
        self, peers: Sequence[BfdPeer], standings: Callable[[], Standings], clock: Callable[[], float] = boottime
    ) -> None:
        """`standings` gives `wire.Status.bfd` as it was reported last; empty while nothing was."""
        self._peers, self._standings, self._clock = tuple(peers), standings, clock
        self._been_up: set[str] = set()
        """Since it may."""

    async def look(self) -> Sequence[Finding]:
        standings = self._standings()
        lost, waiting = [], []
        for peer in self._peers:
            standing = standings.get(peer.name)
            granted_s = 0.0 if standing is None else int(standing.get("granted_since_ns", 0)) / 1e9
            diagnostic = "none" if standing is None else standing.get("diagnostic")
            fell = diagnostic not in ("none", "path_down")  # also between two looks
            if not granted_s or diagnostic == "path_down":
                self._been_up.discard(peer.name)
            if standing is None:
                waiting.append(f"{peer.name}: not reported")
            elif standing.get("state") == "up":
                self._been_up.add(peer.name)
            elif not granted_s:
                waiting.append(f"{peer.name}: the route is not to attract")
            elif peer.name in self._been_up or fell or self._clock() - granted_s >= FIRST_LIMIT_S:
                lost.append(_words(peer, standing))
            else:
                waiting.append(f"{peer.name}: not up yet, {self._clock() - granted_s:.0f} of {FIRST_LIMIT_S:.0f} s")
        if lost:
            return [failing(NAME, Reason.BFD_DOWN, "; ".join(lost), float(len(lost)))]
        if waiting:
            return [unknown(NAME, Reason.CHECK_UNAVAILABLE, "; ".join(waiting))]
        return [passing(NAME, f"up: {', '.join(f'{peer.name} ({peer.remote})' for peer in self._peers)}", 0.0)]


def _words(peer: BfdPeer, standing: Mapping[str, int | str]) -> str:
    said = f"{peer.name} ({peer.remote}): {standing.get('state')}, because {standing.get('diagnostic')}"
    if not standing.get("remote_discriminator"):
        return f"{said}; nothing is heard from the router: UDP 3784 and its `bfd on`?"
    return f"{said}; the router says {standing.get('remote_state')}, because {standing.get('remote_diagnostic')}"
