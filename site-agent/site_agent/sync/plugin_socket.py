"""Where charon's `ha` plugin believes its peer to be: a UDP socket on loopback (strongSwan, src/libcharon/plugins/ha/).

charon sends from 127.0.0.1 to 127.0.0.2, both port 4510, and takes what comes from there. Only root can have that source.
"""

from __future__ import annotations

import errno
import socket

from anycast.errors import KernelError
from site_agent.socket_buffer import enlarge
from site_agent.sync.ha_wire import MAX_BYTES, PORT

CHARON, RELAY = ("127.0.0.1", PORT), ("127.0.0.2", PORT)
BUFFER_BYTES = 8 << 20
"""A burst of charon's that is not read yet: 20,000 messages."""


class PluginSocket:
    """Raises KernelError where the address cannot be had. `close` when done."""

    def __init__(self) -> None:
        self.refused = 0
        """Datagrams of somebody else."""
        try:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            enlarge(self._socket, BUFFER_BYTES)
            self._socket.bind(RELAY)
        except OSError as exc:
            raise KernelError(exc.errno or errno.EIO, f"UDP {RELAY[0]}:{PORT}") from exc

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> bytes | None:
        """The next datagram of charon's; None where there is none."""
        while True:
            try:
                data, source = self._socket.recvfrom(MAX_BYTES + 1)
            except (BlockingIOError, InterruptedError):
                return None
            except ConnectionRefusedError:  # what was sent before found no charon
                continue
            except OSError as exc:
                raise KernelError(exc.errno or errno.EIO, f"UDP {RELAY[0]}:{PORT}") from exc
            if source == CHARON:
                return data
            self.refused += 1

    def send(self, datagram: bytes) -> bool:
        """False where charon's socket has no room, or charon is not there."""
        try:
            self._socket.sendto(datagram, CHARON)
        except OSError:
            return False
        return True
