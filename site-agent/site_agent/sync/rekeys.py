"""The sync process's rekeys: everybody's wishes, from everybody, into the gateway's one queue.

    charon's `ike-update` ──▶ Moved ────────────────┐
    each look at charon (`comparison`) ──▶ `rekey_wishes`, Ages ──▶ Rekeyer ──▶ charon
    the digests' repairs ───────────────────────────┤
    the agent's lost tunnels ───────────────────────┘
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Iterable
from typing import Any

from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.ike.mirror_view import IKE_NAME_BYTES, CharonView, ike_sa_name
from site_agent.ike.rekey_queue import Ask, Hold, Refused, SaId, Stopped, Swept, Wish, Wished
from site_agent.ike.rekeyer import Rekeyer
from site_agent.ike.vici_client import ViciClient
from site_agent.sync import bodies, rekey_wishes
from site_agent.sync.ages import Ages
from site_agent.sync.bare_ike_sas import SETTLED_S, BareIkeSas
from site_agent.sync.moved import Moved
from site_agent.sync.repairs import Line, Repair

NAMED = 10
"""Tunnels that one alarm names; the log has a line for each."""
LOOKS_AFTER_S = 2.0, 5.0
"""After a takeover. A client asks again after 0.5 s to 4 s, by its own clock, and is obeyed."""
AFTER_LOSS_S = 3.0
"""Messages that are known to be lost: what else was lost with them is repaired first, and makes some of this needless."""


class Rekeys:
    """Use from the loop that runs it; `run` as a task."""

    def __init__(
        self,
        vici: str,
        connections: Collection[str],
        *,
        taken_over: Callable[[], Collection[bytes]],
        spent: Callable[[], Collection[bytes]],
        refused: Callable[[Refused], None],
        tell_ages: Callable[[bytes], None],
        ike_rekey_s: float,
        ike_over_s: float,
        ended: Callable[[str], None],
    ) -> None:
        """`taken_over` and `spent`: outbound SPIs (`numbers`). `tell_ages`: to the peer. `ended` is told each IKE_SA that
        was ended because of what a takeover lost."""
        self.repair_asked: Callable[[Line], None] = lambda line: None
        """Told of each repair that charon was asked for."""
        self.look: Callable[[], None] = lambda: None
        """Has charon looked at soon (`looked`)."""
        self._taken_over, self._spent = taken_over, spent
        self._tell_ages = tell_ages
        self._ike_rekey_s, self._ike_over_s = ike_rekey_s, ike_over_s
        self._ages = Ages()
        self._moved = Moved(ViciClient(vici), connections, lambda: self._begun_at is not None, self._wish)
        self._rekeyer = Rekeyer(
            ViciClient(vici),
            ViciClient(vici),
            asked=self._on_asked,
            refused=refused,
            listeners={"ike-update": self._moved.take},
        )
        self._repairs: dict[SaId, Line] = {}
        self._near_end: set[bytes] = set()
        self._lost_at: float | None = None
        self._ended, self._bare = ended, BareIkeSas()
        self._looks_to_come: list[asyncio.TimerHandle] = []
        self._begun_at: float | None = None
        """Since when this gateway rekeys."""

    @property
    def status(self) -> dict[str, Any]:
        """Of `agent_wire.Status`."""
        progress = self._rekeyer.queue.progress(boottime())
        return {
            "rekeys_waiting": {reason.value: count for reason, count in progress.waiting.items()},
            "rekeys_unanswered": progress.unanswered,
            "rekeys_done": progress.done,
            "rekeys_total": progress.total,
            "rekeys_left_s": math.ceil(progress.left_s),
            "rekeys_refused": len(progress.refusing),
        }

    @property
    def alarms(self) -> dict[Reason, str]:
        names = self._rekeyer.queue.progress(boottime()).refusing
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return {Reason.REKEY_REFUSED: f"{', '.join(names[:NAMED])}{more}"} if names else {}

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._rekeyer.run())
            group.create_task(self._moved.run())

    def begin(self) -> None:
        """charon is Active, which was read back: while an IKE_SA is PASSIVE it takes a request, and does nothing. Looks
        follow: the first finds what is to be rekeyed, the others which clients have deleted the tunnel that we knew."""
        self._begun_at = boottime()
        self._bare.promoted(self._begun_at)
        self.look()
        self._look_again(*LOOKS_AFTER_S)

    def stopped(self) -> None:
        """Not Active, or charon is another one."""
        self._begun_at = None
        self._bare.stopped()
        self._look_again()
        self._near_end.clear()
        self._rekeyer.feed(Stopped())

    # Who wishes

    def looked(self, view: CharonView, began: float) -> None:
        """All that charon has, in every role."""
        established = {record[:IKE_NAME_BYTES]: ike_sa.established_s for record, ike_sa in view.ike.items()}
        self._ages.looked(established, began)
        self._say_ages()
        self._end_bare(view, began)
        if self._begun_at is None or began < self._begun_at:
            return
        there = {rekey_wishes.spi_out(tunnel) for tunnel in view.tunnels}
        self._near_end &= there
        self._rekeyer.feed(rekey_wishes.looked_of(view, began))
        spent = self._near_end | set(self._spent())
        limits = {"rekey_s": self._ike_rekey_s, "over_s": self._ike_over_s}
        self._wish(rekey_wishes.overdue(view, spent, self._ages, began, **limits))
        self._wish(rekey_wishes.taken_over(view, self._taken_over(), began))
        if self._lost_at is not None and began >= self._lost_at + AFTER_LOSS_S:
            self._lost_at = None
            self._wish(rekey_wishes.every_ike_sa(view))

    def _end_bare(self, view: CharonView, began: float) -> None:
        whose = {ike_sa.ike_id: ike_sa.identity for ike_sa in view.ike.values()}
        for ike_id in self._bare.looked(view, began):
            name = ike_sa_name(whose.get(ike_id, ""))
            self._rekeyer.end(SaId("ike", ike_id), name)
            self._ended(name)
        if self._bare.suspects:
            self._look_again(SETTLED_S)

    def _look_again(self, *after_s: float) -> None:
        """Instead of the looks that were to come."""
        for look in self._looks_to_come:
            look.cancel()
        loop = asyncio.get_running_loop()
        self._looks_to_come = [loop.call_later(each, self.look) for each in after_s]

    def near_end(self, outbound: Iterable[bytes]) -> None:
        """They near the end of their block. The next look, which is to be soon, finds them."""
        self._near_end.update(outbound)

    def messages_lost(self) -> None:
        """Of the `ha` plugin, and not known which."""
        self._lost_at = boottime()

    def repairs(self, wanted: Iterable[Repair]) -> None:
        """All that the Backup lacks."""
        self._repairs, wishes = {}, list[Wish]()
        for repair in wanted:
            sa = SaId("child", repair.child_id) if repair.child_id else SaId("ike", repair.ike_id)
            self._repairs[sa] = repair.line
            wishes.append(Wish(sa=sa, ike=repair.ike_id, name=repair.name, client=repair.client))
        self._wish(Wished(reason=Reason.TUNNEL_UNPROTECTED, wishes=tuple(wishes)))

    def without_state(self, wishes: Iterable[Wish]) -> None:
        """The agent's: tunnels whose kernel state is gone."""
        self._wish(Wished(reason=Reason.SA_STATE_PARTIAL, wishes=tuple(wishes), more=True))

    def hold(self, span_s: float) -> None:
        """Begin nothing for so long: the other gateway is about to take over."""
        self._rekeyer.feed(Hold(span_s))

    def swept(self) -> None:
        """The agent has asked charon to rekey everything."""
        self._rekeyer.feed(Swept())

    # The peer

    def connected(self) -> None:
        self._ages.connected()
        self._say_ages()

    def peer_said(self, ages: Iterable[bodies.Age]) -> None:
        self._ages.told(ages, boottime())

    def _say_ages(self) -> None:
        for body in bodies.encode_ages(self._ages.to_tell(boottime())):
            self._tell_ages(body)

    def _wish(self, wished: Wished) -> None:
        if self._begun_at is not None:
            self._rekeyer.feed(wished)

    def _on_asked(self, ask: Ask) -> None:
        if Reason.TUNNEL_UNPROTECTED in ask.reasons and (line := self._repairs.get(ask.sa)) is not None:
            self.repair_asked(line)
