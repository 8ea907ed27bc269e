"""`site-agent handover`: have the other gateway serve, and say what came of it.

The vrrp process does it, make before break: it offers the addresses, keeps them until the other one has them, and stays
Active where nobody takes them in time. This waits for the one or the other. Where there is a mirror, what this gateway has
begun with clients ends first (`sync.open_exchanges`).
"""

from __future__ import annotations

import asyncio
from typing import Any

from anycast.policy.site import ACTIVE
from anycast.runtime import boottime
from site_agent.site_verdict import SiteVerdict
from site_agent.sync.supervisor import Supervisor as SyncSupervisor
from site_agent.vrrp.supervisor import Supervisor
from site_agent.vrrp.wire import Status

LIMIT_S = 4.0
"""Open exchanges have a second, the process gives up after another and tells within a third."""
LOOK_S = 0.005
SPENT_LIMIT_S = 3.0
"""For the rekey of tunnels that the next takeover but one would lose: it is the first in the queue, and takes a client's two
round trips."""


async def hand_over(site: SiteVerdict, sync: SyncSupervisor | None = None) -> dict[str, Any]:
    """The answer to `handover`. ``error`` is one sentence: nothing was handed over.

    Where there is a mirror, one that would lose tunnels is refused: the time for it is ours to choose.
    """
    supervisor = site.supervisor
    if supervisor is None or not supervisor.describe()["router"]:
        return {"error": "this site has no virtual router, so there is nobody to hand over to"}
    if sync is not None:
        await _rekeyed(sync)
    before = supervisor.status
    if before is None:
        return {"error": "the vrrp process has not spoken yet; `site-agent status` says how it stands"}
    peer = supervisor.describe()["peer_gateway"] or "the other router"
    if before.role != ACTIVE:
        return {"error": f"this gateway is Backup; hand over at the Active, {peer}"}
    if sync is not None and sync.mismatches:
        lost = "; ".join(sync.mismatches)
        return {"error": f"not handed over, tunnels would be lost: {lost}; this gateway is Active still"}
    limit = boottime() + LIMIT_S
    finished = None if sync is None else await sync.finish()
    left = {} if sync is None else {"open_exchanges": -1 if finished is None else finished.open}
    try:
        return await _handed_over(supervisor, peer, before, limit, left)
    finally:
        if sync is not None:
            sync.handover_over()


async def _rekeyed(sync: SyncSupervisor) -> None:
    """Handovers that follow each other at once leave no time for the rekeys that each of them makes necessary."""
    limit = boottime() + SPENT_LIMIT_S
    while sync.spent and boottime() < limit:
        await asyncio.sleep(LOOK_S)


async def _handed_over(
    supervisor: Supervisor, peer: str, before: Status, limit: float, left: dict[str, int]
) -> dict[str, Any]:
    supervisor.hand_over()
    began = boottime()
    while boottime() < limit:
        await asyncio.sleep(LOOK_S)
        status = supervisor.status
        if status is None:
            return {"error": "the vrrp process ended meanwhile; `site-agent why` says why"}
        if status.role != ACTIVE:
            return {"peer": peer, "cause": status.cause, "took_ms": round((boottime() - began) * 1000, 1)} | left
        if status is not before and status.handover:
            return {"error": f"not handed over: {status.handover}; this gateway is Active still"}
    return {"error": f"{peer} did not take over within {LIMIT_S:g} s; this gateway is Active still"}
