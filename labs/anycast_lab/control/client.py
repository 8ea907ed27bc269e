"""The command line's end of `wire.py`: one request, its progress, its result. Blocking, one connection."""

from __future__ import annotations

import base64
import contextlib
import socket
from collections.abc import Callable
from typing import Any

from anycast_lab.control import launch, wire
from anycast_lab.runner import LabError, Progress


class Client:
    """A connection to a running lab."""

    def __init__(self, name: str, sock: socket.socket) -> None:
        self.name, self._sock = name, sock
        self._lines = sock.makefile("rb")
        self._next = 0

    @classmethod
    def connect(cls, name: str) -> Client:
        sock = launch.connect(name)
        if sock is None:
            raise LabError(f"lab {name} is not up; `anycast lab up` (with -n {name} or -t as it was) brings it up")
        return cls(name, sock)

    def close(self) -> None:
        self._lines.close()
        self._sock.close()

    def ask(
        self,
        verb: str,
        *,
        progress: Progress | None = None,
        output: Callable[[int, bytes], None] | None = None,
        **fields: Any,
    ) -> Any:
        """Perform `verb` and return its result.

        Raises:
            AnycastError: as the lab's server raised it; LabError when the lab ended meanwhile.
        """
        self._next += 1
        self._say(wire.encode({"v": wire.VERSION, "id": self._next, "verb": verb, **fields}))
        while line := self._hear():
            match wire.decode(line):
                case {"progress": text} if progress is not None:
                    progress(text)
                case {"output": fd, "data": data} if output is not None:
                    output(fd, base64.b64decode(data))
                case {"result": result}:
                    return result
                case {"error": error}:
                    raise wire.decode_error(error)
        raise LabError(f"lab {self.name} has ended: {launch.tail(self.name)}")

    def _say(self, request: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # the lab has ended: nothing will be heard either
            self._sock.sendall(request)

    def _hear(self) -> bytes:
        """The next line; empty when the lab has ended."""
        try:
            return self._lines.readline()
        except ConnectionError:
            return b""
