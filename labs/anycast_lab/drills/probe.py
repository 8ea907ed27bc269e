"""A client's witness: one ICMP echo request every few milliseconds to the server behind the tunnel.

The server's kernel answers, so nothing of ours runs there. Each probe carries its number; the answer's arrival is all that
counts as *good*. A probe that was itself sent late (this process had no CPU) says nothing about the tunnel: it is marked
`late` and neither counted as lost nor allowed to stretch a gap.

    python -m anycast_lab.drills.probe --to 192.0.2.10 --interval-ms 5 --out FILE [--live FILE]

SIGTERM ends it; the record is written then, after a last wait for answers under way. `--live` is rewritten every 100 ms
with the time of the last good packet (readiness and the demo read it). Times are CLOCK_REALTIME, the clock of BIRD's log.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import socket
import struct
import time
from pathlib import Path

LATE_AFTER = 0.5
"""A probe sent later than this share of the interval is late (testing.md: marked and not counted)."""
LAST_WAIT_S = 0.5
_ECHO_REQUEST, _ECHO_REPLY = 8, 0


def checksum(data: bytes) -> int:
    """RFC 1071 over an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def encode_echo(ident: int, number: int) -> bytes:
    """An echo request (RFC 792) whose payload is the probe's full number; the header's own sequence field wraps."""
    body = struct.pack("!BBHHHQ", _ECHO_REQUEST, 0, 0, ident, number & 0xFFFF, number)
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]


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


def run(target: str, interval_ms: float, out: Path, live: Path | None) -> None:
    """Probe until SIGTERM, then write the record to `out`."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    sock.setblocking(False)
    selector = selectors.DefaultSelector()
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
            record.late.append(now - next_send > LATE_AFTER * interval)
            try:
                sock.sendto(encode_echo(ident, number), (target, 0))
            except OSError:
                pass  # no route, or a policy without state: sent in vain, therefore lost
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
                number_back = decode_reply(sock.recv(512), ident)
            except OSError:
                continue
            if number_back is not None and number_back < len(record.sent_ns):
                record.last_good_ns = time.time_ns()
                record.good_ns.setdefault(number_back, record.last_good_ns)
    _write(out, json.dumps(record.to_json(interval_ms, target)))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="anycast-probe", description=__doc__)
    parser.add_argument("--to", required=True)
    parser.add_argument("--interval-ms", type=float, default=5.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--live", type=Path)
    options = parser.parse_args(argv)
    run(options.to, options.interval_ms, options.out, options.live)


if __name__ == "__main__":
    main()
