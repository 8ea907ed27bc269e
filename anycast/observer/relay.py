"""The process that ExaBGP starts for an observer: what ExaBGP says goes on to the observer's socket, byte by byte.

Nothing is ever said to ExaBGP. An ExaBGP whose observer is gone has no use: it is ended, and everything that it knew is
told anew by the next one.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys

CHUNK = 65536


def main(path: str) -> int:
    """Until either end is closed."""
    exabgp = os.getppid()
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        # The observer never says anything: a socket that can be read is one whose other end is gone.
        gone = sock.fileno()
        while gone not in select.select([0, gone], [], [])[0] and (data := os.read(0, CHUNK)):
            sock.sendall(data)
    if exabgp > 1 and os.getppid() == exabgp:  # whoever adopted an orphan is nobody of ours
        os.kill(exabgp, signal.SIGTERM)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
