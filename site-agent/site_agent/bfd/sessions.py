"""All BFD sessions of a plan, between their sockets and their cores. Driven by the vrrp process's loop.

A session is found by both addresses and the interface, of which there is one over a single hop (RFC 5881 section 3), and the
core takes only a packet that names its discriminator. Whatever fails a test is counted by its cause and changes nothing.

Sockets are opened as VRRP's are: as soon as interface and address are there, looked at every second. A process that follows
another one (`Plan.bfd_before`) opens them, and says its first word, with its first grant: by then the one before it has
ended. Two that speak for one session would contradict each other, and two that listen would share its packets.
"""

from __future__ import annotations

import dataclasses
import enum
import errno
import os
from collections import Counter
from collections.abc import Callable
from functools import partial

from anycast.errors import DecodeError, KernelError
from anycast.timer import TimerExpired
from site_agent.bfd import packet
from site_agent.bfd.packet import TTL, Diagnostic
from site_agent.bfd.session import (
    BfdSession,
    Granted,
    Input,
    PacketReceived,
    Parameters,
    Resumed,
    SendPacket,
    SessionChanged,
)
from site_agent.bfd.sockets import Heard, Listener, Speaker
from site_agent.vrrp.interfaces import Facts, facts_of
from site_agent.vrrp.packet import Address
from site_agent.vrrp.plan import MAX_MICROSECONDS, BfdPeer, Plan

Standing = dict[str, int | str]


class Discard(enum.StrEnum):
    """Why a packet changed nothing: ``bfd:<cause>`` in `wire.Status.discarded`."""

    TTL = "ttl"
    """It was routed, or somebody far away made it."""
    PACKET = "packet"
    """No BFD Control packet, or one that a session must not take (`packet.decode`)."""
    SOURCE = "source"
    """Not from the address of any router that we speak with there."""
    DISCRIMINATOR = "discriminator"
    """Names another session than the router's, or names none while the session is Up."""


class _Session:
    """One peer: its core, its socket, and since when it is as it is."""

    def __init__(self, peer: BfdPeer, core: BfdSession, discriminator: int, port: int, since_ns: int) -> None:
        self.peer, self.core, self.discriminator, self.port, self.since_ns = peer, core, discriminator, port, since_ns
        self.speaker: Speaker | None = None

    def standing(self, granted_since_ns: int) -> Standing:
        core, resumed = self.core, self.core.to_resume
        return {
            "state": core.state.name.lower(),
            "diagnostic": core.diagnostic.name.lower(),
            "remote_state": core.remote_state.name.lower(),
            "remote_diagnostic": _diagnostic(core.remote_diagnostic),
            "since_ns": self.since_ns,
            "granted_since_ns": granted_since_ns,
            "local": str(self.peer.local),
            "remote": str(self.peer.remote),
            "port": self.port,
            "discriminator": self.discriminator,
            "remote_discriminator": resumed.remote_discriminator,
            "remote_min_rx": resumed.remote_min_rx,
            "remote_desired_tx": resumed.remote_desired_tx,
            "remote_mult": resumed.remote_mult,
            "desired_min_tx": resumed.desired_min_tx,
            "required_min_rx": resumed.required_min_rx,
        }


class BfdSessions:
    """`look` every second. `changed` is called when a session's state has changed."""

    def __init__(self, plan: Plan, now: float, changed: Callable[[], None]) -> None:
        self._plan, self._changed = plan, changed
        self._resume_until = plan.resume_until_ns / 1e9
        self._waits = bool(plan.bfd and plan.bfd_before) and now < self._resume_until
        """For the first grant."""
        self._sessions: list[_Session] = []
        self._sessions_by_source: dict[tuple[Address, str, Address], _Session] = {}
        self._listeners: dict[tuple[Address, str], Listener] = {}
        self._interfaces: dict[str, Facts | None] = {}
        self._granted_until = self._granted_since = 0.0
        self._discarded: Counter[str] = Counter()
        self.occupied = False
        """A socket could not be opened because another process has its port."""
        self.faults: list[str] = []
        if not self._waits:
            self._begin(now, go_on=False)

    @property
    def deadline(self) -> float | None:
        return min((due for one in self._sessions if (due := one.core.deadline) is not None), default=None)

    def hurries(self, now: float) -> bool:
        """A session is to go on that the process before this one had, which still has the port."""
        return self.occupied and now < self._resume_until

    def look(self) -> None:
        """Open what can be opened, and close what has lost its interface."""
        before = self._interfaces
        self._interfaces = {peer.interface: facts_of(peer.interface) for peer in self._plan.bfd}
        self.faults, self.occupied = [], False
        for interface in {name for name, facts in before.items() if facts and facts != self._interfaces[name]}:
            self._close(interface)
        for one in self._sessions:
            try:
                place = one.peer.local, one.peer.interface
                if place not in self._listeners:
                    remotes = [peer.remote for peer in self._plan.bfd if (peer.local, peer.interface) == place]
                    self._listeners[place] = Listener(*place, remotes)
                if one.speaker is None:
                    one.speaker = Speaker(one.peer, one.port)
                    one.port = one.speaker.port
            except KernelError as exc:
                self.occupied = self.occupied or exc.errno == errno.EADDRINUSE
                self.faults.append(str(exc))
        for listener in self._listeners.values():
            listener.look()

    def sockets(self, take: Callable[[Heard], None]) -> dict[int, Callable[[], None]]:
        """What to call when one is readable; it hands what it reads to `take`, whose caller gives it to `receive`."""
        return {listener.fileno(): partial(listener.receive, take) for listener in self._listeners.values()}

    def receive(self, heard: Heard, now: float) -> None:
        """One packet."""
        if heard.hops != TTL:
            self._discarded[Discard.TTL] += 1
            return
        try:
            said = packet.decode(heard.data)
        except DecodeError:
            self._discarded[Discard.PACKET] += 1
            return
        one = self._sessions_by_source.get((*heard.place, heard.source))
        if one is None:
            self._discarded[Discard.SOURCE] += 1
        else:
            self._turn(one, PacketReceived(packet=said), now)

    def tick(self, now: float) -> None:
        """Whatever is overdue."""
        for one in self._sessions:
            due = one.core.deadline
            if due is not None and due <= now:
                self._turn(one, TimerExpired(), now)

    def grant(self, until: float, now: float) -> bool:
        """The agent's word. Returns whether sockets were opened."""
        if until <= now:
            self._granted_since = 0.0
        elif self._granted_until <= now:
            self._granted_since = now
        self._granted_until = until
        begins, self._waits = self._waits, False
        if begins:
            self._begin(now, go_on=now < min(until, self._resume_until))
            self.look()
        for one in self._sessions:
            self._turn(one, Granted(until=until), now)
        return begins

    def prolong(self, until: float, now: float) -> None:
        """What is granted now, until then."""
        if self._granted_until > now and not self._waits:
            self.grant(until, now)

    def standing(self) -> dict[str, Standing]:
        """For `wire.Status.bfd`."""
        if self._waits:
            return self._plan.bfd_before
        return {one.peer.name: one.standing(int(self._granted_since * 1e9)) for one in self._sessions}

    def discarded(self) -> dict[str, int]:
        """By ``bfd:cause``, since the start."""
        found = self._discarded + Counter({Discard.DISCRIMINATOR: sum(one.core.discarded for one in self._sessions)})
        return {f"bfd:{cause}": count for cause, count in found.items()}

    def _begin(self, now: float, *, go_on: bool) -> None:
        taken = {0}
        for peer in self._plan.bfd:
            before = self._plan.bfd_before.get(peer.name, {}) if go_on else {}
            resumed = _resumed(before, peer)
            discriminator = int(before["discriminator"]) if resumed else 0
            while discriminator in taken:
                discriminator = int.from_bytes(os.urandom(4), "big")
            taken.add(discriminator)
            parameters = Parameters(
                my_discriminator=discriminator,
                desired_min_tx=peer.desired_min_tx_us,
                required_min_rx=peer.required_min_rx_us,
                detect_mult=peer.detect_mult,
            )
            core = BfdSession(parameters, now=now, resumed=resumed)
            port, since_ns = (int(before["port"]), int(before["since_ns"])) if resumed else (0, int(now * 1e9))
            one = _Session(peer, core, discriminator, port, since_ns)
            self._sessions.append(one)
            self._sessions_by_source[peer.local, peer.interface, peer.remote] = one

    def _turn(self, one: _Session, event: Input, now: float) -> None:
        for action in one.core.handle(event, now):
            match action:
                case SendPacket():
                    if one.speaker is not None:
                        one.speaker.send(packet.encode(action.packet))
                case SessionChanged():
                    one.since_ns = int(now * 1e9)
                    self._changed()

    def _close(self, interface: str) -> None:
        for place in [place for place in self._listeners if place[1] == interface]:
            self._listeners.pop(place).close()
        for one in self._sessions:
            if one.peer.interface == interface and one.speaker is not None:
                one.speaker.close()
                one.speaker = None


def _resumed(before: Standing, peer: BfdPeer) -> Resumed | None:
    """None where there is nothing to go on with: it was not Up, or it is another session by now."""
    if (before.get("state"), before.get("local"), before.get("remote")) != ("up", str(peer.local), str(peer.remote)):
        return None
    try:
        found = Resumed(**{field.name: int(before[field.name]) for field in dataclasses.fields(Resumed)})
        own, port, _ = (int(before[name]) for name in ("discriminator", "port", "since_ns"))
    except (KeyError, ValueError):
        return None
    sound = all(0 <= number <= MAX_MICROSECONDS for number in (*dataclasses.astuple(found), own))
    return found if sound and own and 0 < port < 2**16 else None


def _diagnostic(number: int) -> str:
    try:
        return Diagnostic(number).name.lower()
    except ValueError:
        return str(number)
