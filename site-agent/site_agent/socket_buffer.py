"""Room for what comes while nobody reads: a burst of the kernel's events, or of a daemon's datagrams."""

from __future__ import annotations

import contextlib
import socket

SO_RCVBUFFORCE = 33
"""asm-generic/socket.h: beyond net.core.rmem_max, with CAP_NET_ADMIN. `socket` has no name for it."""


def enlarge(sock: socket.socket, size: int) -> None:
    """To `size` bytes; where that is not permitted it stays as it is."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size)
