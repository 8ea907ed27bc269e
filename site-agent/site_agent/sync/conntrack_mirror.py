"""The flows of a gateway in its peer's kernel, before they are needed. Pure.

Theory of operation
-------------------
The Active tells, the Backup inserts; nobody else does either, so a takeover has nothing to commit: what was told is in the
kernel. When a session begins, the Backup asks for the whole table or, where it has flows already, for sums. From then on the
kernel's events are told in their order. What gets lost on the way (an event's socket overflowed, a queue to the peer was
full, a kernel refused) is found by the next *round*: the Active tells the sums of its table, the Backup compares
(`conntrack_copier`) and asks for the buckets that differ. A round is also what keeps copies alive, because a kernel tells
no refresh of a timeout: a copy is given 255 s, a round is every 60 s, so three may fail.

After the peer's death nothing is refreshed, and the copies are the table: the kernel refreshes them by their packets.

Inputs: RoleChanged, Connected, Parted, Told, Dumped, DumpEnded, Heard, EventsLost, Applied, Unsent, TimerExpired. `Applied`
answers every `Apply`, before anything else.
"""

from __future__ import annotations

from collections.abc import Iterator

from anycast.errors import DecodeError
from anycast.timer import TimerExpired
from site_agent.netlink.conntrack import gather
from site_agent.netlink.conntrack_columns import Shapes
from site_agent.sync import conntrack_wire as wire
from site_agent.sync.conntrack_copier import Copier
from site_agent.sync.conntrack_filter import MirroredFlows
from site_agent.sync.conntrack_teller import Teller
from site_agent.sync.conntrack_wire import Said, Type
from site_agent.sync.conntrack_words import (
    Action,
    Applied,
    Apply,
    Connected,
    Dump,
    Dumped,
    DumpEnded,
    EventsLost,
    Heard,
    Input,
    Listen,
    Parted,
    StopDump,
    Tell,
    Told,
    Unsent,
)
from site_agent.sync.numbers_words import Role, RoleChanged

ROUND_EVERY_S = 60.0
ROUND_LEAST_S = 2.0
"""From the end of one to the next that a loss asks for."""


class ConntrackMirror:
    """See the module. `teller` and `copier` have what there is to show."""

    def __init__(self, flows: MirroredFlows, role: Role) -> None:
        self.role = role
        self.connected = False
        self.events_lost = 0
        self.unsent = 0
        self.malformed = 0
        """Messages of the peer that could not be read."""
        self.misplaced = 0
        """Messages for an Active that came to a Backup, or the other way: two are of a kind, or it has just changed."""
        self.rounds = 0
        self.teller, self.copier = Teller(flows, Shapes()), Copier(flows, Shapes())
        self._round_at: float | None = None
        self._gap = False
        """Events were not told: the next sums will show which."""

    @property
    def deadline(self) -> float | None:
        return self._round_at if self.connected and self.role is Role.ACTIVE else None

    @property
    def first_actions(self) -> list[Action]:
        return [Listen(self.role is Role.ACTIVE)]

    def handle(self, event: Input, now: float) -> list[Action]:
        """Take one input."""
        return list(self._dispatch(event, now))

    def _dispatch(self, event: Input, now: float) -> Iterator[Action]:
        match event:
            case Heard(data):
                yield from self._on_heard(data, now)
            case Dumped(data):
                yield from self._on_dumped(data, now)
            case Told(payload):
                yield from self._on_told(payload, now)
            case Applied(errors, unsure):
                yield from _some(self.copier.answered(errors, unsure=unsure))
            case DumpEnded(error):
                yield from self._on_dump_ended(error, now)
            case RoleChanged(role=role):
                yield from self._on_role(role, now)
            case Connected(resumed, few):
                yield from self._on_connected(resumed, few, now)
            case Parted():
                self.connected = False
            case EventsLost():
                self.events_lost += 1
                self._soon(now)
            case Unsent():
                self.unsent += 1
                self._gap = True
                self._soon(now)
            case TimerExpired():
                if self.deadline is not None and now >= self.deadline:
                    yield from self._round(now)

    # Both

    def _on_role(self, role: Role, now: float) -> Iterator[Action]:
        before, self.role = self.role, role
        if before is role:
            return
        self.teller.stop()
        self.copier.forget()
        yield StopDump()
        yield Listen(role is Role.ACTIVE)
        if role is Role.ACTIVE and self.connected:
            yield from self._round(now)
        elif role is Role.BACKUP and self.connected:
            yield Tell(wire.encode_want(set()))

    def _on_connected(self, resumed: bool, few: bool, now: float) -> Iterator[Action]:
        self.connected = True
        if not resumed:
            self.teller.stop()
            self.copier.forget()
            yield StopDump()
            self._gap = False
            self._round_at = now + ROUND_EVERY_S
            if self.role is Role.BACKUP:
                yield Tell(wire.encode(Type.WANT, detail=1) if few else wire.encode_want(set()))
        elif self._gap:
            self._soon(now)

    def _on_dumped(self, data: bytes, now: float) -> Iterator[Action]:
        try:
            gathered = gather(data)
            if self.role is Role.ACTIVE:
                for payload in self.teller.dumped(gathered):
                    yield Tell(payload)
            elif self.role is Role.BACKUP:
                yield from _some(self.copier.dumped(gathered))
        except DecodeError:
            self.malformed += 1
            return
        if gathered.done:
            yield StopDump()
            yield from self._on_dump_ended(gathered.error, now)

    def _on_dump_ended(self, error: int, now: float) -> Iterator[Action]:
        if self.role is Role.ACTIVE:
            job = self.teller.job
            payloads, again = self.teller.ended(error)
            for payload in payloads:
                yield Tell(payload)
            if job is not None and job.type is Type.TABLE and not error:
                self._soon(now)  # what changed while it was read
            if again:
                yield Dump()
        elif self.role is Role.BACKUP:
            want, again = self.copier.dump_ended(error)
            if want is not None:
                yield Tell(want)
            if again:
                yield Dump()

    # Active

    def _on_heard(self, data: bytes, now: float) -> Iterator[Action]:
        if self.role is not Role.ACTIVE or (self._gap and not self.connected):
            return
        try:
            payload = self.teller.heard(data)
        except DecodeError:
            self.malformed += 1
            self._soon(now)
            return
        if payload is not None:
            yield Tell(payload)

    def _round(self, now: float) -> Iterator[Action]:
        self._round_at = now + ROUND_EVERY_S
        self._gap = False
        self.rounds += 1
        if self.teller.ask(Type.SUMS):
            yield Dump()

    def _soon(self, now: float) -> None:
        at = now + ROUND_LEAST_S
        self._round_at = at if self._round_at is None else min(self._round_at, at)

    def _on_want(self, said: Said, now: float) -> Iterator[Action]:
        wanted = set() if said.detail else wire.decode_want(said.body)
        if said.detail or wanted:
            if self.teller.ask(Type.TABLE if said.detail else Type.CONTENT, wanted, said.turn):
                yield Dump()
        else:
            yield from self._round(now)

    # What the peer says

    def _on_told(self, payload: bytes, now: float) -> Iterator[Action]:
        try:
            said = wire.decode(payload)
            if (said.type is Type.WANT) != (self.role is Role.ACTIVE) or self.role is Role.PROMOTING:
                self.misplaced += 1
                return
            match said.type:
                case Type.WANT:
                    yield from self._on_want(said, now)
                case Type.EVENTS | Type.TABLE:
                    yield from _some(self.copier.told_flows(said.body, ordered=said.type is Type.EVENTS))
                case Type.SUMS:
                    if self.copier.told_sums(said.body):
                        yield Dump()
                case Type.CONTENT:
                    yield from _some(self.copier.told_content(said.turn, said.body))
                case Type.END:
                    if said.detail == Type.CONTENT:
                        yield from _some(self.copier.told_end(said.turn, said.body))
        except DecodeError:
            self.malformed += 1


def _some(apply: Apply | None) -> Iterator[Action]:
    if apply is not None:
        yield apply
