"""Does charon answer its control socket, and does it have our connections?

Load, not a fact: every worker of charon may be busy with a stranger's half-open handshakes, and established tunnels go
on meanwhile. An alarm, and the reason why `sa_state` may be blind at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from anycast.errors import PeerError
from anycast.model import EvidenceClass
from anycast.reasons import Reason
from site_agent.checks.base import Finding, failing, passing, unknown
from site_agent.ike.vici_client import ViciClient

NAME = "vici"
ANSWER_LIMIT_S = 1.0
"""An idle charon answers in 1 ms, in 20 ms inside User Mode Linux."""


class ViciCheck:
    """Reports `vici`."""

    reports: Mapping[str, EvidenceClass] = {NAME: EvidenceClass.LOAD}
    interval_s = 2.0
    timeout_s = 2 * ANSWER_LIMIT_S + 0.5

    def __init__(self, vici: ViciClient) -> None:
        self._vici = vici

    async def look(self) -> Sequence[Finding]:
        try:
            stats = await self._vici.request("stats", timeout_s=ANSWER_LIMIT_S)
            conns = await self._vici.request("get-conns", timeout_s=ANSWER_LIMIT_S)
        except PeerError as exc:
            return [failing(NAME, Reason.VICI_REFUSED, str(exc))]
        except TimeoutError:
            return [unknown(NAME, Reason.VICI_SILENT, f"no answer within {ANSWER_LIMIT_S:g} s")]
        loaded = conns.get("conns", [])
        if not loaded:
            return [failing(NAME, Reason.CONNECTIONS_NOT_LOADED, "charon has no connection at all")]
        ike_sas = stats.get("ikesas", {})
        total, half_open = (ike_sas.get(key, b"?").decode(errors="replace") for key in ("total", "half-open"))
        return [passing(NAME, f"{len(loaded)} connections, {total} IKE_SAs, {half_open} half-open")]
