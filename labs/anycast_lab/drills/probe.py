"""A witness: an ICMP echo request every few milliseconds, to the server behind a client's tunnel or to the service itself.

The other end's kernel answers, so nothing of ours runs there. Each probe carries its number; the answer's arrival is all
that counts as *good*. A probe that was itself sent late (this process had no CPU) says nothing about the way: it is marked
`late` and neither counted as lost nor allowed to stretch a gap.

    python -m anycast_lab.drills.probe --to 192.0.2.10 --interval-ms 5 --out FILE [--live FILE] [--realtime]

SIGTERM ends it; the record is written then, after a last wait for answers under way. `--live` is rewritten every 100 ms
with the time of the last good packet (readiness and the demo read it). Times are CLOCK_REALTIME, the clock of BIRD's log.

The time of arrival is the kernel's own: an answer that waited for this process, which may have been stopped, is not late.
`--realtime` is for probing every millisecond beside everything else a machine does: SCHED_FIFO, and room for many answers.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import struct
import time
from pathlib import Path

from anycast_lab.drills.timeline import LATE_AFTER

LAST_WAIT_S = 0.5
_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_ECHO_REQUEST_V6, _ECHO_REPLY_V6 = 128, 129
_FIFO_PRIORITY = 5
"""Above everything ordinary, below a vrrp process."""
_SO_TIMESTAMPNS = 35
_SO_RCVBUFFORCE = 33
_TIMESPEC = struct.Struct("ll")


def checksum(data: bytes) -> int:
    """RFC 1071 over an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def encode_echo(ident: int, number: int) -> bytes:
    """An echo request (RFC 792) whose payload is the probe's full number; the header's own sequence field wraps."""
    body = struct.pack("!BBHHHQ", _ECHO_REQUEST, 0, 0, ident, number & 0xFFFF, number)
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]


def encode_echo_v6(ident: int, number: int) -> bytes:
    """The same in ICMPv6 (RFC 4443 section 4.1), whose checksum the kernel fills in."""
    return struct.pack("!BBHHHQ", _ECHO_REQUEST_V6, 0, 0, ident, number & 0xFFFF, number)


def decode_reply_v6(packet: bytes, ident: int) -> int | None:
    """As `decode_reply`; a raw ICMPv6 socket hands on no IP header."""
    if len(packet) < 16:
        return None
    kind, _, _, got_ident, _, number = struct.unpack_from("!BBHHHQ", packet)
    return int(number) if kind == _ECHO_REPLY_V6 and got_ident == ident else None


def decode_reply(packet: bytes, ident: int) -> int | None:
    """The probe's number in an echo reply addressed to us; None for anything else that a raw socket hears."""
    if len(packet) < 20:
        return None
    header = (packet[0] & 0x0F) * 4
    if len(packet) < header + 16:
        return None
    kind, _, _, got_ident, _, number = struct.unpack_from("!BBHHHQ", packet, header)
    return int(number) if kind == _ECHO_REPLY and got_ident == ident else None


class Record:
    """What was sent and what came back, by number."""

    def __init__(self) -> None:
        self.sent_ns: list[int] = []
        self.late: list[bool] = []
        self.good_ns: dict[int, int] = {}
        self.last_good_ns = 0

    def to_json(self, interval_ms: float, target: str) -> dict[str, object]:
        return {
            "v": 1,
            "to": target,
            "interval_ms": interval_ms,
            "sent_ns": self.sent_ns,
            "late": [i for i, is_late in enumerate(self.late) if is_late],
            "good_ns": [self.good_ns.get(i, 0) for i in range(len(self.sent_ns))],
        }


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    temporary.replace(path)


def _open(target: str, *, realtime: bool) -> socket.socket:
    family, protocol = socket.AF_INET, socket.IPPROTO_ICMP
    if ":" in target:
        family, protocol = socket.AF_INET6, socket.IPPROTO_ICMPV6
    sock = socket.socket(family, socket.SOCK_RAW, protocol)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    if realtime:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 4 << 20)
    return sock


def _realtime() -> None:
    """Best effort: a prober that may not have it marks what it sends late."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_FIFO_PRIORITY))
    gc.disable()  # what a record holds makes no cycles


def _receive(sock: socket.socket) -> tuple[bytes, int]:
    """A packet and when it arrived, by the kernel where it was asked to say so."""
    packet, ancillary, _, _ = sock.recvmsg(512, 64)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(data) >= _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack_from(data)
            return packet, seconds * 10**9 + nanoseconds
    return packet, time.time_ns()


def run(target: str, interval_ms: float, out: Path, live: Path | None, *, realtime: bool = False) -> None:
    """Probe until SIGTERM, then write the record to `out`."""
    sock = _open(target, realtime=realtime)
    encode, decode = (encode_echo_v6, decode_reply_v6) if ":" in target else (encode_echo, decode_reply)
    selector = selectors.SelectSelector()  # epoll waits whole milliseconds
    selector.register(sock, selectors.EVENT_READ)
    wake_read, wake_write = socket.socketpair()
    wake_write.setblocking(False)
    selector.register(wake_read, selectors.EVENT_READ)
    ending = False

    def end(*_: object) -> None:
        nonlocal ending
        ending = True

    signal.set_wakeup_fd(wake_write.fileno())
    signal.signal(signal.SIGTERM, end)

    ident, record, interval = os.getpid() & 0xFFFF, Record(), interval_ms / 1e3
    if realtime:
        _realtime()
    begin = next_send = time.monotonic()
    next_live = begin
    stop_at: float | None = None
    while stop_at is None or time.monotonic() < stop_at:
        now = time.monotonic()
        if ending and stop_at is None:
            stop_at = now + LAST_WAIT_S
        if stop_at is None and now >= next_send:
            number = len(record.sent_ns)
            record.sent_ns.append(time.time_ns())
            with contextlib.suppress(OSError):  # no route, or a policy without state: sent in vain, therefore lost
                sock.sendto(encode(ident, number), (target, 0))
            now = time.monotonic()  # now, because who was stopped before the packet left has sent it late
            record.late.append(now - next_send > LATE_AFTER * interval)
            if record.late[-1]:
                record.sent_ns[-1] = time.time_ns()
            # After a pause of our own, go on from here: a burst to catch up would measure nothing.
            next_send = max(next_send + interval, now)
        if live is not None and now >= next_live:
            next_live = now + 0.1
            _write(live, json.dumps({"last_good_ns": record.last_good_ns, "sent": len(record.sent_ns)}))
        until = stop_at if stop_at is not None else next_send
        for key, _mask in selector.select(max(0.0, until - time.monotonic())):
            if key.fileobj is wake_read:
                wake_read.recv(64)
                continue
            try:
                packet, at_ns = _receive(sock)
            except OSError:
                continue
            number_back = decode(packet, ident)
            if number_back is not None and number_back < len(record.sent_ns):
                record.last_good_ns = at_ns
                record.good_ns.setdefault(number_back, at_ns)
    _write(out, json.dumps(record.to_json(interval_ms, target)))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="anycast-probe", description=__doc__)
    parser.add_argument("--to", required=True)
    parser.add_argument("--interval-ms", type=float, default=5.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--live", type=Path)
    parser.add_argument("--realtime", action="store_true")
    options = parser.parse_args(argv)
    run(options.to, options.interval_ms, options.out, options.live, realtime=options.realtime)


if __name__ == "__main__":
    main()
