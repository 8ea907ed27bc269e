"""sd_notify(3): tell systemd that we are ready, that we live, and that we stop. Does nothing where nobody asked."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(state: str) -> None:
    """Send one message, e.g. ``READY=1``, to $NOTIFY_SOCKET. A manager that is gone or slow is not our concern."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    with contextlib.closing(sock), contextlib.suppress(OSError):
        sock.sendto(state.encode(), address)
