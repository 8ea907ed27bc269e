"""Between the gateway verdict and the route: the virtual router that it moves, and what the site makes of both.

    VerdictCore ──▶ SiteVerdict ──▶ RouteIntent
                     │      ▲
                     ▼      │
                  Supervisor ──▶ vrrp process
                     ▲
                  UplinkWitness ──▶ routers on the uplink

With one gateway a site there is no virtual router, and the gateway verdict passes through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from anycast.document import Document
from anycast.errors import AnycastError
from anycast.events import AlarmCleared, AlarmRaised, Event
from anycast.policy.site import Action, SiteCore, VrrpHeard
from anycast.policy.verdict import VerdictReached
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.bulkhead import Bulkhead
from site_agent.paths import Paths
from site_agent.vrrp.plan_of import has_router, wanted
from site_agent.vrrp.supervisor import Supervisor
from site_agent.vrrp.uplink_witness import witness_of

RESTART_LIMIT_S, RESTART_LOOK_S = 4.0, 0.02
"""Less than a client of the control socket waits."""


LONGEST_UNHELD_S = 15.0
"""A vrrp process may take 10 s to start (`keeper.START_LIMIT_S`); a takeover's own time comes on top."""
ACTIVE_DOWN_INTERVALS = 4
"""Active_Down_Interval is less than four intervals (RFC 9568 section 6.1)."""


class SiteVerdict:
    """Use from the event loop's thread only."""

    def __init__(
        self,
        document: Document,
        paths: Paths,
        *,
        held: Callable[[VerdictReached], VerdictReached],
        tell: Callable[[VerdictReached], None],
        happened: Callable[[Event], None],
    ) -> None:
        """`held` is what an operator's hold makes of the gateway verdict, which moves the priority: a gateway whose route is
        held back shall not attract the site's traffic by its address either. `tell` takes the site verdict: at each tick,
        and at once when it changes.
        """
        lease_s = document.lease.duration_ms / 1000
        self._held, self._tell, self._happened = held, tell, happened
        self.supervisor = Supervisor(document, paths, happened=happened, heard=self._heard) if wanted(document) else None
        """Of the vrrp process; None where there is neither a virtual router nor BFD."""
        self._witness = witness_of(document, self._uplink) if has_router(document) else None
        self._unproven = False
        self._gateway: VerdictReached | None = None
        self._lease_s, self._paired = lease_s, has_router(document)
        self._around_witness = Bulkhead("uplink_proof", happened)
        interval_s = 0.0 if document.vrrp is None else document.vrrp.interval_cs / 100
        unheld_s = LONGEST_UNHELD_S + 2 * ACTIVE_DOWN_INTERVALS * interval_s
        self._core = SiteCore(lease_s=lease_s, paired=self._paired, unheld_s=unheld_s)

    @property
    def reached(self) -> VerdictReached | None:
        """The last site verdict; None before the first."""
        return self._core.verdict

    @property
    def active(self) -> bool:
        """This gateway holds the site's addresses, or did when its last agent stopped cleanly. True where there are none."""
        return self.supervisor is None or self.supervisor.active

    def verdict(self, gateway: VerdictReached) -> None:
        """Take the gateway verdict and pass on what becomes of it, in this call."""
        self._gateway = gateway
        if self.supervisor is not None:
            self.supervisor.verdict(self._held(gateway))
        self._perform(self._core.gateway(gateway))

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.Event().wait() if self.supervisor is None else self.supervisor.run())
            if self._witness is not None:
                group.create_task(self._around_witness.keep(self._witness.run))

    def stop(self, grace_s: float) -> None:
        """The agent ends: mastership stays for `grace_s` where it is held by right."""
        if self.supervisor is not None:
            self.supervisor.stop(grace_s)

    async def give_way(self) -> None:
        """Have the priority follow the hold now. Ends when this gateway is not Active (any more), or after a lease."""
        if self.supervisor is None or self._gateway is None or not self._paired:
            return
        self.supervisor.verdict(self._held(self._gateway))
        began = boottime()
        while self.supervisor.active and boottime() - began < self._lease_s:
            await asyncio.sleep(RESTART_LOOK_S)

    async def restart(self) -> dict[str, Any]:
        """Replace the vrrp process by a new one, which keeps its role: the answer to `vrrp-restart`."""
        if self.supervisor is None:
            return {"error": "this gateway has no vrrp process"}
        try:
            self.supervisor.restart()
        except AnycastError as exc:
            return {"error": str(exc)}
        began = boottime()
        while self.supervisor.being_replaced and boottime() - began < RESTART_LIMIT_S:
            await asyncio.sleep(RESTART_LOOK_S)
        if self.supervisor.being_replaced:
            return {"error": "the new vrrp process has not taken over yet; `site-agent status` says how it stands"}
        described = self.supervisor.describe()
        return {"pid": described["pid"], "role": "active" if self.supervisor.active else "backup"}

    @property
    def bfd(self) -> Mapping[str, Mapping[str, int | str]]:
        """`wire.Status.bfd` as it was reported last; empty where nothing was."""
        status = None if self.supervisor is None else self.supervisor.status
        return {} if status is None else status.bfd

    def describe(self) -> dict[str, Any] | None:
        """The virtual router, for `status`; None without one."""
        if self.supervisor is None:
            return None
        asked = {"uplink_proven": None, "witnesses": []} if self._witness is None else self._witness.describe()
        return self.supervisor.describe() | asked

    def _uplink(self, proven: bool | None) -> None:
        assert self.supervisor is not None and self._witness is not None
        self.supervisor.uplink(proven)
        if proven is False:
            routers = " or ".join(self._witness.describe()["witnesses"])
            detail = f"{routers}: no answer, whatever the uplink's carrier says"
            self._happened(AlarmRaised(reason=Reason.UPLINK_UNPROVEN, detail=detail))
        elif self._unproven:
            self._happened(AlarmCleared(reason=Reason.UPLINK_UNPROVEN))
        self._unproven = proven is False

    def _heard(self, heard: VrrpHeard) -> None:
        self._perform(self._core.heard(heard))

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, VerdictReached):
                self._tell(action)
            else:
                self._happened(action)
