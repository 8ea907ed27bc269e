"""The shell of the digests: looks at the kernel and at charon, sends and hears, says what to rekey, removes what is extra.

    Digests ──Look──▶ dumps of SAD and SPD, list-sas ──Looked──▶ Digests
            ──Send──▶ channel                   ──Wanted──▶ the rekey queue (`rekeys`)
            ──Remove…, Drop…──▶ kernel, charon's plugin

A look reads in slices, between which the loop does everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import struct
from collections.abc import Callable, Iterable
from ipaddress import ip_address

from anycast.errors import DecodeError, KernelError, PeerError
from anycast.runtime import boottime
from anycast.timer import TimerExpired
from site_agent.ike.mirror_view import CharonView
from site_agent.ike.vici_client import Section, ViciClient
from site_agent.netlink.messages import NETLINK_XFRM
from site_agent.netlink.transport import dump
from site_agent.netlink.xfrm import (
    AF_INET,
    AF_INET6,
    XFRM_MSG_DELPOLICY,
    XFRM_MSG_DELSA,
    XFRM_MSG_GETPOLICY,
    XFRM_MSG_GETSA,
)
from site_agent.netlink.xfrm_digest import PolicyReader, SaReader
from site_agent.netlink.xfrm_keys import SaKey, pack_address
from site_agent.sync import digest_wire, ha_forget
from site_agent.sync.digest_words import (
    Action,
    DropChildSa,
    DropIkeSa,
    Freshness,
    Heard,
    Input,
    Look,
    Looked,
    RemovePolicy,
    RemoveSa,
    RepairAsked,
    Send,
    Wanted,
)
from site_agent.sync.digests import Digests
from site_agent.sync.ha_virtual_ips import Network, VirtualIps, encode_virtual_ips
from site_agent.sync.kinds import Kind
from site_agent.sync.numbers_words import EventsLost, PeerConnected, PeerLost, Role, RoleChanged
from site_agent.sync.repairs import GaveUp, Line, Repair
from site_agent.sync.requests import Requests
from site_agent.sync.tasks import Tasks

LOOK_LIMIT_S = 10.0


class Comparison:
    """Use from the loop that runs it. `close` when done."""

    def __init__(
        self,
        role: Role,
        *,
        vips: Iterable[str],
        connections: Iterable[str],
        pools: Iterable[Network],
        vici: ViciClient,
        requests: Requests,
        hand_over: Callable[[bytes], bool],
        submit: Callable[[Kind, bytes], None],
        gave_up: Callable[[GaveUp], None],
        wanted: Callable[[tuple[Repair, ...]], None],
        looked: Callable[[CharonView, float], None],
        passive: Callable[[float], None],
    ) -> None:
        """`vici` is this object's alone: a list of 20,000 tunnels keeps others waiting. `looked` is called with each list
        that charon gave, in every role, and with when it was asked; `passive` with that where an IKE_SA was PASSIVE."""
        self._vips, self._connections, self._pools = frozenset(vips), frozenset(connections), tuple(pools)
        self._families = {pack_address(ip): AF_INET if ip.version == 4 else AF_INET6 for ip in map(ip_address, self._vips)}
        self._vici, self._requests = vici, requests
        self._hand_over, self._submit, self._gave_up = hand_over, submit, gave_up
        self._wanted, self._told_of_look, self._told_of_passive = wanted, looked, passive
        self._core = Digests(role, now=boottime(), first_round=secrets.randbits(32))
        self.removed = 0
        """SAs and policies that this Backup held and the Active did not."""
        self.ha_version = 0
        """Of the plugin's protocol, as our charon speaks it; 0: not known, and charon is told nothing."""
        self._timer: asyncio.TimerHandle | None = None
        self._tasks = Tasks()
        self._looks: asyncio.Queue[None] = asyncio.Queue()
        self._tasks.begin(self._look_when_asked())
        self._arm()

    @property
    def freshness(self) -> Freshness:
        return self._core.freshness(boottime())

    def role(self, role: Role) -> None:
        self._feed(RoleChanged(role=role))

    def connected(self) -> None:
        self._feed(PeerConnected())

    def lost(self) -> None:
        self._feed(PeerLost())

    def events_lost(self) -> None:
        """The kernel dropped events, or messages of the plugin's are known to be lost: look now."""
        self._feed(EventsLost())

    def repair_asked(self, line: Line) -> None:
        """charon was asked for a rekey that was `wanted`."""
        self._feed(RepairAsked(line))

    def deliver(self, payload: bytes) -> None:
        """A message of the peer's. Raises DecodeError."""
        self._feed(Heard(digest_wire.decode(payload)))

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._tasks.cancel()
        self._vici.close()

    def _feed(self, event: Input) -> None:
        for action in self._core.handle(event, boottime()):
            self._perform(action)
        self._arm()

    def _perform(self, action: Action) -> None:
        match action:
            case Look():
                self._looks.put_nowait(None)
            case Send(message):
                self._submit(Kind.DIGEST, digest_wire.encode(message))
            case Wanted(repairs):
                self._wanted(repairs)
            case GaveUp():
                self._gave_up(action)
            case RemoveSa(key, source):
                self._remove(XFRM_MSG_DELSA, self._usersa_id(key, source))
            case RemovePolicy(direction, index):
                self._remove(XFRM_MSG_DELPOLICY, bytes(56) + struct.pack("=IB3x", index, direction))
            case DropIkeSa(spis, initiator):
                if self.ha_version:
                    self.removed += self._hand_over(ha_forget.encode_ike_delete(self.ha_version, spis, initiator))
            case DropChildSa(spis, initiator, spi_in):
                if self.ha_version:
                    self.removed += self._hand_over(ha_forget.encode_child_delete(self.ha_version, spis, initiator, spi_in))

    def _usersa_id(self, key: SaKey, source: bytes) -> bytes:
        family = self._families.get(key[:16]) or self._families[source]
        return key[:20] + struct.pack("=H", family) + key[20:21] + b"\0"

    def _remove(self, kind: int, payload: bytes) -> None:
        with contextlib.suppress(KernelError, DecodeError):  # the next round sees whether it is gone
            self._requests.all([(kind, 0, payload)], missing=True)
            self.removed += 1

    async def _look_when_asked(self) -> None:
        while True:
            await self._looks.get()
            self._feed(await self._look())

    async def _look(self) -> Looked:
        ends = frozenset(self._families)
        sas, policies, charon = SaReader(ends), PolicyReader(ends), CharonView(self._vips, self._connections)
        inner = VirtualIps(self._pools)
        seen_sas = seen_policies = seen_charon = False
        with contextlib.suppress(KernelError, DecodeError, TimeoutError):
            async with asyncio.timeout(LOOK_LIMIT_S):
                await dump(NETLINK_XFRM, XFRM_MSG_GETSA, lambda message: sas.take(message.payload))
                seen_sas = True
                await dump(NETLINK_XFRM, XFRM_MSG_GETPOLICY, lambda message: policies.take(message.payload))
                seen_policies = True
        began = boottime()
        with contextlib.suppress(PeerError, TimeoutError):

            def take(event: Section) -> None:
                charon.take(event)
                inner.take(event)

            await self._vici.stream("list-sas", "list-sa", take, timeout_s=LOOK_LIMIT_S)
            seen_charon = True
            self._tell_virtual_ips(inner)
            self._told_of_look(charon, began)
            if charon.passive:
                self._told_of_passive(began)
        return Looked(
            sas=sas.records if seen_sas else None,
            policies=policies.records if seen_policies else None,
            charon=charon if seen_charon else None,
        )

    def _tell_virtual_ips(self, seen: VirtualIps) -> None:
        """In every role: it changes nothing but what charon believes of a client that it has already."""
        for lacking in seen.lacking if self.ha_version else ():
            self._hand_over(encode_virtual_ips(self.ha_version, lacking))

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if (deadline := self._core.deadline) is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(deadline - boottime(), 0), self._feed, TimerExpired())
