"""Where connections arrive: how many may stand there that nobody knows yet, and for how long.

Whoever can reach a port can open connections to it and say nothing, or a byte a minute. Each costs a descriptor and a
quarter of a megabyte (asyncio's TLS), and the process has agents and operators to hear. So of strangers, who have not proved
who they are, there are `MOST` at a port, for `STRANGER_S` each: one more, and the one that has stood there longest is put
out. An honest one is known after milliseconds and is never the oldest, however many others come.

Unless they come all at once: a fleet calls a coordinator that was away, and a thousand wait in the kernel. So the loop hosts
each before it takes the next, and a porch may be told to let the youngest stand (`young_s`): the next waits meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Generic, TypeVar

MOST = 256
STRANGER_S = 10.0
BACKLOG = 1024
PAUSE_S = 0.2
"""Where the kernel has no descriptor left."""
FAREWELL_S = 1.0
"""For the last word to one that is put out."""
TELL_EVERY_S = 10.0
"""A line in the log, however many are put out: a flood must not fill the disk."""

_log = logging.getLogger(__name__)
P = TypeVar("P", bound=asyncio.BaseProtocol)


def listening(address: str, port: int) -> socket.socket:
    """A socket that listens. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.create_server((address, port), family=family, backlog=BACKLOG)
    made.setblocking(False)
    return made


class Porch(Generic[P]):
    """Use from the event loop's thread: `start` for each socket, then `close`."""

    def __init__(
        self,
        name: str,
        make: Callable[[], P],
        farewell: Callable[[P, str], None] = lambda stranger, why: None,
        *,
        young_s: float = 0.0,
    ) -> None:
        """`make` makes the protocol of a connection, for which `know` is called; `farewell` may still say something to one
        that is put out, which none is before it has stood there for `young_s`."""
        self._name, self._make, self._farewell, self._young_s = name, make, farewell, young_s
        self._strangers: dict[P, asyncio.Task[None]] = {}
        """Oldest first."""
        self._since: dict[P, float] = {}
        self._room = asyncio.Event()
        """One has left, of `MOST`."""
        self._accepting: list[tuple[socket.socket, asyncio.Task[None]]] = []
        self._known: dict[P, asyncio.Event] = {}
        self._told_at = 0.0
        self.put_out = 0
        """Strangers, since the start."""

    def start(self, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        """Take connections from a socket that listens, without TLS where there is no context."""
        self._accepting.append((sock, asyncio.create_task(self._accept(sock, context))))

    def know(self, protocol: P) -> None:
        """It has proved who it is, or has ended."""
        if (event := self._known.pop(protocol, None)) is not None:
            event.set()

    def close(self) -> None:
        for sock, task in self._accepting:
            task.cancel()
            sock.close()
        for stranger in self._strangers.values():
            stranger.cancel()

    async def _accept(self, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(sock)
            except OSError as exc:
                self._tell(f"no connection can be taken: {exc.strerror}")
                await asyncio.sleep(PAUSE_S)
                continue
            try:
                await self._make_room()
            except asyncio.CancelledError:
                connection.close()
                raise
            stranger = self._make()
            self._known[stranger] = asyncio.Event()
            self._since[stranger] = loop.time()
            self._strangers[stranger] = asyncio.create_task(self._host(stranger, self._known[stranger], connection, context))
            await asyncio.sleep(0)  # it is hosted, and those before it are heard: a backlog is no flood

    async def _make_room(self) -> None:
        loop = asyncio.get_running_loop()
        while len(self._strangers) >= MOST:
            oldest = next(iter(self._strangers))
            young_for_s = self._since[oldest] + self._young_s - loop.time()
            if young_for_s <= 0:
                self._put_out(oldest, "too many strangers at once")
                return
            self._room.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(young_for_s):
                    await self._room.wait()

    async def _host(
        self, stranger: P, known: asyncio.Event, connection: socket.socket, context: ssl.SSLContext | None
    ) -> None:
        transport: asyncio.BaseTransport | None = None
        try:
            async with asyncio.timeout(STRANGER_S):
                loop = asyncio.get_running_loop()
                transport, _ = await loop.connect_accepted_socket(lambda: stranger, connection, ssl=context)
                await known.wait()
        except TimeoutError:
            self._farewell(stranger, f"nobody has said in {STRANGER_S:.0f} s who this is")
        except OSError:
            pass  # no TLS, or gone
        finally:
            self._forget(stranger)
            if isinstance(transport, asyncio.WriteTransport) and not known.is_set():
                transport.close()
                asyncio.get_running_loop().call_later(FAREWELL_S, transport.abort)

    def _put_out(self, stranger: P, why: str) -> None:
        self.put_out += 1
        self._tell(f"{why}: {self.put_out} were put out since the start")
        self._farewell(stranger, why)
        task = self._strangers[stranger]
        self._forget(stranger)  # here: a task that is cancelled before its first step never comes to its end
        task.cancel()

    def _forget(self, stranger: P) -> None:
        for each in (self._strangers, self._since, self._known):
            each.pop(stranger, None)
        self._room.set()

    def _tell(self, what: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._told_at >= TELL_EVERY_S:
            self._told_at = now
            _log.warning("%s: %s", self._name, what)
