"""How the command line asks the coordinator: HTTP over its unix socket, or over TLS with a credential.

Blocking, with the standard library: a command that asks once must start quickly.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from anycast import trusted_file
from anycast.cli.screen import clean
from anycast.errors import AnycastError, ConfigError, DecodeError, PeerError, Problem
from anycast.pki import certificates
from anycast.pki.names import Role

DEFAULT = "unix:/run/anycast/coordinator.sock"
PORT = 4519
PATIENCE_S = 10.0


class Unreachable(PeerError):
    """Nobody answers there. What the gateways do goes on without it."""


class Denied(AnycastError):
    """The coordinator refused; nothing was changed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """Where the coordinator is and what to show it."""

    url: str = DEFAULT
    """``unix:PATH``, ``http://LOOPBACK:PORT`` or ``https://HOST:PORT``."""
    credential: Path | None = None
    """File with the token, its owner's alone."""
    root: Path | None = None
    """The management root (PEM) that signed the coordinator's certificate; for https."""


def ask(target: Target, method: str, path: str, body: dict[str, Any] | bytes | None = None) -> dict[str, Any]:
    """Its answer. Raises Unreachable, Denied, ConfigError."""
    with _exchange(target, method, path, body) as response:
        return _read(response)


def fetch(target: Target, path: str) -> bytes:
    """The answer's own bytes, where they count. Raises Unreachable, Denied, ConfigError."""
    with _exchange(target, "GET", path, None) as response:
        if response.status != 200:
            _read(response)
        return response.read()


def stream(target: Target, path: str) -> Iterator[dict[str, Any]]:
    """The data of each server-sent event, until the coordinator ends it. Raises Unreachable, Denied, ConfigError."""
    with _exchange(target, "GET", path, None) as response:
        if response.status != 200:
            _read(response)
        while line := response.readline():
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


@contextlib.contextmanager
def _exchange(
    target: Target, method: str, path: str, body: dict[str, Any] | bytes | None
) -> Iterator[http.client.HTTPResponse]:
    connection = _connection(target)
    headers = {"Accept": "application/json"}
    if target.credential is not None:
        headers["Authorization"] = f"Bearer {_secret(target.credential)}"
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connected = False
    try:
        connection.connect()
        connected = True
        connection.request(method, path, data, headers)
        yield connection.getresponse()
    except ssl.SSLCertVerificationError as exc:
        raise Unreachable(target.url, f"its certificate is not believed: {exc.verify_message} (--root)") from exc
    except (OSError, http.client.HTTPException) as exc:
        hint = "is `anycast serve` running? Gateways go on without it"
        if isinstance(exc, PermissionError):
            hint = "run as root"
        elif connected and method != "GET":
            hint = "it may have done what it was asked for: see `anycast history` before you ask again"
        raise Unreachable(target.url, f"{getattr(exc, 'strerror', None) or exc or 'no answer'}; {hint}") from exc
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse) -> dict[str, Any]:
    try:
        answer = json.loads(response.read())
        if not isinstance(answer, dict):
            raise ValueError
    except ValueError as exc:
        raise PeerError("coordinator", f"answers what is no JSON object (status {response.status})") from exc
    if response.status != 200:
        problems = "".join(f"\n  {clean(str(each))}" for each in answer.get("problems", ()))
        raise Denied(f"coordinator: {clean(str(answer.get('error', response.reason)))}{problems}")
    return answer


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _MachineConnection(http.client.HTTPSConnection):
    """TLS to a machine of the fleet: its certificate names a role, not a host."""

    def connect(self) -> None:
        super().connect()
        try:
            assert isinstance(self.sock, ssl.SSLSocket)
            der = self.sock.getpeercert(binary_form=True) or b""
            identity = certificates.identity_of(certificates.from_der(der))
            if identity.role is not Role.COORDINATOR:
                raise DecodeError("role", 0, f"it is {identity}")
        except DecodeError as exc:
            raise PeerError(f"https://{self.host}:{self.port}", f"is no coordinator: {exc.what}") from exc


def _connection(target: Target) -> http.client.HTTPConnection:
    if target.url.startswith("unix:"):
        return _UnixConnection(target.url.removeprefix("unix:"))
    parts = urlsplit(target.url)
    try:
        host, port = parts.hostname, parts.port or PORT
    except ValueError:
        host, port = None, 0
    if parts.scheme not in ("http", "https") or not host:
        what = f"{target.url!r} is not unix:PATH, http://LOOPBACK:PORT or https://HOST:PORT"
        raise ConfigError([Problem("coordinator", what)])
    if parts.scheme == "http":
        if host not in ("localhost", "127.0.0.1", "::1"):
            raise ConfigError([Problem("coordinator", f"{target.url}: http is for loopback; https elsewhere")])
        return http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
    if target.root is None:
        raise ConfigError([Problem("coordinator", "https needs --root: the fleet's root.pem that `anycast pki init` made")])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the name is a machine's; `_MachineConnection` looks at its role
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(target.root)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError([Problem("", f"is no root: {exc.strerror or exc}", str(target.root))]) from exc
    return _MachineConnection(host, port, timeout=PATIENCE_S, context=context)


def _secret(path: Path) -> str:
    try:
        return trusted_file.read(path, secret=True).decode("ascii").strip()
    except DecodeError as exc:
        raise ConfigError([Problem("", exc.what, str(path))]) from exc
    except (OSError, UnicodeDecodeError) as exc:
        what = os.strerror(exc.errno or 0).lower() if isinstance(exc, OSError) else "is no credential"
        raise ConfigError([Problem("", what, str(path))]) from exc
