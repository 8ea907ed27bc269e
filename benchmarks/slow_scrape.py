"""`python -m benchmarks.slow_scrape HOST PORT`: asks for /metrics and takes a byte a second, for ever, again and again."""

from __future__ import annotations

import contextlib
import socket
import sys
import time


def main() -> None:
    host, port = sys.argv[1:]
    while True:
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel makes it as small as it can
            sock.connect((host, int(port)))
            sock.send(b"GET /metrics HTTP/1.1\r\nHost: gateway\r\n\r\n")
            while sock.recv(1):
                time.sleep(1)


if __name__ == "__main__":
    main()
