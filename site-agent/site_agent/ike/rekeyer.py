"""Has charon rekey tunnels whose kernel state is gone (VICI `rekey`).

By unique id for some of them. Everything goes by the names of connection and child, one request for all: charon walks over
all its IKE_SAs for each request (strongSwan 5.9.8, vici_control.c), and then has its own threads do the rekeys side by side.
The answer only says that the rekeys are queued; whether a client answered, the next look tells.
"""

from __future__ import annotations

import contextlib

from anycast.errors import PeerError
from site_agent.ike.tunnel_repair import Judgement
from site_agent.ike.vici_client import ViciClient

REKEY_LIMIT_S = 1.0
"""For one request: charon only queues the rekeys, over 20,000 IKE_SAs in some 20 ms."""


class CharonRekeyer:
    def __init__(self, vici: ViciClient) -> None:
        self._vici = vici

    async def rekey(self, judged: Judgement) -> None:
        """Raises PeerError where charon refuses to rekey everything, TimeoutError where it says nothing."""
        if judged.everything:
            for ike, child in sorted({(lost.connection, lost.child) for lost in judged.rekey}):
                await self._vici.request("rekey", {"ike": ike, "child": child}, timeout_s=REKEY_LIMIT_S)
            return
        for lost in judged.rekey:
            with contextlib.suppress(PeerError):  # gone meanwhile
                await self._vici.request("rekey", {"child-id": lost.unique_id}, timeout_s=REKEY_LIMIT_S)
