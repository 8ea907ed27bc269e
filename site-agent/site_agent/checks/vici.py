"""Does charon answer its control socket, does it have our connections, and how many handshakes are unfinished?

Load, not a fact: every worker of charon may be busy with a stranger's half-open handshakes, and established tunnels go
on meanwhile. An alarm, and the reason why `sa_state` may be blind at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from anycast.errors import PeerError
from anycast.model import EvidenceClass
from anycast.reasons import Reason
from site_agent.checks import half_open
from site_agent.checks.base import Finding, failing, passing, unknown
from site_agent.checks.steady import Steady
from site_agent.ike.vici_client import ViciClient

NAME = "vici"
ANSWER_LIMIT_S = 1.0
"""An idle charon answers in 1 ms, in 20 ms inside User Mode Linux."""


class ViciCheck:
    """Reports `vici` and `half_open`."""

    reports: Mapping[str, EvidenceClass] = {NAME: EvidenceClass.LOAD, half_open.NAME: EvidenceClass.LOAD}
    interval_s = 2.0
    timeout_s = 2 * ANSWER_LIMIT_S + 0.5

    def __init__(self, vici: ViciClient) -> None:
        self._vici = vici
        self._half_open = Steady()

    async def look(self) -> Sequence[Finding]:
        try:
            stats = await self._vici.request("stats", timeout_s=ANSWER_LIMIT_S)
            conns = await self._vici.request("get-conns", timeout_s=ANSWER_LIMIT_S)
            total, unfinished = half_open.half_open_of(stats)
        except PeerError as exc:
            unseen = unknown(half_open.NAME, Reason.VICI_REFUSED, "the vici check got no answer")
            return [failing(NAME, Reason.VICI_REFUSED, str(exc)), unseen]
        except TimeoutError:
            detail = f"no answer within {ANSWER_LIMIT_S:g} s"
            return [unknown(name, Reason.VICI_SILENT, detail) for name in self.reports]
        opened = self._half_open.settle(half_open.judge(unfinished))
        loaded = conns.get("conns", [])
        if not loaded:
            return [failing(NAME, Reason.CONNECTIONS_NOT_LOADED, "charon has no connection at all"), opened]
        return [passing(NAME, f"{len(loaded)} connections, {total} IKE_SAs, {unfinished} half-open"), opened]
