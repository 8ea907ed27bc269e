"""A paced TCP download whose every byte is known beforehand: a drill's background traffic, and witness of one connection.

    python -m anycast_lab.drills.stream serve --port 5001 --bits-per-second 2000000
    python -m anycast_lab.drills.stream fetch --from 192.0.2.10 --port 5001 --out FILE --live FILE

The stream is the numbers 0, 1, 2, … of 8 bytes each, most significant first, so that a byte that is missing, doubled or of
another connection shows where it stands. `fetch` connects until somebody answers, and from then on never again: what its
record holds is one connection. SIGTERM ends either; the record is written then. Times are CLOCK_REALTIME, as in BIRD's log.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import signal
import socket
import struct
import threading
import time
from pathlib import Path

INTERVAL_S = 0.02
"""Between two pieces: long enough to cost little inside User Mode Linux, short beside every stall that is asserted."""
_NUMBER = 8
_CONNECT_S = 1.0
_LIVE_S = 0.1
_CHUNK = 1 << 16


def content(at: int, length: int) -> bytes:
    """The stream's bytes from `at` on."""
    first, last = at // _NUMBER, (at + length + _NUMBER - 1) // _NUMBER
    data = struct.pack(f"!{last - first}Q", *range(first, last))
    return data[at - first * _NUMBER :][:length]


class Received:
    """What came over one connection, and whether it was what had been sent."""

    def __init__(self) -> None:
        self.total = 0
        self.wrong_at: int | None = None
        """Where the first byte stands that is another than was sent."""
        self.arrivals: list[tuple[int, int]] = []
        """When (nanoseconds), and how many bytes there were then."""

    def take(self, data: bytes, at_ns: int) -> None:
        expected = content(self.total, len(data))
        if self.wrong_at is None and data != expected:
            self.wrong_at = self.total + next(i for i, (a, b) in enumerate(zip(data, expected, strict=True)) if a != b)
        self.total += len(data)
        self.arrivals.append((at_ns, self.total))


def serve(port: int, bits_per_second: int, *, reset: bool = False) -> None:
    """Send the stream to whoever connects, at this pace, until SIGTERM.

    `reset`: a connection ends with us. Else the kernel goes on to send what nobody has acknowledged, for minutes.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    piece = int(bits_per_second / 8 * INTERVAL_S)
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        while True:
            client, _ = listener.accept()
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            threading.Thread(target=_send, args=(client, piece), daemon=True).start()


def _send(client: socket.socket, piece: int) -> None:
    at, due = 0, time.monotonic()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with client, contextlib.suppress(OSError):  # the client has gone
        while True:
            client.sendall(content(at, piece))
            at += piece
            # After a stall, go on from here: a burst to catch up would be another load than the drill asked for.
            due = max(due + INTERVAL_S, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))


def fetch(host: str, port: int, out: Path, live: Path, mss: int | None = None) -> None:
    """Receive until SIGTERM or the connection's end, then write the record."""
    ending = Ending()
    received, ended, ends = Received(), "", ["", ""]
    _write(live, json.dumps({"bytes": 0}))
    while not ending.told:
        try:
            sock = _connect(host, port, mss)
        except OSError:
            ending.wait(INTERVAL_S)
            continue
        with sock:
            sock.setblocking(False)
            ends = [_text(sock.getsockname()), _text(sock.getpeername())]
            ended = _receive(sock, received, ending, live)
        break
    record = {
        "v": 1,
        "connection": ends,
        "ended": ended,
        "bytes": received.total,
        "wrong_at": received.wrong_at,
        "arrivals": received.arrivals,
    }
    _write(out, json.dumps(record))


def _connect(host: str, port: int, mss: int | None) -> socket.socket:
    """`mss`: what our SYN says, as if a router on the way had clamped it. Raises OSError."""
    if mss is None:
        return socket.create_connection((host, port), timeout=_CONNECT_S)
    (family, kind, protocol, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, mss)
        sock.settimeout(_CONNECT_S)
        sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def _receive(sock: socket.socket, received: Received, ending: Ending, live: Path) -> str:
    """Why it ended; empty where we were told to end."""
    next_live = 0.0
    while not ending.told:
        readable, _, _ = select.select([sock.fileno(), ending.fileno()], [], [], _LIVE_S)
        if sock.fileno() in readable:
            try:
                data = sock.recv(_CHUNK)
            except BlockingIOError:
                continue
            except OSError as error:
                return error.strerror or "failed"
            if not data:
                return "closed by the server"
            received.take(data, time.time_ns())
        if time.monotonic() >= next_live:
            next_live = time.monotonic() + _LIVE_S
            _write(live, json.dumps({"bytes": received.total}))
    return ""


class Ending:
    """Whether SIGTERM came. Not a threading.Event: to set one in the handler blocks on the lock that `wait` may hold."""

    def __init__(self) -> None:
        self.told = False
        self._wake, theirs = socket.socketpair()
        theirs.setblocking(False)
        signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)  # the signal handler's from now on
        signal.signal(signal.SIGTERM, self._tell)

    def fileno(self) -> int:
        """Readable once a signal came."""
        return self._wake.fileno()

    def wait(self, timeout_s: float) -> None:
        """Until it came, at most so long."""
        if not self.told:
            select.select([self], [], [], timeout_s)

    def _tell(self, *_: object) -> None:
        self.told = True


def _text(address: tuple[str, int]) -> str:
    return f"{address[0]} {address[1]}"


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    temporary.replace(path)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="anycast-stream", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    server, client = verbs.add_parser("serve"), verbs.add_parser("fetch")
    for verb in (server, client):
        verb.add_argument("--port", type=int, required=True)
    server.add_argument("--bits-per-second", type=int, required=True)
    server.add_argument("--reset", action="store_true")
    client.add_argument("--from", dest="host", required=True)
    client.add_argument("--out", type=Path, required=True)
    client.add_argument("--live", type=Path, required=True)
    client.add_argument("--mss", type=int)
    options = parser.parse_args(argv)
    if options.verb == "serve":
        serve(options.port, options.bits_per_second, reset=options.reset)
    else:
        fetch(options.host, options.port, options.out, options.live, options.mss)


if __name__ == "__main__":
    main()
