"""`python -m benchmarks.conntrack_flows RATE SECONDS LIFE`: new flows at a rate, each marked with its microsecond.

Also what the conntrack benchmarks share: messages for a kernel's table, made by the batch, and a bare loop that inserts
them, which is the limit that no mirror can pass.
"""

from __future__ import annotations

import array
import contextlib
import socket
import struct
import sys
import time
from collections.abc import Iterator

from anycast_lab.flood.conntrack import NESTED, NETLINK_NETFILTER, attribute, tuple_of

BATCH = 512
TARGET, TRANSLATED = bytes([198, 51, 100, 2]), bytes([198, 51, 100, 77])
PORTS = 50_000
FIRST_PORT = 10_000
PREFIX = "192.0.2.0/24"
_HEADER = 20
_TICK_S = 0.005


def _flow(*, translated: bool, life_s: int) -> tuple[bytes, dict[str, int]]:
    """A message, and where its variable values are."""
    source, mark = bytes([192, 0, 2, 1]), struct.pack("!I", 0xA1A2A3A4)
    reply = TARGET, source, 4500, 0x4142
    body = attribute(1 | NESTED, tuple_of(source, TARGET, 0x4142, 4500)) + attribute(2 | NESTED, tuple_of(*reply))
    body += attribute(3, struct.pack("!I", 0xE)) + attribute(7, struct.pack("!I", life_s)) + attribute(8, mark)
    if translated:
        to = attribute(1, TRANSLATED) + attribute(3 | NESTED, attribute(1, struct.pack("!H", 0x4142)))
        body += attribute(6 | NESTED, to)
    head = struct.pack("=IHHIIBBH", _HEADER + len(body), 0x100, 0x601, 0, 0, socket.AF_INET, 0, 0)
    whole = head + body
    return whole, {"mark": whole.index(mark)}


def batches(first: int, count: int, *, translated: bool, life_s: int = 600, size: int = BATCH) -> Iterator[bytearray]:
    """Messages for the flows of these numbers."""
    whole, _ = _flow(translated=translated, life_s=life_s)
    sources = [at for at in range(len(whole)) if whole[at : at + 4] == bytes([192, 0, 2, 1])]
    ports = [at for at in range(len(whole)) if whole[at : at + 2] == b"\x41\x42"]
    hosts = [at for at in range(len(whole)) if translated and whole[at : at + 4] == TRANSLATED]
    step = len(whole) // 4
    for begin in range(first, first + count, size):
        numbers = range(begin, min(begin + size, first + count))
        made = bytearray(whole * len(numbers))
        words = memoryview(made).cast("I")
        own = array.array("I", [int.from_bytes(bytes([192, 0, 2, 1 + n // PORTS % 250]), "little") for n in numbers])
        other = array.array("I", [int.from_bytes(bytes([198, 51, 100, 77 + n // PORTS % 100]), "little") for n in numbers])
        port = array.array("I", [int.from_bytes(struct.pack("!Hxx", FIRST_PORT + n % PORTS), "little") for n in numbers])
        for column, places in ((own, sources), (other, hosts), (port, ports)):
            for at in places:
                words[at // 4 :: step] = memoryview(column)
        yield made


def insert(every: Iterator[bytearray]) -> float:
    """Put them into this namespace's table; returns seconds, the making of the messages not included. Raises OSError."""
    ready = list(every)
    with netfilter() as sock:
        began = time.monotonic()
        for batch in ready:
            sock.send(batch)
        return time.monotonic() - began


def empty() -> None:
    """Forget all flows of this namespace."""
    with netfilter() as sock:
        sock.send(struct.pack("=IHHIIBBH", _HEADER, 0x102, 0x5, 0, 0, 0, 0, 0))
        sock.recv(4096)


@contextlib.contextmanager
def netfilter() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as sock:
        sock.settimeout(10)
        sock.setsockopt(socket.SOL_SOCKET, 32, 1 << 20)  # SO_SNDBUFFORCE
        yield sock


def generate(rate: int, seconds: float, life_s: int) -> int:
    """New flows, evenly; returns how many were made. What came late is made up for."""
    whole, places = _flow(translated=False, life_s=life_s)
    step, at, made = len(whole) // 4, places["mark"] // 4, 0
    began = time.monotonic()
    with netfilter() as sock:
        while (now := time.monotonic() - began) < seconds:
            due = min(int(now * rate) - made, 2000)
            if due > 0:
                batch = next(batches(made, due, translated=False, life_s=life_s, size=due))
                stamp = int.from_bytes((time.monotonic_ns() // 1000 & 0xFFFF_FFFF or 1).to_bytes(4, "big"), "little")
                memoryview(batch).cast("I")[at::step] = memoryview(array.array("I", [stamp]) * due)
                sock.send(batch)
                made += due
            time.sleep(_TICK_S)
    return made


if __name__ == "__main__":
    print(generate(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
