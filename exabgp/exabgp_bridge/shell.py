"""The bridge's shell: two pipes to ExaBGP, one socket to the agent, one clock. No decision is taken here.

ExaBGP writes to its helper with a blocking write, so a helper that does not read stops BGP itself: standard input is
drained by a thread of its own that does nothing else. Everything else happens in the main thread, in the order: overdue
timer, ExaBGP's lines, the agent's packets.

The agent's death is ordinary: the socket is connected again for ever. The end of standard input is the end of ExaBGP, and
then we must end too (ExaBGP puts its helpers in a process group of their own, so nobody else ends us). asyncio is not
used because importing it takes longer than everything else together and ExaBGP waits for us after each restart.
"""

from __future__ import annotations

import collections
import os
import selectors
import signal
import socket
import sys
import threading
import time

from anycast.errors import DecodeError, PeerError
from anycast.lease_wire import MAX_PACKET, FromBridge, decode_from_agent, encode
from exabgp_bridge.api import ApiStream, NeedData, encode_command
from exabgp_bridge.core import (
    AgentConnected,
    AgentGone,
    Bridge,
    EndExabgp,
    Input,
    TellAgent,
    TimerExpired,
    WriteCommand,
)

STDIN, STDOUT = 0, 1
RECONNECT_FIRST_S = 0.01
RECONNECTS_PER_LEASE = 5
"""An agent that adopted ExaBGP kills it if its bridge has not come back within a lease."""


class _Input:
    """ExaBGP's lines, drained by a thread. `fileno` becomes readable when there is something to take."""

    def __init__(self) -> None:
        self._chunks: collections.deque[bytes] = collections.deque()
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_out, False)
        os.set_blocking(self._wake_in, False)
        threading.Thread(target=self._drain, name="stdin", daemon=True).start()

    def fileno(self) -> int:
        return self._wake_out

    def take(self) -> list[bytes]:
        """Everything read so far. An empty chunk, always the last, is the end."""
        try:
            os.read(self._wake_out, 4096)
        except BlockingIOError:
            pass
        chunks = []
        while self._chunks:
            chunks.append(self._chunks.popleft())
        return chunks

    def _drain(self) -> None:
        chunk = b"more"
        while chunk:
            try:
                chunk = os.read(STDIN, 65536)
            except OSError:
                chunk = b""
            self._chunks.append(chunk)
            try:
                os.write(self._wake_in, b"\0")
            except BlockingIOError:
                pass  # the main thread has not yet taken what woke it before


class _AgentLink:
    """The socket to the agent, connected again for ever with a bounded back-off."""

    def __init__(self, path: str, longest_s: float) -> None:
        self._path, self._longest_s = path, longest_s
        self._delay_s = RECONNECT_FIRST_S
        self._next_s = 0.0
        self.socket: socket.socket | None = None

    def seconds_to_attempt(self, now_s: float) -> float | None:
        """None while connected."""
        return None if self.socket is not None else max(0.0, self._next_s - now_s)

    def attempt(self, now_s: float) -> bool:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        link.setblocking(False)  # a stopped agent's full backlog must not stop us
        try:
            link.connect(self._path)
        except OSError:
            link.close()
            self._next_s = now_s + self._delay_s
            self._delay_s = min(self._delay_s * 2, self._longest_s)
            return False
        self.socket, self._delay_s = link, RECONNECT_FIRST_S
        return True

    def close(self, now_s: float) -> None:
        if self.socket is not None:
            self.socket.close()
        self.socket, self._next_s = None, now_s + RECONNECT_FIRST_S

    def send(self, message: FromBridge) -> bool:
        """False where the connection cannot take it: the agent is gone, or so far behind that it starts anew."""
        try:
            return self.socket is not None and self.socket.send(encode(message)) > 0
        except OSError:
            return False

    def receive(self) -> bytes | None:
        """One packet; None where there is none now, empty where the agent has gone."""
        assert self.socket is not None
        try:
            return self.socket.recv(MAX_PACKET + 1)
        except BlockingIOError:
            return None
        except OSError:
            return b""


class _Shell:
    def __init__(self, socket_path: str, *, lease_ms: int, grace_ms: int) -> None:
        self._exabgp_pid = os.getppid()
        self._core = Bridge(
            pid=os.getpid(),
            exabgp_pid=self._exabgp_pid,
            lease_ns=lease_ms * 1_000_000,
            grace_ns=grace_ms * 1_000_000,
            now_ns=_boottime_ns(),
        )
        self._stream = ApiStream()
        self._input = _Input()
        self._link = _AgentLink(socket_path, lease_ms / 1000 / RECONNECTS_PER_LEASE)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._input, selectors.EVENT_READ)

    def run(self) -> int:
        """Serve until ExaBGP closes our standard input. Returns the exit status."""
        self._feed(TimerExpired())
        while True:
            self._connect()
            ready = self._selector.select(self._patience())
            if _boottime_ns() >= self._core.deadline:  # before any input: a flood must not starve it
                self._feed(TimerExpired())
            for chunk in self._input.take():
                if not chunk:
                    return 0
                self._read_exabgp(chunk)
            if any(key.data is self._link for key, _ in ready):
                self._read_agent()

    def _patience(self) -> float:
        patience = max(0, self._core.deadline - _boottime_ns()) / 1e9
        attempt = self._link.seconds_to_attempt(time.monotonic())
        return patience if attempt is None else min(patience, attempt)

    def _connect(self) -> None:
        now_s = time.monotonic()
        if self._link.seconds_to_attempt(now_s) == 0.0 and self._link.attempt(now_s):
            assert self._link.socket is not None
            self._selector.register(self._link.socket, selectors.EVENT_READ, self._link)
            self._feed(AgentConnected())

    def _disconnect(self) -> None:
        if self._link.socket is not None:
            self._selector.unregister(self._link.socket)
            self._link.close(time.monotonic())
            self._feed(AgentGone())

    def _read_exabgp(self, chunk: bytes) -> None:
        self._stream.receive_data(chunk)
        while not isinstance(event := self._stream.next_event(), NeedData):
            self._feed(event)

    def _read_agent(self) -> None:
        while self._link.socket is not None and (packet := self._link.receive()) is not None:
            try:
                message = decode_from_agent(packet)
            except DecodeError:  # also the empty packet that is the end of the connection
                self._disconnect()
            else:
                self._feed(message)

    def _feed(self, event: Input) -> None:
        lost = False
        for action in self._core.handle(event, _boottime_ns()):
            match action:
                case WriteCommand(command):
                    os.write(STDOUT, encode_command(command))  # one in flight: the pipe is never full
                case TellAgent(message):
                    lost = lost or not self._link.send(message)
                case EndExabgp(reason):
                    self._end_exabgp(reason)
        if lost:
            self._disconnect()

    def _end_exabgp(self, reason: str) -> None:
        # Our parent's number cannot be another process's while it is our parent; once it is not, it has ended.
        if os.getppid() == self._exabgp_pid:
            print(f"exabgp_bridge: killing ExaBGP {self._exabgp_pid}: {reason}", file=sys.stderr, flush=True)
            os.kill(self._exabgp_pid, signal.SIGKILL)
        raise SystemExit(0)


def run(socket_path: str, *, lease_ms: int, grace_ms: int) -> int:
    """Serve as ExaBGP's helper. Returns the exit status: 0 at the end of input, 1 where ExaBGP broke its protocol."""
    try:
        return _Shell(socket_path, lease_ms=lease_ms, grace_ms=grace_ms).run()
    except (DecodeError, PeerError) as exc:
        print(f"exabgp_bridge: {exc}", file=sys.stderr, flush=True)
        return 1
    except BrokenPipeError:
        return 0


def _boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
