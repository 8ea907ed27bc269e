"""Do the client tunnels that charon believes in exist in the kernel, with their SAs and their policies?

Two views of one thing, so a fact only when they disagree completely: *every* client CHILD_SA, and at least one, lacks
kernel state, the same one in two looks, and no rekey has mended that (`ike.tunnel_repair` says when). That is a flushed
SAD or SPD, and no outsider can cause it: a client that makes and deletes CHILD_SAs in a row is UNKNOWN at most. When some
lack it, it is `load`: an alarm and a repair by rekey. No CHILD_SA at all is an idle gateway, which is healthy.

What the kernel has and charon does not list is an orphan: a dead charon leaves some, and one that sends packets into a
tunnel that has ended harms its client. It is shown when two looks see it (`load`), and never a verdict.

A policy is expected where we rendered the connection, or where an earlier look saw it: `policies = no` is legal in somebody
else's swanctl.conf, and what was never there was not lost.

The canary is no client here. Its CHILD_SAs alone would make a fact of the kernel of a gateway that nobody uses; and it
connects anew within seconds, so that one present CHILD_SA would hide that every client has lost theirs. It mends itself.

Kernel events only cause a look: a flush at once, a deletion as far as `event_pace` lets it. `list-sas` is asked with
`noblock` as long as not all are missing: a busy IKE_SA is skipped, and what is skipped is neither lost nor whole.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Protocol

from anycast.errors import KernelError, PeerError
from anycast.events import Event, TunnelsRekeyed
from anycast.model import EvidenceClass
from anycast.reasons import Reason
from anycast.runtime import boottime
from site_agent.checks.base import REST_PER_LOOK, Finding, Timing, failing, passing, unknown
from site_agent.checks.event_pace import EventPace
from site_agent.ike.child_sa import ChildSa, client_child_sas
from site_agent.ike.tunnel_repair import REPAIR_LIMIT_S, SECOND_LOOK_S, Judgement, State, TunnelRepair
from site_agent.ike.vici_client import ViciClient
from site_agent.netlink import xfrm
from site_agent.netlink.client_traffic import ClientTraffic, packets
from site_agent.netlink.messages import NETLINK_XFRM, Message
from site_agent.netlink.transport import EventSocket, dump
from site_agent.netlink.xfrm_keys import PolicyKey, SaKey, has_keys, is_settled_sa, pack_address, policy_key, sa_key

NAME = "sa_state"
PARTIAL = "sa_state_partial"
ORPHANS = "sa_orphans"
LIST_LIMIT_S = 3.0
DUMP_ALLOWANCE_S = 1.0

FLUSHES = frozenset({xfrm.XFRM_MSG_FLUSHSA, xfrm.XFRM_MSG_FLUSHPOLICY})
LOSSES = FLUSHES | {xfrm.XFRM_MSG_DELSA, xfrm.XFRM_MSG_DELPOLICY}


class Rekeyer(Protocol):
    async def rekey(self, judged: Judgement) -> None:
        """Have `judged.rekey` made anew. Raises PeerError where charon refuses, TimeoutError where it says nothing."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """One look at both sides."""

    children: tuple[ChildSa, ...]
    """Those that carry packets."""
    missing: frozenset[str]
    """Unique ids of those without an SA or a policy of theirs."""
    orphans: frozenset[SaKey | PolicyKey]


class ChildSaCheck:
    """Reports `sa_state`, `sa_state_partial` and `sa_orphans`."""

    reports: Mapping[str, EvidenceClass] = {
        NAME: EvidenceClass.FACT,
        PARTIAL: EvidenceClass.LOAD,
        ORPHANS: EvidenceClass.LOAD,
    }
    timing = Timing(
        interval_s=1.0,
        timeout_s=2 * (LIST_LIMIT_S + DUMP_ALLOWANCE_S) + SECOND_LOOK_S + REPAIR_LIMIT_S,
        rise=1,
        fall=1,
    )

    def __init__(
        self,
        vici: ViciClient,
        vips: Iterable[str],
        *,
        rekeyer: Rekeyer,
        happened: Callable[[Event], None],
        rendered: frozenset[str] = frozenset(),
        canary: str | None = None,
    ) -> None:
        """`rendered`: connections that we wrote ourselves, which have policies and no trap.

        `canary`: the IKE identity that is no client's.
        """
        addresses = [ip_address(vip) for vip in vips]
        self._vici, self._rekeyer, self._happened, self._rendered = vici, rekeyer, happened, rendered
        self._canary = canary
        self._vips = frozenset(map(str, addresses))
        self._ends = frozenset(map(pack_address, addresses))
        self.tunnels: int | None = None
        """Client CHILD_SAs that carry packets, at the last look; None before the first."""
        self.traffic = ClientTraffic()
        self._repair = TunnelRepair()
        self._pace = EventPace(rest_per_look=REST_PER_LOOK)
        self._look_now: Callable[[], None] = lambda: None
        self._had_policies: frozenset[int] = frozenset()
        self._orphans: frozenset[SaKey | PolicyKey] = frozenset()

    async def look(self) -> Sequence[Finding]:
        try:
            judged, orphans = await self._judge()
            while judged.look_at is not None:
                if await self._rekeyed(judged):
                    await asyncio.sleep(max(0.0, judged.look_at - boottime()))
                judged, orphans = await self._judge()
            if judged.rekey:
                await self._rekeyed(judged)
                asyncio.get_running_loop().call_later(self._pace.pause_s, self._look_now)  # whether that has helped
            return [*findings(judged), judge_orphans(orphans)]
        except PeerError as exc:
            reason, detail = Reason.VICI_REFUSED, str(exc)
        except TimeoutError:
            reason, detail = Reason.VICI_SILENT, f"no list of SAs within {LIST_LIMIT_S:g} s"
        return [unknown(name, reason, detail) for name in self.reports]

    def watch(self, look_now: Callable[[], None]) -> EventSocket:
        """Call `look_now` when SAs or policies went away, or were repaired. Close what it returns. Raises KernelError."""
        self._look_now = look_now

        def on_message(message: Message) -> None:
            if message.kind in LOSSES and self._pace.wants_look(boottime(), flush=message.kind in FLUSHES):
                look_now()

        def on_overrun() -> None:
            if self._pace.wants_look(boottime(), flush=False):
                look_now()

        return EventSocket(NETLINK_XFRM, xfrm.XFRMGRP_SA | xfrm.XFRMGRP_POLICY, on_message, on_overrun)

    async def lost(self) -> list[ChildSa]:
        """The client CHILD_SAs without kernel state, by one look. Raises PeerError, KernelError, TimeoutError."""
        seen = await self._see(block=True)
        return [child for child in seen.children if child.unique_id in seen.missing]

    async def _judge(self) -> tuple[Judgement, int]:
        """What one more look means, and how many orphans two looks saw."""
        deadline = self._repair.deadline
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - boottime())):
                seen = await self._see(block=self._repair.every_tunnel_counts)
        except (PeerError, KernelError, TimeoutError):
            if deadline is None:
                self._repair.could_not_look()
                raise
            await asyncio.sleep(0)  # a refusal costs no time, and the rest of the agent must have its turn
            return self._repair.blind(boottime()), 0
        judged = self._repair.looked(seen.children, seen.missing, boottime())
        if judged.mended:
            detail = f"{judged.mended} client tunnels have their kernel state again, {len(judged.lost)} lack it"
            self._happened(TunnelsRekeyed(count=judged.mended, reason=judged.reason, detail=detail))
        orphans, self._orphans = seen.orphans & self._orphans, seen.orphans
        return judged, len(orphans)

    async def _rekeyed(self, judged: Judgement) -> bool:
        """Whether charon took what was asked of it, or nothing was."""
        if not judged.rekey:
            return True
        try:
            await self._rekeyer.rekey(judged)
        except PeerError:
            if judged.everything:
                self._repair.refused()
            return False
        except TimeoutError:
            return False
        return True

    async def _see(self, *, block: bool) -> Seen:
        began = boottime()
        listed: list[ChildSa] = []
        await self._vici.stream(
            "list-sas",
            "list-sa",
            lambda section: listed.extend(client_child_sas(section, self._vips)),
            {} if block else {"noblock": "yes"},
            timeout_s=LIST_LIMIT_S,
        )
        known = {key for child in listed for key in (*child.sas, *child.policies)}
        present: set[SaKey | PolicyKey] = set()
        carried: dict[SaKey, int] = {}
        orphans: set[SaKey | PolicyKey] = set()

        def take_sa(message: Message) -> None:
            # Without keys it is none: for a policy whose SA is gone the kernel makes one with that SPI, to ask for keys.
            key = sa_key(message.payload)
            if not has_keys(message.payload):
                return
            present.add(key)
            carried[key] = packets(message.payload)
            if key not in known and is_settled_sa(message.payload, self._ends):
                orphans.add(key)

        def take_policy(message: Message) -> None:
            if (key := policy_key(message.payload, self._ends)) is not None:
                present.add(key)
                if self._rendered and key not in known:
                    orphans.add(key)

        await dump(NETLINK_XFRM, xfrm.XFRM_MSG_GETSA, take_sa)
        await dump(NETLINK_XFRM, xfrm.XFRM_MSG_GETPOLICY, take_policy)
        self._had_policies = frozenset(
            child.reqid for child in listed if child.reqid in self._had_policies or present.issuperset(child.policies)
        )
        carrying = of_clients(listed, self._canary)
        self.tunnels = len(carrying)
        self.traffic.listed((child.sas for child in carrying), carried)
        missing = frozenset(child.unique_id for child in carrying if not self._is_there(child, present))
        self._pace.looked(boottime() - began)
        return Seen(carrying, missing, frozenset(orphans))

    def _is_there(self, child: ChildSa, present: set[SaKey | PolicyKey]) -> bool:
        if not present.issuperset(child.sas):
            return False
        expected = child.connection in self._rendered or child.reqid in self._had_policies
        return not expected or present.issuperset(child.policies)


def of_clients(listed: Sequence[ChildSa], canary: str | None) -> tuple[ChildSa, ...]:
    """Those of `listed` that carry packets and are not the canary's."""
    return tuple(child for child in listed if child.carrying and child.identity != canary)


def findings(judged: Judgement) -> list[Finding]:
    """What a settled judgement says about the fact and about its lesser sibling."""
    if judged.state is State.WHOLE:
        seen = f"{judged.listed} client CHILD_SAs in the kernel" if judged.listed else "idle: no client CHILD_SA"
        return [passing(NAME, seen), passing(PARTIAL, seen)]
    if judged.state is State.UNSETTLED:
        detail = (
            f"{judged.listed} client CHILD_SAs without kernel state, another one at each look, e.g. {judged.lost[0].name}"
        )
        return [unknown(name, Reason.SA_STATE_PARTIAL, detail) for name in (NAME, PARTIAL)]
    detail = f"{len(judged.lost)} of {judged.listed} client CHILD_SAs without kernel state, e.g. {judged.lost[0].name}"
    if judged.state is State.LOST:
        return [failing(NAME, Reason.SA_STATE_LOST, f"{detail}; not mended by a rekey"), passing(PARTIAL, detail)]
    return [passing(NAME, detail), failing(PARTIAL, Reason.SA_STATE_PARTIAL, detail)]


def judge_orphans(count: int) -> Finding:
    """`count` SAs and policies of a service address are in the kernel and not in charon's list."""
    if count:
        return failing(ORPHANS, Reason.SA_STATE_ORPHANED, f"{count} SAs or policies that charon does not list", count)
    return passing(ORPHANS, "none", 0)
