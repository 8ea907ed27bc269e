"""The agent's socket for its ExaBGP bridge: SOCK_SEQPACKET, one connection, the newest wins.

Whoever may connect can learn the lease but never extend it; still, only the bridge of *our* ExaBGP is heard: the kernel
says which process connected (SO_PEERCRED), and its parent must be the ExaBGP that we watch. The directory admits
nobody but root and the group that ExaBGP runs as.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from anycast.errors import DecodeError
from anycast.lease_wire import MAX_PACKET, FromAgent, FromBridge, Hello, decode_from_bridge, encode
from site_agent.announce.holder import BridgeGone
from site_agent.procfs import read_stat

BACKLOG = 8
_UCRED = struct.Struct("3i")
"""pid, uid, gid of unix(7)'s ``struct ucred``."""


class BridgeSocket:
    """Use from the event loop's thread only."""

    def __init__(
        self,
        path: Path,
        *,
        group: int,
        exabgp_pid: Callable[[], int | None],
        heard: Callable[[FromBridge | BridgeGone], None],
    ) -> None:
        """`heard` takes every message, the first of a connection being `Hello`, and `BridgeGone` at its end."""
        self._path, self._group = path, group
        self._exabgp_pid, self._heard = exabgp_pid, heard
        self._listener: socket.socket | None = None
        self._peer: socket.socket | None = None
        self._peer_pid = 0
        self._greeted = False
        self.refused = 0
        """Connections that were not from our ExaBGP's bridge or broke the protocol."""

    def listen(self) -> None:
        """Take over the path from an earlier agent. Raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        os.chown(self._path.parent, -1, self._group)
        self._path.parent.chmod(0o750)
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.setblocking(False)
        listener.bind(str(self._path))
        os.chown(self._path, -1, self._group)
        self._path.chmod(0o660)
        listener.listen(BACKLOG)
        asyncio.get_running_loop().add_reader(listener, self._accept)
        self._listener = listener

    def send(self, message: FromAgent) -> None:
        """Send to the bridge. One that cannot take a packet is disconnected: it is not reading."""
        if self._peer is None:
            return
        try:
            self._peer.send(encode(message))
        except OSError:
            self.disconnect()

    def disconnect(self) -> None:
        """End the present connection, if any."""
        if self._peer is None:
            return
        asyncio.get_running_loop().remove_reader(self._peer)
        self._peer.close()
        self._peer = None
        if self._greeted:
            self._heard(BridgeGone())

    def close(self) -> None:
        """Stop listening. The path stays: the next agent takes it over, and the bridge tries it until then."""
        self.disconnect()
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(BlockingIOError, ConnectionError):
            peer, _ = self._listener.accept()
            peer.setblocking(False)
            pid, _, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
            stat = read_stat(pid)
            if stat is None or stat.parent != self._exabgp_pid():
                self.refused += 1
                peer.close()
                return
            self.disconnect()
            self._peer, self._peer_pid, self._greeted = peer, pid, False
            asyncio.get_running_loop().add_reader(peer, self._receive)

    def _receive(self) -> None:
        assert self._peer is not None
        try:
            packet = self._peer.recv(MAX_PACKET + 1)
        except BlockingIOError:
            return
        except ConnectionError:
            packet = b""
        if not packet:
            self.disconnect()
            return
        try:
            message = decode_from_bridge(packet)
            if isinstance(message, Hello) == self._greeted:
                raise DecodeError("type", 0, "hello is the first message, once")
            if isinstance(message, Hello) and message.pid != self._peer_pid:
                raise DecodeError("pid", 0, "not the process that connected")
        except DecodeError:
            self.refused += 1
            self.disconnect()
            return
        self._greeted = True
        self._heard(message)
