"""The vrrp process: one thread, one loop, the virtual router's core between its sockets and the kernel, and BFD beside it.

It is no asyncio program like the others, for two reasons that a tick of 10 ms can measure: asyncio rounds a wait up to whole
milliseconds, and every library that it brings is memory that must be locked. The loop keeps `runtime.drive`'s order all the
same: what is overdue comes before anything that waits, and of what waits one packet of each socket at a time.

An Active among sealed routers that ticks every 20 ms or more often reads what it hears at its own ticks: its Backup answers
each tick with its presence, and to wake for that would be half of what the process costs. Another Active is heard so much
later, which is no longer than two of them share the addresses in any handover (`router.LINGER_S`).

    python -m site_agent.vrrp FD      the plan on standard input; FD is the agent's end of a SOCK_SEQPACKET socketpair

The agent's silence ends the grant; the end of its socket ends the process, which has then let go of the addresses already.
Only an agent that said `Grace` before may go: it comes back by then, starts a successor with `resume_until`, and kills this
process once that one is Active. SIGTERM always releases; `wire.LEAVE` too, but says nothing to BFD's peers, with whom the
successor speaks. A plan may have BFD sessions and no virtual router, or no BFD; both take their turns in the same loop.
"""

from __future__ import annotations

import dataclasses
import fcntl
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial

from anycast.errors import AnycastError, DecodeError
from anycast.timer import TimerExpired
from site_agent import core_dumps
from site_agent.bfd.sessions import BfdSessions
from site_agent.bfd.sockets import Heard
from site_agent.vrrp import boot_mark, realtime, wire
from site_agent.vrrp import plan as plans
from site_agent.vrrp.addresses import Addresses
from site_agent.vrrp.deafness import Deafness
from site_agent.vrrp.ears import Ears
from site_agent.vrrp.election import Peer, Role
from site_agent.vrrp.late_ticks import LateTicks
from site_agent.vrrp.no_router import NoRouter
from site_agent.vrrp.router import LINGER_S, VirtualRouter
from site_agent.vrrp.router_words import (
    Action,
    AddAddresses,
    AddressesRefused,
    AdvertDiscarded,
    AdvertReceived,
    AnnounceAddresses,
    HandOver,
    HandoverFailed,
    Input,
    Parameters,
    PriorityGranted,
    RemoveAddresses,
    RenewAddresses,
    RoleChanged,
    SendAdvert,
    Shutdown,
    UplinkProven,
)
from site_agent.vrrp.seal import newest, numbered, pack_fields
from site_agent.vrrp.voice_socket import VoiceSocket

STATUS_EVERY_S = 1.0
UNFIT_DOWN_INTERVALS = 4
"""Active_Down_Interval of who cannot serve: Skew_Time is a whole interval at priority 0 (RFC 9568 section 6.1)."""
MOST_WAITING = 8
"""Packets in one voice's socket at a tick; a pair that is alone puts one or two there."""
_EXPIRED, _NEVER = TimerExpired(), float("inf")
OCCUPIED_EVERY_S = 0.02
"""While the process before this one still has its BFD port: the router's detection time runs."""
LONGEST_GRACE_S = 15.0
"""As long as the route's (architecture.md): an agent that needs longer to come back has failed."""

_now = partial(time.clock_gettime, time.CLOCK_BOOTTIME)


class VrrpProcess:
    """Make it, then `run` until the agent says `Stop` or is gone."""

    def __init__(self, plan: plans.Plan, agent: socket.socket) -> None:
        self._plan, self._newest = plan, newest(plan.keys)
        self._agent: socket.socket | None = agent
        self._addresses, self._ears = Addresses(plan), Ears(plan)
        self._signals, self._signalled = socket.socketpair()
        self._sockets: dict[int, Callable[[], object]] = {}
        """What to do when one is readable."""
        self._urgent: list[int] = []
        """Those that nothing may wait in: all but the voices'."""
        self._may_wait = False
        self._core = _virtual_router(plan) if plan.links else NoRouter()
        self._bfd = BfdSessions(plan, _now(), self._bfd_changed)
        self._boot, self._unmarked = boot_mark.begin(plan.boot_mark, after=plan.boot_after)
        self._sequence = 0
        self._granted = PriorityGranted(priority=0, until=0.0)
        """By the agent; the core is told 0 while there is nobody to hear."""
        self._grace_until = 0.0
        self._installed_us = self._silent_us = 0
        self._cause, self._since_ns = "started", _now_ns()
        self._answered_ns = 0
        self._told_peer = False
        """The agent was last told of somebody else who serves, or could."""
        self._knows_at: float | None = None
        """When it has listened for long enough to know whether anybody is there; None before every socket is open."""
        self._told_until: float | None = None
        """When the Active that an unfit Backup told of has been silent for too long; put off as it is heard."""
        self._silence_s = UNFIT_DOWN_INTERVALS * plan.advertisement_interval / 100
        """After which nobody is there."""
        # A lease, and longer where advertisements are far apart.
        self._deafness = Deafness(max(plan.address_life_s, self._silence_s), now=_now())
        self._late = LateTicks()
        self._refused: list[str] = []
        self._unkept = ""
        """Why the interval cannot be kept: then it offers nothing, until it has passed `_again`."""
        self._again: realtime.Again | None = None
        self._faults: list[str] = []
        self._not_handed_over = ""
        self._status_at = _now()
        self._due = self._status_at
        """When anything wants a turn, as of the last wait; never, once it has had it."""
        self._core_due: float | None = None
        self._voices: list[VoiceSocket] = []
        self._going = True

    def run(self) -> None:
        """Serve. Afterwards the addresses are gone."""
        self._refused = realtime.prepare()
        if self._plan.links:
            self._unkept = realtime.fault_of(self._plan.advertisement_interval, self._refused)
            if self._unkept:
                self._again = None if self._refused else realtime.Again(now=_now())
                self._refused = [self._unkept]
            self._addresses.start()
        self._catch_signals()
        self._look()
        while self._going:
            later = self._may_wait and self._core.keeps
            self._schedule()
            ready, _, _ = select.select(self._urgent if later else self._sockets, (), (), max(0.0, self._due - _now()))
            self._tick(_now())
            for number in ready:
                if (hear := self._sockets.get(number)) is not None:  # a tick may have closed it
                    hear()
            if later:
                self._may_wait = self._drain()
            if self._told_until is not None and self._told_until <= _now():
                self._look_for_the_active()
        self._say_status()

    def _schedule(self) -> None:
        self._due, self._core_due = self._status_at, self._core.deadline
        if self._core_due is not None and self._core_due < self._due:
            self._due = self._core_due
        if (due := self._bfd.deadline) is not None and due < self._due:
            self._due = due
        if self._told_until is not None and self._told_until < self._due:
            self._due = self._told_until
        if self._again is not None and self._again.deadline < self._due:
            self._due = self._again.deadline

    def _drain(self) -> bool:
        """Hear what has waited in the voices' sockets. False where too much did: a flood is heard as it comes."""
        for voice in list(self._voices):
            for _ in range(MOST_WAITING):
                if not voice.receive(self._take):
                    break
            else:
                return False
        return True

    def _catch_signals(self) -> None:
        self._signals.setblocking(False)
        self._signalled.setblocking(False)
        signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, wire.LEAVE):
            signal.signal(number, lambda number, frame: None)

    def _look(self) -> None:
        """At the interfaces, for sockets to open and frames to make anew."""
        whole = self._ears.whole
        if self._ears.look():
            self._addresses.encode(self._ears.interfaces)
            self._faults = []
            if self._core.role is Role.ACTIVE:
                self._perform([AddAddresses(), AnnounceAddresses()])
        self._bfd.look()
        self._list_sockets()
        self._may_wait = self._plan.sealed and self._plan.advertisement_interval / 100 <= LINGER_S
        if self._ears.whole and self._knows_at is None:
            self._knows_at = _now() + self._silence_s
        if whole != self._ears.whole and self._granted.until:
            self._grant(self._granted)

    def _list_sockets(self) -> None:
        self._voices = self._ears.voices
        others: dict[int, Callable[[], object]] = {
            self._signals.fileno(): self._hear_signal,
            self._addresses.fileno(): self._hear_refusal,
            **self._bfd.sockets(self._take_bfd),
        }
        if self._agent is not None:
            others[self._agent.fileno()] = self._hear_agent
        self._sockets = {**others, **{voice.fileno(): partial(voice.receive, self._take) for voice in self._voices}}
        self._urgent = list(others)

    def _grant(self, grant: PriorityGranted) -> None:
        self._granted = grant
        offers = self._ears.whole and not self._unkept
        self._turn(grant if offers else PriorityGranted(priority=0, until=grant.until))

    def _tick(self, now: float) -> None:
        """Whatever is overdue, before anything else. Once between two waits, which are a packet of each socket apart."""
        if now < self._due:
            return
        self._due = _NEVER
        deadline = self._core_due
        if deadline is not None and deadline <= now:
            self._late.count(now - deadline)
            self._turn(_EXPIRED, now)
        deadline = self._bfd.deadline
        if deadline is not None and deadline <= (now := _now()):
            self._late.count(now - deadline)
            self._bfd.tick(now)
        if self._again is not None and self._again.deadline <= (now := _now()) and self._again.tick(now):
            self._again, self._unkept, self._refused = None, "", []
            self._grant(self._granted)
            self._status_at = now
        if now >= self._status_at:
            self._look()
            self._status_at = now + (OCCUPIED_EVERY_S if self._bfd.hurries(now) else STATUS_EVERY_S)
            self._say_status()
            if self._agent is None and now >= self._grace_until:
                self._end()

    def _look_for_the_active(self) -> None:
        """After what has come was taken: what came while this process was late counts."""
        self._drain()
        self._told_until = self._core.peer_serves_until()
        if self._told_until <= _now():
            self._answer()

    def _take(self, event: Input) -> None:
        now = _now()
        self._tick(now)
        self._turn(event, now)
        if isinstance(event, AdvertReceived):
            self._deafness.accepted(now)
        elif isinstance(event, AdvertDiscarded):
            self._deafness.discarded(event.cause, now)
        if self._answered_ns and isinstance(event, AdvertReceived) and bool(event.priority) != self._told_peer:
            serves_or_could = self._core.peer_serves(now) or self._core.peer(now) is Peer.FIT
            if serves_or_could != self._told_peer:
                self._answer()  # the route may depend on the other one by now

    def _take_bfd(self, heard: Heard) -> None:
        self._tick(_now())
        self._bfd.receive(heard, _now())

    def _bfd_changed(self) -> None:
        self._status_at = _now()

    def _turn(self, event: Input, now: float | None = None) -> None:
        if actions := self._core.handle(event, _now() if now is None else now):
            self._perform(actions)

    def _end(self, *, keep_bfd: bool = False) -> None:
        if not keep_bfd:
            self._bfd.grant(0.0, _now())
        self._turn(Shutdown())
        self._going = False

    def _hear_signal(self) -> None:
        self._end(keep_bfd=set(self._signals.recv(64)) == {wire.LEAVE})

    def _hear_refusal(self) -> None:
        self._faults = self._addresses.refused()
        self._take(AddressesRefused())

    def _hear_agent(self) -> None:
        assert self._agent is not None
        try:
            data = self._agent.recv(wire.LONGEST, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:  # the agent is gone
            if _now() >= self._grace_until:
                self._end()
            else:
                del self._sockets[self._agent.fileno()]
                self._urgent.remove(self._agent.fileno())
                self._agent.close()
                self._agent = None
            return
        try:
            message = wire.decode(data)
        except DecodeError:
            return  # the lease decides
        match message:
            case wire.Grant():
                self._tick(_now())
                self._grant(PriorityGranted(priority=message.priority, until=message.until_ns / 1e9))
                self._turn(UplinkProven(proven=message.uplink))
                if self._bfd.grant(message.attract_until_ns / 1e9, _now()):
                    self._list_sockets()
                    self._status_at = _now()
                self._answered_ns = message.until_ns
                self._answer()
            case wire.Grace() if self._granted.until > _now():  # else the grant is over, and so is what it prolonged
                self._grace_until = min(message.until_ns / 1e9, _now() + LONGEST_GRACE_S)
                self._grant(PriorityGranted(priority=self._granted.priority, until=self._grace_until))
                self._bfd.prolong(self._grace_until, _now())
            case wire.HandOver():
                self._not_handed_over = ""
                self._take(HandOver())
            case wire.Keys() if self._plan.sealed:
                self._plan = dataclasses.replace(self._plan, keys=message.keys, key_in_use=message.in_use)
                self._newest = newest(message.keys)
                self._ears.use(self._plan)
                self._status_at = _now()
            case wire.Stop():
                self._end(keep_bfd=message.keep_bfd)

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case SendAdvert():
                    self._send(action)
                case AddAddresses():
                    began = _now_ns()
                    self._faults = self._addresses.put()
                    if action.settled:
                        self._addresses.settle()
                    self._installed_us = (_now_ns() - began) // 1000
                    if self._faults:
                        self._turn(AddressesRefused())
                        return  # what else was to be done belonged to an Active
                case RenewAddresses():
                    self._addresses.renew()
                case AnnounceAddresses():
                    self._addresses.announce()
                case RemoveAddresses():
                    self._faults += self._addresses.remove()
                case RoleChanged():
                    self._cause, self._since_ns = action.cause.value, _now_ns()
                    self._silent_us = round(action.silence_s * 1e6)
                    self._status_at = _now()
                case HandoverFailed():
                    self._not_handed_over = action.detail
                    self._status_at = _now()

    def _send(self, advert: SendAdvert) -> None:
        fields = b""
        if self._plan.sealed:
            self._sequence += 1  # one for all: each voice has a window of its own, and each digest its own addresses
            sequence = numbered(self._core.term, self._sequence)
            said = self._core.heard(_now()), self._plan.router_id, self._boot, sequence
            fields = pack_fields(self._plan.key_in_use, advert.flags, *said, self._newest)
        for voice in self._voices:
            voice.send(advert.priority, fields)

    def _say_status(self) -> None:
        core, now = self._core, _now()
        heard = core.heard(now)
        sealed = [voice for voice in self._ears.voices if voice.peer_key and voice.path in heard]
        status = wire.Status(
            role=core.role.value,
            cause=self._cause,
            since_ns=self._since_ns,
            heard=int(heard),
            peer=core.peer(now).value,
            peer_active=core.peer_serves(now),
            discarded={
                **{f"{path.name}:{cause}".lower(): count for (path, cause), count in core.discarded.items()},
                **self._bfd.discarded(),
            },
            late=self._late.summary(),
            self_test=self._self_test(),
            faults=[
                *(self._refused + self._unmarked + self._ears.faults),
                *(self._bfd.faults + self._faults),
                *self._deafness.faults(now),
            ],
            boot=self._boot,
            taken=self._ears.taken(),
            installed_us=self._installed_us,
            silent_us=self._silent_us,
            handover=self._not_handed_over,
            keys=sorted(self._plan.keys),
            key_in_use=self._plan.key_in_use,
            peer_keys=sorted({voice.peer_key for voice in sealed}),
            peer_newest=sorted({voice.peer_newest for voice in sealed}),
            bfd=self._bfd.standing(),
        )
        self._say(status)

    def _self_test(self) -> str:
        if not self._plan.links or self._plan.advertisement_interval >= realtime.UNPROVEN_FROM_CS:
            return ""
        return "failed" if self._unkept else "passed"

    def _answer(self) -> None:
        core, now_ns = self._core, _now_ns()
        peer, peer_active = core.peer(now_ns / 1e9), core.peer_serves(now_ns / 1e9)
        self._told_peer = peer_active or peer is Peer.FIT
        self._told_until = core.peer_serves_until() if peer_active and not core.priority else None
        self._say(
            wire.Answer(
                at_ns=now_ns,
                until_ns=self._answered_ns,
                role=core.role.value,
                peer=peer.value,
                peer_active=peer_active,
                listening=peer is Peer.SILENT and (self._knows_at is None or now_ns / 1e9 < self._knows_at),
            )
        )

    def _say(self, message: wire.Message) -> None:
        if self._agent is None:
            return
        try:
            self._agent.send(wire.encode(message), socket.MSG_DONTWAIT)
        except OSError:
            return  # it does not read: its grants will end, too


def _virtual_router(plan: plans.Plan) -> VirtualRouter:
    parameters = Parameters(
        advertisement_interval=plan.advertisement_interval,
        preempt=plan.preempt,
        preempt_delay_s=plan.preempt_delay_s,
        primary=plan.links[0].voices[0].source,
        router_id=plan.router_id,
        sealed=plan.sealed,
        address_life_s=plan.address_life_s,
    )
    return VirtualRouter(parameters, now=_now(), resume_until=0.0 if plan.resume_backup else plan.resume_until_ns / 1e9)


def main(arguments: list[str]) -> int:
    """Entry point of ``python -m site_agent.vrrp``. Exit status 0 after `Stop`, 1 where it could not begin."""
    core_dumps.leave_none()
    number = fcntl.fcntl(int(arguments[0]), fcntl.F_DUPFD_CLOEXEC, 0)  # the lowest there is: select takes none above 1023
    agent = socket.socket(fileno=number)
    try:
        process = VrrpProcess(plans.decode(sys.stdin.buffer.read()), agent)
    except AnycastError as exc:
        print(f"vrrp: {exc}", file=sys.stderr)
        return 1
    process.run()
    return 0


def _now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
