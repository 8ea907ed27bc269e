"""The sync process of one gateway: carries its tunnels' state to the other one, and makes charon follow the role.

    agent ──role, charon──▶ Promotion ──steps──▶ gate, Numbers, charon's FIFO, VICI
    charon's plugin ◀──▶ Mirror ◀──▶ Channel ◀──TLS──▶ the other gateway's sync process
    kernel's SAD    ◀──▶

A process of its own because a table of 300,000 entries must not delay a health check. It holds nothing that attracts
traffic: when it dies, the kernel's SAs, the gate and charon's role stay as they are, and the next one begins with a look at
all of them. It ends when its agent's socket does.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import socket
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from anycast.errors import AnycastError, BugError, DecodeError, KernelError, PeerError
from anycast.events import AlarmCleared, AlarmRaised, ClientRefusedRekey, Event
from anycast.pki.machine_folder import MachineFolder
from anycast.pki.names import Identity
from anycast.pki.names import Role as Office
from anycast.reasons import Reason
from anycast.runtime import boottime
from anycast.timer import TimerExpired
from site_agent.ike.door import Door
from site_agent.ike.ha_segment import Segment
from site_agent.ike.rekey_queue import Refused
from site_agent.ike.vici_client import ViciClient
from site_agent.netlink.messages import NETLINK_XFRM
from site_agent.netlink.xfrm_keys import SaKey, pack_address
from site_agent.record import EventLog
from site_agent.sync import addresses, agent_wire, bodies, channel, promotion
from site_agent.sync import plan as plans
from site_agent.sync.comparison import Comparison
from site_agent.sync.conntrack_filter import MirroredFlows
from site_agent.sync.conntrack_mirror import ConntrackMirror
from site_agent.sync.conntrack_shell import ConntrackShell
from site_agent.sync.conntrack_words import Parted, Unsent
from site_agent.sync.doorkeeper import Doorkeeper
from site_agent.sync.gate import Gate
from site_agent.sync.identity import PinFile
from site_agent.sync.kinds import Kind, Lane
from site_agent.sync.mirror import Mirror
from site_agent.sync.numbers import spi_of
from site_agent.sync.numbers_words import Role, RoleChanged
from site_agent.sync.open_exchanges import PAUSE_S, OpenExchanges
from site_agent.sync.plugin_socket import PluginSocket
from site_agent.sync.promotion import Do, Promotion, RoleIs, Step, StepDone, StepFailed, StepStuck, StepTook
from site_agent.sync.rekeys import Rekeys
from site_agent.sync.repairs import GaveUp
from site_agent.sync.requests import Requests
from site_agent.sync.reunion import Reunite
from site_agent.sync.reuniter import Reuniter
from site_agent.sync.sad import Sad
from site_agent.sync.tasks import Tasks, armed
from site_agent.sync.words import Action, Compared, Deliver, Down, Dropped, RoomAgain, Submit, Up, VersionsChanged, WorkedOff

TELL_EVERY_S = 1.0
VERSION_LIMIT_S = 1.0
HA_VERSIONS = {"5.9.8": 3}
"""HA_MESSAGE_VERSION of the strongSwans that this was tried with (src/libcharon/plugins/ha/ha_message.h)."""


class Process:
    """Make it in the event loop that runs it. Raises KernelError where a socket cannot be had."""

    def __init__(self, plan: plans.Plan, agent: socket.socket) -> None:
        self._plan, self._agent = plan, agent
        self._loop = asyncio.get_running_loop()
        self._requests = Requests(NETLINK_XFRM)
        self._vici = ViciClient(plan.vici)
        self._gate = Gate([ip_network(pool) for pool in plan.pools], self._requests)
        self._sad = Sad([pack_address(ip_address(vip)) for vip in plan.vips], self._requests)
        self._plugin = PluginSocket()
        self._promotion = Promotion()
        self._segment = Segment(self._vici, Path(plan.fifo), plan.connections)
        self._serving = plan.active  # the gate is open, as far as this process knows; the first role makes it so
        self._ready: asyncio.Future[int] | None = None
        self._gaps, self._stuck, self._dropped = 0, dict[Reason, str](), set[Kind]()
        self._versions = plan.versions
        self._timer: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._tasks, self._over, self._unacknowledged = Tasks(), asyncio.Event(), False
        self._mirror = Mirror(
            rank=plan.rank,
            role=Role.ACTIVE if plan.active else Role.BACKUP,
            epoch=secrets.randbits(63),
            sad=self._sad,
            plugin=self._plugin,
            submit=lambda kind, payload: self._channel.feed(Submit(kind, payload)),
            ready=self._on_ready,
            rekey=self._on_rekey,
            gap=self._on_gap,
            reunite=self._on_reunite,
            clock=boottime,
        )
        self._reuniter = Reuniter(
            self._vici,
            adopt=self._mirror.adopt,
            forget=self._mirror.forget,
            ended=lambda name: self._tell(agent_wire.Ended(name=name, reason=Reason.TUNNEL_DIVERGED.value)),
        )
        numbers = self._mirror.numbers
        self._rekeys = Rekeys(
            plan.vici,
            plan.connections,
            taken_over=lambda: [spi_of(key) for key in numbers.taken_over],
            spent=lambda: [spi_of(key) for key in numbers.spent],
            refused=self._on_refused,
            tell_ages=lambda body: self._channel.feed(Submit(Kind.STATE, body)),
            ike_rekey_s=plan.ike_rekey_s,
            ike_over_s=plan.ike_over_s,
            ended=lambda name: self._tell(agent_wire.Ended(name=name, reason=Reason.TUNNEL_LOST.value)),
        )
        self._comparison = Comparison(
            Role.ACTIVE if plan.active else Role.BACKUP,
            vips=plan.vips,
            connections=plan.connections,
            pools=[ip_network(pool) for pool in plan.pools],
            vici=ViciClient(plan.vici),
            requests=self._requests,
            hand_over=self._plugin.send,
            submit=lambda kind, payload: self._channel.feed(Submit(kind, payload)),
            gave_up=self._on_gave_up,
            wanted=self._rekeys.repairs,
            looked=self._rekeys.looked,
            passive=lambda asked_at: self._promote(promotion.PassiveFound(asked_at)),
        )
        self._rekeys.repair_asked, self._rekeys.look = self._comparison.repair_asked, self._comparison.events_lost
        self._flows = ConntrackShell(
            ConntrackMirror(
                MirroredFlows(plan.pools, (*plan.vips, *plan.own)), Role.ACTIVE if plan.active else Role.BACKUP
            ),
            lambda payload: self._channel.feed(Submit(Kind.CONNTRACK, payload)),
            lambda epoch: self._channel.feed(WorkedOff(Lane.BULK, epoch)),
            lambda: self._channel.takes_flows,
        )
        self._fault: BaseException | None = None
        self._charon = ""
        """Which one runs, by the agent's word; empty: none, or not said yet."""
        self._clients = EventLog(Path(plan.clients), max_bytes=plan.clients_max_bytes, gateway=plan.gateway)
        self._addresses = addresses.keeper_of(
            plan,
            charon=lambda: self._charon,
            tell_peer=lambda word: self._channel.feed(Submit(Kind.STATE, bodies.encode_word(word))),
            happened=self._on_event,
            client_event=self._clients.write,
        )
        self._doorkeeper = Doorkeeper(Door(lambda: self._charon, plan.vips), happened=self._on_event)
        self._open = OpenExchanges(
            ViciClient(plan.vici), plan.connections, doorkeeper=self._doorkeeper, segment=self._segment,
            relay=self._mirror.relay, quiet=lambda quiet: self._promote(promotion.Quiet(quiet)),
        )  # fmt: skip
        if plan.active:
            self._rekeys.messages_lost()  # charon has spoken to nobody meanwhile
        names = [Identity(plan.fleet, Office.GATEWAY, name) for name in (plan.gateway, plan.peer)]
        self._channel = channel.Channel(
            channel.Plan(
                me=names[0], peer=names[1], own_address=plan.own_address, peer_address=plan.peer_address, port=plan.port
            ),
            MachineFolder(Path(plan.pki)),
            PinFile(Path(plan.pin), names[1]),
            self._versions,
            self._from_channel,
        )

    async def run(self) -> None:
        """Until the agent's socket ends."""
        self._loop.set_exception_handler(self._on_fault)
        self._mirror.first()
        self._around(self._flows.start)
        self._loop.add_reader(self._sad, self._read, self._mirror.read_kernel)
        self._loop.add_reader(self._plugin, self._read, self._mirror.read_charon)
        self._loop.add_reader(self._agent, self._from_agent)
        self._arm()
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(self._channel.run()),
                group.create_task(self._tell_again()),
                group.create_task(self._rekeys.run()),
                group.create_task(self._addresses.run()),
                group.create_task(self._doorkeeper.run()),
            ]
            await self._over.wait()
            self._comparison.close()
            self._flows.close()
            self._clients.close()
            self._tasks.cancel()
            for task in running:
                task.cancel()
        if self._fault is not None:
            raise self._fault

    # The agent

    def _from_agent(self) -> None:
        try:
            data = self._agent.recv(agent_wire.LONGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._agent)
            self._over.set()
            return
        with contextlib.suppress(DecodeError):
            match agent_wire.decode(data):
                case agent_wire.RoleIs(active=active, charon=charon):
                    if charon and charon != self._charon:
                        before, self._charon = self._charon, charon
                        if before:
                            self._charon_started()
                        self._doorkeeper.charon_is_new()
                    if not active:
                        self._doorkeeper.close()  # a step in flight delays CEASE
                    self._promote(RoleIs(active=active))
                case agent_wire.Finish():
                    self._tasks.begin(self._finish())
                case agent_wire.HandoverOver():
                    self._open.over()
                case agent_wire.LostTunnels(wishes=wishes):
                    self._rekeys.without_state(wishes)
                case agent_wire.Swept():
                    self._rekeys.swept()

    async def _finish(self) -> None:
        self._rekeys.hold(PAUSE_S)
        began, left = boottime(), await self._open.end()
        self._tell(agent_wire.Finished(open=left, took_us=round((boottime() - began) * 1e6)))

    def _charon_started(self) -> None:
        self._vici.close()
        self._rekeys.stopped()
        self._doorkeeper.close()
        self._addresses.charon_started()
        self._promote(promotion.CharonStarted())
        self._tasks.begin(self._learn_version())

    async def _tell_again(self) -> None:
        await self._learn_version()
        while True:
            self._tell_status()
            await asyncio.sleep(TELL_EVERY_S)
            if not self._versions.charon:
                await self._learn_version()
            if not self._serving:
                self._around(self._gate.close)  # somebody may have flushed the policies

    def _tell(self, message: agent_wire.Message) -> None:
        with contextlib.suppress(OSError):  # no room: the next one says it all
            self._agent.send(agent_wire.encode(message))

    def _tell_status(self) -> None:
        mirror, session = self._mirror, self._channel.session
        active, fresh = mirror.numbers.role is Role.ACTIVE, self._comparison.freshness
        alarms = self._channel.alarms | self._stuck | self._rekeys.alarms
        self._tell(
            agent_wire.Status(
                role=mirror.numbers.role.value,
                settled=self._promotion.settled,
                connected=session.is_up,
                mismatches=[str(mismatch) for mismatch in session.mismatches],
                alarms={reason.value: detail for reason, detail in alarms.items()},
                waiting=mirror.relay.waiting,
                gaps=self._gaps + mirror.not_taken,
                messages={f"{what}:{kind}": count for (what, kind), count in mirror.relay.counts.items()},
                outbound=mirror.numbers.known,
                unconfirmed=mirror.numbers.unconfirmed if active else 0,
                taken_over=len(mirror.numbers.taken_over),
                spent=len(mirror.numbers.spent), at_their_end=len(mirror.numbers.at_their_end),
                retired=mirror.numbers.retired, conflicts=mirror.numbers.conflicts,
                tunnels=fresh.of if active else 0,
                unprotected=fresh.unprotected if active else 0,
                repairs=fresh.waiting if active else 0,
                given_up=fresh.given_up if active else 0,
                causes=fresh.causes if active else {},
                removed=self._comparison.removed,
                **self._rekeys.status, pools=self._addresses.in_use,
            )
        )

    # The peer

    def _from_channel(self, action: Action) -> None:
        match action:
            case Up(resumed=resumed):
                self._mirror.connected()
                self._comparison.connected()
                self._addresses.peer_connected()
                self._rekeys.connected()
                self._flows.connected(resumed=resumed)
                self._tell_status()
            case Down():
                self._mirror.lost()
                self._comparison.lost()
                self._addresses.peer_lost()
                self._flows.feed(Parted())
                self._tell_status()
            case Deliver(kind=Kind.CONNTRACK, payload=payload, epoch=epoch):
                self._flows.deliver(payload, epoch)
            case Deliver(kind=kind, payload=payload, epoch=epoch):
                self._around(lambda: self._deliver(kind, payload))
                self._channel.feed(WorkedOff(kind.lane, epoch))
                if kind is Kind.HA and not self._unacknowledged:
                    self._unacknowledged = True
                    self._loop.call_soon(self._acknowledge)
                self._arm()
            case Dropped(kind=Kind.CONNTRACK):
                self._flows.feed(Unsent())
            case Dropped(kind=kind):
                self._dropped.add(kind)
            case RoomAgain(lane=lane):
                if any(kind.lane is lane for kind in self._dropped):
                    self._dropped = {kind for kind in self._dropped if kind.lane is not lane}
                    if lane is Lane.URGENT and self._channel.session.is_up:
                        self._mirror.connected()  # says everything once more
            case Compared():
                self._tell_status()

    def _deliver(self, kind: Kind, payload: bytes) -> None:
        try:
            if kind is Kind.DIGEST:
                self._comparison.deliver(payload)
            elif kind is Kind.STATE:
                self._hear_state(bodies.decode_state(payload))
            else:
                self._mirror.deliver(kind, payload)
        except DecodeError:
            self._mirror.garbled += 1

    def _hear_state(self, state: int | bytes | list[bodies.Age] | None) -> None:
        if isinstance(state, bytes):
            self._addresses.peer_said(state)
        elif isinstance(state, list):
            self._rekeys.peer_said(state)
        elif state and self._mirror.numbers.role is Role.ACTIVE:
            self._rekeys.messages_lost()

    def _acknowledge(self) -> None:
        self._unacknowledged = False
        self._mirror.all_delivered()

    async def _learn_version(self) -> None:
        try:
            told = (await self._vici.request("version", timeout_s=VERSION_LIMIT_S)).get("version", b"").decode()
        except (PeerError, TimeoutError):
            return
        versions = dataclasses.replace(self._versions, charon=told, ha=HA_VERSIONS.get(told, 0))
        if versions != self._versions:
            self._versions, self._comparison.ha_version = versions, versions.ha
            self._channel.feed(VersionsChanged(versions))

    # The role

    def _promote(self, event: promotion.Input) -> None:
        for action in self._promotion.handle(event, boottime()):
            match action:
                case Do():
                    self._tasks.begin(self._do(action))
                case StepTook(step=step, took_s=took_s, detail=detail):
                    self._stuck.pop(Reason.PROMOTION_STUCK, None)
                    self._tell(agent_wire.StepTaken(step=step.value, took_us=round(took_s * 1e6), detail=detail))
                case StepStuck(step=step, why=why):
                    self._stuck[Reason.PROMOTION_STUCK] = f"{step.value}: {why}"
                    self._tell_status()
                case promotion.Settled(active=active, took_s=took_s):
                    self._tell(agent_wire.Settled(active=active, took_us=round(took_s * 1e6)))
                    self._tell_status()
        self._retry = armed(self._retry, self._promotion.deadline, lambda: self._promote(TimerExpired()))

    async def _do(self, todo: Do) -> None:
        try:
            detail = await self._step(todo.step)
        except (AnycastError, TimeoutError) as exc:
            self._promote(StepFailed(attempt=todo.attempt, why=str(exc) or "no answer"))
        else:
            self._promote(StepDone(attempt=todo.attempt, detail=detail))

    async def _step(self, step: Step) -> str:
        mirror = self._mirror
        match step:
            case Step.CLOSE:
                mirror.close()
                self._now_is(Role.PROMOTING)
            case Step.READY:
                self._ready = self._loop.create_future()
                mirror.ask_ready()
                self._arm()
                retired = await self._ready
                return f"{mirror.numbers.known} SAs, {retired} deleted" if retired else f"{mirror.numbers.known} SAs"
            case Step.SERVE:
                self._serving = True
                self._gate.open()
            case Step.ADDRESSES:
                return await addresses.offered(self._addresses, self._doorkeeper)
            case Step.ACTIVATE:
                mirror.promoted()
                self._now_is(Role.ACTIVE)
                self._segment.switch(True)
            case Step.RESUME:
                self._segment.switch(True)
            case Step.CONFIRM_ACTIVE:
                return await self._segment.confirm(True)
            case Step.ADOPT:
                mirror.stand_back()
                return f"{await self._reuniter.adopt_pending()} messages"
            case Step.REKEY:
                self._tasks.begin(self._reuniter.finish())
                self._rekeys.begin()
                return f"{len(mirror.numbers.taken_over)} SAs"
            case Step.CEASE:
                self._doorkeeper.close()
                if not self._promotion.adopts:
                    self._tasks.begin(self._addresses.role(False))
                self._serving = False
                mirror.demoting()
                self._gate.close()
            case Step.PASSIVATE:
                self._segment.switch(False)
            case Step.CONFIRM_PASSIVE:
                return await self._segment.confirm(False)
            case Step.OPEN:
                self._reuniter.drop()
                mirror.demoted()
                self._now_is(Role.BACKUP)
        return ""

    def _now_is(self, role: Role) -> None:
        if role is not Role.ACTIVE:
            self._rekeys.stopped()
        self._comparison.role(role)
        self._flows.feed(RoleChanged(role=role))

    def _on_event(self, event: Event) -> None:
        match event:
            case AlarmRaised(reason=reason, detail=detail):
                self._stuck[reason] = detail
            case AlarmCleared(reason=reason):
                self._stuck.pop(reason, None)

    def _on_ready(self, retired: int) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(retired)

    def _on_rekey(self, keys: list[SaKey]) -> None:
        self._rekeys.near_end(spi_of(key) for key in keys)
        self._comparison.events_lost()  # a look, now

    def _on_gap(self, missing: int) -> None:
        self._gaps += missing
        self._comparison.events_lost()
        self._channel.feed(Submit(Kind.STATE, bodies.encode_gap(missing)))

    def _on_reunite(self, reunite: Reunite) -> None:
        if self._reuniter.take(reunite):
            self._promote(promotion.AdoptionAsked())
        else:
            self._tasks.begin(self._reuniter.finish())
        if reunite.apart:
            self._rekeys.messages_lost()

    def _on_gave_up(self, gave_up: GaveUp) -> None:
        self._tell(agent_wire.GivenUp(name=gave_up.name, cause=gave_up.cause.name.lower(), refused=gave_up.refused))

    def _on_refused(self, refused: Refused) -> None:
        self._tell(agent_wire.RekeyRefused(name=refused.name, reason=refused.reason.value))
        self._clients.write(ClientRefusedRekey(identity=refused.client, sa=refused.name, reason=refused.reason))

    # Parts

    def _on_fault(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Something of ours crashed in a callback: a bug. The next process looks at everything anew."""
        self._fault = context.get("exception") or BugError(str(context.get("message")))
        self._over.set()

    def _read(self, read: Callable[[], None]) -> None:
        self._around(read)
        self._arm()

    def _around(self, work: Callable[[], None]) -> None:
        """A kernel that refuses is an alarm, and no end of everything else."""
        try:
            work()
        except (KernelError, DecodeError) as exc:
            self._stuck[Reason.MIRROR_IMPAIRED] = str(exc)

    def _arm(self) -> None:
        self._timer = armed(self._timer, self._mirror.deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._mirror.timer()
        self._arm()
