"""The mirror of one gateway: the cores put together, between the kernel, charon's plugin and the peer.

    kernel's SAD ──▶ Numbers, Windows ──▶ kernel's SAD, peer
    charon       ──▶ HaRelay          ──▶ peer
    peer         ──▶ all three        ──▶ charon, kernel's SAD

Everything is done in the caller's turn and in the order in which the cores want it. What the kernel answered goes back into
the core before anything else happens. What is for the peer about many SAs goes as one message at the end of the turn.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterable

from anycast.errors import DecodeError
from anycast.timer import TimerExpired
from site_agent.netlink.xfrm_keys import SaKey
from site_agent.sync import bodies, ha_relay, ha_wire, marks_wire, numbers, reunion, windows
from site_agent.sync import numbers_words as words
from site_agent.sync.kinds import Kind
from site_agent.sync.numbers_words import Role
from site_agent.sync.plugin_socket import PluginSocket
from site_agent.sync.sad import Sad

DATAGRAMS_AT_ONCE = 256
"""Of charon's, before the loop may do something else."""


class Mirror:
    """Use from one thread. `first` is to be called once before anything else.

    `submit` sends a message to the peer. `ready(retired)` is called when a promotion that was asked for may serve,
    `rekey(keys)` with SAs that near the end of their numbers, `gap(missing)` when `ha` messages are known to be lost,
    `reunite(reunite)` when what another Active has said is to be put together with ours: by `adopt`.
    """

    def __init__(
        self,
        *,
        rank: int,
        role: Role,
        epoch: int,
        sad: Sad,
        plugin: PluginSocket,
        submit: Callable[[Kind, bytes], None],
        ready: Callable[[int], None],
        rekey: Callable[[list[SaKey]], None],
        gap: Callable[[int], None],
        reunite: Callable[[reunion.Reunite], None],
        clock: Callable[[], float],
    ) -> None:
        self.numbers = numbers.Numbers(rank, role, now=clock())
        self.windows = windows.Windows(role)
        # Who is not Active for certain may have a charon that is: nothing is handed over before the steps have opened it.
        self.relay = ha_relay.HaRelay(epoch, role if role is Role.ACTIVE else Role.PROMOTING)
        self.reunion = reunion.Reunion(role if role is Role.ACTIVE else Role.PROMOTING)
        self.garbled = 0
        """Messages of the peer that mean nothing."""
        self.not_taken = 0
        """Datagrams that charon's socket did not take."""
        self._sad, self._plugin, self._submit, self._clock = sad, plugin, submit, clock
        self._ready, self._rekey, self._gap, self._reunite = ready, rekey, gap, reunite
        self._epoch = epoch
        self._inbox: collections.deque[words.Input] = collections.deque()
        self._busy = False
        self._handles = itertools.count(1)
        self._datagrams: dict[int, bytes] = {}
        self._asked: list[tuple[SaKey, int]] = []
        self._told: list[tuple[SaKey, int]] = []
        self._seen: dict[SaKey, int] = {}
        self._refused: dict[SaKey, int] = {}

    @property
    def deadline(self) -> float | None:
        return self.numbers.deadline

    def first(self) -> None:
        """Learn what the kernel has. Raises KernelError."""
        self._perform(self.numbers.first_actions)
        self._turn()

    # Roles, by the promotion's steps

    def close(self) -> None:
        """Hand nothing to charon any more."""
        self._role(Role.PROMOTING)

    def ask_ready(self) -> None:
        """Answered by `ready`, at once where this gateway is Active already."""
        if self.numbers.role is Role.ACTIVE:
            self._ready(0)
            return
        self._feed(words.PromotionAsked())

    def promoted(self) -> None:
        """charon is told `+1` next."""
        self._feed(words.Promoted())
        self._role(Role.ACTIVE)

    def demoting(self) -> None:
        """charon is told `-1` next; what the peer says from now on is for it when it is PASSIVE."""
        self._relay(ha_relay.DemotionBegins())

    def demoted(self) -> None:
        """charon is PASSIVE: what it has said until now is carried, and then it is a Backup's."""
        self.read_charon(everything=True)
        self._feed(words.Demoted())
        self._role(Role.BACKUP)

    def stand_back(self) -> None:
        """charon is PASSIVE for a moment in our time as Active, and is handed what another Active has said: `adopt` next. No
        number is used of what it installs before the promotion that follows has placed it."""
        self.read_charon(everything=True)
        self._relay(words.RoleChanged(role=Role.PROMOTING))
        self._feed(words.Demoted())

    def adopt(self, handles: Iterable[int]) -> None:
        """Hand these to our charon."""
        for handle in handles:
            datagram = self._datagrams.pop(handle)
            if datagram[1] == ha_wire.MessageType.CHILD_ADD:
                self._feed(words.MirrorHandedOver(spi=ha_wire.decode_child_spis(datagram).outbound))
            self.not_taken += not self._plugin.send(datagram)

    def forget(self, handles: Iterable[int]) -> None:
        """Drop the bytes of what is not adopted after all."""
        for handle in handles:
            self._datagrams.pop(handle, None)

    def _role(self, role: Role) -> None:
        self._relay(words.RoleChanged(role=role))
        self._reunion(words.RoleChanged(role=role))
        self._windows(words.RoleChanged(role=role))
        self._turn()

    # What comes in

    def read_kernel(self) -> None:
        """Its socket is readable. Raises KernelError."""
        self._sad.read(self)
        self._turn()

    def read_charon(self, *, everything: bool = False) -> None:
        """Its socket is readable. Raises KernelError."""
        for _ in range(2**31 if everything else DATAGRAMS_AT_ONCE):
            if (datagram := self._plugin.receive()) is None:
                return
            try:
                header = ha_wire.decode_header(datagram)
            except DecodeError:
                continue
            handle, before = self._keep(datagram), self.relay.last
            self._relay(ha_relay.FromCharon(kind=header.kind, size=len(datagram), handle=handle))
            if self.relay.last > before:
                self._reunion(reunion.OwnSaid(number=self.relay.last, said=ha_wire.decode_said(datagram)))

    def connected(self) -> None:
        """Messages flow to the peer; what was said before counts for nothing."""
        self._everyone(words.PeerConnected())

    def lost(self) -> None:
        self._everyone(words.PeerLost())

    def timer(self) -> None:
        self._feed(TimerExpired())

    def deliver(self, kind: Kind, payload: bytes) -> None:
        """A message of the peer's. One that means nothing is counted, and changes nothing."""
        try:
            if kind is Kind.HA:
                self._from_peer(bodies.decode_ha(payload))
            elif kind is Kind.NUMBERS:
                said, records = bodies.decode_marks(payload)
                for key, block in records:
                    asked = said == bodies.ASKED
                    self._inbox.append(
                        words.MarkAsked(key=key, block=block) if asked else words.MarkTold(key=key, block=block)
                    )
                self._turn()
            elif kind is Kind.WINDOWS:
                for key, seq in marks_wire.decode_records(payload):
                    self._windows(windows.PeerSaw(key=key, seq=seq))
                self._turn()
        except DecodeError:
            self.garbled += 1

    def all_delivered(self) -> None:
        """For now the peer has said no more."""
        self._relay(ha_relay.InboxEmpty())

    def _from_peer(self, record: bodies.Carried | bodies.Late | bodies.Settled | bodies.Has) -> None:
        match record:
            case bodies.Has():
                self._relay(ha_relay.PeerHas(epoch=record.epoch, number=record.number))
                if record.epoch == self._epoch:
                    self._reunion(reunion.PeerHas(number=record.number))
                return
            case bodies.Settled():
                self.read_charon(everything=True)
                self._reunion(reunion.PeerSettled(late=record.late))
                return
            case bodies.Late():
                self._peer_said(record.epoch, record.number, self._keep(record.datagram), late=True)
                return
        kind, spi = record.datagram[1], None
        if kind == ha_wire.MessageType.CHILD_ADD:
            spi = ha_wire.decode_child_spis(record.datagram).outbound
        handle = self._keep(record.datagram)
        self._relay(ha_relay.FromPeer(epoch=record.epoch, number=record.number, kind=kind, handle=handle, spi=spi))

    # What the kernel says (`sad.Owner`)

    def outbound_reported(self, key: SaKey) -> None:
        self._inbox.append(words.SaReported(key=key))

    def outbound_advanced(self, key: SaKey, oseq: int) -> None:
        self._inbox.append(words.Advanced(key=key, oseq=oseq))

    def inbound_seen(self, key: SaKey, seq: int) -> None:
        self._windows(windows.SaThere(key=key, seq=seq))

    def gone(self, key: SaKey, *, outbound: bool) -> None:
        if outbound:
            self._inbox.append(words.SaGone(key=key))
        else:
            self._windows(words.SaGone(key=key))

    def events_lost(self) -> None:
        self._inbox.append(words.EventsLost())

    # The cores

    def _everyone(self, event: words.PeerConnected | words.PeerLost) -> None:
        self._relay(event)
        self._reunion(event)
        self._windows(event)
        self._feed(event)

    def _feed(self, event: words.Input) -> None:
        self._inbox.append(event)
        self._turn()

    def _turn(self) -> None:
        """Work off what there is for `Numbers`, and tell the peer."""
        if self._busy:
            return
        self._busy = True
        try:
            while self._inbox:
                self._perform(self.numbers.handle(self._inbox.popleft(), self._clock()))
        finally:
            self._busy = False
        for said, records in ((bodies.ASKED, self._asked), (bodies.TOLD, self._told)):
            for body in bodies.encode_marks(said, records):
                self._submit(Kind.NUMBERS, body)
            records.clear()
        if self._refused:
            self._sad.refuse_up_to(self._refused.items())  # one that is gone needs no window
            self._refused.clear()
        if self._seen:
            for body in marks_wire.encode_records(self._seen.items()):
                self._submit(Kind.WINDOWS, body)
            self._seen.clear()

    def _perform(self, actions: list[words.Action]) -> None:
        rekey: list[SaKey] = []
        for kind, group in itertools.groupby(actions, type):
            batch = list(group)
            if kind is words.Place:
                self._place([action for action in batch if isinstance(action, words.Place)])
                continue
            for action in batch:
                match action:
                    case words.ListSas():
                        self._list()
                    case words.DrainEvents(turn=turn):
                        self._sad.read(self, everything=True)
                        self._inbox.append(words.EventsDrained(turn=turn))
                    case words.RetireSa(key=key):
                        self._sad.delete([key])
                    case words.RekeySa(key=key):
                        rekey.append(key)
                    case words.AskMark(key=key, block=block):
                        self._asked.append((key, block))
                    case words.TellMark(key=key, block=block):
                        self._told.append((key, block))
                    case words.ReadyToServe(retired=retired):
                        self._ready(retired)
        if rekey:
            self._rekey(rekey)

    def _place(self, places: list[words.Place]) -> None:
        done = self._sad.place([(place.key, place.block << numbers.BLOCK_BITS) for place in places])
        for place, well in zip(places, done, strict=True):
            event = words.Placed(key=place.key, block=place.block) if well else words.PlaceFailed(key=place.key)
            self._inbox.append(event)

    def _list(self) -> None:
        outbound, inbound = self._sad.table()
        self._inbox.extend(words.SaListed(key=key, oseq=oseq) for key, oseq in outbound)
        self._inbox.append(words.ListingEnded())
        for key, seq in inbound:
            self._windows(windows.SaThere(key=key, seq=seq))

    def _windows(self, event: windows.Input) -> None:
        for action in self.windows.handle(event):
            (self._seen if isinstance(action, windows.TellSeen) else self._refused)[action.key] = action.seq

    def _relay(self, event: ha_relay.Input) -> None:
        for action in self.relay.handle(event):
            match action:
                case ha_relay.Carry(epoch=epoch, number=number, handle=handle):
                    self._submit(Kind.HA, bodies.encode_carry(epoch, number, self._datagrams[handle]))
                case ha_relay.HandToCharon(handle=handle, spi=spi):
                    if spi is not None:
                        self._feed(words.MirrorHandedOver(spi=spi))
                    self.not_taken += not self._plugin.send(self._datagrams.pop(handle))
                case ha_relay.Forget(handle=handle):
                    self._datagrams.pop(handle, None)
                case ha_relay.Acknowledge(epoch=epoch, number=number):
                    self._submit(Kind.HA, bodies.encode_have(epoch, number))
                case ha_relay.MirrorGap(missing=missing):
                    self._gap(missing)

                case ha_relay.SetAside(epoch=epoch, number=number, handle=handle):
                    self._peer_said(epoch, number, handle, late=False)
                case ha_relay.NotAcknowledged(number=number, handle=handle):
                    self._reunion(reunion.Unheard(number=number, handle=handle))

    def _peer_said(self, epoch: int, number: int, handle: int, *, late: bool) -> None:
        said = ha_wire.decode_said(self._datagrams[handle])
        self._reunion(reunion.PeerSaid(epoch=epoch, number=number, handle=handle, said=said, late=late))

    def _reunion(self, event: reunion.Input) -> None:
        for action in self.reunion.handle(event):
            match action:
                case reunion.SayLate(number=number, handle=handle):
                    self._submit(Kind.HA, bodies.encode_late(self._epoch, number, self._datagrams[handle]))
                case reunion.SaySettled(late=late):
                    self._submit(Kind.HA, bodies.encode_settled(self._epoch, late))
                case reunion.Reunite():
                    self._reunite(action)
                case ha_relay.Forget(handle=handle):
                    self._datagrams.pop(handle, None)

    def _keep(self, datagram: bytes) -> int:
        handle = next(self._handles)
        self._datagrams[handle] = datagram
        return handle
