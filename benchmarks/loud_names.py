"""`python loud_names.py FILE ADDRESS…`: the loudest name server that an agent may meet, at port 53, until SIGTERM.

Each question is answered first by `GUESSES` datagrams as a stranger's who guesses at its id, then truthfully by "truncated",
so that the agent comes back over TCP; there it gets the longest answer that its codec reads: 8 KiB with 500 addresses. FILE
gets, each time, how many answers went out. Runs in a network namespace that has no packages of ours: standard library only.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import sys
from collections.abc import Callable

PORT = 53
GUESSES = 200
TCP_BYTES = 8192
QUESTION_AT = 12
QR_AA, TC = 0x8400, 0x0200
A, IN = 1, 1
RECORD = struct.Struct("!HHHIH4s")
"""A pointer to the question's name, type, class, TTL, and an address of four bytes."""


def guess(query: bytes, number: int) -> bytes:
    """As the answer to the same question would begin, but for its id."""
    wrong = (int.from_bytes(query[:2], "big") + 1 + number) % 65536
    return answer(struct.pack("!H", wrong) + query[2:], 30)


def truncated(query: bytes) -> bytes:
    return query[:2] + struct.pack("!HHHHH", QR_AA | TC, 1, 0, 0, 0) + query[QUESTION_AT:]


def answer(query: bytes, addresses: int) -> bytes:
    """To a question for A: that many addresses of documentation; to any other question none."""
    asked = int.from_bytes(query[-4:-2], "big")
    count = addresses if asked == A else 0
    owner = 0xC000 | QUESTION_AT
    body = b"".join(RECORD.pack(owner, A, IN, 60, 4, bytes((198, 51, 100, i % 256))) for i in range(count))
    return query[:2] + struct.pack("!HHHHH", QR_AA, 1, count, 0, 0) + query[QUESTION_AT:] + body


def longest(query: bytes) -> bytes:
    return answer(query, (TCP_BYTES - len(query)) // RECORD.size)


def main() -> None:
    told, *addresses = sys.argv[1:]
    count = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    selector, sent = selectors.DefaultSelector(), 0

    def datagram(sock: socket.socket) -> int:
        query, peer = sock.recvfrom(512)
        for number in range(GUESSES):
            sock.sendto(guess(query, number), peer)
        sock.sendto(truncated(query), peer)
        return GUESSES + 1

    def connection(listener: socket.socket) -> int:
        stream, _ = listener.accept()
        with stream:
            stream.settimeout(2)
            query = stream.recv(514)[2:]
            stream.sendall(struct.pack("!H", len(longest(query))) + longest(query))
        return 1

    for address in addresses:
        for kind, serve in ((socket.SOCK_DGRAM, datagram), (socket.SOCK_STREAM, connection)):
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, PORT))
            if kind == socket.SOCK_STREAM:
                sock.listen()
            selector.register(sock, selectors.EVENT_READ, serve)
    while True:
        for key, _ in selector.select():
            answered: Callable[[socket.socket], int] = key.data
            assert isinstance(key.fileobj, socket.socket)
            with contextlib.suppress(OSError):
                sent += answered(key.fileobj)
            os.pwrite(count, b"%012d" % sent, 0)  # in one piece: somebody reads it meanwhile


if __name__ == "__main__":
    main()
