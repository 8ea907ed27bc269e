"""The conntrack mirror's shell: netlink sockets and turns of an event loop that other work shares.

Everything goes through one inbox, because an `Apply` must be answered before the core takes another input, and it may be
large: it goes to the kernel in pieces, at a message's border, and a turn ends after `TURN_S` whatever is left. What the
kernel says is read in this order: events, because they are lost where nobody reads them; then what the peer told; then the
dump, which waits for us, and which also waits where the channel has no room.

The kernel works while `send` runs, so all answers to a batch are in the socket when it returns: the refusals of messages,
and one acknowledgement of a NLMSG_NOOP behind the last, which proves that none was left out.

By default (net.netfilter.nf_conntrack_events = 2) a kernel tells events only of flows that began while somebody listened: a
Backup's copies would stay silent for ever after a takeover (measured). `start` sets it to 1; of flows that are older the
rounds find out.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import errno
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from anycast.errors import KernelError
from anycast.runtime import boottime
from anycast.timer import TimerExpired
from site_agent.netlink.conntrack import CT_GET, GROUP_DESTROY, GROUP_NEW, GROUP_UPDATE, NETLINK_NETFILTER
from site_agent.netlink.messages import HEADER, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_ERROR, NLMSG_NOOP
from site_agent.sync.conntrack_mirror import ConntrackMirror
from site_agent.sync.conntrack_words import (
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
    StopDump,
    Tell,
    Told,
)

TURN_S = 0.010
"""A piece that was begun is finished: 20 ms are the most that anybody else waits."""
EVENT_BYTES = 32 << 20
"""Of the event socket's buffer, used only while we are behind: 0.4 s of 90,000 events a second."""
ANSWER_BYTES = 8 << 20
SEND_BYTES = 1 << 20
PIECE = 128 * 1024
"""Of an Apply in one `send`: 700 flows, 2 to 3 ms."""
READ_BYTES = 32 * 1024
"""What the kernel fills at most in one read of a dump."""
READS = 3
"""Reads of a dump that are worked on together: 500 flows."""
EVENTS = 256
"""Events that are worked on together."""
FULL_PAUSE_S = 0.002
EVENTS_FILE = Path("/proc/sys/net/netfilter/nf_conntrack_events")
FEW = 1000
"""Flows. With fewer a Backup asks for the whole table instead of comparing."""

_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _SOL_NETLINK = 32, 33, 270
_NETLINK_NO_ENOBUFS, _NETLINK_CAP_ACK, _NETLINK_ADD_MEMBERSHIP = 5, 10, 1
_LAST = 0xFFFF_FFFF
"""Sequence number of the NLMSG_NOOP behind a batch."""
_NOOP = HEADER.pack(HEADER.size, NLMSG_NOOP, NLM_F_REQUEST | NLM_F_ACK, _LAST, 0)
_ANY_FAMILY = bytes(4)
_CT_GET_STATS = 0x105
_ANSWER = struct.Struct("=IHHIIiIHHI")
"""NLMSG_ERROR: its header, the errno negated, the header of what it answers up to the sequence number."""


class ConntrackShell:
    """Use from the event loop's thread: `start`, then `connected`, `deliver` and `feed`; `close` when done.

    `tell` takes a payload of `Kind.CONNTRACK`; `worked_off` the epoch of a message that is done with; `room` says whether
    bulk may be added to what waits for the peer. `open_socket` gives a raw netlink socket of the gateway's namespace.
    """

    def __init__(
        self,
        mirror: ConntrackMirror,
        tell: Callable[[bytes], None],
        worked_off: Callable[[int], None],
        room: Callable[[], bool],
        *,
        open_socket: Callable[[], socket.socket] | None = None,
        events_file: Path = EVENTS_FILE,
    ) -> None:
        self.mirror = mirror
        self.longest_turn_s = 0.0
        self._tell, self._worked_off, self._room = tell, worked_off, room
        self._open_socket, self._events_file = open_socket or _netfilter, events_file
        self._inbox: collections.deque[tuple[Input, int | None]] = collections.deque()
        self._pieces: collections.deque[bytes | bytearray | memoryview] = collections.deque()
        """Of the Apply under way."""
        self._errors: list[tuple[int, int]] = []
        self._unsure = False
        self._epoch: int | None = None
        """Of the message that the core works on."""
        self._kernel: socket.socket | None = None
        self._events: socket.socket | None = None
        self._dump: socket.socket | None = None
        self._awake = False
        self._timer: asyncio.TimerHandle | None = None
        self._pause: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Raises KernelError."""
        self._kernel = self._socket(ANSWER_BYTES, "conntrack")
        try:
            if self._events_file.read_text().strip() != "1":
                self._events_file.write_text("1\n")
        except OSError as exc:
            raise KernelError(exc.errno or errno.EIO, str(self._events_file)) from exc
        for action in self.mirror.first_actions:
            self._perform(action)
        self._wake()

    def close(self) -> None:
        self._listen(False)
        self._stop_dump()
        for timer in (self._timer, self._pause):
            if timer is not None:
                timer.cancel()
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None

    @property
    def idle(self) -> bool:
        """Nothing is left to do but to wait."""
        return not (self._inbox or self._pieces or self._dump)

    def connected(self, *, resumed: bool) -> None:
        """Raises KernelError."""
        self.feed(Connected(resumed, self.count() < FEW))

    def deliver(self, payload: bytes, epoch: int) -> None:
        self._inbox.append((Told(payload), epoch))
        self._wake()

    def feed(self, event: Input) -> None:
        self._inbox.append((event, None))
        self._wake()

    def count(self) -> int:
        """Flows in our kernel's table (CTA_STATS_GLOBAL_ENTRIES). Raises KernelError."""
        with contextlib.closing(self._socket(0, "conntrack")) as sock:
            sock.send(HEADER.pack(HEADER.size + 4, _CT_GET_STATS, NLM_F_REQUEST, 1, 0) + _ANY_FAMILY)
            answer = sock.recv(READ_BYTES)
        return int.from_bytes(answer[HEADER.size + 8 : HEADER.size + 12], "big")

    # Turns

    def _wake(self) -> None:
        if not self._awake and self._kernel is not None:
            self._awake = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._awake = False
        if self._kernel is None:
            return
        began = boottime()
        end = began + TURN_S
        while self._step():
            if boottime() >= end:
                self._wake()
                break
        self.longest_turn_s = max(self.longest_turn_s, boottime() - began)
        self._arm()

    def _step(self) -> bool:
        """Whether there was anything to do."""
        if self._pieces:
            self._send(self._pieces.popleft())
            if not self._pieces:
                errors, unsure = self._errors, self._unsure
                self._errors, self._unsure = [], False
                self._handle(Applied(errors, unsure))
                self._perhaps_done()
            return True
        deadline = self.mirror.deadline
        if deadline is not None and deadline <= boottime():
            self._handle(TimerExpired())
            return True
        if self._events is not None and self._read_events(self._events):
            return True
        if self._inbox:
            event, self._epoch = self._inbox.popleft()
            self._handle(event)
            self._perhaps_done()
            return True
        return self._dump is not None and self._read_dump(self._dump)

    def _handle(self, event: Input) -> None:
        for action in self.mirror.handle(event, boottime()):
            self._perform(action)

    def _perhaps_done(self) -> None:
        if not self._pieces and self._epoch is not None:
            epoch, self._epoch = self._epoch, None
            self._worked_off(epoch)

    def _perform(self, action: object) -> None:
        match action:
            case Tell(payload):
                self._tell(payload)
            case Apply(data):
                self._pieces.extend(_cut(data))
            case Listen(on):
                self._listen(on)
            case Dump():
                self._stop_dump()
                self._dump = self._socket(0, "conntrack dump")
                request = HEADER.pack(HEADER.size + 4, CT_GET, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + _ANY_FAMILY
                self._dump.send(request)
            case StopDump():
                self._stop_dump()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.mirror.deadline
        if deadline is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(deadline - boottime(), 0), self._wake)

    # Sockets

    def _read_events(self, sock: socket.socket) -> bool:
        found: list[bytes] = []
        lost = False
        try:
            for _ in range(EVENTS):
                found.append(sock.recv(4096))
        except BlockingIOError:
            pass
        except OSError as exc:
            if exc.errno != errno.ENOBUFS:
                raise KernelError(exc.errno or errno.EIO, "conntrack events") from exc
            lost = True
        if found:
            self._handle(Heard(b"".join(found)))
        if lost:
            self._handle(EventsLost())
        return bool(found) or lost

    def _read_dump(self, sock: socket.socket) -> bool:
        if not self._room():
            return self._look_later()
        found: list[bytes] = []
        try:
            for _ in range(READS):
                found.append(sock.recv(READ_BYTES))
                if not _goes_on(found[-1]):
                    break
        except OSError as exc:
            if exc.errno != errno.EAGAIN:
                self._stop_dump()
                self._handle(DumpEnded(exc.errno or errno.EIO))
                return True
        if not found:
            return self._look_later()
        self._handle(Dumped(b"".join(found)))
        return True

    def _look_later(self) -> bool:
        if self._pause is None or self._pause.when() <= asyncio.get_running_loop().time():
            self._pause = asyncio.get_running_loop().call_later(FULL_PAUSE_S, self._wake)
        return False

    def _send(self, data: bytes | bytearray | memoryview) -> None:
        assert self._kernel is not None
        try:
            self._kernel.sendmsg([data, _NOOP])
        except OSError as exc:
            raise KernelError(exc.errno or errno.EIO, "conntrack batch") from exc
        while True:
            try:
                answer = self._kernel.recv(4096)
            except BlockingIOError:
                self._unsure = True  # the acknowledgement is missing
                return
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    raise KernelError(exc.errno or errno.EIO, "conntrack batch") from exc
                self._unsure = True
                continue
            _, kind, _, sequence, _, code, *_ = _ANSWER.unpack_from(answer)
            if kind != NLMSG_ERROR:
                continue
            if sequence == _LAST:
                return
            if code:
                self._errors.append((sequence, -code))

    def _listen(self, on: bool) -> None:
        loop = asyncio.get_running_loop()
        if on and self._events is None:
            self._events = sock = self._socket(EVENT_BYTES, "conntrack events")
            for group in (GROUP_NEW, GROUP_UPDATE, GROUP_DESTROY):
                sock.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
            loop.add_reader(sock, self._wake)
        elif not on and self._events is not None:
            loop.remove_reader(self._events)
            self._events.close()
            self._events = None

    def _stop_dump(self) -> None:
        if self._dump is not None:
            self._dump.close()
            self._dump = None

    def _socket(self, receive_bytes: int, name: str) -> socket.socket:
        try:
            sock = self._open_socket()
            sock.setblocking(False)
            sock.bind((0, 0))
            sock.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 0)  # what is lost must be known
            sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, SEND_BYTES)
            if receive_bytes:
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, receive_bytes)
        except OSError as exc:
            raise KernelError(exc.errno or errno.EIO, name) from exc
        return sock


def _netfilter() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)


def _goes_on(data: bytes) -> bool:
    """A datagram of a dump that does not begin with the dump's end."""
    return data[4:6] != b"\x03\x00"


def _cut(data: bytes | bytearray) -> list[memoryview]:
    """Pieces that end where a message does."""
    view, pieces, begin, at = memoryview(data), list[memoryview](), 0, 0
    if len(data) <= PIECE:
        return [view]
    while at < len(data):
        length = int.from_bytes(view[at : at + 4], "little")
        if at + length - begin > PIECE:
            pieces.append(view[begin:at])
            begin = at
        at += (length + 3) & ~3
    pieces.append(view[begin:])
    return pieces
