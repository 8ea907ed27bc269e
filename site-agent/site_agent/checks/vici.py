"""Does charon answer its control socket, does it have our connections, and how many handshakes are unfinished?

Load, not a fact: every worker of charon may be busy with a stranger's half-open handshakes, and established tunnels go
on meanwhile. An alarm, and the reason why `sa_state` may be blind at the same time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from anycast.errors import PeerError
from anycast.model import EvidenceClass
from anycast.reasons import Reason
from site_agent.checks import connections, half_open
from site_agent.checks.base import Finding, Timing, failing, passing, unknown
from site_agent.ike.vici_client import ViciClient

NAME = "vici"
ANSWER_LIMIT_S = 1.0
"""An idle charon answers in 1 ms, in 20 ms inside User Mode Linux."""


class ViciCheck:
    """Reports `vici`, `half_open` and `connections`."""

    reports: Mapping[str, EvidenceClass] = dict.fromkeys((NAME, half_open.NAME, connections.NAME), EvidenceClass.LOAD)
    timing = Timing(interval_s=2.0, timeout_s=2 * ANSWER_LIMIT_S + 0.5)

    def __init__(self, vici: ViciClient, rendered: Collection[str] = ()) -> None:
        """`rendered` names the connections that charon must have."""
        self._vici, self._rendered = vici, rendered

    async def look(self) -> Sequence[Finding]:
        try:
            stats = await self._vici.request("stats", timeout_s=ANSWER_LIMIT_S)
            conns = await self._vici.request("get-conns", timeout_s=ANSWER_LIMIT_S)
            total, unfinished = half_open.half_open_of(stats)
            loaded = connections.loaded_connections(conns)
        except PeerError as exc:
            detail = "the vici check got no answer"
            unseen = [unknown(name, Reason.VICI_REFUSED, detail) for name in (half_open.NAME, connections.NAME)]
            return [failing(NAME, Reason.VICI_REFUSED, str(exc)), *unseen]
        except TimeoutError:
            detail = f"no answer within {ANSWER_LIMIT_S:g} s"
            return [unknown(name, Reason.VICI_SILENT, detail) for name in self.reports]
        return [
            passing(NAME, f"{len(loaded)} connections, {total} IKE_SAs, {unfinished} half-open"),
            half_open.judge(unfinished),
            connections.judge(loaded, self._rendered),
        ]
