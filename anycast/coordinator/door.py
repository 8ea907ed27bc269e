"""One HTTP connection of an operator's: what aiohttp does, with our words where it cannot read what was sent.

A request that is no HTTP is answered like every other that is refused, in one sentence, and is a line in the log, not a
traceback: anybody can send one. How long a stranger may take is the porch's (`porch.py`); who is known may be silent for
`IDLE_S` between two requests.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

from aiohttp import web
from aiohttp.web_request import BaseRequest

from anycast.coordinator.api import Refusal
from anycast.coordinator.porch import Porch

IDLE_S = 75.0
LINGER_S = 2.0
"""For the rest of a request that was refused before its end."""

_log = logging.getLogger(__name__)


class Door(web.RequestHandler):
    __slots__ = ("_known",)

    def __init__(self, manager: web.Server, known: Callable[[Door], None]) -> None:
        """`known` is called once it is known who asks, or that nobody does any more."""
        super().__init__(manager, loop=asyncio.get_running_loop(), keepalive_timeout=IDLE_S, lingering_time=LINGER_S)
        self._known = known

    def know(self) -> None:
        self._known(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._known(self)
        super().connection_lost(exc)

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Of what aiohttp itself refuses, and of a mistake of ours."""
        if status >= 500:
            _log.error("%s %s ended", request.method, request.path, exc_info=exc)
            error = "a mistake of ours; the coordinator's log has it"
        else:
            error = f"no request that can be read: {' '.join((message or 'bad request').split())[:200]}"
            _log.warning("%s: %s", request.remote or "socket", error)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        response = web.json_response(text=Refusal(error=error).model_dump_json(), status=status)
        response.force_close()
        return response

    def farewell(self, why: str) -> None:
        """The last word to one whose request has not come yet."""
        if isinstance(self.transport, asyncio.WriteTransport) and not self.transport.is_closing():
            body = Refusal(error=why).model_dump_json().encode()
            head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            self.transport.write(head.encode() + b"Connection: close\r\n\r\n" + body)


class Doors:
    """All listeners of the operators' side, around one application."""

    def __init__(self, runner: web.AppRunner) -> None:
        """`runner` is set up."""
        assert runner.server is not None
        self._server = runner.server
        self._porch: Porch[Door] = Porch("operators", self._door, Door.farewell)
        self._sockets: list[asyncio.Server] = []

    async def on_socket(self, path: Path) -> None:
        """Root's way in, and never crowded out: nobody else can open it. Raises OSError."""
        path.unlink(missing_ok=True)
        self._sockets.append(await asyncio.get_running_loop().create_unix_server(self._door, path))
        path.chmod(0o600)

    def on_port(self, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        """Credentials' way in; without TLS where there is no context."""
        self._porch.start(sock, context)

    def close(self) -> None:
        self._porch.close()
        for each in self._sockets:
            each.close()

    def _door(self) -> Door:
        return Door(self._server, self._porch.know)
